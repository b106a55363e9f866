"""Shuffled batches from an activation store, beside a plain read of the same bytes from the same files.

Cold: the files' pages were dropped from the system's cache before; warm: they were just read. The plain read takes
each file in order into a buffer that holds a whole shard, and looks at nothing.
"""

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.timing import Spread, ratios
from unweave import Activations, capture


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    gib: float = 3.0
    d_in: int = 768
    batch: int = 4096
    dtype: str = "float32"
    rounds: int = 3


def measure(plan: Plan, *, scratch: Path) -> list[dict[str, object]]:
    """One row for the cold and one for the warm cache: GB/s of each way to read, and shuffled over plain."""
    folder = scratch / "reading"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _write(plan, folder)
        return [_compare(folder, plan, cold=cold) for cold in ((True, False) if _can_drop() else (False,))]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(plan: Plan, folder: Path) -> None:
    """A store as `capture` writes it: the output of a layer that gives back its input."""
    rows_a_batch = 8192
    n = round(plan.gib * 2**30 / (plan.d_in * (2 if plan.dtype != "float32" else 4)) / rows_a_batch) * rows_a_batch
    print(f"reading: writing {n:,} rows of {plan.d_in}", flush=True)
    rows = torch.randn(rows_a_batch, plan.d_in, generator=torch.Generator().manual_seed(0))

    def examples() -> Iterator[Tensor]:
        for number in range(n // rows_a_batch):
            yield rows + number

    capture(nn.Sequential(nn.Identity()), examples(), at="0", out=folder, dtype=plan.dtype)


def _compare(folder: Path, plan: Plan, *, cold: bool) -> dict[str, object]:
    files = sorted(folder.glob("shard-*"))
    size = sum(path.stat().st_size for path in files)
    buffer = bytearray(max(path.stat().st_size for path in files))
    ways: dict[str, Callable[[], None]] = {
        "plain": lambda: _plain(files, buffer),
        "in order": lambda: _in_order(folder, plan.batch),
        "shuffled": lambda: _shuffled(folder, plan.batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(plan.rounds):
        for name, way in ways.items():
            print(f"reading: {'cold' if cold else 'warm'}, round {number + 1}, {name}", flush=True)
            if cold:
                _drop(files)
            else:
                _plain(files, buffer)
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    shares = ratios(seconds, "shuffled")["plain"]  # seconds of the plain read over seconds of the shuffled one
    return {
        "cache": "cold" if cold else "warm",
        "bytes": size,
        "d_in": plan.d_in,
        "dtype": plan.dtype,
        "batch": plan.batch,
        "gb_per_second": {
            name: asdict(Spread.of([size / 1e9 / value for value in values])) for name, values in seconds.items()
        },
        "share_of_plain": asdict(Spread.of(shares)),
        "peak_memory_gib": _peak_gib(),
    }


def _in_order(folder: Path, batch: int) -> None:
    """The store's own rows in order; what it gives are views of a mapping, so they are copied out as a read would."""
    buffer = torch.empty(0)
    for rows in Activations(folder).blocks(batch):
        buffer = torch.empty_like(rows) if buffer.shape != rows.shape else buffer
        buffer.copy_(rows)


def _shuffled(folder: Path, batch: int) -> None:
    """One epoch of shuffled batches; each is memory of its own."""
    for _ in Activations(folder).batches(batch, seed=0, epoch=0):
        pass


def _plain(files: list[Path], buffer: bytearray) -> None:
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _can_drop() -> bool:
    return hasattr(os, "posix_fadvise")


def _drop(files: list[Path]) -> None:
    """Have the system forget the files' pages; those that a mapping still holds stay, so no store may be open."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _peak_gib() -> float:
    """Largest resident memory of the process so far, mapped pages of the store counted with it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 2**30, 2)
