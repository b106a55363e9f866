"""Is what lies on the disk what was written? Everything below a folder, whatever its size."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import safetensors

from unweave.core.errors import InputError, StoreError
from unweave.core.hashing import crc32_of_file, hash_tensors
from unweave.core.progress import Bar, progress
from unweave.store.artifact import FILES, MANIFEST, FileEntry, parse_manifest, read_json
from unweave.store.drafts import is_draft
from unweave.store.remote import RemoteFolder, as_place
from unweave.store.verified import Verified
from unweave.store.verify_remote import verify_remote

CHECKPOINT = ".checkpoint.safetensors"
_SQLITE = ".sqlite"


def verify(folder: str | Path) -> Verified:
    """Compare every artifact, run, checkpoint and database below a folder or URL with what was written.

    All files that a manifest or a `run.json` names are read through and their checksums compared, in stores of any size
    too. Figures and pages have none: they can be made again. Below a URL (s3://, gs://, ...) stores are all there is.

    Raises:
        InputError: there is no such folder, or nothing in it that could be compared.
        StoreError: the URL cannot be reached.
    """
    place = as_place(folder)
    if isinstance(place, str):
        return verify_remote(RemoteFolder(place))
    return _verify_folder(place)


def _verify_folder(folder: Path) -> Verified:
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder")
    found = Verified()
    places = sorted(_places(folder, found))
    total = sum(path.stat().st_size for path in places if path.suffix != ".json") + _named_bytes(places)
    with progress("Verifying", total=total, unit="bytes") as bar:
        for path in places:
            try:
                _verify(path, found, bar)
            except (StoreError, OSError) as error:
                found.damaged.append(str(error))
    if not places and not found.left:
        raise InputError(f"there is nothing of Unweave's in {folder}: no {MANIFEST}, no run, no checkpoint")
    return found


def _places(folder: Path, found: Verified) -> Iterator[Path]:
    """Files that say what others should be, and those that can be judged alone."""
    for at, below, names in os.walk(folder):
        drafts = [name for name in (*below, *names) if is_draft(Path(name))]
        found.left += [Path(at) / name for name in drafts]
        below[:] = sorted(set(below) - set(drafts))
        for name in sorted(set(names) - set(drafts)):
            if name.endswith((".json", CHECKPOINT, _SQLITE)):
                yield Path(at) / name


def _named_bytes(places: list[Path]) -> int:
    total = 0
    for path in places:
        if path.suffix == ".json":
            total += sum(entry.size for entry in _named(path, strict=False).values())
    return total


def _named(path: Path, *, strict: bool = True) -> dict[str, FileEntry]:
    """The files that a JSON file names with their checksums.

    Raises:
        StoreError: `strict`, and it was changed or is no JSON.
    """
    try:
        data: Any = read_json(path)
        files = data.get(FILES, {}) if isinstance(data, dict) else {}
        return {name: FileEntry(size=int(one["size"]), crc32=int(one["crc32"])) for name, one in files.items()}
    except StoreError:
        if strict:
            raise
    except (AttributeError, KeyError, TypeError, ValueError):
        pass  # somebody else's JSON
    return {}


def _verify(path: Path, found: Verified, bar: Bar) -> None:
    if path.name == MANIFEST:
        found.artifacts += 1
        parse_manifest(path.parent)
    if path.suffix == ".json":
        found.files += 1
        found.bytes += path.stat().st_size
        for name, entry in _named(path).items():
            _compare(path.parent / name, entry, found)
            bar.advance(entry.size)
        return
    size = path.stat().st_size
    found.files, found.bytes = found.files + 1, found.bytes + size
    _check_checkpoint(path) if path.name.endswith(CHECKPOINT) else _check_database(path)
    bar.advance(size)


def _compare(path: Path, entry: FileEntry, found: Verified) -> None:
    found.files, found.bytes = found.files + 1, found.bytes + entry.size
    try:
        size = path.stat().st_size
        if size != entry.size:
            found.damaged.append(f"{path} has {size:,} bytes, {entry.size:,} were written")
        elif crc32_of_file(path) != entry.crc32:
            found.damaged.append(f"{path} was changed or damaged: its checksum differs")
    except FileNotFoundError:
        found.damaged.append(f"{path} is missing")
    except OSError as error:
        found.damaged.append(f"{path} cannot be read: {error.strerror}")


def _check_checkpoint(path: Path) -> None:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        whole = hash_tensors(tensors, header["values"]) == header["checksum"]
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}); remove it to train from the start") from None
    if not whole:
        raise StoreError(f"{path} is damaged (its checksum differs); remove it to train from the start")


def _check_database(path: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            said = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
    except sqlite3.DatabaseError as error:
        said = [str(error)]
    if said != ["ok"]:
        raise StoreError(f"{path} is a damaged database: {said[0]}")
