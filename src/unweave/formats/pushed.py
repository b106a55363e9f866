"""What is pushed: dictionaries, how they came about, and what was measured on them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unweave.core.config import Json
from unweave.core.errors import InputError, StoreError
from unweave.core.hashing import crc32_of_file, hash_module
from unweave.dictionaries.base import KIND
from unweave.dictionaries.exchange import CFG, OWN_KINDS
from unweave.dictionaries.stored import load
from unweave.formats.base import peek_json
from unweave.store.artifact import MANIFEST, Manifest, read_json, read_manifest

_RUN = "run.json"
_METRICS = "metrics.json"
_ATLAS = "atlas"


@dataclass(frozen=True, kw_only=True, eq=False)
class Pushed:
    """Dictionaries to push.

    Attributes:
        folders: their artifacts, by the name that each gets.
        manifests: those artifacts' manifests.
        saelens: whether SAELens can load each; None where it was saved before Unweave wrote what SAELens reads.
        run: what `run.json` says of the run that they come from; empty where there is none.
        metrics: `name` or `name@condition`, to number; None where one could not be had.
        measured: what the metrics were read from: `run`, `atlas`, or nothing where nothing was measured.
    """

    folders: Mapping[str, Path]
    manifests: Mapping[str, Manifest]
    saelens: Mapping[str, bool | None] = field(default_factory=dict)
    run: Json = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    measured: str = ""


def pushed(folder: Path, measured: Path | None = None) -> Pushed:
    """The dictionary in a folder, or all those of a run.

    Args:
        folder: a dictionary's folder, or a run's.
        measured: a run's folder or an atlas that has its numbers; a run has its own.

    Raises:
        InputError: there is no dictionary in it, or the numbers are those of other ones.
        StoreError: a file is missing or damaged, or the run has not ended.
    """
    if (folder / _RUN).is_file():
        run = _run(folder)
        folders = _dictionaries(folder, run)
        if not folders:
            raise InputError(f"{folder} is a run without a dictionary")
        numbers = Measured("run", run, _metrics(folder, run))
    elif (folder / MANIFEST).is_file():
        folders = {folder.resolve().name: folder}
        numbers = Measured("", {}, {})
    else:
        raise InputError(
            f"{folder} holds neither a dictionary of Unweave's nor a run; `unweave import` makes one of another "
            "library's files"
        )
    manifests = {name: read_manifest(path, KIND, verify=True) for name, path in folders.items()}
    if measured is not None:
        numbers = _measured(measured, folders, manifests)
    return Pushed(
        folders=folders,
        manifests=manifests,
        saelens={name: _in_saelens(path) for name, path in folders.items()},
        run=numbers.run,
        metrics=numbers.metrics,
        measured=numbers.source,
    )


def _in_saelens(folder: Path) -> bool | None:
    named = peek_json(folder / CFG).get("architecture")
    return None if named is None else not str(named).startswith(OWN_KINDS)


@dataclass(frozen=True)
class Measured:
    """Numbers: what they were read from, its run and the numbers themselves."""

    source: str
    run: Json
    metrics: Mapping[str, float | None]


def _measured(place: Path, folders: Mapping[str, Path], manifests: Mapping[str, Manifest]) -> Measured:
    if (place / _RUN).is_file():
        run = _run(place)
        ids = {read_manifest(path, KIND).id for path in _dictionaries(place, run).values()}
        if not ids & {manifest.id for manifest in manifests.values()}:
            raise InputError(
                f"{place} is a run of other dictionaries; its numbers are not those of {', '.join(folders)}"
            )
        return Measured("run", run, _metrics(place, run))
    manifest = read_manifest(place, _ATLAS, verify=True)
    if manifest.inputs.get("dictionary") not in {hash_module(load(path)) for path in folders.values()}:
        raise InputError(
            f"{place} is the atlas of another dictionary; its numbers are not those of {', '.join(folders)}"
        )
    return Measured(_ATLAS, {}, _numbers(manifest.details.get("metrics"), place / MANIFEST))


def _run(folder: Path) -> Json:
    run = read_json(folder / _RUN)
    if not isinstance(run, dict) or run.get("status") != "complete":
        raise StoreError(f"{folder} holds a run that has not ended; start the same command again to finish it")
    return run


def _dictionaries(folder: Path, run: Json) -> dict[str, Path]:
    places = {role: folder / path for role, path in dict(run.get("artifacts", {})).items()}
    return {role: path for role, path in places.items() if read_manifest(path).kind == KIND}


def _metrics(folder: Path, run: Json) -> dict[str, float | None]:
    path = folder / _METRICS
    numbers = _numbers(read_json(path), path)
    if run.get("metrics_crc32", said := crc32_of_file(path)) != said:
        raise StoreError(f"{path} was changed since the run left it; start the same command again")
    return numbers


def _numbers(found: Any, path: Path) -> dict[str, float | None]:
    if not isinstance(found, dict) or not all(
        value is None or isinstance(value, int | float) for value in found.values()
    ):
        raise StoreError(f"{path} should map names to numbers")
    return {str(name): value for name, value in found.items()}
