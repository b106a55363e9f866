"""Times of several sides, taken in turns.

A shared machine drifts by tens of per cent within minutes. So every side runs in every round, next to the others, and
what is compared is the ratio within a round; the median over rounds is reported, with quartiles.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

MOST_REPEATS = 200


@dataclass(frozen=True)
class Side:
    """Something that is timed: `run` is one step, `around` what is set while it runs (not timed)."""

    name: str
    run: Callable[[], object]
    around: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of `n` rounds."""

    median: float
    q1: float
    q3: float
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """Of a list of numbers."""
        q1, median, q3 = (float(value) for value in np.quantile(np.asarray(values, np.float64), (0.25, 0.5, 0.75)))
        return Spread(median, q1, q3, len(values))


def take_turns(
    sides: Sequence[Side], *, rounds: int, sample_seconds: float, most_seconds: float = float("inf"), warm: int = 2
) -> dict[str, list[float]]:
    """Seconds a step of every side, round by round.

    Args:
        sides: what is timed.
        rounds: how often each side is sampled.
        sample_seconds: a sample repeats the step until it takes about so long.
        most_seconds: no new round begins after so long, once there were three.
        warm: steps of each side before anything is timed.
    """
    gc.collect()
    gc.freeze()  # the libraries' own objects, millions of them: the collections between samples need not look at them
    try:
        return _rounds(sides, rounds, sample_seconds, most_seconds, warm)
    finally:
        gc.unfreeze()


def _rounds(
    sides: Sequence[Side], rounds: int, sample_seconds: float, most_seconds: float, warm: int
) -> dict[str, list[float]]:
    repeats = {side.name: _repeats(side, warm, sample_seconds) for side in sides}
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    started = time.perf_counter()
    for number in range(rounds):
        if number >= min(3, rounds) and time.perf_counter() - started > most_seconds:
            break
        first = number % len(sides)  # each side follows another one's warm or cold caches in turn
        for side in (*sides[first:], *sides[:first]):
            seconds[side.name].append(_sample(side, repeats[side.name]))
    return seconds


def ratios(seconds: dict[str, list[float]], over: str) -> dict[str, list[float]]:
    """Each side's seconds as multiples of another side's, round by round."""
    return {
        name: [a / b for a, b in zip(values, seconds[over], strict=True)]
        for name, values in seconds.items()
        if name != over
    }


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """What torch may do to float32 products inside the block: "highest", "high", or "medium" (bfloat16 inside)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _repeats(side: Side, warm: int, sample_seconds: float) -> int:
    for _ in range(max(1, warm) - 1):
        _sample(side, 1)
    return max(1, min(MOST_REPEATS, round(sample_seconds / max(_sample(side, 1), 1e-9))))


def _sample(side: Side, repeats: int) -> float:
    gc.collect()
    gc.disable()
    try:
        with side.around():
            started = time.perf_counter()
            for _ in range(repeats):
                side.run()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            return (time.perf_counter() - started) / repeats
    finally:
        gc.enable()
