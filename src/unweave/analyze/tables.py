"""The atlas's tables, from codes and labels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int64

from unweave.analyze.atlas import ORDERS, Analysis
from unweave.core.codes import Codes
from unweave.core.errors import InputError
from unweave.metrics.entries import Entries, stable_order
from unweave.metrics.examples import ranked_examples, relative_entries, top_examples
from unweave.metrics.labels import average_precision, label_counts, mutual_information, purity_of_top, top_class_share
from unweave.metrics.sparsity import Firing
from unweave.stats.multiple import benjamini_hochberg
from unweave.stats.permutation import label_permutation_p


@dataclass(frozen=True, eq=False)
class LabelTables:
    """What firing says of the class, latent by latent, counted over examples."""

    class_names: list[str]
    class_totals: Int64[np.ndarray, " classes"]
    counts: Float[np.ndarray, "d_sae classes"]
    weights: Float[np.ndarray, "d_sae classes"]
    information: Float[np.ndarray, " d_sae"]
    p: Float[np.ndarray, " d_sae"]
    q: Float[np.ndarray, " d_sae"]
    top_class: Int64[np.ndarray, " d_sae"]
    top_share: Float[np.ndarray, " d_sae"]
    precision: Float[np.ndarray, "d_sae classes"]
    purity: Float[np.ndarray, " d_sae"]

    def long_columns(self) -> dict[str, np.ndarray]:
        """One row for each latent and class: firing examples counted, and weighted by value."""
        d_sae, classes = self.counts.shape
        return {
            "latent": np.repeat(np.arange(d_sae, dtype=np.int32), classes),
            "class": np.tile(np.arange(classes, dtype=np.int32), d_sae),
            "count": self.counts.astype(np.int64).ravel(),
            "weight": self.weights.ravel(),
        }

    def metrics(self, live: Bool[np.ndarray, " d_sae"]) -> dict[str, float]:
        """Label numbers over live latents, and classes that have examples (information in bits, shares of 1)."""
        if not live.any():
            return {}
        return {
            "labels/mutual_information_mean": float(self.information[live].mean()),
            "labels/mutual_information_max": float(self.information[live].max()),
            "labels/top_class_share_median": float(np.median(self.top_share[live])),
            "labels/top_class_share_max": float(self.top_share[live].max()),
            "labels/top_examples_purity_mean": float(self.purity[live].mean()),
            "labels/significant_share": float((self.q[live] < 0.05).mean()),
            "labels/average_precision_mean": float(self.precision[live].max(0)[self.class_totals > 0].mean()),
        }


def label_tables(
    entries: Entries,
    label: Int64[np.ndarray, " n"],
    class_names: list[str] | None,
    analysis: Analysis,
    generator: np.random.Generator,
) -> LabelTables:
    """Label statistics of every latent, with their permutation null.

    Raises:
        InputError: a label is negative or has no class name.
    """
    if label.min() < 0:
        raise InputError(f"labels count from 0, got {label.min()}")
    names = class_names or [str(c) for c in range(int(label.max()) + 1)]
    if label.max() >= len(names):
        raise InputError(f"there is a label {label.max()} but only {len(names)} class names")
    classes = len(names)
    totals = np.bincount(label, minlength=classes)
    counts = label_counts(entries, label, classes)
    p = label_permutation_p(counts, totals, mutual_information, permutations=analysis.permutations, generator=generator)
    fires = counts.sum(1) > 0
    q = np.ones(len(p))
    q[fires] = benjamini_hochberg(p[fires])
    top_class, top_share = top_class_share(counts)
    top = top_examples(entries, analysis.top)
    return LabelTables(
        class_names=names,
        class_totals=totals,
        counts=counts,
        weights=label_counts(entries, label, classes, weighted=True),
        information=mutual_information(counts, totals),
        p=p,
        q=q,
        top_class=top_class,
        top_share=top_share,
        precision=average_precision(entries, label, classes),
        purity=purity_of_top(top.latent, label[top.row], entries.d_sae, classes),
    )


def latent_columns(
    fires: Firing, status: list[str], importance: Float[np.ndarray, " d_sae"], labels: LabelTables | None
) -> dict[str, Any]:
    """One row for each latent."""
    columns: dict[str, Any] = {
        "latent": np.arange(len(status), dtype=np.int32),
        "status": status,
        "count": fires.count,
        "rate": fires.rate,
        "mean": fires.mean,
        "max": fires.max,
        "importance": importance,
    }
    if labels is None:
        return columns
    best = labels.precision.argmax(1)
    return {
        **columns,
        "mutual_information": labels.information,
        "p": labels.p,
        "q": labels.q,
        "top_class": labels.top_class,
        "top_class_share": labels.top_share,
        "best_class": best,
        "average_precision": labels.precision[np.arange(len(best)), best],
    }


def example_columns(
    codes: Codes,
    entries: Entries,
    most: int,
    example: Int64[np.ndarray, " n"],
    position: Int64[np.ndarray, " n"],
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Up to `most` examples of each latent in each of the `ORDERS`, latent by latent, each with its strongest row."""
    ranked = ranked_examples(entries, example)
    chosen = {
        "value": ranked.strongest(most),
        "relative": top_examples(relative_entries(codes, entries), most, example),
        "quantile": ranked.spread(most),
        "random": ranked.drawn(most, generator),
    }
    parts = [chosen[order] for order in ORDERS]
    latent, row = (np.concatenate([getattr(part, name) for part in parts]) for name in ("latent", "row"))
    by_latent = stable_order(latent, entries.d_sae)
    order = np.repeat(np.arange(len(ORDERS), dtype=np.int8), [len(part.row) for part in parts])
    row = row[by_latent]
    return {
        "order": pa.DictionaryArray.from_arrays(pa.array(order[by_latent]), list(ORDERS)),
        "latent": latent[by_latent],
        "rank": np.concatenate([part.rank for part in parts])[by_latent].astype(np.int32),
        "row": row,
        "example": example[row],
        "position": position[row],
        "value": np.concatenate([part.value for part in parts])[by_latent],
    }


def selective_columns(labels: LabelTables, most: int) -> dict[str, np.ndarray]:
    """The latents of highest average precision for each class."""
    order = np.argsort(-labels.precision, axis=0, kind="stable")[:most]
    kept, classes = order.shape
    return {
        "class": np.repeat(np.arange(classes, dtype=np.int32), kept),
        "rank": np.tile(np.arange(kept, dtype=np.int32), classes),
        "latent": order.T.ravel().astype(np.int32),
        "average_precision": np.take_along_axis(labels.precision, order, 0).T.ravel(),
    }
