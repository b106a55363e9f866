"""How far seeds bring a number apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy


@dataclass(frozen=True)
class Spread:
    """Mean of a metric over seeds, with its 95 % t-interval; NaN ends from one seed."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]

    @staticmethod
    def of(values: Sequence[float], *, level: float = 0.95) -> "Spread":
        """From one value a seed: mean ± t · s / √n with Student's t of n − 1 degrees of freedom."""
        mean, n = float(np.mean(values)), len(values)
        if n < 2:
            return Spread(mean, math.nan, math.nan, tuple(values))
        half = float(scipy.stats.t.ppf((1 + level) / 2, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
        return Spread(mean, mean - half, mean + half, tuple(values))
