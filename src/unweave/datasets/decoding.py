"""Decoding of many image files: by threads where they are few, by worker processes where they are many.

Pillow holds Python's lock for part of the work, so threads stop getting faster after a few cores, and they take the
lock from whoever feeds the model. Worker processes cost a second or two to start. What comes out is the same.
"""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unweave.core.errors import InputError
from unweave.core.framing import Framing
from unweave.datasets.image_files import BrokenImageError, check_header, read_image
from unweave.datasets.sources import ImageSources

PROCESSES_FROM = 10_000
"""Files from which on worker processes are worth their start."""

_MOST_WORKERS = 16
_BATCHES_AHEAD = 2  # a worker
_BYTES_AHEAD = 512 << 20
_SHARED = Path("/dev/shm")  # noqa: S108 - where Linux keeps the memory that processes share; only asked for its size

Decoded = tuple[UInt8[Tensor, "b c h w"], dict[int, str]]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(n: int) -> int:
    """Worker processes for so many files: none for few, else a core each, but for the one that feeds the model."""
    return 0 if n < PROCESSES_FROM else max(1, min(_MOST_WORKERS, cores() - 1))


class FileDecoder(Dataset[Decoded]):
    """Image files by number, decoded a batch at a time.

    Attributes:
        files: which.
        framing: the size of what they give.
        channels: 3 or 1; 0 only checks that a file begins as an image does, and gives no pixels.
    """

    def __init__(self, files: ImageSources, size: int | Framing, channels: int) -> None:
        self.files, self.channels = files, channels
        self.framing = Framing(height=size, width=size) if isinstance(size, int) else size

    def __getitems__(self, rows: Sequence[int]) -> Decoded:
        """Pixels of these files, and what is broken among them by row, with the reason."""
        return self.one_by_one(rows)

    def one_by_one(self, rows: Sequence[int]) -> Decoded:
        """The same, in this thread."""
        pixels = self._blank(len(rows))
        broken = {row: why for place, row in enumerate(rows) if (why := self._read(row, pixels[place])) is not None}
        return torch.from_numpy(pixels), broken

    def by_threads(self, rows: Sequence[int], pool: ThreadPoolExecutor) -> Decoded:
        """The same, by several threads."""
        pixels = self._blank(len(rows))
        reasons = pool.map(self._read, rows, pixels)
        return torch.from_numpy(pixels), {row: why for row, why in zip(rows, reasons, strict=True) if why is not None}

    def _blank(self, rows: int) -> UInt8[np.ndarray, "b c h w"]:
        return np.zeros((rows, self.channels, self.framing.height, self.framing.width), dtype=np.uint8)

    def _read(self, row: int, into: UInt8[np.ndarray, "c h w"]) -> str | None:
        try:
            content = self.files.content(row)
            if isinstance(content, BytesIO):
                content.name = self.files.name(row)
            if self.channels:
                into[:] = read_image(content, self.framing, self.channels)
            else:
                check_header(content)
        except BrokenImageError as error:
            return str(error)
        return None

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, rows: Iterable[Sequence[int]], *, workers: int | None = None) -> Iterator[Decoded]:
        """Many batches in their order, the next ones decoded while one is in use.

        Args:
            rows: the batches.
            workers: processes; 0 for threads of this one. By default as `default_workers` says.

        Raises:
            InputError: a worker process has died.
        """
        listed = [list(map(int, batch)) for batch in rows]
        workers = default_workers(sum(map(len, listed))) if workers is None else workers
        largest = self.channels * self.framing.height * self.framing.width * max(map(len, listed), default=0)
        workers = min(workers, _room() // max(1, _BATCHES_AHEAD * largest), len(listed))
        return self._by_processes(listed, workers) if workers else self._ahead(listed)

    def _ahead(self, rows: list[list[int]]) -> Iterator[Decoded]:
        """By threads, one batch ahead."""
        pool = ThreadPoolExecutor(min(_MOST_WORKERS, cores()))
        reader = ThreadPoolExecutor(1)
        try:
            coming = [reader.submit(self.by_threads, batch, pool) for batch in rows[:1]]
            for following in [*rows[1:], None]:
                found = coming.pop().result() if coming else None
                if following is not None:
                    coming = [reader.submit(self.by_threads, following, pool)]
                if found is not None:
                    yield found
        finally:
            reader.shutdown(cancel_futures=True)
            pool.shutdown(cancel_futures=True)

    def _by_processes(self, rows: list[list[int]], workers: int) -> Iterator[Decoded]:
        loader: DataLoader[Any] = DataLoader(
            self,
            batch_sampler=rows,
            num_workers=workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            prefetch_factor=_BATCHES_AHEAD,
            multiprocessing_context=_processes(),
        )
        try:
            yield from loader
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):
                raise
            raise InputError(
                "a process that decodes images has died: it ran out of memory or was stopped; or a script that starts "
                "such work has no `if __name__ == '__main__':` around it, without which no script can start processes"
            ) from error


def _as_it_is(decoded: Decoded) -> Decoded:
    return decoded


def _processes() -> Any:
    """How workers start: from a server process that has imported what they need, where the system has it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _room() -> int:
    """Bytes of decoded batches that may be under way: containers often have little memory to share."""
    free = shutil.disk_usage(_SHARED).free // 2 if _SHARED.is_dir() else _BYTES_AHEAD
    return min(_BYTES_AHEAD, free)


def check_all(files: ImageSources, advance: Callable[[int], object]) -> dict[int, str]:
    """Read the header of every file; rows that do not begin as an image does, and why."""
    return _gather(FileDecoder(files, 1, 0), advance, lambda start, pixels: None)


def decode_all(files: ImageSources, size: int | Framing, channels: int, advance: Callable[[int], object]) -> Decoded:
    """Decode every file into memory; rows of broken ones are black."""
    decoder = FileDecoder(files, size, channels)
    framing = decoder.framing
    pixels = torch.zeros(len(files), channels, framing.height, framing.width, dtype=torch.uint8)

    def keep(start: int, some: UInt8[Tensor, "b c h w"]) -> None:
        pixels[start : start + len(some)] = some

    return pixels, _gather(decoder, advance, keep)


def _gather(
    decoder: FileDecoder, advance: Callable[[int], object], keep: Callable[[int, UInt8[Tensor, "b c h w"]], None]
) -> dict[int, str]:
    broken: dict[int, str] = {}
    step = 256
    starts = range(0, len(decoder), step)
    rows = [range(start, min(start + step, len(decoder))) for start in starts]
    for start, batch, (pixels, found) in zip(starts, rows, decoder.batches(rows), strict=True):
        keep(start, pixels)
        broken |= found
        advance(len(batch))
    return broken
