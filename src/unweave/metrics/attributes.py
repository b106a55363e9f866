"""Which of many yes-or-no attributes go with which latents."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from unweave.metrics.entries import Entries


class RankedEntries:
    """Entries ordered once, so that average precision for any attribute costs no more sorting."""

    def __init__(self, entries: Entries) -> None:
        order = entries.strongest_first()
        self._latent, value = entries.latent(), entries.value[order]
        self._row = entries.row[order]
        self.n, self.d_sae = entries.n, entries.d_sae
        self._start = entries.offsets[self._latent]
        last = np.ones(len(order), dtype=bool)
        last[:-1] = (value[1:] != value[:-1]) | (self._latent[1:] != self._latent[:-1])
        ends = np.flatnonzero(last)
        self._end = ends[np.searchsorted(ends, np.arange(len(order)))] if len(order) else ends

    def average_precision(self, has: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " d_sae"]:
        """Each latent as a detector of the rows that have something: Σ_t (recall_t − recall_{t−1}) · precision_t.

        Equal values form one threshold, and so do all rows on which the latent does not fire. A latent that never fires
        scores the share of rows that have it.
        """
        hit = has[self._row]
        hits = np.concatenate([[0], np.cumsum(hit)])
        total = int(has.sum())
        precision = (hits[self._end + 1] - hits[self._start]) / (self._end - self._start + 1)
        gained = np.bincount(self._latent[hit], weights=precision[hit], minlength=self.d_sae)
        silent = total - np.bincount(self._latent[hit], minlength=self.d_sae)
        return np.asarray((gained + silent * total / self.n) / max(total, 1))


@dataclass(frozen=True, eq=False)
class BestLatents:
    """For each attribute the latent that detects it best, and what the best of as many latents reaches by chance.

    Attributes:
        latent: index of the best.
        precision: its average precision.
        null: 95th percentile, over permutations of the images, of the best latent's average precision.
        share: share of images that have the attribute, what a latent reaches that knows nothing.
    """

    latent: Int64[np.ndarray, " attributes"]
    precision: Float[np.ndarray, " attributes"]
    null: Float[np.ndarray, " attributes"]
    share: Float[np.ndarray, " attributes"]


def best_latents(
    entries: Entries, has: Bool[np.ndarray, "n attributes"], *, permutations: int, generator: np.random.Generator
) -> BestLatents:
    """The best latent for each attribute, chosen over all latents, beside the same choice on permuted images.

    Args:
        entries: active entries, of one row an image.
        has: which image has what.
        permutations: of the images; all attributes move together.
        generator: of the permutations.
    """
    ranked = RankedEntries(entries)
    found = np.stack([ranked.average_precision(column) for column in has.T])
    nulls = np.zeros((permutations, has.shape[1]))
    for turn in range(permutations):
        order = generator.permutation(len(has))
        nulls[turn] = [ranked.average_precision(column).max() for column in has[order].T]
    latent = found.argmax(1)
    return BestLatents(
        latent=latent.astype(np.int64),
        precision=found[np.arange(len(latent)), latent],
        null=np.quantile(nulls, 0.95, axis=0),
        share=has.mean(0),
    )
