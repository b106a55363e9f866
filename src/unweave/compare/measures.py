"""All measures of similarity of two instances, and of the same rows in another order."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from unweave.compare.alignment import Halves, Order
from unweave.metrics.similarity import (
    Cross,
    Side,
    both_ways,
    linear_cka,
    matched_correlations,
    procrustes,
    ridge_r2,
)
from unweave.metrics.similarity_rows import (
    Patterns,
    mutual_neighbours,
    nearest,
    reorder_neighbours,
    row_similarity,
    rsa,
    unit_rows,
)

BY_ROW = ("raw_cosine", "raw_correlation", "sorted_cosine", "sorted_correlation")  # for equal widths only
MEASURES = (*BY_ROW, "linear_cka", "rsa", "procrustes", "matched_r", "ridge_r2", "mutual_knn")


@dataclass(frozen=True, eq=False)
class Instance:
    """One instance's rows in the order of the comparison, with what every pair that it is in needs."""

    rows: Float32[np.ndarray, "n d"]
    first: Side
    second: Side
    patterns: Patterns
    unit: Float32[np.ndarray, "n d"]
    sorted_unit: Float32[np.ndarray, "n d"]
    sorted_centred: Float32[np.ndarray, "n d"]
    neighbours: Int64[np.ndarray, "near k"]

    @staticmethod
    def of(rows: Float32[np.ndarray, "n d"], halves: Halves, k: int) -> "Instance":
        """Prepare rows."""
        ordered = np.sort(rows, axis=1)
        return Instance(
            rows=rows,
            first=Side.of(rows[: halves.first]),
            second=Side.of(rows[halves.first :]),
            patterns=Patterns.of(rows),
            unit=unit_rows(rows),
            sorted_unit=unit_rows(ordered),
            sorted_centred=unit_rows(ordered, centred=True),
            neighbours=nearest(rows[: halves.near], k),
        )

    @property
    def d(self) -> int:
        """Width."""
        return self.first.d

    def noise(self, halves: Halves, k: int, generator: np.random.Generator) -> "Instance":
        """Independent draws of the same shape, uniform over the range of each unit."""
        low, high = self.rows.min(0), self.rows.max(0)
        drawn = generator.random(self.rows.shape, dtype=np.float32)
        return Instance.of(low + (high - low) * drawn, halves, k)


class Pair:
    """Two instances; `measures` gives every measure of them."""

    def __init__(self, a: Instance, b: Instance, halves: Halves) -> None:
        self._a, self._b, self._halves = a, b, halves
        self._whole = _joined(a.first, a.second), _joined(b.first, b.second)
        h = halves.first
        self._first = Cross.of(a.rows[:h], b.rows[:h], (a.first, b.first))
        self._second = Cross.of(a.rows[h:], b.rows[h:], (a.second, b.second))

    def measures(self, order: Order | None = None, units: Int64[np.ndarray, " d"] | None = None) -> dict[str, float]:
        """Every measure that the widths allow.

        Args:
            order: takes the rows of the second instance in another order.
            units: likewise its units, for the two raw measures, whose rows then stay: they ask whether units of the
                same number correspond, and rows in another order would still have the mean of each unit in common.
        """
        a, b, h = self._a, self._b, self._halves.first
        first, second = self._first, self._second
        if order is not None:
            rows = b.rows[order.rows]
            first, second = first.reordered(a.rows[:h], rows[:h]), second.reordered(a.rows[h:], rows[h:])
        patterns = b.patterns if order is None else b.patterns.reordered(order.rows)
        near = b.neighbours if order is None else reorder_neighbours(b.neighbours, order.near)
        cross = self._join(first, second)
        found = {
            "linear_cka": linear_cka(cross),
            "rsa": rsa(a.patterns, patterns),
            "procrustes": procrustes(cross),
            "matched_r": float(matched_correlations(first, second).mean()),
            "ridge_r2": both_ways(ridge_r2, first, second),
            "mutual_knn": mutual_neighbours(a.neighbours, near),
        }
        return {**self._by_row(order, units), **found}

    def _by_row(self, order: Order | None, units: Int64[np.ndarray, " d"] | None) -> dict[str, float]:
        a, b = self._a, self._b
        if a.d != b.d:
            return {}
        place = slice(None) if order is None else order.rows
        raw = place if units is None else (slice(None), units)
        values = (
            row_similarity(a.unit, b.unit[raw]),
            row_similarity(a.patterns.rows, b.patterns.rows[raw]),
            row_similarity(a.sorted_unit, b.sorted_unit[place]),
            row_similarity(a.sorted_centred, b.sorted_centred[place]),
        )
        return dict(zip(BY_ROW, values, strict=True))

    def _join(self, first: Cross, second: Cross) -> Cross:
        """Cross-products of all rows from those of the halves."""
        x, y = self._whole
        between = sum(part.x.n * np.outer(part.x.mean - x.mean, part.y.mean - y.mean) for part in (first, second))
        return Cross(x, y, first.xy + second.xy + between)


def _joined(first: Side, second: Side) -> Side:
    n = first.n + second.n
    mean = (first.n * first.mean + second.n * second.mean) / n
    between = sum(part.n * np.outer(part.mean - mean, part.mean - mean) for part in (first, second))
    return Side(n, mean, first.gram + second.gram + between)
