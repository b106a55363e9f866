"""Agreement: how far several raters, or one rater twice, say the same."""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Real

from unweave.core.errors import InputError
from unweave.stats.bootstrap import Interval

Scale = Literal["nominal", "ordinal", "interval", "ratio"]
_ROUNDING = 1e-12


def krippendorff_alpha(ratings: Real[np.ndarray, "raters units"], scale: Scale = "ordinal") -> float:
    """Krippendorff's α = 1 − D_o / D_e: agreement of any number of raters, beyond what chance gives.

    D_o is the mean squared distance of values within a unit, D_e that of any two values of the whole table, both over
    pairable values (those of units with at least two). A unit with m values weighs each of its pairs by 1 / (m − 1), so
    gaps do no harm. α is 1 for perfect agreement and 0 for what chance gives. Distances by `scale`:

    - nominal: 1 where values differ
    - ordinal: difference of mid-ranks in all pairable values
    - interval: c − k
    - ratio: (c − k) / (c + k), of values that are not negative

    Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011).

    Args:
        ratings: one row a rater, one column a unit; NaN where a rater gave no value.
        scale: what a difference of two values means.

    Returns:
        α; NaN where it is not defined: no unit has two values, or all pairable values are equal.

    Raises:
        InputError: the scale is unknown, a value is infinite, or a ratio scale has negative values.
    """
    return float(_alphas(_Pairs(ratings, scale), None)[0])


def alpha_interval(
    ratings: Real[np.ndarray, "raters units"],
    scale: Scale = "ordinal",
    *,
    level: float = 0.95,
    resamples: int = 2000,
    generator: np.random.Generator,
) -> Interval:
    """Krippendorff's α with a percentile bootstrap interval over units; the raters stay the same.

    Ranks and chance agreement are found anew in each resample. A resample without two different values has no α and is
    left out.

    Args:
        ratings: one row a rater, one column a unit; NaN where a rater gave no value.
        scale: what a difference of two values means.
        level: share of such intervals that hold the true α.
        resamples: number of draws.
        generator: source of the draws.

    Raises:
        InputError: fewer than two units have two values, α is not defined, the level is no share, or what
            `krippendorff_alpha` refuses.
    """
    if not 0 < level < 1:
        raise InputError(f"level is a share between 0 and 1, got {level}")
    pairs = _Pairs(ratings, scale)
    if pairs.units < 2:
        raise InputError(f"an interval of alpha needs at least two units with two values, got {pairs.units}")
    estimate = float(_alphas(pairs, None)[0])
    if np.isnan(estimate):
        raise InputError("alpha is not defined where all values are equal, so it has no interval")
    drawn = generator.multinomial(pairs.units, np.full(pairs.units, 1 / pairs.units), size=resamples)
    alphas = _alphas(pairs, drawn.astype(np.float64))
    alphas = alphas[~np.isnan(alphas)]
    if np.ptp(alphas) == 0 and alphas[0] == estimate:
        return Interval(estimate, estimate, estimate, level, pairs.units, "constant")
    low, high = np.quantile(alphas, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(estimate, low, high, level, pairs.units, "percentile")


class _Pairs:
    """The pairable values, unit by unit: counts of each value, and the coincidences of each two."""

    def __init__(self, ratings: np.ndarray, scale: Scale) -> None:
        table = np.asarray(ratings, np.float64)
        if scale not in get_args(Scale):
            raise InputError(f"there is no scale {scale!r}: choose from {', '.join(get_args(Scale))}")
        if np.isinf(table).any():
            raise InputError("ratings are finite, or NaN where there is none; got an infinite one")
        table = table[:, (~np.isnan(table)).sum(0) >= 2]
        self.scale = scale
        self.values = np.unique(table[~np.isnan(table)])
        if scale == "ratio" and (self.values < 0).any():
            raise InputError("a ratio scale has no negative values; choose the interval scale")
        self.counts = (table[None] == self.values[:, None, None]).sum(1).T.astype(np.float64)  # [units, values]
        self.units = len(self.counts)
        m = self.counts.sum(1)
        together = self.counts[:, :, None] * self.counts[:, None, :]
        together[:, range(len(self.values)), range(len(self.values))] -= self.counts  # a value is no pair with itself
        self.coincidences = together / (m - 1)[:, None, None]


def _alphas(pairs: _Pairs, times: Float[np.ndarray, "draws units"] | None) -> Float[np.ndarray, " draws"]:
    """α where each unit counts as often as `times` says; once by default."""
    weights = np.ones((1, pairs.units)) if times is None else times
    totals = weights @ pairs.counts
    within = np.tensordot(weights, pairs.coincidences, 1)
    distances = _distances(pairs.values, totals, pairs.scale)
    n = totals.sum(1)
    observed = (within * distances).sum((1, 2))
    expected = (totals[:, :, None] * totals[:, None, :] * distances).sum((1, 2))
    defined = expected > _ROUNDING
    out = np.full(len(weights), np.nan)
    out[defined] = 1 - (n[defined] - 1) * observed[defined] / expected[defined]
    return out


def _distances(values: np.ndarray, totals: np.ndarray, scale: Scale) -> Float[np.ndarray, "draws v v"]:
    if scale == "nominal":
        return 1.0 - np.eye(len(values))[None]
    if scale == "ordinal":
        places = np.cumsum(totals, 1) - totals / 2
        return np.asarray((places[:, :, None] - places[:, None, :]) ** 2)
    differences = values[:, None] - values[None, :]
    if scale == "ratio":
        sums = values[:, None] + values[None, :]
        differences = np.divide(differences, sums, out=np.zeros_like(sums), where=sums > 0)
    return np.asarray(differences[None] ** 2)
