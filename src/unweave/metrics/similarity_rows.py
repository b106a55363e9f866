"""Similarity row by row, of the rows' mutual arrangement, and of their neighbourhoods."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from unweave.core.errors import InputError

_BLOCK = 8192
_DISTANCES = 4_000_000


def unit_rows(rows: Float[np.ndarray, "n d"], *, centred: bool = False) -> Float32[np.ndarray, "n d"]:
    """Rows at length 1; `centred` subtracts each row's own mean first. Rows without length stay 0."""
    exact = rows - rows.mean(1, keepdims=True) if centred else rows
    length = np.sqrt(np.einsum("nd,nd->n", exact, exact, dtype=np.float64))
    largest = float(np.abs(rows).max(initial=0.0))
    safe = np.where(length > 1e-6 * largest, length, np.inf)[:, None]
    return np.asarray(exact / safe, np.float32)


def row_similarities(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, " n"]:
    """x_i · y_i of every row: of unit rows the cosine, of centred unit rows the Pearson correlation."""
    return np.asarray(np.einsum("nd,nd->n", x, y, dtype=np.float64))


def row_similarity(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"]) -> float:
    """Mean over rows of `row_similarities`."""
    return float(np.einsum("nd,nd->", x, y, dtype=np.float64)) / len(x)


@dataclass(frozen=True, eq=False)
class Patterns:
    """Rows ready for representational similarity analysis.

    Attributes:
        rows: each centred about its own mean and at length 1, so that r_ij = row_i · row_j.
        mean: of the correlations between different rows.
        variance: of the same.
    """

    rows: Float32[np.ndarray, "n d"]
    mean: float
    variance: float

    @staticmethod
    def of(rows: Float[np.ndarray, "n d"]) -> "Patterns":
        """Standardise rows, and find mean and variance of all n (n − 1) / 2 correlations without forming them."""
        unit = unit_rows(rows, centred=True)
        n, square = len(unit), _squares(unit)
        pairs = n * (n - 1)
        total = unit.sum(0, dtype=np.float64)
        mean = (float(total @ total) - float(square.sum())) / pairs
        of_squares = (float((_product(unit, unit) ** 2).sum()) - float((square**2).sum())) / pairs
        return Patterns(unit, mean, max(of_squares - mean**2, 0.0))

    def reordered(self, order: Int64[np.ndarray, " n"]) -> "Patterns":
        """With the rows in another order."""
        return Patterns(self.rows[order], self.mean, self.variance)


def rsa(first: Patterns, second: Patterns) -> float:
    """Representational similarity: Pearson correlation of the upper triangles of two matrices of 1 − r_ij.

    r_ij is the correlation of rows i and j (Kriegeskorte et al., 2008). Σ_ij r_ij r'_ij = ‖ZᵀZ'‖² for standardised
    rows Z and Z', so it is exact for any number of rows, and no n × n matrix is formed. NaN where all dissimilarities
    of a side are equal.
    """
    n = len(first.rows)
    scale = (first.variance * second.variance) ** 0.5
    if scale <= 1e-12:
        return float("nan")
    own = float((_squares(first.rows) * _squares(second.rows)).sum())
    together = (float((_product(first.rows, second.rows) ** 2).sum()) - own) / (n * (n - 1))
    return float((together - first.mean * second.mean) / scale)


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))


def _product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    total = np.zeros((x.shape[1], y.shape[1]))
    for start in range(0, len(x), _BLOCK):
        total += x[start : start + _BLOCK].astype(np.float64).T @ y[start : start + _BLOCK].astype(np.float64)
    return total


def nearest(rows: Float[np.ndarray, "n d"], k: int) -> Int64[np.ndarray, "n k"]:
    """The k nearest other rows of each row (Euclidean), in no order; blocks of distances only.

    Raises:
        InputError: there are no k other rows.
    """
    n = len(rows)
    if not 1 <= k < n:
        raise InputError(f"{k} nearest neighbours need at least {k + 1} rows, got {n}")
    exact = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    square = (exact**2).sum(1)
    found = np.empty((n, k), np.int64)
    step = max(1, _DISTANCES // n)
    for start in range(0, n, step):
        place = np.arange(start, min(start + step, n))
        distance = square[None] - 2 * exact[place] @ exact.T
        distance[np.arange(len(place)), place] = np.inf
        found[place] = np.argpartition(distance, k - 1, axis=1)[:, :k]
    return found


def reorder_neighbours(
    neighbours: Int64[np.ndarray, "n k"], order: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, "n k"]:
    """Neighbours of rows that stand in another order: row i is now what row order[i] was."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return np.asarray(place[neighbours[order]])


def mutual_neighbours(first: Int64[np.ndarray, "n k"], second: Int64[np.ndarray, "n k"]) -> float:
    """Mean share of a row's k nearest neighbours on one side that are among its k nearest on the other.

    Huh et al. (2024), "The Platonic Representation Hypothesis". By chance it is k / (n − 1).
    """
    n = len(first)
    is_near = np.zeros((n, n), bool)
    row = np.arange(n)[:, None]
    is_near[row, first] = True
    return float(is_near[row, second].mean())
