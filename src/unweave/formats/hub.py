"""Dictionaries on the Hugging Face hub: fetched from it, and pushed to it with a card."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from unweave.core.errors import InputError, StoreError
from unweave.core.optional import needs
from unweave.core.progress import progress
from unweave.formats.card import card
from unweave.formats.pushed import Pushed, pushed
from unweave.store.artifact import MANIFEST
from unweave.store.drafts import disk_errors

HUB = "hf://"
CARD = "README.md"
_DATA = {".json", ".safetensors", ".parquet", ".pt", ".pth", ".npz", ".yaml", ".yml"}
_LISTED = 12


@dataclass(frozen=True)
class HubPlace:
    """A folder or file in a repository.

    Attributes:
        repo: `ORG/NAME`.
        inside: path in it; empty for its top.
        revision: branch, tag or commit; None for the main branch.
    """

    repo: str
    inside: str = ""
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "HubPlace":
        """Read `hf://ORG/REPO[@REVISION][/PATH]`, or the same without `hf://`.

        Raises:
            InputError: it is something else.
        """
        organisation, _, rest = text.removeprefix(HUB).strip("/").partition("/")
        name, _, inside = rest.partition("/")
        name, at, revision = name.partition("@")
        if not organisation or not name or (at and not revision) or ".." in inside.split("/"):
            raise InputError(f"{text!r} is no place on the hub; write it as hf://ORG/REPO or hf://ORG/REPO/FOLDER")
        return cls(f"{organisation}/{name}", inside, revision or None)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{HUB}{self.repo}{revision}" + (f"/{self.inside}" if self.inside else "")


def fetch(place: str | HubPlace) -> Path:
    """Bring a dictionary's files from the hub into the cache of huggingface_hub.

    Only the files that lie in the folder itself are fetched, and only those that hold data. Where the top of a
    repository has none and one folder in it does, that folder is meant.

    Args:
        place: `hf://ORG/REPO`, `hf://ORG/REPO/FOLDER`, or a file in it; `hf://ORG/REPO@REVISION/...` for another
            revision.

    Returns:
        The folder, or the file; it belongs to the cache and must not be written to.

    Raises:
        InputError: there is no such place, no connection or no access; the message says what to do.
        StoreError: the repository holds no dictionary there, or several; or the cache cannot be written to.
    """
    wanted = HubPlace.parse(place) if isinstance(place, str) else place
    hub = _library(f"reading {wanted}")
    cache = Path(needs("huggingface_hub.constants", extra="hub", what=f"reading {wanted}").HF_HUB_CACHE)
    with _explained(hub, str(wanted)), disk_errors(cache / "files"):
        info = hub.HfApi().model_info(wanted.repo, revision=wanted.revision)
        files = [file.rfilename for file in info.siblings or []]
        folder, chosen = _choose(files, wanted)
        local = [Path(hub.hf_hub_download(wanted.repo, name, revision=info.sha)) for name in _bar(chosen)]
    if wanted.inside in chosen:
        return local[chosen.index(wanted.inside)]
    return local[0].parents[chosen[0].removeprefix(folder).strip("/").count("/")]


def _choose(files: Sequence[str], wanted: HubPlace) -> tuple[str, list[str]]:
    """The folder that is meant, and its files."""
    data = [name for name in files if Path(name).suffix.lower() in _DATA]
    folder = wanted.inside
    if folder in data:
        beside = folder.rpartition("/")[0]
        return beside, [folder, *(name for name in _directly_in(data, beside) if name.endswith(".json"))]
    chosen = _directly_in(data, folder)
    if not _holds_weights(chosen):
        below = sorted(
            {name.rpartition("/")[0] for name in data if f"{name}/".startswith(f"{folder}/" if folder else "")}
        )
        below = [inner for inner in below if _holds_weights(_directly_in(data, inner))]
        if len(below) != 1:
            shown = ", ".join(below[:_LISTED]) + (f" and {len(below) - _LISTED} more" if len(below) > _LISTED else "")
            said = f"choose one of its folders: {shown}" if below else "it has no weights in any folder"
            raise StoreError(f"{wanted} is no dictionary; {said}")
        folder, chosen = below[0], _directly_in(data, below[0])
    return folder, chosen


def _directly_in(files: Sequence[str], folder: str) -> list[str]:
    return [name for name in files if name.rpartition("/")[0] == folder]


def _holds_weights(files: Sequence[str]) -> bool:
    return any(Path(name).suffix.lower() in {".safetensors", ".pt", ".pth", ".npz"} for name in files)


def _bar(names: Sequence[str]) -> Iterator[str]:
    with progress("Fetching", total=len(names), unit="files") as bar:
        for name in names:
            yield name
            bar.advance(1)


def dictionaries_at(place: str | HubPlace) -> list[HubPlace]:
    """Every folder of a repository that holds an Unweave dictionary, or only the one that is named.

    Raises:
        InputError: there is no such repository, no connection or no access.
    """
    wanted = HubPlace.parse(place) if isinstance(place, str) else place
    if wanted.inside:
        return [wanted]
    hub = _library(f"reading {wanted}")
    with _explained(hub, str(wanted)):
        info = hub.HfApi().model_info(wanted.repo, revision=wanted.revision)
    manifests = [Path(file.rfilename) for file in info.siblings or [] if Path(file.rfilename).name == MANIFEST]
    folders = sorted(path.parent.as_posix() for path in manifests if path.parent != Path())
    return [HubPlace(wanted.repo, folder, info.sha) for folder in folders] or [wanted]


def push(
    folder: str | Path,
    repo: str,
    *,
    measured: str | Path | None = None,
    private: bool = False,
    revision: str | None = None,
    license: str = "unknown",  # noqa: A002 - the hub's word
    message: str | None = None,
) -> str:
    """Put a dictionary, or all those of a run, on the hub, each in a folder of its own, with a model card.

    All of it is one commit. The token is that of the environment (HF_TOKEN) or of `hf auth login`.

    Args:
        folder: a dictionary's folder, or a run's.
        repo: `ORG/NAME`; it is made where it does not exist.
        measured: a run's folder or an atlas, for the card's numbers; a run brings its own.
        private: whether a repository that has to be made is private.
        revision: branch to push to; the main one by default.
        license: the hub's identifier of a licence, for example `mit`.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        InputError: no such folder, no token, no access or no connection; the message says what to do.
    """
    place = HubPlace.parse(repo)
    if place.inside or place.revision:
        raise InputError(
            f"{repo!r} should be ORG/NAME; a revision goes into revision, folders are named as they are here"
        )
    given = pushed(Path(folder), None if measured is None else Path(measured))
    hub = _library(f"pushing to {place}")
    text = card(given, place.repo, license)
    operations = [hub.CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=text.encode())]
    operations += [
        hub.CommitOperationAdd(path_in_repo=f"{name}/{path.relative_to(source).as_posix()}", path_or_fileobj=path)
        for name, source in given.folders.items()
        for path in sorted(source.rglob("*"))
        if path.is_file()
    ]
    with _explained(hub, str(place)):
        api = hub.HfApi()
        api.create_repo(place.repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(place.repo, branch=revision, exist_ok=True)
        with warnings.catch_warnings():  # it wonders whether a table in a repository of models is meant
            warnings.simplefilter("ignore", UserWarning)
            done = api.create_commit(
                place.repo, operations, commit_message=message or _message(given), revision=revision
            )
    return str(done.commit_url)


def _message(given: Pushed) -> str:
    names = list(given.folders)
    return f"Add {names[0]}" if len(names) == 1 else f"Add {len(names)} dictionaries"


def _library(what: str) -> ModuleType:
    hub: ModuleType = needs("huggingface_hub", extra="hub", what=what)
    return hub


@contextmanager
def _explained(hub: Any, what: str) -> Iterator[None]:
    """Errors of the hub as one message that says what to do."""
    errors = needs("huggingface_hub.errors", extra="hub", what=what)
    try:
        yield
    except InputError:
        raise
    except errors.GatedRepoError:
        raise InputError(
            f"{what} is gated: accept its terms on its page, then set HF_TOKEN or run `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{what} does not exist, or is private and no token with access to it is set (HF_TOKEN, or `hf auth login`)"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{what} has no such revision") from None
    except errors.HFValidationError as error:
        raise InputError(f"{what} is no name of a repository: {error}") from None
    except errors.OfflineModeIsEnabled:
        raise InputError(
            f"{what}: the hub is switched off by HF_HUB_OFFLINE; unset it, or `unweave pull` the dictionary where "
            "there is a connection and use its folder"
        ) from None
    except errors.LocalTokenNotFoundError:
        raise InputError(_refused(what)) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise InputError(_refused(what)) from None
        raise InputError(f"{what}: the hub answered {status}: {_first_line(error)}") from None
    except Exception as error:  # which HTTP library is under it has changed, and with it what a lost connection raises
        if not isinstance(error, (OSError, *_http_errors(errors))):
            raise
        raise InputError(f"{what}: the hub cannot be reached ({type(error).__name__}: {_first_line(error)})") from None


def _refused(what: str) -> str:
    return (
        f"{what}: the hub refuses it without a token that may; set HF_TOKEN to one (write access for a push), or run "
        "`hf auth login`"
    )


def _http_errors(errors: ModuleType) -> tuple[type, ...]:
    """The base class of what the HTTP library under huggingface_hub raises."""
    known = {"httpx", "httpx2", "requests"}
    return tuple(base for base in errors.HfHubHTTPError.__mro__ if base.__module__.partition(".")[0] in known)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
