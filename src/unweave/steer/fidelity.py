"""How much of a model's answers a reconstruction keeps, whatever its answers are: logits, embeddings, hidden states."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, kl_div

from unweave.core.config import Json, from_json
from unweave.core.hashing import hash_module
from unweave.core.progress import progress
from unweave.datasets.base import Dataset
from unweave.dictionaries.base import Dictionary
from unweave.models.hooks import Side
from unweave.models.rest import RestOfNetwork
from unweave.models.rows import RowMeaning
from unweave.steer.context import hook_point
from unweave.steer.examples import Examples
from unweave.steer.moves import Opened
from unweave.steer.splicing import mean_row
from unweave.store.artifact import Identity, existing, read_manifest, writing
from unweave.store.layout import Layout, as_details

KIND = "fidelity"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is left of a model's answers y when something else stands in place of a layer's rows, and gives y'.

    Attributes:
        explained: 1 − Σ‖y' − y‖² / Σ‖y − mean‖² over examples: 1 where nothing changes, 0 where the mean
            answer would do.
        cosine: mean cosine of y' with y.
        kl: mean divergence Σ p log(p / q) in nats of the classes' probabilities; None where answers are no logits.
        agreement: share of examples whose largest logit stays the largest; None where answers are no logits.
    """

    explained: float
    cosine: float
    kl: float | None = None
    agreement: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """What a model's answers keep with the reconstruction, the mean row, and zeros in place of a layer's rows.

    Attributes:
        n: examples.
        spread: how far the model's answers to different examples differ, √(Σ‖y − mean‖² / Σ‖y‖²).
        spliced: with the reconstruction.
        mean: with the mean of all rows in place of each: what a dictionary that says nothing would keep.
        zero: with zeros in place of each.
    """

    n: int
    spread: float
    spliced: Kept
    mean: Kept
    zero: Kept

    @property
    def metrics(self) -> dict[str, float]:
        """A flat mapping from name to number, as runs record it."""
        conditions: Mapping[str, Kept] = {"spliced": self.spliced, "mean": self.mean, "zero": self.zero}
        flat = {
            f"splice/{'answers_' if what in ('explained', 'cosine') else ''}{what}_{name}": value
            for name, kept in conditions.items()
            for what, value in asdict(kept).items()
            if value is not None
        }
        return {**flat, "splice/answers_spread": self.spread, "splice/examples": float(self.n)}


@torch.no_grad()
def fidelity(
    model: nn.Module,
    sae: Dictionary,
    examples: Tensor | Dataset,
    *,
    at: str | None = None,
    rows: RowMeaning = "flatten",
    side: Side = "output",
    layout: Layout | None = None,
    logits: bool = True,
    batch_size: int = 256,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> Fidelity:
    """Put the reconstruction in place of a layer's rows, and see how far the model's answers move. It needs no labels.

    Args:
        model: any network with answers [b, …].
        sae: a dictionary of the hook point's rows.
        examples: a tensor [n, …] or a data set, of texts too where the model has a tokenizer; held-out ones.
        at: dotted name of the module; by default the one that the dictionary was trained on.
        rows: what a row is, as it was captured.
        side: what the module gives, or its first input.
        layout: how positions lie in an example, as it was captured; needed where some tokens give no rows.
        logits: whether the answers are logits of classes; else they are taken as vectors.
        batch_size: examples a pass; sums are in float64.
        out: folder of the artifact, by default none is left.
        overwrite: replace another artifact in `out`.

    Raises:
        InputError: an unknown hook point, rows of another width, or a model without an answer to each example.
    """
    given = Examples(examples, None, None, model)
    rest = RestOfNetwork(model, hook_point(model, sae, at), side=side)
    config: Json = {"at": rest.name, "rows": rows, "side": side, "logits": logits, "layout": as_details(layout)}
    inputs = {"model": hash_module(model), "dictionary": hash_module(sae), "examples": given.id}
    identity = Identity(kind=KIND, config=config, inputs=inputs)
    if out is not None and existing(Path(out), identity, overwrite=overwrite):
        return from_json(Fidelity, read_manifest(Path(out), KIND, verify=True).details["fidelity"], where=str(out))
    with rest.threads_for(next(given.batches(batch_size))):
        found = _measure(rest, sae, given, rows, layout, logits, batch_size)
    if out is not None:
        with writing(Path(out), identity, overwrite=overwrite) as draft:
            draft.details.update(fidelity=asdict(found), hook_name=rest.name)
    return found


class _Sums:
    """Sums over examples in float64."""

    def __init__(self) -> None:
        self.change = self.cosine = self.divergence = 0.0
        self.agree = 0

    def add(self, new: Float[Tensor, "b c"], own: Float[Tensor, "b c"], *, logits: bool) -> None:
        self.change += float((new - own).square().sum())
        self.cosine += float(cosine_similarity(new, own, dim=1).sum())
        if logits:
            self.divergence += float(kl_div(new.log_softmax(1), own.log_softmax(1), log_target=True, reduction="sum"))
            self.agree += int((new.argmax(1) == own.argmax(1)).sum())

    def kept(self, n: int, spread: float, *, logits: bool) -> Kept:
        explained = 1 - self.change / spread if spread > 0 else float(self.change == 0)
        if not logits:
            return Kept(explained=explained, cosine=self.cosine / n)
        return Kept(explained=explained, cosine=self.cosine / n, kl=self.divergence / n, agreement=self.agree / n)


def _measure(
    rest: RestOfNetwork,
    sae: Dictionary,
    examples: Examples,
    rows: RowMeaning,
    layout: Layout | None,
    logits: bool,
    batch_size: int,
) -> Fidelity:
    mean = mean_row(rest, sae, examples, rows, layout, batch_size)
    sums = {name: _Sums() for name in ("spliced", "mean", "zero")}
    total: Tensor | None = None
    square = 0.0
    with progress("Splicing", total=examples.n, unit="examples") as bar:
        for inputs in examples.batches(batch_size):
            batch = Opened(rest.on(inputs), sae, rows, rest.name, layout)
            own = batch.answers
            total = own.sum(0) if total is None else total + own.sum(0)
            square += float(own.square().sum())
            places = {
                "spliced": sae.reconstruct(batch.codes(), batch.rows),
                "mean": mean.to(batch.rows).expand_as(batch.rows),
                "zero": torch.zeros_like(batch.rows),
            }
            for name, new in places.items():
                sums[name].add(batch.answers_to(new), own, logits=logits)
            bar.advance(len(inputs))
    assert total is not None
    spread = square - float(total.square().sum()) / examples.n
    conditions = {name: one.kept(examples.n, spread, logits=logits) for name, one in sums.items()}
    return Fidelity(n=examples.n, spread=(max(spread, 0.0) / square) ** 0.5 if square else 0.0, **conditions)
