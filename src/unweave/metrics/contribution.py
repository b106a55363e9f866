"""How much of the rows each latent carries."""

import numpy as np
from jaxtyping import Float

from unweave.metrics.entries import Entries


def contribution_shares(
    entries: Entries,
    lengths: Float[np.ndarray, " d_sae"],
    variance: float,
    scales: Float[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " d_sae"]:
    """Mean square of what each latent adds to a row, as a share of the rows' variance: E[(s f)²] ‖d‖² / V.

    The mean is over all rows, also those where the latent is silent. Shares do not add up to the explained variance:
    directions overlap, and what is the same in all rows counts as well.

    Args:
        entries: active entries of each latent, f.
        lengths: ‖d‖, the length of each latent's direction.
        variance: V, the mean squared distance of the rows to their mean.
        scales: s, how many times its direction one unit of a latent adds to each row; 1 by default.

    Returns:
        The shares; NaN where all rows are the same.
    """
    added = entries.value.astype(np.float64)
    if scales is not None:
        added *= scales[entries.row]
    squares = np.bincount(entries.latent(), weights=added**2, minlength=entries.d_sae)
    if variance <= 0 or not entries.n:
        return np.full(entries.d_sae, np.nan)
    return np.asarray(squares / entries.n * lengths.astype(np.float64) ** 2 / variance)
