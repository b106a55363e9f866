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


def top_examples(entries: Entries, most: int, example: Int64[np.ndarray, " n"] | None = None) -> TopExamples:
    """The up to `most` rows on which each latent fires strongest; equal values in the order of rows.

    Args:
        entries: active entries of each latent.
        most: rows of a latent.
        example: example of each row, where several belong to one: then only its strongest row stands for it.
    """
    rows_each = 1 if example is None else int(np.bincount(example).max(initial=1))
    entries = entries.strongest(most * rows_each)  # so many rows hold `most` examples, however they fall
    order = entries.strongest_first()
    latent = entries.latent()
    if example is not None:
        key = latent * np.int64(example.max(initial=0) + 1) + example[entries.row[order]]
        first = np.sort(np.unique(key, return_index=True)[1])
        order, latent = order[first], latent[first]
    rank = np.arange(len(order)) - np.searchsorted(latent, np.arange(entries.d_sae))[latent]
    kept = rank < most
    chosen = order[kept]
    return TopExamples(latent[kept], rank[kept], entries.row[chosen], entries.value[chosen])


def relative(codes: Codes) -> Codes:
    """Codes with every row at Euclidean length 1: a latent's share in its row rather than its value."""
    length = np.sqrt(np.bincount(codes.row(), weights=codes.value.astype(np.float64) ** 2, minlength=codes.n))
    value = codes.value / length[codes.row()]
    return Codes(codes.offsets, codes.latent, value.astype(np.float32), codes.d_sae)
