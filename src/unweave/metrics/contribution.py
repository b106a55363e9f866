"""How much of the rows each latent carries."""

import numpy as np
from jaxtyping import Float

from unweave.metrics.entries import Entries


def contribution_shares(
    entries: Entries, lengths: Float[np.ndarray, " d_sae"], variance: float
) -> Float[np.ndarray, " d_sae"]:
    """Mean square of what each latent adds to a row, as a share of the rows' variance: E[f²] ‖d‖² / V.

    The mean is over all rows, also those where the latent is silent. Shares do not add up to the explained variance:
    directions overlap, and what is the same in all rows counts as well.

    Args:
        entries: active entries of each latent, f.
        lengths: ‖d‖, the length of what one unit of each latent adds to a row.
        variance: V, the mean squared distance of the rows to their mean.

    Returns:
        The shares; NaN where all rows are the same.
    """
    squares = np.bincount(entries.latent(), weights=entries.value.astype(np.float64) ** 2, minlength=entries.d_sae)
    if variance <= 0 or not entries.n:
        return np.full(entries.d_sae, np.nan)
    return np.asarray(squares / entries.n * lengths.astype(np.float64) ** 2 / variance)
