"""Rows of shards on a disk, mapped into memory a window at a time.

A window takes no memory of its own: its rows lie in the system's cache of the files, which the system takes back when
it needs the room. The system is asked to fetch what comes next, and to have it there before it is used.
"""

import bisect
import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from unweave.core.errors import StoreError

_WILL_NEED = getattr(mmap, "MADV_WILLNEED", None)
_POPULATE_READ = 22 if sys.platform == "linux" else None  # since Linux 5.14; mmap has no name for it yet
_UNKNOWN = 22  # EINVAL, of a system that is older
_AT_ONCE = 4
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
        """Unmap; addresses mean nothing afterwards."""
        self._maps.clear()


def map_rows(
    files: Sequence[RowFile], first: Sequence[int], ranges: Sequence[tuple[int, int]], row_bytes: int
) -> MappedRows:
    """Map ranges of rows, and have their bytes read.

    Args:
        files: the shards.
        first: number of the first row of each shard, and of all rows.
        ranges: rows [start, stop), ascending.
        row_bytes: size of a row.

    Raises:
        StoreError: a file is missing, was cut short, or cannot be read.
    """
    maps: list[torch.UntypedStorage] = []
    starts, lengths, owners = [], [], []
    shard = -1
    for start, stop in ranges:
        at = start
        while at < stop:
            if shard < 0 or at >= first[shard + 1]:
                shard = bisect.bisect_right(first, at) - 1
                maps.append(_map(files[shard]))
            end = min(stop, first[shard + 1])
            starts.append(maps[-1].data_ptr() + files[shard].offset + (at - first[shard]) * row_bytes)
            lengths.append(end - at)
            owners.append(files[shard].path)
            at = end
    _fetch(starts, [rows * row_bytes for rows in lengths], owners)
    return MappedRows(starts, lengths, maps)


def _map(file: RowFile) -> torch.UntypedStorage:
    try:
        size = file.path.stat().st_size
        if size != file.size:
            raise StoreError(f"{file.path} has {size:,} bytes where its manifest says {file.size:,}; make it again")
        return torch.from_file(str(file.path), shared=False, size=file.size, dtype=torch.uint8).untyped_storage()
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{file.path} cannot be read: {str(error).splitlines()[0]}") from None


def _fetch(starts: Sequence[int], sizes: Sequence[int], owners: Sequence[Path]) -> None:
    """Have the bytes read, several pieces at once: a disk that is asked for one at a time is idle in between."""
    if _WILL_NEED is None or sys.platform == "win32":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    page = mmap.PAGESIZE
    pieces = [
        (at // page * page, min(at + _PIECE, start + size), owner)
        for start, size, owner in zip(starts, sizes, owners, strict=True)
        for at in range(start, start + size, _PIECE)
    ]

    def advise(piece: tuple[int, int, Path], advice: int) -> int:
        at, end, _ = piece
        call = libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(end - at), ctypes.c_int(advice))
        return 0 if call == 0 else ctypes.get_errno()

    if _POPULATE_READ is None or (pieces and advise(pieces[0], _POPULATE_READ) == _UNKNOWN):
        for piece in pieces:
            advise(piece, _WILL_NEED)  # the first use of a page waits for it
        return
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as fetchers:
        for piece, code in zip(pieces, fetchers.map(lambda piece: advise(piece, _POPULATE_READ), pieces), strict=True):
            if code:
                raise StoreError(f"{piece[2]} cannot be read: {os.strerror(code)}; was it changed meanwhile?")
