"""Corrections for many tests at once."""

import numpy as np
from jaxtyping import Float
from scipy.stats import false_discovery_control


def benjamini_hochberg(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """q-values: the smallest false discovery rate at which each test is called (Benjamini and Hochberg, 1995)."""
    return np.asarray(false_discovery_control(p)) if len(p) else p
