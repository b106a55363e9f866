"""Power: what a comparison of two samples could have seen."""

import math

import scipy

from unweave.core.errors import InputError

_LARGEST = 1e4


def t_power(d: float, n: int, m: int, *, alpha: float = 0.05) -> float:
    """Chance that a two-sided t-test of two samples finds a true difference of d standard deviations.

    P(|T| > t_crit) for T of the noncentral t distribution with n + m − 2 degrees of freedom and noncentrality
    d √(n m / (n + m)) (Cohen, 1988).

    Raises:
        InputError: fewer than two values in a sample, or alpha is no share.
    """
    if min(n, m) < 2 or not 0 < alpha < 1:
        raise InputError(f"power needs two values in each sample and 0 < alpha < 1, got {n}, {m} and {alpha}")
    df = n + m - 2
    centre = abs(d) * math.sqrt(n * m / (n + m))
    critical = float(scipy.stats.t.isf(alpha / 2, df))
    upper, lower = float(scipy.stats.nct.sf(critical, df, centre)), float(scipy.stats.nct.cdf(-critical, df, centre))
    return min(1.0, upper + (0.0 if math.isnan(lower) else lower))  # that tail is below what nct can compute


def detectable_difference(n: int, m: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference, in standard deviations, that a two-sided t-test finds with the given power.

    Raises:
        InputError: fewer than two values in a sample, alpha is no share, or the power is not between alpha and 1.
    """
    if not alpha < power < 1:
        raise InputError(f"power lies between alpha and 1, got {power} with alpha {alpha}")
    t_power(0.0, n, m, alpha=alpha)  # says what is wrong with n, m, alpha
    high = 1.0
    while t_power(high, n, m, alpha=alpha) < power:
        high *= 2
        assert high < _LARGEST
    return float(scipy.optimize.brentq(lambda d: t_power(d, n, m, alpha=alpha) - power, 0.0, high, xtol=1e-9))
