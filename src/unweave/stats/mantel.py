"""Whether two matrices of distances between the same items agree."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Real

from unweave.core.errors import InputError
from unweave.stats.permutation import Alternative, permutation_p

_BATCH_VALUES = 2_000_000


@dataclass(frozen=True, eq=False)
class Mantel:
    """Agreement of two symmetric matrices.

    Attributes:
        r: Pearson correlation of the upper triangles, the diagonal left out; NaN where a triangle is constant.
        p: share of relabellings, this one among them, whose correlation reaches r: (b + 1) / (m + 1); 1 without r.
        permutations: m.
        n: items.
        null: r under each relabelling.
    """

    r: float
    p: float
    permutations: int
    n: int
    null: Float[np.ndarray, " m"] = field(repr=False)


def mantel(
    first: Real[np.ndarray, "rows columns"],
    second: Real[np.ndarray, "rows2 columns2"],
    *,
    permutations: int = 9999,
    generator: np.random.Generator,
    alternative: Alternative = "greater",
) -> Mantel:
    """Mantel's test (1967): do items that are close in one matrix lie close in the other?

    Pairs of items are not independent of each other, so the null relabels the items of one matrix: rows and columns
    are permuted together. Each pair counts once.

    Args:
        first: symmetric matrix [n, n] of distances or similarities.
        second: another of the same items, in the same order.
        permutations: m.
        generator: source of the relabellings.
        alternative: whether agreement is to be larger than by chance, smaller, or either.

    Raises:
        InputError: the matrices are not square and of one size, are not symmetric, or have fewer than 3 items.
    """
    n = len(first)
    if first.shape != (n, n) or second.shape != (n, n) or n < 3:
        shapes = f"{list(first.shape)} and {list(second.shape)}"
        raise InputError(f"Mantel's test needs two square matrices of the same items, at least 3; got {shapes}")
    for name, matrix in (("first", first), ("second", second)):
        if not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T):
            raise InputError(f"the {name} matrix is not symmetric, or holds NaN or Inf; give distances between items")
    x, y = _standardised(first), _standardised(second)
    if x is None or y is None:
        return Mantel(float("nan"), 1.0, permutations, n, np.full(permutations, np.nan))
    r = float((x * y).sum() / 2)
    null = np.empty(permutations)
    step = max(1, _BATCH_VALUES // n**2)
    for start in range(0, permutations, step):
        drawn = min(step, permutations - start)
        order = generator.permuted(np.tile(np.arange(n), (drawn, 1)), axis=1)
        shuffled = y[order[:, :, None], order[:, None, :]]
        null[start : start + drawn] = shuffled.reshape(drawn, -1) @ x.ravel() / 2
    return Mantel(r, permutation_p(r, null, alternative), permutations, n, null)


def _standardised(matrix: np.ndarray) -> Float[np.ndarray, "n n"] | None:
    """Off-diagonal entries with mean 0 and, over one triangle, length 1; the diagonal 0. None where all are equal."""
    inside = ~np.eye(len(matrix), dtype=bool)
    values = np.asarray(matrix, np.float64)[inside]
    centred = values - values.mean()
    length = np.sqrt((centred**2).sum() / 2)
    if length <= 1e-12 * np.abs(values).max():
        return None
    out = np.zeros(matrix.shape)
    out[inside] = centred / length
    return out
