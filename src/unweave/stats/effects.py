"""Effect sizes: how large a difference is, apart from how sure one can be of it."""

import math

import numpy as np
import scipy
from jaxtyping import Real

from unweave.core.errors import InputError


def cohens_d(first: Real[np.ndarray, " n"], second: Real[np.ndarray, " m"]) -> float:
    """Difference of means in standard deviations: d = (x̄ − ȳ) / s (Cohen, 1988).

    s² = ((n − 1) s_x² + (m − 1) s_y²) / (n + m − 2), the pooled variance. Without any spread d is 0 where the means are
    equal, else infinite.

    Raises:
        InputError: a sample is empty, or both together have fewer than 3 values.
    """
    n, m = len(first), len(second)
    if n < 1 or m < 1 or n + m < 3:
        raise InputError(f"a standardised difference needs at least 3 values in two samples, got {n} and {m}")
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    difference = float(x.mean() - y.mean())
    pooled = math.sqrt((float(((x - x.mean()) ** 2).sum()) + float(((y - y.mean()) ** 2).sum())) / (n + m - 2))
    scale = max(float(np.abs(x).max()), float(np.abs(y).max()))
    if pooled <= 1e-12 * scale:
        return 0.0 if abs(difference) <= 1e-12 * scale else math.copysign(math.inf, difference)
    return difference / pooled


def hedges_g(first: Real[np.ndarray, " n"], second: Real[np.ndarray, " m"]) -> float:
    """Cohen's d without its bias in small samples: g = J(n + m − 2) d (Hedges, 1981).

    J(f) = Γ(f/2) / (√(f/2) Γ((f − 1)/2)), close to 1 − 3 / (4f − 1).

    Raises:
        InputError: both samples together have fewer than 4 values, or one is empty.
    """
    free = len(first) + len(second) - 2
    if free < 2:
        raise InputError(f"Hedges' g needs at least 4 values in two samples, got {len(first)} and {len(second)}")
    correction = math.exp(math.lgamma(free / 2) - math.lgamma((free - 1) / 2)) / math.sqrt(free / 2)
    return correction * cohens_d(first, second)


def cliffs_delta(first: Real[np.ndarray, " n"], second: Real[np.ndarray, " m"]) -> float:
    """How much more often a value of the first sample is the larger: δ = P(x > y) − P(x < y) (Cliff, 1993).

    From 1 (every x above every y) to −1; ties count for neither. It is also the rank-biserial correlation of two
    independent samples, 2U / (n m) − 1 with the U of Mann and Whitney.

    Raises:
        InputError: a sample is empty.
    """
    n, m = len(first), len(second)
    if not n or not m:
        raise InputError(f"Cliff's delta needs a value in each sample, got {n} and {m}")
    ranks = scipy.stats.rankdata(np.concatenate([np.asarray(first, np.float64), np.asarray(second, np.float64)]))
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    return 2 * u / (n * m) - 1


def rank_biserial(first: Real[np.ndarray, " n"], second: Real[np.ndarray, " n"]) -> float:
    """Matched-pairs rank-biserial correlation: r = (T₊ − T₋) / (T₊ + T₋) (Kerby, 2014).

    T₊ and T₋ are the rank sums of positive and negative differences x_i − y_i, as in Wilcoxon's signed-rank test; pairs
    without a difference do not count. 0 where no pair differs. For independent samples see `cliffs_delta`.

    Raises:
        InputError: there are no pairs.
    """
    if not len(first):
        raise InputError("a rank-biserial correlation needs at least one pair")
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    differences = differences[differences != 0]
    if not len(differences):
        return 0.0
    ranks = scipy.stats.rankdata(np.abs(differences))
    return float((ranks * np.sign(differences)).sum() / ranks.sum())
