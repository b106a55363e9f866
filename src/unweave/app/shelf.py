"""The folders that the app shows: which they are, and what is in each just now."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from unweave.core.errors import InputError, StoreError, did_you_mean
from unweave.recipes.base import METRICS, RUN
from unweave.store.artifact import MANIFEST, Manifest, read_json, read_manifest

_DEEPEST = 3


class State(StrEnum):
    """What a folder holds."""

    COMPLETE = "complete"
    RUNNING = "running"
    ARTIFACTS = "artifacts"
    EMPTY = "empty"
    FOREIGN = "foreign"
    DAMAGED = "damaged"
    GONE = "gone"


_SAID = {
    State.COMPLETE: "",
    State.ARTIFACTS: "",
    State.RUNNING: "This run has not ended: it is under way, or was stopped. The same command goes on where it was.",
    State.EMPTY: "This folder is empty. A run writes run.json into it when it starts, and artifacts as they are made.",
    State.FOREIGN: "This folder holds no run (it has no run.json) and no artifact (no manifest.json in it or below).",
    State.GONE: "This folder is not there any more.",
}


@dataclass(frozen=True, eq=False)
class Contents:
    """What a folder holds at one moment.

    Attributes:
        state: what it is.
        problem: what is missing or wrong, in a sentence; "" where nothing is.
        run: `run.json`, {} where there is none.
        metrics: `metrics.json`, {} where there is none yet.
        manifests: of each artifact by role; `folders` says where it lies.
        broken: what is wrong with each artifact that cannot be read, by role.
    """

    state: State
    problem: str = ""
    run: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)

    def roles(self, kind: str) -> list[str]:
        """Roles of the artifacts of one kind, in the order in which the run made them."""
        return [role for role, manifest in self.manifests.items() if manifest.kind == kind]

    @property
    def title(self) -> str:
        """Name of the recipe, or what else it is."""
        return str(self.run.get("recipe") or ("artifacts" if self.state is State.ARTIFACTS else self.state.value))


class Entry:
    """One folder on the shelf, read again when it changes."""

    def __init__(self, slug: str, folder: Path) -> None:
        self.slug, self.folder = slug, folder
        self._seen: tuple[Any, ...] = ()
        self._contents = Contents(State.GONE, _SAID[State.GONE])

    def contents(self) -> Contents:
        """What the folder holds now."""
        seen = self._times()
        if seen != self._seen:
            self._contents, self._seen = _read(self.folder), seen
        return self._contents

    def _times(self) -> tuple[Any, ...]:
        """Changes whenever a file that `_read` reads does."""
        files = [self.folder, self.folder / RUN, self.folder / METRICS, *_manifests(self.folder)]
        return tuple((str(path), _changed(path)) for path in files)


class Shelf:
    """Run folders by a name that can stand in an address.

    Args:
        places: run folders, or folders that hold run folders; what appears in one later is found.

    Raises:
        InputError: a place is not there, or is a file.
    """

    def __init__(self, places: Sequence[str | Path]) -> None:
        self.places = [Path(place).expanduser().resolve() for place in places]
        for place in self.places:
            if not place.is_dir():
                what = "is a file" if place.exists() else "does not exist"
                raise InputError(f"{place} {what}; name run folders, or a folder that holds them")
        self._entries: dict[Path, Entry] = {}
        self.entries()

    def entries(self) -> list[Entry]:
        """Everything on the shelf, in order."""
        folders = [folder for place in self.places for folder in _runs_at(place)]
        taken = {entry.slug for entry in self._entries.values()}
        for folder in folders:
            if folder not in self._entries:
                slug = _free(_slug(folder.name), taken)
                taken.add(slug)
                self._entries[folder] = Entry(slug, folder)
        return [self._entries[folder] for folder in dict.fromkeys(folders)]

    def __getitem__(self, slug: str) -> Entry:
        """The entry of that name.

        Raises:
            InputError: there is none.
        """
        for _ in range(2):
            for entry in self._entries.values():
                if entry.slug == slug:
                    return entry
            self.entries()  # it may have come since
        known = [entry.slug for entry in self._entries.values()]
        raise InputError(f"there is no run {slug!r} here: {did_you_mean(slug, known)}")


def _runs_at(place: Path) -> list[Path]:
    """The place itself, or the runs below it where it is a folder of runs."""
    if (place / RUN).is_file() or any(True for _ in _manifests(place, deepest=2)):
        return [place]
    inner = sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    runs = [path for path in inner if (path / RUN).is_file()]
    return runs or [place]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"


def _free(slug: str, taken: set[str]) -> str:
    number = 1
    while (name := slug if number == 1 else f"{slug}-{number}") in taken:
        number += 1
    return name


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _manifests(folder: Path, deepest: int = _DEEPEST) -> Iterator[Path]:
    """Manifests in a folder and below it; drafts are passed over."""
    try:
        if (folder / MANIFEST).is_file():
            yield folder / MANIFEST
        elif deepest > 0:
            for path in sorted(folder.iterdir()):
                if path.is_dir() and not path.name.startswith("."):
                    yield from _manifests(path, deepest - 1)
    except OSError:
        return


def _read(folder: Path) -> Contents:
    if not folder.is_dir():
        return Contents(State.GONE, _SAID[State.GONE])
    try:
        run = read_json(folder / RUN) if (folder / RUN).is_file() else {}
        metrics = read_json(folder / METRICS) if (folder / METRICS).is_file() else {}
        named = run.get("artifacts", {}) if isinstance(run, dict) else None
        if not isinstance(named, dict) or not isinstance(metrics, dict) or (run and "status" not in run):
            raise StoreError(f"{folder / RUN} does not say what was run; start the run again in another folder")
    except StoreError as error:
        return Contents(State.DAMAGED, str(error))
    manifests, folders, broken = _artifacts(folder, {role: folder / str(path) for role, path in named.items()})
    if run:
        state = State.COMPLETE if run["status"] == "complete" else State.RUNNING
    elif manifests or broken:
        state = State.ARTIFACTS
    else:
        state = State.FOREIGN if any(folder.iterdir()) else State.EMPTY
    numbers = {name: float("nan") if value is None else value for name, value in metrics.items()}
    return Contents(state, _SAID[state], run, numbers, manifests, folders, broken)


def _artifacts(folder: Path, named: Mapping[str, Path]) -> tuple[dict[str, Manifest], dict[str, Path], dict[str, str]]:
    """Artifacts by role: those that `run.json` names, in its order, and then whatever else lies there."""
    places = {path: role for role, path in named.items()}
    for path in _manifests(folder):
        below = path.parent.relative_to(folder)
        own = below.as_posix().removeprefix("artifacts/") if below.parts else path.parent.name
        places.setdefault(path.parent, own)
    manifests, folders, broken = {}, {}, {}
    for path, role in places.items():
        try:
            manifests[role] = read_manifest(path)
            folders[role] = path
        except StoreError as error:
            broken[role] = str(error)
    return manifests, folders, broken
