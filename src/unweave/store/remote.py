"""Activation stores at a URL: an object store (s3://, gs://, …), through fsspec.

Writing is in `unweave.store.uploads`. Reading asks for the byte ranges of rows, many at a time.
"""

import bisect
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError, StoreError
from unweave.core.optional import needs
from unweave.store.artifact import MANIFEST, Manifest, manifest_from
from unweave.store.header import LENGTH_BYTES, Span, header_bytes, spans
from unweave.store.order import BLOCK_BYTES
from unweave.store.reading import Held
from unweave.store.shards import ROWS, SHORT_NAMES, inside, refuse_shard, shard_name

_IN_FLIGHT = 16
_PIECE = 8 << 20
_HEADER_GUESS = 16 << 10


def as_url(place: str | Path) -> str | None:
    """The URL that a place is, without a slash at its end; None for a folder, which file:// names too.

    Raises:
        InputError: nothing follows the scheme.
    """
    text = str(place)
    if "://" not in text or text.startswith("file://"):
        return None
    if text.endswith("://"):
        raise InputError(f"{text} names no place; give a bucket and what lies in it: {text}BUCKET/NAME")
    return text.rstrip("/")


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
        manifest = self.manifest_in(sizes)
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

    def manifest_in(self, sizes: Mapping[str, int]) -> Manifest | None:
        """The manifest, where there is one among the objects; those that it names may be what they will.

        Raises:
            StoreError: it is of a newer schema, changed or damaged.
        """
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

    def write(self, name: str, content: bytes) -> None:
        """Write a small object.

        Raises:
            StoreError: it cannot be written.
        """
        with self._reached("written", name):
            self._system.pipe_file(f"{self._root}/{name}", content)

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects.

        Raises:
            StoreError: one of them cannot be removed.
        """
        for name in names:
            with self._reached("removed", name), suppress(FileNotFoundError):
                self._system.rm_file(f"{self._root}/{name}")

    @contextmanager
    def _reached(self, what: str, name: str = "") -> Iterator[None]:
        """Any error of the system beneath, of which each has its own kinds, as one of ours."""
        where = f"{self.url}/{name}" if name else self.url
        try:
            yield
        except InputError:
            raise
        except FileNotFoundError:
            raise StoreError(f"{where} does not exist (any more), or its bucket does not") from None
        except PermissionError as error:
            raise StoreError(f"{where} cannot be {what}: access is denied ({_first_line(error)})") from None
        except Exception as error:
            hint = "; are there credentials for it?" if "credential" in str(error).lower() else ""
            said = f"{type(error).__name__}: {_first_line(error)}"
            raise StoreError(f"{where} cannot be {what} ({said}){hint}") from None


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
        self._folder, self._manifest, self._inside = folder, manifest, inside(manifest.details, folder.url)
        self._rows, self._d_in, self._dtype = rows, d_in, dtype
        self._row_bytes = d_in * dtype.itemsize
        self._first = [0, *accumulate(rows)]
        self._spans: dict[int, Mapping[str, Span]] = {}
        self._columns: dict[str, Tensor | None] = {}
        self._free: list[Tensor] = []

    def rows(self, shard: int, start: int, stop: int) -> Float[Tensor, "n d_in"]:
        """Rows [start, stop) of a shard in the stored precision."""
        at = self._header(shard)[ROWS].start
        read = self._folder.read(self._name(shard), at + start * self._row_bytes, at + stop * self._row_bytes)
        return torch.frombuffer(bytearray(read), dtype=self._dtype).view(-1, self._d_in)

    def column(self, name: str) -> Tensor | None:
        """What belongs to each row, over all shards; read once."""
        if name not in self._columns:
            parts = all_at_once([(self._part, (shard, name)) for shard in range(len(self._rows))])
            missing = any(part is None for part in parts)
            self._columns[name] = None if missing else torch.cat([part for part in parts if part is not None])
        return self._columns[name]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A small file of the store, its checksum compared."""
        name = self._inside + name
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
            all_at_once(jobs)
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
        target[:] = np.frombuffer(self._folder.read(self._name(shard), at, at + len(target)), np.uint8)

    def _part(self, shard: int, name: str) -> Tensor | None:
        span = self._header(shard).get(name)
        if span is None:
            return None
        read = self._folder.read(self._name(shard), span.start, span.stop)
        return torch.frombuffer(bytearray(read), dtype=torch.int64)

    def _name(self, shard: int) -> str:
        return self._inside + shard_name(shard)

    def _header(self, shard: int) -> Mapping[str, Span]:
        """Where the tensors of a shard lie; read once, and compared with the manifest."""
        if shard not in self._spans:
            name = self._name(shard)
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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def all_at_once(jobs: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    """What functions give, many of them under way at a time; the first error ends the rest."""
    pool = ThreadPoolExecutor(min(_IN_FLIGHT, max(1, len(jobs))), thread_name_prefix="request")
    try:
        return [future.result() for future in [pool.submit(call, *given) for call, given in jobs]]
    finally:
        pool.shutdown(cancel_futures=True)
