"""How alike two sets of rows of the same examples are, as functions of small matrices.

`Side` holds what one set's own measures need, `Cross` what two have in common: cross-products [d, d], summed in float64
over blocks of rows. So every measure costs a product of width by width, whatever the number of rows, and another order
of one side's rows (a null) changes nothing but `Cross.xy`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy
from jaxtyping import Float, Float64, Int64

from unweave.core.errors import InputError

_BLOCK = 8192
_PENALTIES = np.logspace(-6, 3, 19)
_NOTHING = 1e-12


@dataclass(frozen=True, eq=False)
class Side:
    """One set of rows: `mean` [d] and `gram` [d, d], the cross-products of the centred units."""

    n: int
    mean: Float64[np.ndarray, " d"]
    gram: Float64[np.ndarray, "d d"]

    @staticmethod
    def of(rows: Float[np.ndarray, "n d"]) -> "Side":
        """Sum over rows.

        Raises:
            InputError: there are fewer than two rows.
        """
        if len(rows) < 2:
            raise InputError(f"rows cannot be compared with fewer than two of them, got {len(rows)}")
        mean = rows.mean(0, dtype=np.float64)
        return Side(len(rows), mean, _product(rows, rows, mean, mean))

    @property
    def d(self) -> int:
        """Width."""
        return len(self.mean)

    @property
    def total(self) -> float:
        """Σ‖x − mean‖²."""
        return float(np.trace(self.gram))

    @cached_property
    def deviation(self) -> Float64[np.ndarray, " d"]:
        """Root of each unit's sum of squares."""
        return np.asarray(np.sqrt(np.maximum(self.gram.diagonal(), 0.0)))

    @cached_property
    def norm(self) -> float:
        """Frobenius norm of the cross-products."""
        return float(np.linalg.norm(self.gram))

    @cached_property
    def basis(self) -> tuple[Float64[np.ndarray, " d"], Float64[np.ndarray, "d d"]]:
        """Eigenvalues and eigenvectors (columns) of `gram`."""
        values, vectors = np.linalg.eigh(self.gram)
        return np.maximum(values, 0.0), vectors


@dataclass(frozen=True, eq=False)
class Cross:
    """Two sets of rows, row i of both from the same example; `xy` [d_x, d_y] are the cross-products of their units."""

    x: Side
    y: Side
    xy: Float64[np.ndarray, "d_x d_y"]

    @staticmethod
    def of(
        x: Float[np.ndarray, "n d_x"], y: Float[np.ndarray, "m d_y"], sides: tuple[Side, Side] | None = None
    ) -> "Cross":
        """Sum over rows; `sides` where they are known already.

        Raises:
            InputError: the sets have different numbers of rows, or fewer than two.
        """
        if len(x) != len(y):
            raise InputError(f"rows of the same examples are compared, got {len(x):,} and {len(y):,} of them")
        first, second = sides or (Side.of(x), Side.of(y))
        return Cross(first, second, _product(x, y, first.mean, second.mean))

    def turned(self) -> "Cross":
        """The same with the sides exchanged."""
        return Cross(self.y, self.x, self.xy.T)

    def reordered(self, x: Float[np.ndarray, "n d_x"], y: Float[np.ndarray, "n d_y"]) -> "Cross":
        """With the rows of a side in another order."""
        return replace(self, xy=_product(x, y, self.x.mean, self.y.mean))


def _product(x: np.ndarray, y: np.ndarray, x_mean: np.ndarray, y_mean: np.ndarray) -> Float64[np.ndarray, "d_x d_y"]:
    total = np.zeros((x.shape[1], y.shape[1]))
    for start in range(0, len(x), _BLOCK):
        place = slice(start, start + _BLOCK)
        total += (x[place] - x_mean).T @ (y[place] - y_mean)
    return total


def linear_cka(cross: Cross) -> float:
    """Linear centred kernel alignment: ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖) with Frobenius norms (Kornblith et al., 2019).

    From 0 to 1; the same after a rotation or a common scale of either side. Two unrelated sets of n rows have about
    √(w_X w_Y) / n, not 0, with the participation ratios w = tr(C)² / ‖C‖² of their covariances. 0 where a side does
    not vary.
    """
    scale = cross.x.norm * cross.y.norm
    return float((cross.xy**2).sum()) / scale if scale > 0 else 0.0


def procrustes(cross: Cross) -> float:
    """Share of one side's variance that the other explains by a rotation and one scale: (‖XᵀY‖₁)² / (‖X‖² ‖Y‖²).

    ‖·‖₁ is the sum of singular values (Schönemann, 1966). It is 1 minus the residual of the best fit, whichever side
    is fitted; sides of different widths count as padded with zeros. 0 where a side does not vary.
    """
    scale = cross.x.total * cross.y.total
    return float(np.linalg.svd(cross.xy, compute_uv=False).sum() ** 2) / scale if scale > 0 else 0.0


def rotation(cross: Cross) -> Float64[np.ndarray, "d_x d_y"]:
    """The matrix R with orthonormal rows or columns for which (X − mean) R is closest to Y − mean."""
    left, _, right = np.linalg.svd(cross.xy, full_matrices=False)
    return np.asarray(left @ right)


def unit_correlations(cross: Cross) -> Float64[np.ndarray, "d_x d_y"]:
    """Pearson correlation of every unit of one side with every unit of the other; 0 where a unit does not vary."""
    scale = cross.x.deviation[:, None] * cross.y.deviation[None]
    varies = scale > _NOTHING * max(float(scale.max(initial=0.0)), np.finfo(np.float64).tiny)
    return np.asarray(np.divide(cross.xy, scale, out=np.zeros_like(cross.xy), where=varies))


def matched_pairs(score: Float[np.ndarray, "d_x d_y"]) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """One-to-one assignment with the largest sum of scores (Hungarian method): m = the smaller width."""
    first, second = scipy.optimize.linear_sum_assignment(-score)
    return np.asarray(first, np.int64), np.asarray(second, np.int64)


def matched_correlations(choose: Cross, measure: Cross, *, signed: bool = False) -> Float64[np.ndarray, " m"]:
    """Correlation of each matched pair of units, chosen on some rows and measured on others.

    The assignment maximises Σ|r| on `choose` (units have no sign; `signed` maximises Σr). What is returned is r on
    `measure` with the sign that it had on `choose`: a pair that was chosen by chance has 0 on average.
    """
    chosen = unit_correlations(choose)
    pairs = matched_pairs(chosen if signed else np.abs(chosen))
    sign = 1.0 if signed else np.sign(chosen[pairs])
    return np.asarray(unit_correlations(measure)[pairs] * sign)


def ridge_r2(fit: Cross, test: Cross) -> float:
    """Share of y's variance that a linear map of x predicts on other rows: 1 − Σ‖y − ŷ‖² / Σ‖y − mean‖².

    Fitted on `fit` with intercept and the ridge penalty that has the smallest generalised cross-validation error there
    (Golub, Heath and Wahba, 1979), out of 19 from 10⁻⁶ to 10³ times the mean variance of a unit. Not symmetric, and
    below 0 where the prediction is worse than the mean of the test rows. 0 where y does not vary.
    """
    if not test.y.total > 0:
        return 0.0
    values, vectors = fit.x.basis
    projected = vectors.T @ fit.xy
    square = (projected**2).sum(1)
    scale = float(values.mean()) or 1.0
    errors = []
    for penalty in _PENALTIES * scale:
        shrunk = 1 / (values + penalty)
        left = fit.y.total - float((square * shrunk * (2 - values * shrunk)).sum())
        free = fit.x.n - 1 - float((values * shrunk).sum())
        errors.append(max(left, 0.0) / free**2 if free > 0 else np.inf)
    weights = vectors @ (projected / (values + _PENALTIES[int(np.argmin(errors))] * scale)[:, None])
    missed = test.y.total - 2 * float((weights * test.xy).sum()) + float((weights * (test.x.gram @ weights)).sum())
    offset = (test.y.mean - fit.y.mean) - (test.x.mean - fit.x.mean) @ weights
    return 1 - (missed + test.y.n * float((offset**2).sum())) / test.y.total


def both_ways(measure: Callable[[Cross, Cross], float], fit: Cross, test: Cross) -> float:
    """Mean of a measure that is not symmetric over its two directions."""
    return (measure(fit, test) + measure(fit.turned(), test.turned())) / 2
