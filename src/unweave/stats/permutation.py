"""Permutation nulls."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import scipy
from jaxtyping import Float, Int64, Real

from unweave.core.errors import InputError

Alternative = Literal["greater", "less", "two-sided"]
Statistic = Callable[[Float[np.ndarray, "*m classes"], Int64[np.ndarray, " classes"]], Float[np.ndarray, "*m"]]
_ROUNDING = 1e-12


def permutation_p(observed: float, null: Real[np.ndarray, " m"], alternative: Alternative = "greater") -> float:
    """p-value of a statistic against its values under permutation: p = (b + 1) / (m + 1).

    b counts the permutations that reach the observed value; the observed arrangement is one of those possible, so p is
    never 0 (Phipson and Smyth, 2010). Values that differ by rounding only count as equal.

    Args:
        observed: the statistic as measured.
        null: its value under each of m random permutations.
        alternative: what counts as reaching: at least as large, at least as small, or `two-sided`: twice the smaller of
            the two p-values, at most 1.

    Returns:
        The p-value; 1 where the statistic has no value (NaN).

    Raises:
        InputError: a permutation has no value though the statistic itself has one.
    """
    if np.isnan(observed):
        return 1.0
    null = np.asarray(null, np.float64)
    if np.isnan(null).any():
        raise InputError(f"the statistic is NaN under {int(np.isnan(null).sum())} of {len(null)} permutations")
    tie = _ROUNDING * max(abs(observed), float(np.abs(null).max(initial=0.0)))
    above = (int((null >= observed - tie).sum()) + 1) / (len(null) + 1)
    below = (int((null <= observed + tie).sum()) + 1) / (len(null) + 1)
    return {"greater": above, "less": below, "two-sided": min(1.0, 2 * min(above, below))}[alternative]


def difference_p(
    first: Real[np.ndarray, " n"],
    second: Real[np.ndarray, " m"],
    *,
    permutations: int = 9999,
    generator: np.random.Generator,
    alternative: Alternative = "two-sided",
    paired: bool = False,
) -> float:
    """p-value of the difference of two means, by exchanging who belongs to which sample.

    Where there are no more arrangements than `permutations`, all are tried and p is exact; else p = (b + 1) / (m + 1).

    Args:
        first: values of one sample.
        second: values of the other.
        permutations: most arrangements to try.
        generator: source of the arrangements.
        alternative: whether the first mean is larger, smaller, or either.
        paired: value i of both belongs to the same subject, so that only those two change places.

    Raises:
        InputError: a sample is empty, or pairs are not of equal number.
    """
    if not len(first) or not len(second) or (paired and len(first) != len(second)):
        what = "pairs need two samples of one size" if paired else "two samples need a value each"
        raise InputError(f"{what}, got {len(first)} and {len(second)} values")
    kind = "samples" if paired else "independent"

    def difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(x.mean(axis) - y.mean(axis))

    found = scipy.stats.permutation_test(
        (np.asarray(first, np.float64), np.asarray(second, np.float64)),
        difference,
        permutation_type=kind,
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, 2_000_000 // (len(first) + len(second))),
        alternative=alternative,
        random_state=generator,
    )
    return float(found.pvalue)


def label_permutation_p(
    counts: Float[np.ndarray, "d_sae classes"],
    class_totals: Int64[np.ndarray, " classes"],
    statistic: Statistic,
    *,
    permutations: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, " d_sae"]:
    """p-value of each latent against random labels: p = (b + 1) / (m + 1).

    b counts the permutations whose statistic reaches the observed one (Phipson and Smyth, 2010). Permuting the labels
    of all examples makes a latent's counts by class a draw from the multivariate hypergeometric distribution, which
    depends on nothing but its number of firing examples, so it is drawn from there: latents that fire equally often
    share one null, and the cost does not grow with the number of examples.

    Args:
        counts: firing examples of each latent by class.
        class_totals: all examples by class.
        statistic: what is compared, from counts by class and class totals; larger is more dependent.
        permutations: m.
        generator: source of the draws.
    """
    observed = statistic(counts, class_totals)
    firing = counts.sum(1).astype(np.int64)
    p = np.ones(len(counts))
    for count in np.unique(firing[firing > 0]):
        drawn = generator.multivariate_hypergeometric(class_totals, count, size=permutations)
        null = np.sort(statistic(drawn.astype(np.float64), class_totals))
        same = firing == count
        reached = permutations - np.searchsorted(null, observed[same] - _ROUNDING, side="left")
        p[same] = (reached + 1) / (permutations + 1)
    return p
