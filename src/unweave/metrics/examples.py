"""The examples that activate a latent most."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, Int64

from unweave.core.codes import Codes
from unweave.metrics.entries import Entries


@dataclass(frozen=True, eq=False)
class TopExamples:
    """The strongest entries of each latent, latent by latent, strongest first; `rank` counts from 0."""

    latent: Int32[np.ndarray, " m"]
    rank: Int64[np.ndarray, " m"]
    row: Int32[np.ndarray, " m"]
    value: Float32[np.ndarray, " m"]


def top_examples(entries: Entries, most: int) -> TopExamples:
    """The up to `most` rows on which each latent fires strongest; equal values in the order of rows."""
    order = entries.strongest_first()
    latent = entries.latent()
    rank = np.arange(len(order)) - entries.offsets[latent]
    kept = rank < most
    chosen = order[kept]
    return TopExamples(latent[kept], rank[kept], entries.row[chosen], entries.value[chosen])


def relative(codes: Codes) -> Codes:
    """Codes with every row at Euclidean length 1: a latent's share in its row rather than its value."""
    length = np.sqrt(np.bincount(codes.row(), weights=codes.value.astype(np.float64) ** 2, minlength=codes.n))
    value = codes.value / length[codes.row()]
    return Codes(codes.offsets, codes.latent, value.astype(np.float32), codes.d_sae)
