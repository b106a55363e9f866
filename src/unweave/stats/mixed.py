"""A mixed model of ratings: a difference of two conditions beside what raters and latents vary by."""

import math
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Bool, Int64, Real

from unweave.core.errors import InputError

_NOTHING = 1e-4  # of the residual variance
_START = (0.5, 1.0)  # variances of raters and items in residual variances


@dataclass(frozen=True, kw_only=True)
class MixedDifference:
    """Difference of two conditions in a model with crossed random effects.

    Attributes:
        difference: of the conditions' means, from generalised least squares.
        error: its standard error.
        t: their ratio.
        df: items − 2.
        p: two-sided, from Student's t with df.
        p_normal: two-sided, from the normal distribution, as most software prints it; too small for few items.
        std_rater: standard deviation of what each rater adds to every rating.
        std_item: standard deviation of what each item adds to every rating.
        std_residual: standard deviation of what is left.
        converged: whether the optimiser says so.
        boundary: which of `rater` and `item` vary by nothing at all in the best fit.
    """

    difference: float
    error: float
    t: float
    df: int
    p: float
    p_normal: float
    std_rater: float
    std_item: float
    std_residual: float
    converged: bool
    boundary: tuple[str, ...]


def mixed_difference(
    values: Real[np.ndarray, " n"],
    first: Bool[np.ndarray, " n"],
    raters: Int64[np.ndarray, " n"],
    items: Int64[np.ndarray, " n"],
) -> MixedDifference:
    """Fit value = β₀ + β · first + rater + item + rest by REML, with raters and items crossed and random.

    Each item belongs to one condition, so the items, not the ratings, are what β is learnt from: p takes Student's t
    with items − 2 degrees of freedom. Where every rater rates every item once, this is Student's t-test of the items'
    means, exactly; the normal distribution that mixed-model software takes by default finds differences too often.
    Raters are crossed with conditions, and what they add to all their ratings cancels. The model does not let raters
    differ in how much they prefer a condition, so it speaks of these raters, and of other items.

    Both variances, as multiples λ ≥ 0 of the residual one, maximise the profiled restricted likelihood (Bates et al.,
    2015, section 3): −2 ℓ = log|V| + log|XᵀV⁻¹X| + (n − 2) log S + const, V = I + Σ λ Z Zᵀ and S the weighted square
    sum of residuals. A variance of zero is a bound of the search, not a failure. β and its error follow by generalised
    least squares.

    Args:
        values: one for each rating.
        first: whether it is of the first condition.
        raters: who gave it, as numbers.
        items: of what, as numbers.

    Raises:
        InputError: fewer than two raters or two items of either condition, an item that is in both conditions, or
            ratings that a sum of rater and item gives exactly: nothing is left to judge the difference by.
    """
    _check(first, raters, items)
    y = np.asarray(values, np.float64)
    x = np.column_stack([np.ones(len(y)), first.astype(np.float64)])
    z = np.concatenate([(of[:, None] == np.unique(of)[None]).astype(np.float64) for of in (raters, items)], axis=1)
    if np.ptp(y - z @ np.linalg.lstsq(z, y, rcond=None)[0]) <= 1e-9 * np.abs(y).max():
        raise InputError(
            "a mixed model needs raters who differ by more than a constant, on items that two of them rated"
        )
    many = [len(np.unique(raters)), len(np.unique(items))]
    fit = _Restricted(y, x, z, many)
    bounds = [(0.0, None)] * 2
    best = scipy.optimize.minimize(fit.deviance, _START, method="L-BFGS-B", bounds=bounds)
    if not best.success:  # its line search can end on rounding
        best = scipy.optimize.minimize(fit.deviance, best.x, method="Nelder-Mead", bounds=bounds)
    ratios = np.where(best.x < _NOTHING, 0.0, best.x)
    beta, inverse, scale = fit.at(ratios)
    difference, error = float(beta[1]), math.sqrt(scale * float(inverse[1, 1]))
    t, df = difference / error, many[1] - 2
    return MixedDifference(
        difference=difference,
        error=error,
        t=t,
        df=df,
        p=float(2 * scipy.stats.t.sf(abs(t), df)),
        p_normal=float(2 * scipy.stats.norm.sf(abs(t))),
        std_rater=math.sqrt(scale * float(ratios[0])),
        std_item=math.sqrt(scale * float(ratios[1])),
        std_residual=math.sqrt(scale),
        converged=bool(best.success),
        boundary=tuple(name for name, ratio in zip(("rater", "item"), ratios, strict=True) if ratio == 0),
    )


class _Restricted:
    """The restricted likelihood, from products that are taken once: an evaluation costs (raters + items)³."""

    def __init__(self, y: np.ndarray, x: np.ndarray, z: np.ndarray, many: list[int]) -> None:
        self.many = many
        self.free = len(y) - x.shape[1]
        fixed = np.column_stack([x, y])
        self.zz, self.zf, self.ff = z.T @ z, z.T @ fixed, fixed.T @ fixed

    def _weighted(self, ratios: np.ndarray) -> tuple[np.ndarray, float]:
        """[X y]ᵀ V⁻¹ [X y] and log|V|, by the matrix inversion and determinant lemmas."""
        root = np.repeat(np.sqrt(ratios), self.many)
        inner = np.eye(len(root)) + root[:, None] * self.zz * root[None]
        lower = np.linalg.cholesky(inner)
        half = np.linalg.solve(lower, root[:, None] * self.zf)
        return self.ff - half.T @ half, 2 * float(np.log(np.diag(lower)).sum())

    def at(self, ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """β, (XᵀV⁻¹X)⁻¹ and the residual variance."""
        products, _ = self._weighted(ratios)
        inverse = np.linalg.inv(products[:-1, :-1])
        beta = inverse @ products[:-1, -1]
        return beta, inverse, float(products[-1, -1] - products[-1, :-1] @ beta) / self.free

    def deviance(self, ratios: np.ndarray) -> float:
        """−2 ℓ but for a constant."""
        products, log_v = self._weighted(np.maximum(ratios, 0.0))
        fixed = products[:-1, :-1]
        rest = float(products[-1, -1] - products[-1, :-1] @ np.linalg.solve(fixed, products[:-1, -1]))
        log_fixed = float(np.linalg.slogdet(fixed)[1])
        return float(log_v + log_fixed + self.free * math.log(max(rest, 1e-300)))


def _check(first: np.ndarray, raters: np.ndarray, items: np.ndarray) -> None:
    counts = [len(np.unique(items[first])), len(np.unique(items[~first]))]
    if len(np.unique(raters)) < 2 or min(counts) < 2:
        got = f"{len(np.unique(raters))} raters and {counts[0]} and {counts[1]} items"
        raise InputError(f"a mixed model needs two raters and two items of each condition, got {got}")
    if set(items[first].tolist()) & set(items[~first].tolist()):
        raise InputError("an item belongs to one condition; one is in both")
