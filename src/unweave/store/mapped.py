"""Rows of shards on a disk, mapped into memory.

A window takes no memory of its own: its rows lie in the system's cache of the files, which the system takes back when
it needs the room. The system is asked to fetch what comes next, and to have it there before it is used.
"""

import bisect
import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from unweave.core.errors import StoreError

_WILL_NEED = getattr(mmap, "MADV_WILLNEED", None)
_POPULATE_READ = 22 if sys.platform == "linux" else None  # since Linux 5.14; mmap has no name for it yet
_AT_ONCE = 4
_STAYING_SHARE = 0.25
_PIECE = 1 << 20


@dataclass(frozen=True)
class RowFile:
    """A file that holds rows: where they begin in it, how many there are, and its whole size."""

    path: Path
    offset: int
    rows: int
    size: int


@dataclass
class MappedRows:
    """Ranges of rows in maps of their files."""

    starts: Sequence[int]
    lengths: Sequence[int]
    _maps: list[torch.UntypedStorage] = field(default_factory=list)

    def close(self) -> None:
        """Let the maps go; addresses mean nothing afterwards."""
        self._maps.clear()


class RowFiles:
    """Files that hold the rows of a store, one after the other.

    Mapping and unmapping a page costs half as much as copying it. So the maps of a store that takes up a small part of
    the memory stay for the next window and epoch; those of a larger store go with their window, since the system finds
    room in its cache sooner where nothing maps it.

    Args:
        files: the shards.
        row_bytes: size of a row.
    """

    def __init__(self, files: Sequence[RowFile], row_bytes: int) -> None:
        self._files, self._row_bytes = files, row_bytes
        self._first = [0, *accumulate(file.rows for file in files)]
        self._stay = sum(file.size for file in files) <= _memory() * _STAYING_SHARE
        self._kept: dict[int, torch.UntypedStorage] = {}

    def hold(self, ranges: Sequence[tuple[int, int]]) -> MappedRows:
        """Map rows [start, stop), ascending, and have their bytes read.

        Raises:
            StoreError: a file is missing, was cut short, or cannot be read.
        """
        maps: dict[int, torch.UntypedStorage] = {}
        starts, lengths, owners = [], [], []
        for begin, stop in ranges:
            at = begin
            while at < stop:
                shard = bisect.bisect_right(self._first, at) - 1
                file, first, end = self._files[shard], self._first[shard], min(stop, self._first[shard + 1])
                if shard not in maps:
                    maps[shard] = self._map(shard)
                starts.append(maps[shard].data_ptr() + file.offset + (at - first) * self._row_bytes)
                lengths.append(end - at)
                owners.append(file.path)
                at = end
        _fetch(starts, [rows * self._row_bytes for rows in lengths], owners)
        return MappedRows(starts, lengths, list(maps.values()))

    def _map(self, shard: int) -> torch.UntypedStorage:
        file = self._files[shard]
        try:
            size = file.path.stat().st_size
            if size != file.size:
                raise StoreError(f"{file.path} has {size:,} bytes where its manifest says {file.size:,}; make it again")
            found = self._kept.get(shard)
            if found is None:
                found = torch.from_file(str(file.path), size=file.size, dtype=torch.uint8).untyped_storage()
        except (OSError, RuntimeError) as error:
            raise StoreError(f"{file.path} cannot be read: {str(error).splitlines()[0]}") from None
        if self._stay:
            self._kept[shard] = found
        return found


def _memory() -> int:
    """Bytes of memory of this machine; 0 where the system does not say."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def _fetch(starts: Sequence[int], sizes: Sequence[int], owners: Sequence[Path]) -> None:
    """Have the bytes read: all are asked for at once, so that the disk is never idle, and these alone.

    A page that is used before it is there would have the system read megabytes around it.
    """
    if _WILL_NEED is None or sys.platform == "win32":
        return
    from unweave.store.gather import advise_all  # noqa: PLC0415 - compiled code is loaded where it is needed

    pieces = [
        (at // mmap.PAGESIZE * mmap.PAGESIZE, min(at + _PIECE, start + size), owner)
        for start, size, owner in zip(starts, sizes, owners, strict=True)
        for at in range(start, start + size, _PIECE)
    ]
    bounds = np.array([piece[:2] for piece in pieces], np.int64).reshape(-1, 2)
    advise_all(bounds[:, 0], bounds[:, 1], _WILL_NEED)
    if _POPULATE_READ is None or (pieces and _refusal(pieces[0], _POPULATE_READ) == errno.EINVAL):
        return  # the first use of a page waits for it

    def fetch(first: int) -> tuple[int, int] | None:
        part = bounds[first::_AT_ONCE]
        at = advise_all(part[:, 0], part[:, 1], _POPULATE_READ)
        return None if at < 0 else (first + at * _AT_ONCE, _refusal(pieces[first + at * _AT_ONCE], _POPULATE_READ))

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as fetchers:
        for refused in fetchers.map(fetch, range(_AT_ONCE)):
            if refused is not None:
                number, code = refused
                raise StoreError(f"{pieces[number][2]} cannot be read: {os.strerror(code)}; was it changed meanwhile?")


def _refusal(piece: tuple[int, int, Path], advice: int) -> int:
    """What the system says against advice on a piece, or 0."""
    start, stop, _ = piece
    call = ctypes.CDLL(None, use_errno=True).madvise
    refused = call(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), ctypes.c_int(advice))
    return ctypes.get_errno() if refused else 0
