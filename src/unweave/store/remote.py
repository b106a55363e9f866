"""Activation stores at a URL: an object store (s3://, gs://, …), through fsspec.

An object store has no folders and no rename. What makes a store whole is its manifest, which is written last and
removed first. Shards are uploaded as capture finishes them, and do not stay on this machine. Reading asks for the byte
ranges of rows, many at a time.
"""

import bisect
import json
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.config import to_json
from unweave.core.errors import InputError, StoreError
from unweave.core.optional import needs
from unweave.store.artifact import (
    MANIFEST,
    Draft,
    FileEntry,
    Identity,
    Manifest,
    existing,
    file_entry,
    manifest_from,
    manifest_of,
    write_json,
    writing,
)
from unweave.store.header import LENGTH_BYTES, Span, header_bytes, spans
from unweave.store.order import BLOCK_BYTES
from unweave.store.reading import Held
from unweave.store.scratch import Scratch
from unweave.store.shards import MOMENTS, ROWS, SHORT_NAMES, refuse_shard, shard_name

_IN_FLIGHT = 16
_PIECE = 8 << 20
_UPLOADS = 2
_HEADER_GUESS = 16 << 10


def as_url(place: str | Path) -> str | None:
    """The URL that a place is, without a slash at its end; None for a folder, which file:// names too."""
    text = str(place)
    return text.rstrip("/") if "://" in text and not text.startswith("file://") else None


def as_place(place: str | Path) -> Path | str:
    """A folder as a path, a URL as it is."""
    text = str(place)
    return as_url(text) or Path(text.removeprefix("file://"))


def below(place: Path | str, name: str) -> Path | str:
    """A place inside another one."""
    return place / name if isinstance(place, Path) else f"{place}/{name}"


class RemoteFolder:
    """The objects below a URL.

    Raises:
        InputError: the URL's kind is not known, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        fsspec = needs("fsspec", extra="remote", what="a store at a URL")
        try:
            self._system, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise InputError(f"{url} needs a package: {error}: pip install 'unweave[remote]'") from None
        except ValueError as error:
            raise InputError(f"{url}: {error}") from None
        self._root = str(root).rstrip("/")

    def sizes(self) -> dict[str, int]:
        """Names of all objects and their bytes; empty where there is none.

        Raises:
            StoreError: the place cannot be reached.
        """
        with self._reached("read"):
            self._system.invalidate_cache()
            try:
                found = self._system.find(self._root, detail=True)
            except FileNotFoundError:
                self._system.ls(PurePosixPath(self._root).parts[0] if self._root.strip("/") else "/")  # is it there?
                return {}
            if not found and "/" in self._root.strip("/"):
                self._look_for_bucket()
        return {name.removeprefix(self._root).lstrip("/"): int(info["size"]) for name, info in found.items()}

    def _look_for_bucket(self) -> None:
        """Raise what the system raises for a bucket that is not there; those in memory need none."""
        bucket = self._root.strip("/").split("/")[0]
        if "memory" not in self._system.protocol:
            self._system.ls(bucket)

    def manifest(self, kind: str) -> Manifest:
        """The manifest, once every object that it names was found to be there and to have its size.

        Raises:
            StoreError: not an artifact, of another kind or a newer schema, or an object is missing or cut short.
        """
        sizes = self.sizes()
        manifest = self._manifest(sizes)
        if manifest is None:
            raise StoreError(f"{self.url} is no Unweave artifact: it has no {MANIFEST}")
        if manifest.kind != kind:
            raise StoreError(f"{self.url} holds an artifact of kind {manifest.kind!r}, not {kind!r}")
        for name, entry in manifest.files.items():
            if name not in sizes:
                raise StoreError(f"{self.url}/{name} is missing; make the artifact again")
            if sizes[name] != entry.size:
                where = f"{self.url}/{name} has {sizes[name]:,} bytes where its manifest says {entry.size:,}"
                raise StoreError(f"{where}; make it again")
        return manifest

    def _manifest(self, sizes: dict[str, int]) -> Manifest | None:
        if MANIFEST not in sizes:
            return None
        where = f"{self.url}/{MANIFEST}"
        try:
            data = json.loads(self.read(MANIFEST, 0, sizes[MANIFEST]))
        except ValueError as error:
            raise StoreError(f"{where} is not readable JSON: {error}") from None
        return manifest_from(data, where)

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of an object.

        Raises:
            StoreError: they cannot be had.
        """
        with self._reached("read", name):
            found = bytes(self._system.cat_file(f"{self._root}/{name}", start=start, end=stop))
        if len(found) != stop - start:
            raise StoreError(f"{self.url}/{name} gave {len(found):,} bytes of {stop - start:,}; was it changed?")
        return found

    def put(self, path: Path, name: str) -> None:
        """Upload a file.

        Raises:
            StoreError: it cannot be written.
        """
        with self._reached("written", name):
            self._system.put_file(str(path), f"{self._root}/{name}")

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects, the manifest first.

        Raises:
            StoreError: one of them cannot be removed.
        """
        for name in sorted(names, key=lambda name: name != MANIFEST):
            with self._reached("removed", name), suppress(FileNotFoundError):
                self._system.rm_file(f"{self._root}/{name}")

    def existing(self, identity: Identity, *, overwrite: bool = False) -> bool:
        """Whether the artifact is already there.

        Raises:
            InputError: something else stands in its place and `overwrite` is not set, or what stands there is neither
                an artifact nor what a capture that was killed has left.
        """
        sizes = self.sizes()
        found = self._manifest(sizes)
        if found is None:
            strange = sorted(name for name in sizes if not _ours(name))
            if strange:
                where = f"{self.url} holds {strange[0]!r} and is no Unweave artifact"
                raise InputError(f"{where}; choose another place")
            return False
        if overwrite:
            return False
        if found.id != identity.id:
            raise InputError(
                f"{self.url} holds another artifact of kind {found.kind!r}, made from other settings or inputs; choose "
                "another place or overwrite it"
            )
        self.manifest(identity.kind)
        return True

    @contextmanager
    def writing(self, identity: Identity, *, overwrite: bool = False) -> Iterator[Draft]:
        """Write an artifact: yields a draft whose settled files are uploaded and removed here.

        What stands at the URL is removed first. A block that fails removes what it has uploaded; what a killed process
        leaves has no manifest, and the next one removes it.

        Raises:
            InputError: something else stands there and `overwrite` is not set.
            StoreError: the place cannot be written to.
        """
        self.existing(identity, overwrite=overwrite)
        self.remove([name for name in self.sizes() if name == MANIFEST or _ours(name)])
        started = time.monotonic()
        scratch = Scratch()
        draft = UploadedDraft(scratch.path, self)
        try:
            yield draft
            manifest = manifest_of(draft, identity, time.monotonic() - started)
            write_json(scratch.path / MANIFEST, to_json(manifest), sealed=True)
            self.put(scratch.path / MANIFEST, MANIFEST)
        except BaseException:
            draft.abandon()
            with suppress(StoreError):
                self.remove(draft.uploaded)
            raise

    @contextmanager
    def _reached(self, what: str, name: str = "") -> Iterator[None]:
        """Any error of the system beneath, of which each has its own kinds, as one of ours."""
        where = f"{self.url}/{name}" if name else self.url
        try:
            yield
        except InputError:
            raise
        except FileNotFoundError:
            raise StoreError(f"{where} does not exist, or its bucket does not") from None
        except PermissionError as error:
            raise StoreError(f"{where} cannot be {what}: access is denied ({_first_line(error)})") from None
        except Exception as error:
            hint = "; are there credentials for it?" if "credential" in str(error).lower() else ""
            said = f"{type(error).__name__}: {_first_line(error)}"
            raise StoreError(f"{where} cannot be {what} ({said}){hint}") from None


class UploadedDraft(Draft):
    """A draft whose files go to a URL: `settle` uploads in the background and removes the file here."""

    def __init__(self, folder: Path, to: RemoteFolder) -> None:
        super().__init__(folder)
        self._to = to
        self._entries: dict[str, FileEntry] = {}
        self._pool = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="upload")
        self._under_way: deque[Future[None]] = deque()

    @property
    def uploaded(self) -> list[str]:
        """Names of what was uploaded, or begun to."""
        return list(self._entries)

    def settle(self, path: Path) -> None:
        """Upload a file that will not change any more; waits where uploads do not keep up.

        Raises:
            StoreError: an earlier one failed.
        """
        name = path.relative_to(self.folder).as_posix()
        self._entries[name] = file_entry(path)
        self._under_way.append(self._pool.submit(self._upload, path, name))
        while len(self._under_way) > _UPLOADS or (self._under_way and self._under_way[0].done()):
            self._under_way.popleft().result()

    def files(self) -> dict[str, FileEntry]:
        """Upload what is left, wait for all of it, and give every file's checksum."""
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            if path.relative_to(self.folder).as_posix() not in self._entries:
                self.settle(path)
        while self._under_way:
            self._under_way.popleft().result()
        return dict(sorted(self._entries.items()))

    def abandon(self) -> None:
        """Begin no more uploads, and wait for those under way."""
        self._pool.shutdown(cancel_futures=True)

    def _upload(self, path: Path, name: str) -> None:
        self._to.put(path, name)
        path.unlink()


@dataclass
class _Buffer:
    """A window in memory of its own."""

    starts: Sequence[int]
    lengths: Sequence[int]
    memory: Tensor
    free: list[Tensor]

    def close(self) -> None:
        """Leave the memory to the next window."""
        self.free.append(self.memory)


class RemoteShards:
    """Shards at a URL: byte ranges are read when they are needed.

    Args:
        folder: the store.
        manifest: what it says of itself.
        rows: rows of each shard.
        d_in: width of a row.
        dtype: precision of the rows.
    """

    def __init__(
        self, folder: RemoteFolder, manifest: Manifest, rows: Sequence[int], d_in: int, dtype: torch.dtype
    ) -> None:
        self._folder, self._manifest = folder, manifest
        self._rows, self._d_in, self._dtype = rows, d_in, dtype
        self._row_bytes = d_in * dtype.itemsize
        self._first = [0, *accumulate(rows)]
        self._spans: dict[int, Mapping[str, Span]] = {}
        self._columns: dict[str, Tensor | None] = {}
        self._free: list[Tensor] = []

    def rows(self, shard: int, start: int, stop: int) -> Float[Tensor, "n d_in"]:
        """Rows [start, stop) of a shard in the stored precision."""
        at = self._header(shard)[ROWS].start
        read = self._folder.read(shard_name(shard), at + start * self._row_bytes, at + stop * self._row_bytes)
        return torch.frombuffer(bytearray(read), dtype=self._dtype).view(-1, self._d_in)

    def column(self, name: str) -> Tensor | None:
        """What belongs to each row, over all shards; read once."""
        if name not in self._columns:
            parts = _all_at_once([(self._part, (shard, name)) for shard in range(len(self._rows))])
            missing = any(part is None for part in parts)
            self._columns[name] = None if missing else torch.cat([part for part in parts if part is not None])
        return self._columns[name]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A small file of the store, its checksum compared."""
        entry = self._manifest.files.get(name)
        if entry is None:
            raise StoreError(f"{self._folder.url}/{name} is not in the manifest; make the store again")
        data = self._folder.read(name, 0, entry.size)
        if zlib.crc32(data) != entry.crc32:
            raise StoreError(f"{self._folder.url}/{name} was changed or damaged (its checksum differs)")
        return safetensors.torch.load(data)

    def hold(self, ranges: Sequence[tuple[int, int]]) -> Held:
        """Read ranges of rows into memory, many requests at a time."""
        size = sum(stop - start for start, stop in ranges) * self._row_bytes
        memory = self._memory(size)
        target, at = memory.numpy(), 0
        jobs = []
        for shard, first, last in self._pieces(ranges):
            bytes_of = (last - first) * self._row_bytes
            jobs.append((self._read_into, (target[at : at + bytes_of], shard, first)))
            at += bytes_of
        try:
            _all_at_once(jobs)
        except BaseException:
            self._free.append(memory)
            raise
        return _Buffer([memory.data_ptr()], [size // self._row_bytes], memory, self._free)

    def _pieces(self, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
        """Shard, first and last row in it, of each request."""
        most = max(1, _PIECE // self._row_bytes)
        for start, stop in ranges:
            at = start
            while at < stop:
                shard = bisect.bisect_right(self._first, at) - 1
                end = min(stop, at + most, self._first[shard + 1])
                yield shard, at - self._first[shard], end - self._first[shard]
                at = end

    def _memory(self, size: int) -> Tensor:
        fits = next((place for place, memory in enumerate(self._free) if len(memory) >= size), None)
        if fits is not None:
            return self._free.pop(fits)
        self._free.clear()
        return torch.empty(size + BLOCK_BYTES, dtype=torch.uint8)  # windows differ by a block

    def _read_into(self, target: np.ndarray, shard: int, row: int) -> None:
        at = self._header(shard)[ROWS].start + row * self._row_bytes
        target[:] = np.frombuffer(self._folder.read(shard_name(shard), at, at + len(target)), np.uint8)

    def _part(self, shard: int, name: str) -> Tensor | None:
        span = self._header(shard).get(name)
        if span is None:
            return None
        read = self._folder.read(shard_name(shard), span.start, span.stop)
        return torch.frombuffer(bytearray(read), dtype=torch.int64)

    def _header(self, shard: int) -> Mapping[str, Span]:
        """Where the tensors of a shard lie; read once, and compared with the manifest."""
        if shard not in self._spans:
            name = shard_name(shard)
            where, size = f"{self._folder.url}/{name}", self._manifest.files[name].size
            first = self._folder.read(name, 0, min(size, _HEADER_GUESS))
            end = LENGTH_BYTES + header_bytes(first[:LENGTH_BYTES], where)
            if end > size:
                raise StoreError(f"{where} is no whole safetensors file: it ends inside its header")
            text = first[LENGTH_BYTES:end] if end <= len(first) else self._folder.read(name, LENGTH_BYTES, end)
            found = spans(text, where)
            span, shape = found.get(ROWS), (self._rows[shard], self._d_in)
            held = None if span is None else (span.shape, SHORT_NAMES.get(span.dtype))
            if held != (shape, self._dtype) or max(span.stop for span in found.values()) > size:
                refuse_shard(where, held, shape, self._dtype)
            self._spans[shard] = found
        return self._spans[shard]


def _ours(name: str) -> bool:
    return name == MOMENTS or PurePosixPath(name).match("shard-*.safetensors")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _all_at_once(jobs: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    """What functions give, many of them under way at a time; the first error ends the rest."""
    pool = ThreadPoolExecutor(min(_IN_FLIGHT, max(1, len(jobs))), thread_name_prefix="request")
    try:
        return [future.result() for future in [pool.submit(call, *given) for call, given in jobs]]
    finally:
        pool.shutdown(cancel_futures=True)


def existing_at(place: Path | str, identity: Identity, *, overwrite: bool = False) -> bool:
    """Whether an artifact is already at a place: `artifact.existing`, or the same at a URL."""
    if isinstance(place, Path):
        return existing(place, identity, overwrite=overwrite)
    return RemoteFolder(place).existing(identity, overwrite=overwrite)


def writing_at(place: Path | str, identity: Identity, *, overwrite: bool = False) -> AbstractContextManager[Draft]:
    """Write an artifact at a place: `artifact.writing`, or the same at a URL."""
    if isinstance(place, Path):
        return writing(place, identity, overwrite=overwrite)
    return RemoteFolder(place).writing(identity, overwrite=overwrite)


def has_artifact(place: Path | str) -> bool:
    """Whether there is a manifest at a place."""
    return (place / MANIFEST).is_file() if isinstance(place, Path) else MANIFEST in RemoteFolder(place).sizes()
