"""How often and how strongly latents fire."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64

from unweave.core.codes import Codes
from unweave.metrics.entries import Entries


def l0(codes: Codes) -> float:
    """Mean count of non-zero latents a row."""
    return codes.nnz / codes.n if codes.n else 0.0


@dataclass(frozen=True, eq=False)
class Firing:
    """Each latent's firing: number of rows, mean value where it fires, largest value (0 where it never does)."""

    count: Int64[np.ndarray, " d_sae"]
    mean: Float[np.ndarray, " d_sae"]
    max: Float[np.ndarray, " d_sae"]
    n: int

    @property
    def rate(self) -> Float[np.ndarray, " d_sae"]:
        """Share of rows on which each latent fires."""
        return self.count / max(self.n, 1)

    def status(self, *, live_share: float, dense_share: float) -> list[str]:
        """`dead` fires on no row, `rare` on up to live_share of them, `dense` on more than dense_share, else `live`."""
        rate = self.rate
        conditions = [self.count == 0, rate <= live_share, rate > dense_share]
        return [str(name) for name in np.select(conditions, ["dead", "rare", "dense"], "live")]


def firing(entries: Entries) -> Firing:
    """Firing of every latent."""
    latent = entries.latent()
    total = np.bincount(latent, weights=entries.value, minlength=entries.d_sae)
    largest = np.zeros(entries.d_sae, np.float64)
    fires = entries.counts > 0
    if fires.any():
        largest[fires] = np.maximum.reduceat(entries.value, entries.offsets[:-1][fires])
    return Firing(entries.counts, total / np.maximum(entries.counts, 1), largest, entries.n)


def histograms(entries: Entries, bins: int) -> tuple[Int64[np.ndarray, "d_sae bins"], Float32[np.ndarray, " d_sae"]]:
    """Histogram of each latent's values where it fires, over `bins` equal parts of [0, its largest value].

    Returns:
        Counts, and the upper end of each latent's range.
    """
    largest = firing(entries).max
    latent = entries.latent()
    place = np.minimum((entries.value / largest[latent] * bins).astype(np.int64), bins - 1)
    counts = np.bincount(latent * np.int64(bins) + place, minlength=entries.d_sae * bins)
    return counts.reshape(entries.d_sae, bins), largest.astype(np.float32)
