"""Bootstrap intervals: how far a number would move with other rows of the same kind."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from jaxtyping import Float, Real

from unweave.core.errors import InputError

Method = Literal["BCa", "percentile"]
_BATCH_VALUES = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A number with its confidence interval.

    Attributes:
        estimate: the statistic of all rows.
        low: lower end.
        high: upper end.
        level: share of such intervals that hold the true value.
        n: rows.
        method: how it was found. `constant` where no resample changes the statistic: both ends are the estimate.
    """

    estimate: float
    low: float
    high: float
    level: float
    n: int
    method: Literal["BCa", "percentile", "constant"]

    def __str__(self) -> str:
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"


def bootstrap_interval(
    rows: Real[np.ndarray, "n ..."],
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    level: float = 0.95,
    resamples: int = 9999,
    generator: np.random.Generator,
    method: Method = "BCa",
) -> Interval:
    """Bootstrap interval of a statistic of rows, by drawing rows again with replacement.

    BCa corrects the percentiles for bias and for a spread that changes with the value (Efron, 1987). It takes a
    jackknife too, so n more evaluations of the statistic. Where it is not defined (the statistic falls on one side of
    its resamples) the percentiles stand, and `method` says so.

    Args:
        rows: what is drawn again: values, or rows of values that belong together (pairs for a correlation).
        statistic: a number from rows of the same shape; their mean by default.
        level: share of such intervals that hold the true value.
        resamples: number of draws.
        generator: source of the draws.
        method: `BCa`, or plain `percentile`, for more rows than a jackknife can afford.

    Raises:
        InputError: there are fewer than two rows, a value is not finite, the level is no share, or the statistic has no
            value for some resample.
    """
    rows = np.asarray(rows)
    n = len(rows)
    if n < 2:
        raise InputError(f"a bootstrap needs at least two rows, got {n}")
    if not np.isfinite(rows).all():
        raise InputError("a bootstrap needs finite values; drop the rows that hold NaN or Inf first")
    _check_level(level)
    estimate = float(statistic(rows))
    if (rows == rows[0]).all():
        return Interval(estimate, estimate, estimate, level, n, "constant")
    plain = statistic is np.mean and rows.ndim == 1

    def of_chosen(index: np.ndarray, axis: int = -1) -> np.ndarray:
        if plain:
            return np.asarray(rows[index].mean(axis))
        return np.array([statistic(rows[one]) for one in index.reshape(-1, index.shape[-1])]).reshape(index.shape[:-1])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)  # NaN ends are dealt with below
        warnings.simplefilter("ignore", RuntimeWarning)
        found = scipy.stats.bootstrap(
            (np.arange(n),),
            of_chosen,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, _BATCH_VALUES // n),
            confidence_level=level,
            method=method,
            random_state=generator,
        )
    drawn = found.bootstrap_distribution
    if missing := int(np.isnan(drawn).sum()):
        raise InputError(f"the statistic is NaN for {missing} of {resamples} resamples; it needs more rows than {n}")
    if np.ptp(drawn) == 0 and drawn[0] == estimate:
        return Interval(estimate, estimate, estimate, level, n, "constant")
    low, high = (float(end) for end in found.confidence_interval)
    if np.isfinite(low) and np.isfinite(high):
        return Interval(estimate, low, high, level, n, method)
    low, high = np.quantile(drawn, _tails(level)).tolist()
    return Interval(estimate, low, high, level, n, "percentile")


def mean_band(
    values: Real[np.ndarray, "n columns"],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    generator: np.random.Generator,
) -> Float[np.ndarray, "2 columns"]:
    """Percentile band of the mean of every column, all columns from the same draws of rows: a band for a curve.

    One matrix product instead of a resample for each column; the band holds each mean at the level, not all at once.

    Args:
        values: a row for each subject or pair, a column for each point of the curve.
        level: share of such bands that hold the true mean at a point.
        resamples: number of draws.
        generator: source of the draws.

    Returns:
        Lower and upper end of each column; both the mean itself where there is one row only.

    Raises:
        InputError: there is no row, or the level is no share.
    """
    n, columns = values.shape
    if not n:
        raise InputError("a band needs at least one row")
    _check_level(level)
    values = np.asarray(values, np.float64)
    means = np.empty((resamples, columns))
    step = max(1, _BATCH_VALUES // n)
    for start in range(0, resamples, step):
        drawn = min(step, resamples - start)
        chosen = generator.integers(n, size=(drawn, n)) + n * np.arange(drawn)[:, None]
        times = np.bincount(chosen.ravel(), minlength=drawn * n).reshape(drawn, n)
        means[start : start + drawn] = times @ values / n
    return np.asarray(np.quantile(means, _tails(level), axis=0))


def _tails(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level is a share between 0 and 1, got {level}")
