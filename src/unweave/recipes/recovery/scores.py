"""Scores of the recipe `recovery`: how much of the planted truth each dictionary found, seed by seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError, StoreError
from unweave.datasets.rows import KnownRows
from unweave.dictionaries.base import Dictionary
from unweave.metrics.reconstruction import ReconstructionSums
from unweave.metrics.recovery import correlations, cosines, match, precision
from unweave.stats.spread import Spread
from unweave.store.artifact import read_json, write_json
from unweave.store.files import save_table

SCORES = "scores.json"
CSV = "recovery.csv"
PARQUET = "recovery.parquet"

MCC = "recovery/mcc"
RECALL = "recovery/recall"
PRECISION = "recovery/precision"
CODES = "recovery/code_correlation"
EXPLAINED = "dictionary/explained_variance"
L0 = "dictionary/l0"
DEAD = "dictionary/dead"
WIDTH = "dictionary/d_sae"


@dataclass(frozen=True, kw_only=True)
class Score:
    """One dictionary, measured against the truth.

    Attributes:
        kind: its name in the registry.
        rows: which rows: of any sign, or non-negative.
        seed: number of the repetition, of data and dictionary.
        metrics: what was measured; nothing where there is no dictionary.
        error: why there is none.
        trained: whether it is trained by gradient, or fitted.
        tuned: the option that its L0 was tuned with.
    """

    kind: str
    rows: str
    seed: int
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""
    trained: bool = True
    tuned: str = ""


@dataclass(frozen=True, eq=False)
class Summary:
    """A kind over all seeds."""

    kind: str
    rows: str
    trained: bool
    tuned: str
    spreads: Mapping[str, Spread]
    errors: tuple[str, ...]

    def mean(self, metric: str) -> float:
        """Over seeds; NaN where there is nothing."""
        return self.spreads[metric].mean if metric in self.spreads else math.nan


def summaries(scores: Sequence[Score]) -> list[Summary]:
    """Kinds over their seeds: by rows, then by falling MCC, those without a dictionary last."""
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.rows, score.kind), []).append(score)
    found = []
    for (rows, kind), of_kind in groups.items():
        measured = [score for score in of_kind if score.metrics]
        names = measured[0].metrics if measured else {}
        spreads = {name: Spread.of([score.metrics[name] for score in measured]) for name in names}
        errors = tuple(dict.fromkeys(score.error for score in of_kind if score.error))
        first = of_kind[0]
        found.append(Summary(kind, rows, first.trained, first.tuned, spreads, errors))
    order = list(dict.fromkeys(score.rows for score in scores))
    return sorted(found, key=lambda one: (order.index(one.rows), not one.spreads, -one.mean(MCC) if one.spreads else 0))


@torch.no_grad()
def measure(dictionary: Dictionary, judged: KnownRows) -> dict[str, float]:
    """How much of the truth a dictionary holds, and how it reconstructs; on held-out rows.

    MCC is the mean cosine of true directions and the latents matched with them (Hungarian method; a latent that points
    the other way does not count; a true direction without a latent counts as 0). Recall is the share of true directions
    whose latent reaches 0.9, precision the share of latents that fire on some row and reach 0.9 with a true direction.
    """
    assert judged.directions is not None
    codes = torch.cat([dictionary.encode(block.to(dictionary.device)).cpu() for block in judged.rows.split(4096)])
    sums = ReconstructionSums(judged.rows.shape[1])
    back = dictionary.reconstruct(codes.to(dictionary.device), judged.rows.to(dictionary.device))
    sums.add(judged.rows, back)
    fired = (codes != 0).sum(0).numpy()
    similarity = cosines(judged.directions.numpy(), dictionary.directions().cpu().numpy())
    matching = match(similarity)
    r = correlations(judged.sources.numpy(), codes.numpy())
    of_matched = [r[true, latent] if latent >= 0 else 0.0 for true, latent in enumerate(matching.latent.tolist())]
    return {
        MCC: matching.mean,
        RECALL: matching.recall(),
        PRECISION: precision(similarity, fired > 0),
        CODES: float(np.mean(of_matched)),
        EXPLAINED: sums.explained_variance,
        L0: float(fired.sum()) / len(codes),
        DEAD: float((fired == 0).sum()),
        WIDTH: float(dictionary.d_sae),
    }


def save_scores(folder: Path, scores: Sequence[Score]) -> None:
    """Write scores into an artifact."""
    write_json(folder / SCORES, {"scores": to_json(list(scores))})


def load_scores(folder: Path) -> list[Score]:
    """Read what `save_scores` wrote.

    Raises:
        StoreError: it is not there, or something else.
    """
    content: Any = read_json(folder / SCORES)
    try:
        return [from_json(Score, _with_nan(one), where="scores") for one in content["scores"]]
    except (KeyError, TypeError, InputError) as error:
        raise StoreError(f"{folder / SCORES} does not hold scores ({error}); remove the folder and run again") from None


def _with_nan(data: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: where a number could not be had there is null."""
    return {**data, "metrics": {name: math.nan if v is None else v for name, v in data["metrics"].items()}}


def write_table(folder: Path, scores: Sequence[Score]) -> None:
    """Write one row for each dictionary as `recovery.csv` and `recovery.parquet`."""
    metrics = dict.fromkeys(name for score in scores for name in score.metrics)
    columns: dict[str, Any] = {
        name: [getattr(score, name) for score in scores] for name in ("kind", "rows", "seed", "trained", "tuned")
    }
    columns |= {name.partition("/")[2]: [score.metrics.get(name) for score in scores] for name in metrics}
    columns["error"] = [score.error for score in scores]
    save_table(folder / PARQUET, columns)
    pyarrow.csv.write_csv(pa.table(columns), folder / CSV)
