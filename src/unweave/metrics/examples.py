"""Examples of a latent: those that activate it most, some from its whole range, some at random."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from unweave.core.codes import Codes
from unweave.metrics.entries import Entries, one_an_example


@dataclass(frozen=True, eq=False)
class TopExamples:
    """Some entries of each latent, latent by latent, in the order they are shown; `rank` counts from 0."""

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
    value = codes.value / _row_lengths(codes)[codes.row()]
    return Codes(codes.offsets, codes.latent, value.astype(np.float32), codes.d_sae)


def _row_lengths(codes: Codes) -> Float64[np.ndarray, " n"]:
    return np.sqrt(np.bincount(codes.row(), weights=codes.value.astype(np.float64) ** 2, minlength=codes.n))


def relative_entries(codes: Codes, entries: Entries) -> Entries:
    """The same of entries: each value divided by the Euclidean length of its row's codes."""
    value = (entries.value / _row_lengths(codes)[entries.row]).astype(np.float32)
    return Entries(entries.offsets, entries.row, value, entries.n)


@dataclass(frozen=True, eq=False)
class RankedExamples:
    """All examples that activate a latent, strongest first: those of latent j are `[offsets[j]:offsets[j+1]]`."""

    offsets: Int64[np.ndarray, " d_sae_plus_1"]
    row: Int32[np.ndarray, " m"]
    value: Float32[np.ndarray, " m"]

    def strongest(self, most: int) -> TopExamples:
        """The up to `most` strongest of each latent."""
        return self._at(most, lambda rank, _taken, _count, _latent: rank)

    def spread(self, most: int) -> TopExamples:
        """Up to `most` at equally spaced ranks, from the strongest to the weakest.

        Of m examples k = min(most, m) are taken, those at the ranks i (m − 1) / (k − 1), rounded, for i = 0 … k − 1:
        quantiles of the latent's values where it fires.
        """

        def place(rank: np.ndarray, taken: np.ndarray, count: np.ndarray, _latent: np.ndarray) -> np.ndarray:
            gaps = np.maximum(taken - 1, 1)
            return np.asarray((2 * rank * (count - 1) + gaps) // (2 * gaps))  # rounded in whole numbers, halves up

        return self._at(most, place)

    def drawn(self, most: int, generator: np.random.Generator) -> TopExamples:
        """Up to `most` drawn at random without replacement, each as likely; the first few are such a draw too."""
        chosen = _draws(np.diff(self.offsets), most, generator)
        return self._at(most, lambda rank, _taken, _count, latent: chosen[latent, rank])

    def _at(self, most: int, place: Callable[..., np.ndarray]) -> TopExamples:
        """The examples at places that follow from rank, number taken, number there and latent."""
        count = np.diff(self.offsets)
        taken = np.minimum(count, most)
        latent = np.repeat(np.arange(len(count), dtype=np.int32), taken)
        rank = np.arange(len(latent)) - np.repeat(np.cumsum(taken) - taken, taken)
        chosen = self.offsets[latent] + place(rank, taken[latent], count[latent], latent)
        return TopExamples(latent, rank, self.row[chosen], self.value[chosen])


def ranked_examples(entries: Entries, example: Int64[np.ndarray, " n"] | None = None) -> RankedExamples:
    """All examples of each latent, strongest first; equal values in the order of rows.

    Args:
        entries: active entries of each latent.
        example: example of each row, where several belong to one: then only its strongest row stands for it.
    """
    if example is not None:
        entries = one_an_example(entries, example)
    order = entries.strongest_first()
    return RankedExamples(entries.offsets, entries.row[order], entries.value[order])


def _draws(count: Int64[np.ndarray, " m"], most: int, generator: np.random.Generator) -> Int64[np.ndarray, "m most"]:
    """Different whole numbers below each count, in random order; where there are fewer than `most`, all, then junk.

    Floyd's algorithm, for all counts at once (Bentley and Floyd, 1987, "A sample of brilliance").
    """
    chosen = np.full((len(count), most), -1, np.int64)
    for step in range(most):
        last = np.maximum(count - most, 0) + step
        drawn = generator.integers(0, last + 1)
        taken = (chosen == drawn[:, None]).any(1) | (count <= most)
        chosen[:, step] = np.where(taken, last, drawn)
    key = generator.random(chosen.shape)
    key[np.arange(most) >= count[:, None]] = np.inf
    return np.take_along_axis(chosen, key.argsort(1), 1)
