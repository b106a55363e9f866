"""Which latents fire on the same rows, against what would be so by chance."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int64

from unweave.core.codes import Codes


@dataclass(frozen=True, eq=False)
class Coactivation:
    """One latent beside each of all latents, over n rows; c and c_k are the rows on which they fire.

    Attributes:
        shared: rows on which both fire, s.
        expected: the same if they fired independently, c c_k / n.
        lift: s / expected; NaN where nothing is expected.
        jaccard: s / (c + c_k − s), the share of both in either; 0 where neither fires.
        z: (s − expected) / σ, with σ² = expected (1 − c/n) (1 − c_k/n) n / (n − 1): the hypergeometric deviation of s
            where each fires as often as it does, on random rows; NaN where σ is 0. It is no normal variable where
            little is expected. Where every row has as many active latents (TopK), latents repel each other slightly.
    """

    shared: Int64[np.ndarray, " d_sae"]
    expected: Float[np.ndarray, " d_sae"]
    lift: Float[np.ndarray, " d_sae"]
    jaccard: Float[np.ndarray, " d_sae"]
    z: Float[np.ndarray, " d_sae"]


def shared_rows(codes: Codes, rows: Int[np.ndarray, " m"]) -> Int64[np.ndarray, " d_sae"]:
    """On how many of some rows each latent fires; of the codes nothing but these rows is read."""
    start = codes.offsets[rows]
    length = codes.offsets[rows + np.int64(1)] - start
    first = np.cumsum(length) - length
    entry = np.repeat(start - first, length) + np.arange(length.sum())
    return np.bincount(codes.latent[entry], minlength=codes.d_sae)


def coactivation(
    shared: Int64[np.ndarray, " d_sae"], count: int, counts: Int64[np.ndarray, " d_sae"], n: int
) -> Coactivation:
    """How far the rows that a latent shares with each other one go beyond independence.

    Args:
        shared: rows on which both fire.
        count: rows on which the latent fires.
        counts: rows on which each of the others does.
        n: all rows.
    """
    expected = count * counts / max(n, 1)
    either = count + counts - shared
    variance = expected * (1 - count / max(n, 1)) * (1 - counts / max(n, 1)) * (n / max(n - 1, 1))
    nothing = np.full(len(counts), np.nan)
    return Coactivation(
        shared=shared,
        expected=expected,
        lift=np.divide(shared, expected, out=nothing.copy(), where=expected > 0),
        jaccard=np.divide(shared, either, out=np.zeros(len(counts)), where=either > 0),
        z=np.divide(shared - expected, np.sqrt(variance), out=nothing, where=variance > 0),
    )
