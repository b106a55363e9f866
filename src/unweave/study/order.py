"""The order in which each rater sees the grids, with some of them a second time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unweave.core.errors import InputError
from unweave.core.seeds import numpy_generator


@dataclass(frozen=True)
class Showing:
    """One grid in a rater's order; `repeat` marks the second time."""

    item: str
    repeat: bool


def most_repeats(items: int) -> int:
    """How many items can come again with a third of the study in between."""
    return items // 2


def showings(items: Sequence[str], repeats: int, *, seed: int, rater: str) -> list[Showing]:
    """A rater's own order.

    Every item comes once. `repeats` of them come again, at least a third of all showings after the first time.

    Raises:
        InputError: more repeats than half of the items.
    """
    if not 0 <= repeats <= most_repeats(len(items)):
        raise InputError(
            f"{repeats} repeats of {len(items)} items cannot come a third of the study later; "
            f"--repeats can be up to {most_repeats(len(items))}"
        )
    generator = numpy_generator(seed, "order of showing", rater)
    total = len(items) + repeats
    gap = math.ceil(total / 3)
    # Before the first of these places lie more originals than repeats are wanted, so that each repeat finds one.
    places = set((gap + repeats + generator.permutation(total - gap - repeats)[:repeats]).tolist())
    firsts = iter(generator.permutation(len(items)).tolist())
    order: list[int] = []
    again: set[int] = set()
    for place in range(total):
        if place not in places:
            order.append(next(firsts))
            continue
        early = [item for item in dict.fromkeys(order[: place - gap + 1]) if item not in again]
        order.append(early[int(generator.integers(len(early)))])
        again.add(order[-1])
    seen: set[int] = set()
    shown = []
    for item in order:
        shown.append(Showing(items[item], item in seen))
        seen.add(item)
    return shown
