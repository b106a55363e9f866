"""What firing says of the class. All of it from the active entries, never from an [n, d_sae] matrix."""

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64, Shaped

from unweave.metrics.entries import Entries, stable_order


def label_counts(
    entries: Entries, label: Int64[np.ndarray, " n"], classes: int, *, weighted: bool = False
) -> Float[np.ndarray, "d_sae classes"]:
    """For each latent and class, the rows of the class on which it fires, counted or weighted by its value."""
    key = entries.latent() * np.int64(classes) + label[entries.row]
    weights = entries.value if weighted else None
    table = np.bincount(key, weights=weights, minlength=entries.d_sae * classes)
    return np.asarray(table.reshape(entries.d_sae, classes), np.float64)


def mutual_information(
    counts: Float[np.ndarray, "*m classes"], class_totals: Int64[np.ndarray, " classes"]
) -> Float[np.ndarray, "*m"]:
    """Information between "the latent fires" and the class, in bits.

    I = Σ_{f ∈ {0,1}} Σ_c p(f,c) log2( p(f,c) / p(f) p(c) ), from counts of firing rows by class and class totals. Its
    expectation under independence is not 0 but about (classes − 1) / (2 n ln 2): compare with a null.
    """
    n = class_totals.sum()
    fires = counts.sum(-1, keepdims=True)
    total: Float[np.ndarray, "*m"] = np.zeros(counts.shape[:-1])
    for joint, side in ((counts, fires), (class_totals - counts, n - fires)):
        ratio = np.divide(joint * n, side * class_totals, out=np.ones_like(counts), where=joint > 0)
        total += (joint * np.log2(ratio)).sum(-1)
    return np.asarray(np.maximum(total / n, 0.0))


def top_class_share(
    counts: Float[np.ndarray, "d_sae classes"],
) -> tuple[Int64[np.ndarray, " d_sae"], Float[np.ndarray, " d_sae"]]:
    """The class that makes up most of the rows on which a latent fires, and its share of them (0 where none)."""
    fires = np.maximum(counts.sum(1), 1e-300)
    best = counts.argmax(1)
    return best, counts[np.arange(len(counts)), best] / fires


def average_precision(
    entries: Entries, label: Int64[np.ndarray, " n"], classes: int
) -> Float[np.ndarray, "d_sae classes"]:
    """Average precision of each latent as a detector of each class: Σ_t (recall_t − recall_{t−1}) · precision_t.

    Rows are ranked by value; equal values form one threshold, and so do all rows on which the latent does not fire. The
    same number as scikit-learn's `average_precision_score`, without dense columns.
    """
    order = entries.strongest_first()
    latent, value = entries.latent(), entries.value[order]
    pair = latent * np.int64(classes) + label[entries.row[order]]
    counts = np.bincount(pair, minlength=entries.d_sae * classes)
    # Each entry's threshold, and how many entries of its latent lie above its end.
    ends = _last_of_runs(value, latent)
    threshold = np.cumsum(ends) - ends
    rank = (np.flatnonzero(ends) + 1)[threshold] - entries.offsets[latent]
    # The same within the entries of one latent and class, which all classes together pass through once.
    grouped = stable_order(pair, len(counts))
    pair = pair[grouped]
    ends = _last_of_runs(threshold[grouped], pair)
    found = (np.flatnonzero(ends) + 1)[np.cumsum(ends) - ends] - (np.cumsum(counts) - counts)[pair]
    gained = np.bincount(pair, weights=found / rank[grouped], minlength=len(counts)).reshape(-1, classes)
    totals = np.bincount(label, minlength=classes)
    silent = totals - counts.reshape(-1, classes)
    return np.asarray((gained + silent * totals / entries.n) / np.maximum(totals, 1))


def _last_of_runs(first: Shaped[np.ndarray, " n"], second: Shaped[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether an entry is the last before either of two arrays changes."""
    last = np.ones(len(first), bool)
    last[:-1] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return last


def purity_of_top(
    top_latent: Int32[np.ndarray, " m"], top_label: Int64[np.ndarray, " m"], d_sae: int, classes: int
) -> Float[np.ndarray, " d_sae"]:
    """Share of the most frequent class among a latent's strongest examples (0 where it has none)."""
    table = np.bincount(top_latent * np.int64(classes) + top_label, minlength=d_sae * classes).reshape(d_sae, classes)
    return np.asarray(table.max(1) / np.maximum(table.sum(1), 1))
