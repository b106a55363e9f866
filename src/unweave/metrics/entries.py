"""Active entries of codes, latent by latent: what every per-latent number is computed from."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, Int64
from scipy.sparse import csr_matrix

from unweave.core.codes import Codes


@dataclass(frozen=True, eq=False)
class Entries:
    """Active entries grouped by latent: those of latent j are `[offsets[j]:offsets[j+1]]`, in the order of rows.

    `row` indexes `n` rows; `value` is never zero.
    """

    offsets: Int64[np.ndarray, " d_sae_plus_1"]
    row: Int32[np.ndarray, " nnz"]
    value: Float32[np.ndarray, " nnz"]
    n: int

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> Int64[np.ndarray, " d_sae"]:
        """Number of rows on which each latent fires."""
        return np.diff(self.offsets)

    def latent(self) -> Int32[np.ndarray, " nnz"]:
        """Latent of each entry."""
        return np.repeat(np.arange(self.d_sae, dtype=np.int32), self.counts)

    def strongest(self, most: int) -> "Entries":
        """The `most` largest entries of each latent, and all that equal the last of them."""
        keep = np.ones(len(self.value), bool)
        for latent in np.flatnonzero(self.counts > most):
            place = slice(self.offsets[latent], self.offsets[latent + 1])
            value = self.value[place]
            keep[place] = value >= np.partition(value, len(value) - most)[len(value) - most]
        kept = np.concatenate([[0], np.cumsum(keep)])
        return Entries(kept[self.offsets], self.row[keep], self.value[keep], self.n)

    def strongest_first(self) -> Int64[np.ndarray, " nnz"]:
        """Order of the entries by latent, then falling value, then row."""
        by_value = np.argsort(-self.value, kind="stable")
        return np.asarray(by_value[stable_order(self.latent()[by_value], self.d_sae)])


def by_latent(codes: Codes) -> Entries:
    """Group the active entries of codes by latent, in time proportional to their number."""
    columns = csr_matrix((codes.value, codes.latent, codes.offsets), shape=(codes.n, codes.d_sae)).tocsc()
    return Entries(columns.indptr.astype(np.int64), columns.indices.astype(np.int32), columns.data, codes.n)


def by_example(entries: Entries, example: Int64[np.ndarray, " n"]) -> Entries:
    """Entries with examples for rows: an example activates a latent when one of its rows does, with the largest value.

    Args:
        entries: entries over rows.
        example: example of each row, counted from 0.
    """
    n = int(example.max()) + 1 if len(example) else 0
    if n == len(example) and np.array_equal(example, np.arange(n)):
        return entries
    key = entries.latent().astype(np.int64) * n + example[entries.row]
    order = np.argsort(key, kind="stable")  # all but sorted already where an example's rows follow each other
    key = key[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    largest = np.maximum.reduceat(entries.value[order], starts) if len(starts) else entries.value
    latent, row = np.divmod(key[starts], n)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(latent, minlength=entries.d_sae))])
    return Entries(offsets.astype(np.int64), row.astype(np.int32), largest, n)


def stable_order(keys: Int32[np.ndarray, " n"], n_keys: int) -> Int64[np.ndarray, " n"]:
    """Indices that sort small whole-number keys, equal ones in their order: a counting sort."""
    one_each = csr_matrix((np.ones(len(keys), np.int8), keys, np.arange(len(keys) + 1)), shape=(len(keys), n_keys))
    return np.asarray(one_each.tocsc().indices, np.int64)
