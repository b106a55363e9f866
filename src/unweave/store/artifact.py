"""An artifact: the folder that one stage leaves.

It is written beside its place and renamed into it whole. `manifest.json`, written last, names its kind, configuration,
inputs and files with their sizes and checksums; a folder without one is no artifact. The artifact's `id` is a
fingerprint of kind, schema, configuration, seed and inputs: a stage that finds its id in place does not run again.
"""

import glob
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from unweave.core.config import Json, fingerprint, from_json, to_json
from unweave.core.errors import InputError, StoreError
from unweave.core.hashing import crc32_of_file

MANIFEST = "manifest.json"
SCHEMA = 1
_VERIFY_WHOLE_BELOW = 256 << 20
_OLD = "-old"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of an artifact: size in bytes and CRC-32."""

    size: int
    crc32: int


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What an artifact is: everything that decides its content."""

    kind: str
    config: Any
    inputs: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None

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
    """An artifact being written: put files into `folder`, facts into `details`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.details: Json = {}


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
    _bring_back(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        above = next(path for path in folder.absolute().parents if path.exists())
        if not (above.is_dir() and os.access(above, os.W_OK)):
            raise InputError(f"{folder} cannot be made: {above} is no folder that can be written to")
        return False
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} exists and is no Unweave artifact; choose another folder")
    found = _parse_manifest(folder)
    if overwrite:
        return False  # whatever state its files are in
    _check_files(folder, found, verify=False)
    if found.id == identity.id:
        return True
    other = "another artifact" if found.kind == identity.kind else "an artifact"
    raise InputError(
        f"{folder} holds {other} of kind {found.kind!r}, made from other settings or inputs; choose another folder or "
        "overwrite it"
    )


@contextmanager
def writing(folder: Path, identity: Identity, *, overwrite: bool = False) -> Iterator[Draft]:
    """Write an artifact: yields a draft folder that becomes `folder` when the block ends without an error.

    A block that fails, or a process that is killed, leaves `folder` as it was.

    Raises:
        InputError: something else stands in `folder` and `overwrite` is not set.
    """
    existing(folder, identity, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    draft = Draft(folder.parent / f".{folder.name}.writing-{os.getpid()}")
    draft.folder.mkdir()
    started = time.monotonic()
    try:
        yield draft
        manifest = _manifest(draft, identity, time.monotonic() - started)
        write_json(draft.folder / MANIFEST, to_json(manifest))
        existing(folder, identity, overwrite=overwrite)  # something may have come there since
        _swap_in(draft.folder, folder)
    finally:
        shutil.rmtree(draft.folder, ignore_errors=True)


def _manifest(draft: Draft, identity: Identity, seconds: float) -> Manifest:
    paths = sorted(path for path in draft.folder.rglob("*") if path.is_file())
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
        files={
            path.relative_to(draft.folder).as_posix(): FileEntry(size=path.stat().st_size, crc32=crc32_of_file(path))
            for path in paths
        },
    )


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half-written beside `folder`."""
    for left in _beside(folder):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _bring_back(folder: Path) -> None:
    """Undo a swap whose process was killed between its two renames."""
    for left in _beside(folder):
        if left.name.endswith(_OLD) and not folder.exists():
            left.rename(folder)


def _beside(folder: Path) -> list[Path]:
    """What dead processes left beside `folder`; a live one's is its own."""
    found = folder.parent.glob(f".{glob.escape(folder.name)}.writing-*")
    pids = {path: path.name.removesuffix(_OLD).rpartition("-")[2] for path in found}
    return [path for path, pid in pids.items() if not (pid.isdigit() and int(pid) != os.getpid() and _alive(int(pid)))]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _swap_in(draft: Path, folder: Path) -> None:
    aside = folder.parent / f".{folder.name}.writing-{os.getpid()}{_OLD}"
    if folder.exists():
        folder.rename(aside)
    try:
        draft.rename(folder)
    except BaseException:
        if aside.exists():
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def read_manifest(folder: Path, kind: str | None = None, *, verify: bool = False) -> Manifest:
    """Read an artifact's manifest and check the files against it.

    Args:
        folder: the artifact.
        kind: the kind it must be of; any by default.
        verify: compare checksums too, of every file where the artifact is under 256 MiB (sizes always).

    Raises:
        StoreError: not an artifact, of another kind or a newer schema, or a file is missing, cut short or changed.
    """
    manifest = _parse_manifest(folder)
    if kind is not None and manifest.kind != kind:
        raise StoreError(f"{folder} holds an artifact of kind {manifest.kind!r}, not {kind!r}")
    _check_files(folder, manifest, verify=verify)
    return manifest


def _parse_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise StoreError(f"{folder} is no Unweave artifact: it has no {MANIFEST}")
    data = read_json(path)
    if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
        raise StoreError(
            f"{path} has schema {data['schema']}, written by a newer Unweave; this one reads up to {SCHEMA}"
        )
    try:
        manifest = from_json(Manifest, data, where=str(path))
    except InputError as error:
        raise StoreError(str(error)) from None
    made_from = (manifest.schema, manifest.kind, manifest.config, manifest.inputs, manifest.seed)
    if fingerprint(*made_from) != manifest.id:
        raise StoreError(f"{path} was changed or damaged (its id does not fit its content); remove and remake it")
    return manifest


def _check_files(folder: Path, manifest: Manifest, *, verify: bool) -> None:
    small = sum(entry.size for entry in manifest.files.values()) < _VERIFY_WHOLE_BELOW
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise StoreError(f"{path} is missing; make the artifact again")
        if (size := path.stat().st_size) != entry.size:
            raise StoreError(f"{path} has {size:,} bytes where its manifest says {entry.size:,}; make it again")
        if verify and small and crc32_of_file(path) != entry.crc32:
            raise StoreError(f"{path} was changed or damaged (its checksum differs); make the artifact again")


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that the file is whole or absent, and on the disk when this returns; NaN and Inf become null."""
    text = json.dumps(_finite(data), indent=1, allow_nan=False) + "\n"  # first: what is no JSON leaves nothing behind
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        StoreError: missing, or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreError(f"{path} is not readable JSON: {error}") from None


def device_summary() -> dict[str, str]:
    """The hardware, for `run.json`."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"machine": platform.machine(), "system": platform.system(), "cpus": str(os.cpu_count()), "gpu": gpu}
