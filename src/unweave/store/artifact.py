"""An artifact: the folder that one stage leaves.

It is written beside its place and renamed into it whole. `manifest.json`, written last, names its kind, configuration,
inputs and files with their sizes and checksums; a folder without one is no artifact. The artifact's `id` is a
fingerprint of kind, schema, configuration, seed and inputs: a stage that finds its id in place does not run again.
"""

import errno
import json
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from unweave.core.config import Json, fingerprint, from_json, refuse_not_finite, to_json
from unweave.core.errors import InputError, StoreError
from unweave.core.hashing import crc32_of_file
from unweave.store.drafts import (
    OLD,
    asides,
    disk_errors,
    forget,
    left_beside,
    new_draft,
    readable,
    remove,
    replacing,
    to_disk,
    unfinished_beside,
)

MANIFEST = "manifest.json"
FILES = "files"
SCHEMA = 1
_VERIFY_WHOLE_BELOW = 256 << 20
_SWAPS = 10
_CHECKSUM = "checksum"
_OURS = "unweave-"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of an artifact: size in bytes and CRC-32."""

    size: int
    crc32: int


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What an artifact is: everything that decides its content.

    Attributes:
        kind: what sort of artifact.
        config: its settings.
        inputs: fingerprints of what it is made from.
        seed: where randomness starts.
        part_of: kind of the artifact in whose folder it may lie; else it lies in none, since it would go with it.

    Raises:
        InputError: a setting is NaN or Inf.
    """

    kind: str
    config: Any
    inputs: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    part_of: str | None = None

    def __post_init__(self) -> None:
        refuse_not_finite(self.config)

    @property
    def id(self) -> str:
        """Fingerprint of all of it, and of the schema it is written in."""
        return fingerprint(SCHEMA, self.kind, self.config, dict(self.inputs), self.seed)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json`."""

    kind: str
    id: str
    schema: int
    config: Any
    inputs: dict[str, str]
    seed: int | None
    versions: dict[str, str]
    created: str
    wall_seconds: float
    details: dict[str, Any]
    files: dict[str, FileEntry]


class Draft:
    """An artifact being written: files go into `folder`, facts into `details`, earlier seconds into `before`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.details: Json = {}
        self.before = 0.0
        self._settled: dict[Path, tuple[int, FileEntry]] = {}

    def begin(self) -> None:
        """Make the folder."""
        self.folder.mkdir()

    def settle(self, path: Path) -> None:
        """Say that a file will not change any more, so that its checksum is taken while it is still in memory."""
        self._settled[path] = path.stat().st_mtime_ns, file_entry(path)

    def take(self, path: Path, entry: FileEntry) -> None:
        """The same of a file whose checksum another process took."""
        self._settled[path] = path.stat().st_mtime_ns, entry

    def files(self) -> dict[str, FileEntry]:
        """Every file there is, on the disk, with its checksum."""
        found = {}
        for path in self._content():
            to_disk(path)
            stat = path.stat()
            changed, entry = self._settled.get(path, (-1, None))
            same = entry is not None and (changed, entry.size) == (stat.st_mtime_ns, stat.st_size)
            found[path.relative_to(self.folder).as_posix()] = entry if entry is not None and same else file_entry(path)
        return found

    def finish(self) -> None:
        """The last thing before the folder is renamed into its place."""

    def end(self) -> None:
        """Whether it has its place or not: leave nothing of the draft behind."""
        forget(self.folder)

    def _content(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


def file_entry(path: Path) -> FileEntry:
    """Size and checksum of a file as it is."""
    return FileEntry(size=path.stat().st_size, crc32=crc32_of_file(path))


def library_versions() -> dict[str, str]:
    """Versions of what a result can depend on."""
    names = ("unweave", "torch", "numpy", "scikit-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def existing(folder: Path, identity: Identity, *, overwrite: bool = False) -> bool:
    """Whether the artifact is already there.

    Raises:
        InputError: something else stands in its place and `overwrite` is not set, or what stands there is no artifact,
            or no folder can be made there. Nothing is touched.
    """
    with readable(folder):
        return _existing(_behind_links(folder), identity, overwrite=overwrite)


def check_before(folder: Path, kind: str, same: Callable[[Manifest], bool], *, overwrite: bool = False) -> None:
    """Refuse what `existing` would refuse whatever an artifact is made from: to be asked before that costs anything.

    Args:
        folder: the place.
        kind: of the artifact that is to be written.
        same: whether one of this kind that is there may be the one, as far as is known yet.
        overwrite: replace another artifact.

    Raises:
        InputError: as `existing`.
    """
    with readable(folder):
        place = _behind_links(folder)
        found = _standing(place, kind, None, overwrite=overwrite)
        if found is not None and not (found.kind == kind and same(found)):
            raise InputError(_of_another(place, found, kind))


def _existing(folder: Path, identity: Identity, *, overwrite: bool) -> bool:
    found = _standing(folder, identity.kind, identity.part_of, overwrite=overwrite)
    if found is None:
        return False
    if found.id == identity.id:
        _drop_unfinished(folder)
        return True
    raise InputError(_of_another(folder, found, identity.kind))


def _standing(folder: Path, kind: str, part_of: str | None, *, overwrite: bool) -> Manifest | None:
    """What stands in a place, whole; None where one of that kind can be written there."""
    check_place(folder, part_of=part_of)
    _tidy(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        above = next(path for path in folder.absolute().parents if path.exists())
        if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
            raise InputError(f"{folder} cannot be made: {above} is no folder that can be written to")
        return None
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} exists and is no Unweave artifact; choose another folder")
    found = parse_manifest(folder)
    if overwrite and found.kind == kind:
        return None  # whatever state its files are in
    _check_files(folder, found, verify=False)
    return found


def _of_another(folder: Path, found: Manifest, kind: str) -> str:
    if found.kind != kind:  # what is overwritten by mistake is most often an input
        return (
            f"{folder} holds an artifact of kind {found.kind!r}, which one of kind {kind!r} does not replace; choose "
            "another folder"
        )
    return (
        f"{folder} holds another artifact of kind {found.kind!r}, made from other settings or inputs; choose another "
        "folder or overwrite it"
    )


def check_place(folder: Path, *, part_of: str | None = None) -> None:
    """Refuse a folder inside an artifact, which goes with it when that is replaced, and a URL taken for a folder.

    Args:
        folder: the place.
        part_of: kind of the artifacts that it may lie in.

    Raises:
        InputError: it is one of them.
    """
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(folder)):
        raise InputError(f"{folder} is a URL, where only activation stores can be written; give a folder")
    for above in folder.absolute().parents:
        if (above / MANIFEST).is_file() and _kind_of(above / MANIFEST) not in (None, part_of):
            raise InputError(f"{folder} lies inside the artifact {above}; choose a folder outside of it")


def _kind_of(path: Path) -> str | None:
    """Kind of the artifact whose manifest a file is; web pages and others have files of that name too."""
    try:
        return manifest_from(_any_json(path), path).kind
    except InputError:
        return None


@contextmanager
def writing(
    folder: Path, identity: Identity, *, overwrite: bool = False, draft: Callable[[Path, Path], Draft] | None = None
) -> Iterator[Draft]:
    """Write an artifact: yields a draft folder that becomes `folder` when the block ends without an error.

    A block that fails, or a process that is killed, leaves `folder` as it was. Where another process has left the same
    artifact there meanwhile, that one stays.

    Args:
        folder: the place.
        identity: what is written.
        overwrite: replace another artifact.
        draft: makes the draft, of its own folder and the place; one that is always begun anew by default.

    Raises:
        InputError: something else stands in `folder` and `overwrite` is not set.
        StoreError: there is no room on the disk, or it cannot be written to.
    """
    folder = _behind_links(folder)
    existing(folder, identity, overwrite=overwrite)
    own = new_draft(folder)
    made = draft(own, folder) if draft is not None else Draft(own)
    started = time.monotonic()
    try:
        with disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            made.begin()
        with disk_errors(own / "file"):
            yield made
            manifest = manifest_of(made, identity, made.before + time.monotonic() - started)
            write_json(own / MANIFEST, to_json(manifest), sealed=True)
            made.finish()
        with disk_errors(folder):
            _put_in_place(own, folder, identity, overwrite=overwrite)
        _drop_unfinished(folder)
    finally:
        made.end()


def manifest_of(draft: Draft, identity: Identity, seconds: float) -> Manifest:
    """What is to be said of a draft that is whole."""
    return Manifest(
        kind=identity.kind,
        id=identity.id,
        schema=SCHEMA,
        config=to_json(identity.config),
        inputs=dict(identity.inputs),
        seed=identity.seed,
        versions=library_versions(),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        wall_seconds=round(seconds, 3),
        details=draft.details,
        files=draft.files(),
    )


def _behind_links(folder: Path) -> Path:
    """The folder itself where a link to it was named: drafts are renamed within one file system."""
    with readable(folder):
        return Path(os.path.realpath(folder)) if folder.is_symlink() else folder


def _tidy(folder: Path) -> None:
    """Undo a swap that was cut short between its two renames, and remove what killed processes left half-written."""
    for aside in asides(folder):
        if not folder.exists():
            with suppress(OSError):  # whoever was at it may have gone on
                aside.rename(folder)
    for left in left_beside(folder):
        remove(left)


def _drop_unfinished(folder: Path) -> None:
    """Remove what others could have gone on with: an artifact is in its place."""
    for left in unfinished_beside(folder):
        remove(left)


def _put_in_place(draft: Path, folder: Path, identity: Identity, *, overwrite: bool) -> None:
    """Rename a draft into its place, whatever other processes do there at the same time."""
    for _ in range(_SWAPS):
        if existing(folder, identity, overwrite=overwrite):
            return  # another process has left the same
        aside = draft.with_name(draft.name + OLD)
        try:
            if folder.is_dir() and any(folder.iterdir()):
                folder.rename(aside)
            draft.rename(folder)
        except FileNotFoundError:
            if not draft.exists():
                raise
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        finally:
            if aside.exists():
                if folder.exists():
                    remove(aside)
                else:
                    aside.rename(folder)
    raise StoreError(f"{folder} is written by other processes all the time; let one process write it")


def read_manifest(folder: Path, kind: str | None = None, *, verify: bool = False, large: bool = False) -> Manifest:
    """Read an artifact's manifest and check the files against it.

    Args:
        folder: the artifact.
        kind: the kind it must be of; any by default.
        verify: compare checksums too, of every file where the artifact is under 256 MiB (sizes always).
        large: whatever its size; for what is read whole anyway.

    Raises:
        StoreError: not an artifact, of another kind or a newer schema, or a file is missing, cut short or changed.
    """
    with readable(folder):
        manifest = parse_manifest(folder)
        if kind is not None and manifest.kind != kind:
            raise StoreError(f"{folder} holds an artifact of kind {manifest.kind!r}, not {kind!r}")
        _check_files(folder, manifest, verify=verify, large=large)
    return manifest


def parse_manifest(folder: Path) -> Manifest:
    """Read an artifact's manifest; its files may be what they will.

    Raises:
        StoreError: there is none, or it is of a newer schema, changed or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise StoreError(f"{folder} is no Unweave artifact: it has no {MANIFEST}")
    return manifest_from(_any_json(path), path)


def manifest_from(data: Any, path: Path | str) -> Manifest:
    """The manifest that JSON read at `path` is.

    Raises:
        StoreError: it is none, of a newer schema, or was changed.
    """
    if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
        raise StoreError(
            f"{path} has schema {data['schema']}, written by a newer Unweave; this one reads up to {SCHEMA}"
        )
    try:
        manifest = from_json(Manifest, _without_seal(data), where=str(path))
        made = fingerprint(manifest.schema, manifest.kind, manifest.config, manifest.inputs, manifest.seed)
    except InputError as error:
        said = str(error)
        raise StoreError(said if said.startswith(str(path)) else f"{path}: {said}") from None
    if made != manifest.id:
        raise StoreError(f"{path} was changed or damaged (its id does not fit its content); remove and remake it")
    _check_seal(path, data)
    return manifest


def _check_files(folder: Path, manifest: Manifest, *, verify: bool, large: bool = False) -> None:
    small = large or sum(entry.size for entry in manifest.files.values()) < _VERIFY_WHOLE_BELOW
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise StoreError(f"{path} is missing; make the artifact again")
        if (size := path.stat().st_size) != entry.size:
            raise StoreError(f"{path} has {size:,} bytes where its manifest says {entry.size:,}; make it again")
        if verify and small and crc32_of_file(path) != entry.crc32:
            raise StoreError(f"{path} was changed or damaged (its checksum differs); make the artifact again")


def write_json(path: Path, data: Any, *, sealed: bool = False, new: bool = False) -> None:
    """Write JSON so that the file is whole or absent, and on the disk when this returns; NaN and Inf become null.

    Args:
        path: the file.
        data: JSON values.
        sealed: add a `checksum` of the rest of an object, which `read_json` compares.
        new: the file must not be there.

    Raises:
        FileExistsError: it is `new`, but another process has written it meanwhile.
        StoreError: there is no room on the disk, or it cannot be written to.
    """
    finite = _finite(data)
    if sealed:
        finite = {**finite, _CHECKSUM: _seal(finite)}
    text = json.dumps(finite, indent=1, allow_nan=False) + "\n"  # first: what is no JSON leaves nothing behind
    with replacing(path, new=new) as draft:
        draft.write_text(text, encoding="utf-8")


def _seal(data: Mapping[str, Any]) -> str:
    return _OURS + fingerprint({name: value for name, value in data.items() if name != _CHECKSUM})


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_json(path: Path) -> Any:
    """Read JSON; a checksum that `write_json` put into it is compared and left out.

    Raises:
        StoreError: missing, not JSON, or changed since it was written.
    """
    data = _any_json(path)
    _check_seal(path, data)
    return data


def _any_json(path: Path) -> Any:
    if path.exists() and not path.is_file():
        raise StoreError(f"{path} is no regular file; see what stands in its place")  # a pipe would never answer
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not readable JSON: {error}") from None


def _without_seal(data: Any) -> Any:
    return {k: v for k, v in data.items() if k != _CHECKSUM} if isinstance(data, dict) else data


def _check_seal(path: Path | str, data: Any) -> None:
    """Compare a checksum with what it is of, and take it out."""
    sealed = data.get(_CHECKSUM) if isinstance(data, dict) else None
    if isinstance(sealed, str) and sealed.startswith(_OURS):
        if sealed != _seal(data):
            raise StoreError(f"{path} was changed or damaged (its checksum differs); remove and remake it")
        del data[_CHECKSUM]


def device_summary() -> dict[str, str]:
    """The hardware, for `run.json`."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"machine": platform.machine(), "system": platform.system(), "cpus": str(os.cpu_count()), "gpu": gpu}
