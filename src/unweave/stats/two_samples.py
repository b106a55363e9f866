"""Whether two samples differ: tests on values or on published summaries, and intervals of any difference."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Real

from unweave.core.errors import InputError
from unweave.stats.bootstrap import Interval

_EXACT_UP_TO = 120  # values in both samples together: 0.1 s
_BATCH_VALUES = 4_000_000
_DEFINED = 0.99  # share of resamples that must give a number


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a paper's table says of a sample: its mean, its standard deviation (n − 1) and its size."""

    mean: float
    std: float
    n: int

    @staticmethod
    def of(values: Real[np.ndarray, " n"]) -> "Summary":
        """Of the values themselves; the deviation is 0 for one value."""
        std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return Summary(mean=float(np.mean(values)), std=std, n=len(values))


@dataclass(frozen=True, kw_only=True)
class TTest:
    """Student's or Welch's t: statistic, degrees of freedom, two-sided p."""

    t: float
    df: float
    p: float


def t_test(first: Summary, second: Summary, *, equal_variances: bool = False) -> TTest | None:
    """Two-sided t-test of two independent samples: t = (x̄ − ȳ) / se.

    Welch's by default: se² = s_x²/n + s_y²/m, with the degrees of freedom of Welch and Satterthwaite. Student's pools
    the variances, with n + m − 2.

    Args:
        first: one sample, or what a table says of it.
        second: the other.
        equal_variances: Student's test.

    Returns:
        The test; None where there is nothing to test with: neither sample has any spread, or one has a single value
        (Student's pooled variance needs three values in both together).

    Raises:
        InputError: a sample is empty, or a deviation is negative.
    """
    n, m = first.n, second.n
    if n < 1 or m < 1 or first.std < 0 or second.std < 0:
        raise InputError(f"a t-test needs two samples with a value each and no negative deviation: {first}, {second}")
    if n + m < 3 or (not equal_variances and min(n, m) < 2):
        return None
    if equal_variances:
        df = float(n + m - 2)
        pooled = ((n - 1) * first.std**2 + (m - 1) * second.std**2) / df
        squared = pooled * (1 / n + 1 / m)
    else:
        parts = (first.std**2 / n, second.std**2 / m)
        squared = sum(parts)
        df = squared**2 / (parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (m - 1)) if squared else math.nan
    scale = max(abs(first.mean), abs(second.mean))
    if math.sqrt(squared) <= 1e-12 * scale or not squared:
        return None
    t = (first.mean - second.mean) / math.sqrt(squared)
    return TTest(t=t, df=df, p=float(2 * scipy.stats.t.sf(abs(t), df)))


def difference_interval(first: Summary, second: Summary, *, level: float = 0.95) -> tuple[float, float] | None:
    """Welch's confidence interval of the difference of means; None where the test is.

    Raises:
        InputError: as `t_test`.
    """
    test = t_test(first, second)
    if test is None:
        return None
    error = math.sqrt(first.std**2 / first.n + second.std**2 / second.n)
    half = float(scipy.stats.t.ppf((1 + level) / 2, test.df)) * error
    difference = first.mean - second.mean
    return difference - half, difference + half


@dataclass(frozen=True, kw_only=True)
class MinF:
    """Clark's min F′ with its degrees of freedom below the line (1 above) and its p."""

    f: float
    df: float
    p: float


def min_f(items: TTest, differences: Real[np.ndarray, " raters"]) -> MinF | None:
    """Whether a difference holds for other items and other raters at once: min F′ = F₁ F₂ / (F₁ + F₂).

    F₁ = t² of the raters' own differences against 0, with r − 1 degrees of freedom; F₂ = t² of the test of items. Both
    have to be large. Degrees of freedom (F₁ + F₂)² / (F₁² / df₂ + F₂² / df₁) (Clark, 1973). It is a lower bound of the
    right ratio, so it calls too little rather than too much.

    Args:
        items: the test of items.
        differences: of each rater.

    Returns:
        The test; None for fewer than two raters. Where all raters have the same difference, the test of items stands.
    """
    r = len(differences)
    if r < 2:
        return None
    second, mean = items.t**2, float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / math.sqrt(r)
    if error <= 1e-12 * float(np.abs(differences).max()):
        f, df = (second, items.df) if mean else (0.0, items.df)
    else:
        first = (mean / error) ** 2
        if not first + second:
            return MinF(f=0.0, df=items.df, p=1.0)
        f = first * second / (first + second)
        df = (first + second) ** 2 / (first**2 / items.df + second**2 / (r - 1))
    return MinF(f=f, df=df, p=float(scipy.stats.f.sf(f, 1, df)))


@dataclass(frozen=True, kw_only=True)
class RankTest:
    """Mann and Whitney's U of the first sample (ties count one half), two-sided p, and whether p is exact."""

    u: float
    p: float
    exact: bool


def mann_whitney(first: Real[np.ndarray, " n"], second: Real[np.ndarray, " m"]) -> RankTest:
    """Mann and Whitney's U test (Wilcoxon's rank sum), two-sided, right with ties.

    Up to 120 values p is exact: the distribution of the rank sum over all ways to choose n of the n + m mid-ranks, ties
    and all, is counted by dynamic programming; p is twice the smaller tail, at most 1. For more values the normal
    distribution stands in, its variance corrected for ties, with a continuity correction.

    Raises:
        InputError: a sample is empty.
    """
    n, m = len(first), len(second)
    if not n or not m:
        raise InputError(f"a rank test needs a value in each sample, got {n} and {m}")
    ranks = scipy.stats.rankdata(np.concatenate([np.asarray(first, np.float64), np.asarray(second, np.float64)]))
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    if np.ptp(ranks) == 0:
        return RankTest(u=u, p=1.0, exact=True)
    if n + m > _EXACT_UP_TO:
        found = scipy.stats.mannwhitneyu(first, second, method="asymptotic")
        return RankTest(u=u, p=float(found.pvalue), exact=False)
    below, above = _rank_sum_tails(np.rint(2 * ranks).astype(np.int64), n)
    return RankTest(u=u, p=min(1.0, 2 * min(below, above)), exact=True)


def _rank_sum_tails(doubled: np.ndarray, n: int) -> tuple[float, float]:
    """P(W ≤ w) and P(W ≥ w) for the sum w of the first n of twice the mid-ranks."""
    size = min(n, len(doubled) - n)
    chosen = doubled[:n] if size == n else doubled[n:]
    lifted = doubled - doubled.min()  # smaller sums, a smaller table
    w = int(chosen.sum() - size * doubled.min())
    most = int(np.sort(lifted)[-size:].sum())
    ways = np.zeros((size + 1, most + 1))
    ways[0, 0] = 1.0
    for rank in lifted.tolist():
        ways[1:, rank:] += ways[:-1, : most + 1 - rank].copy()
    share = ways[size] / ways[size].sum()
    below, above = float(share[: w + 1].sum()), float(share[w:].sum())
    return (below, above) if size == n else (above, below)


def two_sample_interval(
    first: Real[np.ndarray, " n"],
    second: Real[np.ndarray, " m"],
    statistic: Callable[..., np.ndarray],
    *,
    level: float = 0.95,
    resamples: int = 9999,
    generator: np.random.Generator,
) -> Interval | None:
    """Bootstrap interval of a statistic of two independent samples, each drawn again by itself.

    BCa, and percentiles where BCa is not defined (`method` says which).

    Args:
        first: one sample.
        second: the other.
        statistic: a number from both along the `axis` given: `mean_difference`, `standardised_difference`, `dominance`.
        level: share of such intervals that hold the true value.
        resamples: number of draws.
        generator: source of the draws.

    Returns:
        The interval with n + m rows; None where there is none: a sample has fewer than two values, or more than one
        resample in a hundred has no finite value.

    Raises:
        InputError: the level is no share, or a sample is empty.
    """
    if not 0 < level < 1:
        raise InputError(f"level is a share between 0 and 1, got {level}")
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    n, m = len(x), len(y)
    if not n or not m:
        raise InputError(f"a difference needs a value in each sample, got {n} and {m}")
    if min(n, m) < 2:
        return None
    estimate = float(statistic(x, y, axis=-1))
    if not math.isfinite(estimate):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)  # ends without a value are dealt with below
        warnings.simplefilter("ignore", RuntimeWarning)
        found = scipy.stats.bootstrap(
            (x, y),
            statistic,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, _BATCH_VALUES // (n * m)),
            confidence_level=level,
            method="BCa",
            random_state=generator,
        )
    drawn = found.bootstrap_distribution
    finite = drawn[np.isfinite(drawn)]
    if len(finite) < _DEFINED * resamples:
        return None
    if np.ptp(finite) == 0 and finite[0] == estimate:
        return Interval(estimate, estimate, estimate, level, n + m, "constant")
    low, high = (float(end) for end in found.confidence_interval)
    if math.isfinite(low) and math.isfinite(high):
        return Interval(estimate, low, high, level, n + m, "BCa")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(estimate, low, high, level, n + m, "percentile")


def mean_difference(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    """x̄ − ȳ along an axis, for `two_sample_interval`."""
    return np.asarray(first.mean(axis) - second.mean(axis))


def standardised_difference(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    """Cohen's d along an axis, as `effects.cohens_d`; infinite, or 0 for equal means, where there is no spread.

    Both samples together have three values at least.
    """
    n, m = first.shape[axis], second.shape[axis]
    difference = mean_difference(first, second, axis)
    pooled = np.sqrt((first.var(axis) * n + second.var(axis) * m) / (n + m - 2))
    scale = np.maximum(np.abs(first).max(axis), np.abs(second).max(axis))
    spread = pooled > 1e-12 * scale
    without = np.where(np.abs(difference) <= 1e-12 * scale, 0.0, np.copysign(np.inf, difference))
    return np.where(spread, difference / np.where(spread, pooled, 1.0), without)


def dominance(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    """Cliff's δ along an axis, as `effects.cliffs_delta`."""
    x, y = np.moveaxis(first, axis, -1), np.moveaxis(second, axis, -1)
    return np.asarray(np.sign(x[..., :, None] - y[..., None, :]).mean((-2, -1)))
