"""Corrections for many tests at once."""

import numpy as np
import scipy
from jaxtyping import Float


def benjamini_hochberg(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """q-values: the smallest false discovery rate at which each test is called (Benjamini and Hochberg, 1995)."""
    return np.asarray(scipy.stats.false_discovery_control(p)) if len(p) else p


def holm(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Adjusted p-values that hold the chance of any false claim among m tests (Holm, 1979), however they depend.

    The smallest p times m, the next times m − 1, and so on; never below the one before, at most 1.
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
