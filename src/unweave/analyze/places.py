"""Examples of a latent with all places at which it fires: read from the codes, when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, Int64

from unweave.core.errors import InputError
from unweave.metrics.entries import Entries
from unweave.store.layout import Box, Layout


@dataclass(frozen=True, eq=False)
class RowsOfExamples:
    """The rows of each example, found without reading all of them again.

    Rows of one example follow each other in a store; where examples come in another order, they are sorted once.
    """

    example: Int64[np.ndarray, " n"]
    order: Int64[np.ndarray, " n"] | None

    @staticmethod
    def of(example: Int64[np.ndarray, " n"]) -> "RowsOfExamples":
        """Make ready to look up examples."""
        if bool((example[1:] >= example[:-1]).all()):
            return RowsOfExamples(example, None)
        order = np.argsort(example, kind="stable")
        return RowsOfExamples(example[order], order)

    def __getitem__(self, example: int) -> Int64[np.ndarray, " m"]:
        """The rows of one example, in their order."""
        first, last = np.searchsorted(self.example, [example, example + 1])
        return np.arange(first, last) if self.order is None else self.order[first:last]


@dataclass(frozen=True, eq=False)
class Placed:
    """An example of a latent, with its values at all positions.

    Attributes:
        example: which.
        position: where it is strongest.
        value: there.
        positions: all positions that have a row.
        values: at these; 0 where it is silent.
    """

    example: int
    position: int
    value: float
    positions: Int64[np.ndarray, " m"]
    values: Float32[np.ndarray, " m"]

    def box(self, layout: Layout) -> Box | None:
        """The part of the image where it is strongest."""
        return layout.box(self.position)

    def heat(self, layout: Layout) -> Float32[np.ndarray, "h w"]:
        """The values over the image; NaN where there is no row."""
        return layout.heat(self.positions, self.values)


def placed(
    entries: Entries,
    rows: RowsOfExamples,
    position: Int64[np.ndarray, " n"],
    latent: int,
    examples: Sequence[int],
) -> list[Placed]:
    """A latent's values over each of some examples; the time follows what it fires on, not the number of rows.

    Args:
        entries: active entries, latent by latent.
        rows: of each example.
        position: of each row.
        latent: which.
        examples: which.

    Raises:
        InputError: an example has no row.
    """
    fires, value = entries.of(latent)  # in the order of rows
    found = []
    for example in examples:
        own = rows[example]
        if not len(own):
            raise InputError(f"no row of example {example} was captured")
        values = values_at(fires, value, own)
        strongest = int(values.argmax())
        where = position[own]
        found.append(Placed(int(example), int(where[strongest]), float(values[strongest]), where, values))
    return found


def values_at(
    fires: Int32[np.ndarray, " k"], value: Float32[np.ndarray, " k"], rows: Int64[np.ndarray, " m"]
) -> Float32[np.ndarray, " m"]:
    """Values of some rows, 0 where a latent is silent; `fires` increases."""
    if not len(fires):
        return np.zeros(len(rows), np.float32)
    place = np.minimum(np.searchsorted(fires, rows), len(fires) - 1)
    return np.where(fires[place] == rows, value[place], np.float32(0)).astype(np.float32)
