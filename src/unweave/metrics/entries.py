"""Active entries of codes, latent by latent: what every per-latent number is computed from."""

import itertools
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float32, Int, Int32, Int64

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

    def of(self, latent: int) -> tuple[Int32[np.ndarray, " m"], Float32[np.ndarray, " m"]]:
        """Rows and values of one latent, as views."""
        place = slice(self.offsets[latent], self.offsets[latent + 1])
        return self.row[place], self.value[place]

    def strongest_first(self) -> Int64[np.ndarray, " nnz"]:
        """Order of the entries by latent, then falling value, then row."""
        bits = self.value.view(np.uint32)
        # Falling floats as rising whole numbers; with the place below them one plain sort of numbers does it all.
        falling = bits ^ np.where(bits >> 31, np.uint32(0), np.uint32(0x7FFFFFFF))
        start = np.repeat(self.offsets[:-1], self.counts)
        key = (falling.astype(np.uint64) << np.uint64(32)) | (np.arange(len(bits)) - start).astype(np.uint64)
        bounds = self.offsets.tolist()
        for first, last in itertools.pairwise(bounds):
            key[first:last].sort()
        return np.asarray(start + (key & np.uint64(0xFFFFFFFF)).astype(np.int64))


def by_latent(codes: Codes) -> Entries:
    """Group the active entries of codes by latent, in time proportional to their number."""
    columns = scipy.sparse.csr_matrix((codes.value, codes.latent, codes.offsets), shape=(codes.n, codes.d_sae)).tocsc()
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
    order, key, starts = _runs(entries, example, n)
    largest = np.maximum.reduceat(entries.value[order], starts) if len(starts) else entries.value
    latent, row = np.divmod(key[starts], n)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(latent, minlength=entries.d_sae))])
    return Entries(offsets.astype(np.int64), row.astype(np.int32), largest, n)


def one_an_example(entries: Entries, example: Int64[np.ndarray, " n"]) -> Entries:
    """Of each latent and example the entry of largest value, the first of equals; `row` still indexes rows.

    Args:
        entries: entries over rows.
        example: example of each row, counted from 0.
    """
    n = int(example.max()) + 1 if len(example) else 0
    if len(np.unique(example)) == len(example) or not len(entries.row):
        return entries
    order, _, starts = _runs(entries, example, n)
    value = entries.value[order]
    run = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(value)))
    largest = np.flatnonzero(value == np.maximum.reduceat(value, starts)[run])
    kept = np.sort(order[largest[np.diff(run[largest], prepend=-1) > 0]])
    counts = np.bincount(entries.latent()[kept], minlength=entries.d_sae)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Entries(offsets, entries.row[kept], entries.value[kept], entries.n)


def _runs(
    entries: Entries, example: Int64[np.ndarray, " n"], n: int
) -> tuple[Int64[np.ndarray, " nnz"], Int64[np.ndarray, " nnz"], Int64[np.ndarray, " runs"]]:
    """Order of the entries by latent, example and row; the keys latent · n + example so ordered; where each begins."""
    key = entries.latent().astype(np.int64) * n + example[entries.row]
    order = np.argsort(key, kind="stable")  # all but sorted already where an example's rows follow each other
    key = key[order]
    return order, key, np.flatnonzero(np.diff(key, prepend=-1))


def stable_order(keys: Int[np.ndarray, " n"], n_keys: int) -> Int64[np.ndarray, " n"]:
    """Indices that sort small whole-number keys, equal ones in their order: a counting sort."""
    one_each = scipy.sparse.csr_matrix(
        (np.ones(len(keys), np.int8), keys, np.arange(len(keys) + 1)), shape=(len(keys), n_keys)
    )
    return np.asarray(one_each.tocsc().indices, np.int64)
