"""Reading a dictionary from wherever it lies, and writing it as another library wants it."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unweave.core.errors import InputError, StoreError, did_you_mean
from unweave.dictionaries import stored as native
from unweave.dictionaries.base import KIND, Dictionary
from unweave.formats.base import Format, formats, named, peek_json
from unweave.formats.checks import only_file
from unweave.formats.hub import HUB, HubPlace, dictionaries_at, fetch
from unweave.formats.torch_files import load_torch
from unweave.store.artifact import MANIFEST, Identity, check_place, existing, read_manifest
from unweave.store.drafts import disk_errors, forget, left_beside, new_draft, remove, to_disk

NATIVE = "unweave"


def load(place: str | Path, *, format: str | None = None) -> Dictionary:  # noqa: A002 - the word for it
    """Read a dictionary: Unweave's own folder, one of another library, or a place on the hub.

    Args:
        place: a folder, a file, or `hf://ORG/REPO`, `hf://ORG/REPO/SUBFOLDER`, each with `@REVISION` where wanted.
        format: name of the format; found out from the files by default.

    Returns:
        The dictionary as one of Unweave's kinds, frozen for inference, its foreign constants folded into the weights.

    Raises:
        StoreError: nothing is there, nothing that is known, or a file is missing, damaged or does not fit.
        InputError: what it computes is what no kind of Unweave computes, or several formats know these files.
    """
    if str(place).startswith(HUB):
        return load(fetch(str(place)), format=format)
    if "://" in str(place):
        raise InputError(f"{place} is a URL, and a dictionary is read from a folder or from hf://ORG/REPO")
    path = Path(place)
    if format == NATIVE or (format is None and is_native(path)):
        return native.load(path)
    if not path.exists():
        raise StoreError(f"{path} does not exist")
    return (recognise(path) if format is None else named(format)).read(path)


def is_native(folder: Path) -> bool:
    """Whether a folder is an artifact of Unweave's own, whatever it holds.

    One whose manifest cannot be read is: it is damaged, and must not pass for another library's.
    """
    known = peek_json(folder / MANIFEST)
    return {"kind", "schema", "files"} <= known.keys() or (not known and (folder / MANIFEST).is_file())


def recognise(place: Path) -> Format:
    """The format that a folder or file is in.

    Raises:
        StoreError: none knows it.
        InputError: several do.
    """
    found = {name: one for name, one in formats().items() if one.recognises(place)}
    if not found:
        if (file := only_file(place, ".pt", ".pth", ".ckpt", ".pkl")) is not None:
            load_torch(file)  # says what it holds that is not read, or how it is damaged
        raise StoreError(
            f"{place} holds no dictionary that is recognised; known are Unweave's own folder and "
            f"{', '.join(formats())} (--format NAME reads it as one of them)"
        )
    if len(found) > 1:
        raise InputError(f"{place} could be {' or '.join(found)}; choose with --format (in Python: format=)")
    return next(iter(found.values()))


def export(dictionary: Dictionary, folder: str | Path, *, format: str = "saelens") -> Path:  # noqa: A002
    """Write a dictionary as another library reads it.

    Args:
        dictionary: any that the format has words for.
        folder: where; it must be new or empty, and is there whole or not at all.
        format: name of the format; `unweave` is `dictionary.save`.

    Returns:
        The folder.

    Raises:
        InputError: the format has no word for such a dictionary, or something stands in `folder`.
    """
    place = Path(folder)
    if format == NATIVE:
        dictionary.save(place)
        return place
    writer = named(format) if format in formats() else _unknown(format)
    check_place(place)
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise InputError(f"{place} exists already; choose another folder, or remove it")
    with _in_place(place) as draft:
        writer.write(dictionary, draft)
    return place


def pull(place: str, out: str | Path) -> dict[str, Path]:
    """Fetch a dictionary from the hub into a folder of Unweave's own, or all of a repository's, each into one.

    Args:
        place: `ORG/REPO`, or `hf://ORG/REPO[@REVISION][/FOLDER]`.
        out: folder of the dictionary; where the repository holds several, each gets one in it.

    Returns:
        Folder of each dictionary by its name in the repository.

    Raises:
        InputError: no such place, no access or no connection, or something stands in `out`.
        StoreError: what lies there is no dictionary, or damaged.
    """
    found = dictionaries_at(HubPlace.parse(place))
    alone = len(found) == 1
    folders = {one.inside or one.repo: Path(out) if alone else Path(out) / one.inside for one in found}
    for one, folder in zip(found, folders.values(), strict=True):
        keep(fetch(one), folder)
    return folders


def keep(source: Path, folder: Path) -> None:
    """Make a dictionary's files an artifact of Unweave's own in a folder: one that is it already is copied as it is.

    Raises:
        InputError: something else stands in `folder`.
        StoreError: what lies there is no dictionary, or damaged.
    """
    if not is_native(source):
        load(source).save(folder)
        return
    manifest = read_manifest(source, KIND, verify=True)
    for path in manifest.files:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise StoreError(f"{source / MANIFEST} names {path!r}, which is not in its folder")
    known = Identity(kind=KIND, config=manifest.config, inputs=manifest.inputs, seed=manifest.seed)
    if existing(folder, known):
        return
    try:
        with _in_place(folder) as draft:
            for path in (MANIFEST, *manifest.files):
                (draft / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / path, draft / path)
    except _TakenError:
        if not existing(folder, known):  # it is what another process has fetched meanwhile, or an error
            raise


class _TakenError(InputError):
    """Something stands where a draft was to go."""


@contextmanager
def _in_place(folder: Path) -> Iterator[Path]:
    """A draft that becomes `folder`, which is not there or empty, when the block ends without an error.

    Raises:
        InputError: something was put there meanwhile.
    """
    for left in left_beside(folder):
        remove(left)
    draft = new_draft(folder)
    try:
        with disk_errors(draft / "file"):
            draft.mkdir(parents=True)
            yield draft
            for path in draft.rglob("*"):
                if path.is_file():
                    to_disk(path)
        with disk_errors(folder):
            try:
                draft.rename(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                raise _TakenError(f"{folder} was made by another process meanwhile; choose another folder") from None
    finally:
        forget(draft)


def _unknown(name: str) -> Format:
    raise InputError(f"there is no format {name!r}: {did_you_mean(name, [NATIVE, *formats()])}")
