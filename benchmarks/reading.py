"""Shuffled batches from an activation store, beside a plain read of the same bytes from the same files.

Cold: the files' pages were dropped from the system's cache before, and the store is opened anew. Warm: they were just
read, and the store is opened anew. Again: they were just read, and the store is open and was read before, as in every
epoch but the first. The plain read takes each file in order, in one call, into a buffer that begins at a page and holds
a whole shard, and looks at nothing: the quickest way there is to have the bytes in memory. Its memory is at hand before
the clock starts.

Memory is what the process holds itself (`RssAnon` of /proc/self/status, sampled while an epoch is read, above what it
held before the store was opened). Pages of files that are mapped (`RssFile`) are the system's cache: it takes them back
when it needs the room. They are listed beside it.
"""

import mmap
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.timing import Spread, ratios
from unweave import Activations, capture

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Shape:
    """Rows of one store."""

    d_in: int
    dtype: str
    batch: int = 4096


CACHES = ("cold", "warm", "again")
SHAPES = (Shape(768, "float32"), Shape(768, "bfloat16"), Shape(128, "float32"), Shape(4096, "float16"))


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    gib: float = 3.0
    shapes: tuple[Shape, ...] = SHAPES
    rounds: int = 5


def measure(plan: Plan, *, scratch: Path) -> list[dict[str, object]]:
    """A row for each shape and state of the cache: GB/s of each way to read, and shuffled over plain."""
    found: list[dict[str, object]] = []
    for shape in plan.shapes:
        folder = scratch / "reading"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            _write(shape, plan.gib, folder)
            found += [_compare(folder, shape, plan.rounds, cache) for cache in CACHES if cache != "cold" or _can_drop()]
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def _write(shape: Shape, gib: float, folder: Path) -> None:
    """A store as `capture` writes it: the output of a layer that gives back its input."""
    rows_a_batch = 8192
    row_bytes = shape.d_in * (2 if shape.dtype != "float32" else 4)
    n = round(gib * 2**30 / row_bytes / rows_a_batch) * rows_a_batch
    print(f"reading: writing {n:,} rows of {shape.d_in}, {shape.dtype}", flush=True)
    rows = torch.randn(rows_a_batch, shape.d_in, generator=torch.Generator().manual_seed(0))

    def examples() -> Iterator[Tensor]:
        for number in range(n // rows_a_batch):
            rows[:, 0] = number
            yield rows

    capture(nn.Sequential(nn.Identity()), examples(), at="0", out=folder, dtype=shape.dtype)


def _compare(folder: Path, shape: Shape, rounds: int, cache: str) -> dict[str, object]:
    files = sorted(folder.glob("shard-*"))
    size = sum(path.stat().st_size for path in files)
    buffer = mmap.mmap(-1, max(path.stat().st_size for path in files))
    _plain(files, buffer)
    with _memory() as memory:
        _shuffled(Activations(folder), shape.batch)  # code is compiled, memory for batches was had
        opened = Activations(folder) if cache == "again" else None
        ways: dict[str, Callable[[], None]] = {
            "plain": lambda: _plain(files, buffer),
            "shuffled": lambda: _shuffled(opened or Activations(folder), shape.batch),
        }
        if opened is not None:
            ways["shuffled"]()
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in sorted(ways, reverse=number % 2 == 1):
                print(f"reading: {cache}, round {number + 1}, {name}", flush=True)
                if cache == "cold":
                    _drop(files)
                else:
                    _plain(files, buffer)
                started = time.perf_counter()
                ways[name]()
                seconds[name].append(time.perf_counter() - started)
    shares = ratios(seconds, "shuffled")["plain"]  # seconds of the plain read over seconds of the shuffled one
    return {
        "cache": cache,
        "bytes": size,
        "d_in": shape.d_in,
        "dtype": shape.dtype,
        "batch": shape.batch,
        "gb_per_second": {
            name: asdict(Spread.of([size / 1e9 / value for value in values])) for name, values in seconds.items()
        },
        "share_of_plain": asdict(Spread.of(shares)),
        "memory_gib": memory,
    }


def _shuffled(store: Activations, batch: int) -> None:
    """One epoch of shuffled float32 batches."""
    for _ in store.batches(batch, seed=0, epoch=0):
        pass


def _plain(files: list[Path], buffer: mmap.mmap) -> None:
    view = memoryview(buffer)
    for path in files:
        with path.open("rb", buffering=0) as file:
            left = path.stat().st_size
            while left:
                left -= file.readinto(view[:left]) or left


def _can_drop() -> bool:
    return hasattr(os, "posix_fadvise")


def _drop(files: list[Path]) -> None:
    """Have the system forget the files' pages; those that a mapping has touched would stay."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextmanager
def _memory() -> Iterator[dict[str, float]]:
    """The most that is held inside the block, above what was held before, in GiB; empty where the system does not say.

    `own` is the process's own memory, `mapped` pages of files.
    """
    found: dict[str, float] = {}
    if not _STATUS.is_file():
        yield found
        return
    before, stop = _resident(), threading.Event()

    def sample() -> None:
        while not stop.wait(0.02):
            for name, kib in _resident().items():
                found[name] = max(found.get(name, 0.0), (kib - before[name]) / 2**20)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield found
    finally:
        stop.set()
        sampler.join()


def _resident() -> dict[str, int]:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return {"own": int(lines["RssAnon"].split()[0]), "mapped": int(lines["RssFile"].split()[0])}
