"""How much of what a model does survives when a reconstruction takes the place of an activation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import kl_div

from unweave.core.config import Json, from_json
from unweave.core.hashing import hash_module
from unweave.core.progress import progress
from unweave.datasets.base import Dataset
from unweave.dictionaries.base import Dictionary
from unweave.figures.splice import splice_figure
from unweave.models.hooks import HookPoints, Side
from unweave.models.places import mask_of
from unweave.models.rest import RestOfNetwork
from unweave.models.rows import RowMeaning, to_rows
from unweave.steer.context import check_width, hook_point
from unweave.steer.examples import Examples
from unweave.steer.moves import Opened
from unweave.store.artifact import Identity, existing, read_manifest, writing
from unweave.store.layout import Layout, as_details

KIND = "splice"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How a model answers: as it is, or with something in place of a layer's rows.

    Attributes:
        accuracy: share of examples that it gets right.
        cross_entropy: mean, in nats.
        kl: mean divergence of its answers from those of the model as it is, Σ p log(p / q), in nats.
        agreement: share of examples with the answer of the model as it is.
    """

    accuracy: float
    cross_entropy: float
    kl: float
    agreement: float


@dataclass(frozen=True, kw_only=True)
class Splice:
    """What is left of a model's answers with the reconstruction x̂ in place of a layer's rows x.

    Attributes:
        n: examples.
        model: the model as it is.
        spliced: with x̂ in place of x.
        mean: with the mean of all rows in place of each.
        zero: with zeros in place of each row.
    """

    n: int
    model: Answers
    spliced: Answers
    mean: Answers
    zero: Answers

    @property
    def recovered_mean(self) -> float:
        """Share of the loss that the reconstruction recovers, (CE_mean − CE_x̂) / (CE_mean − CE)."""
        return self._recovered(self.mean)

    @property
    def recovered_zero(self) -> float:
        """The same against zeros. Zeros are often far from any row, which makes this the kinder number."""
        return self._recovered(self.zero)

    def _recovered(self, ablated: Answers) -> float:
        """NaN where the ablation costs nothing."""
        at_stake = ablated.cross_entropy - self.model.cross_entropy
        return (ablated.cross_entropy - self.spliced.cross_entropy) / at_stake if at_stake else float("nan")

    @property
    def conditions(self) -> Mapping[str, Answers]:
        """The four by name."""
        return {"model": self.model, "spliced": self.spliced, "mean": self.mean, "zero": self.zero}

    def figure(self, beside: Mapping[str, "Splice"] | None = None) -> Figure:
        """Cross-entropy and accuracy of the four; `beside` adds the reconstructions of controls, by name."""
        shown = {"dictionary": self.spliced, **{name: other.spliced for name, other in (beside or {}).items()}}
        rows = {"the model itself": self.model, **shown, "mean row": self.mean, "zeros": self.zero}
        return splice_figure(
            {name: answers.cross_entropy for name, answers in rows.items()},
            {name: answers.accuracy for name, answers in rows.items()},
        )

    @property
    def metrics(self) -> dict[str, float]:
        """A flat mapping from name to number, as runs record it."""
        flat = {
            f"splice/{what}_{name}": value
            for name, answers in self.conditions.items()
            for what, value in asdict(answers).items()
            if name != "model" or what in ("accuracy", "cross_entropy")
        }
        recovered = {"splice/recovered_mean": self.recovered_mean, "splice/recovered_zero": self.recovered_zero}
        return {**flat, **recovered, "splice/examples": self.n}


@torch.no_grad()
def splice(
    model: nn.Module,
    sae: Dictionary,
    examples: Tensor | Dataset,
    labels: Tensor | Sequence[int] | None = None,
    *,
    at: str | None = None,
    rows: RowMeaning = "flatten",
    side: Side = "output",
    layout: Layout | None = None,
    batch_size: int = 512,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> Splice:
    """Put the reconstruction in place of a layer's rows, and see what the model loses.

    Beside it: the mean row and zeros in place of every row, which is what a dictionary that says nothing would do.

    Args:
        model: a classifier: logits [b, classes].
        sae: a dictionary of the hook point's rows.
        examples: a tensor [n, …] or a data set, of texts too where the model has a tokenizer; held-out ones.
        labels: class of each; a data set has its own.
        at: dotted name of the module; by default the one that the dictionary was trained on.
        rows: what a row is, as it was captured.
        side: what the module gives, or its first input.
        layout: how positions lie in an example, as it was captured; needed where some tokens give no rows.
        batch_size: examples a pass; sums are in float64, so it does not change the result.
        out: folder of the artifact, by default none is left.
        overwrite: replace another artifact in `out`.

    Raises:
        InputError: labels are missing or no classes of the model's, an unknown hook point, rows of another width.
    """
    given = Examples(examples, labels, None, model)
    rest = RestOfNetwork(model, hook_point(model, sae, at), side=side)
    inputs = {"model": hash_module(model), "dictionary": hash_module(sae), "examples": given.id}
    config: Json = {"at": rest.name, "rows": rows, "side": side}
    if layout is not None and layout.prefix_dropped:
        config["layout"] = as_details(layout)
    identity = Identity(kind=KIND, config=config, inputs=inputs)
    if out is not None and existing(Path(out), identity, overwrite=overwrite):
        return load_splice(Path(out))
    with rest.threads_for(next(given.batches(batch_size))):
        found = _measure(rest, sae, given, rows, layout, batch_size)
    if out is not None:
        with writing(Path(out), identity, overwrite=overwrite) as draft:
            draft.details.update(splice=asdict(found), hook_name=rest.name)
    return found


def load_splice(folder: str | Path) -> Splice:
    """Read what `splice` left.

    Raises:
        StoreError: the folder holds something else, or is damaged.
    """
    folder = Path(folder)
    return from_json(Splice, read_manifest(folder, KIND, verify=True).details["splice"], where=f"{folder}: splice")


class _Sums:
    """Sums of answers over examples, in float64."""

    def __init__(self) -> None:
        self.right = self.agree = 0
        self.loss = self.divergence = 0.0

    def add(self, logits: Float[Tensor, "b c"], own: Float[Tensor, "b c"], labels: Tensor) -> None:
        log, log_own = logits.log_softmax(1), own.log_softmax(1)
        answer = logits.argmax(1)
        self.right += int((answer == labels).sum())
        self.agree += int((answer == own.argmax(1)).sum())
        self.loss -= float(log.gather(1, labels.unsqueeze(1)).sum())
        self.divergence += float(kl_div(log, log_own, log_target=True, reduction="sum"))

    def mean(self, n: int) -> Answers:
        return Answers(
            accuracy=self.right / n, cross_entropy=self.loss / n, kl=self.divergence / n, agreement=self.agree / n
        )


def _measure(
    rest: RestOfNetwork,
    sae: Dictionary,
    examples: Examples,
    rows: RowMeaning,
    layout: Layout | None,
    batch_size: int,
) -> Splice:
    mean = mean_row(rest, sae, examples, rows, layout, batch_size)
    sums = {name: _Sums() for name in ("model", "spliced", "mean", "zero")}
    seen = 0
    with progress("Splicing", total=examples.n, unit="examples") as bar:
        for inputs in examples.batches(batch_size):
            batch = Opened(rest.on(inputs), sae, rows, rest.name, layout)
            labels = examples.known_labels(batch.answers.shape[1], "cross-entropy")[seen : seen + len(inputs)]
            places = {
                "spliced": sae.reconstruct(batch.codes(), batch.rows),
                "mean": mean.to(batch.rows).expand_as(batch.rows),
                "zero": torch.zeros_like(batch.rows),
            }
            sums["model"].add(batch.answers, batch.answers, labels)
            for name, new in places.items():
                sums[name].add(batch.answers_to(new), batch.answers, labels)
            seen += len(inputs)
            bar.advance(len(inputs))
    return Splice(n=seen, **{name: total.mean(seen) for name, total in sums.items()})


def mean_row(
    rest: RestOfNetwork,
    sae: Dictionary,
    examples: Examples,
    meaning: RowMeaning,
    layout: Layout | None,
    batch_size: int,
) -> Float[Tensor, " d_in"]:
    """The mean of all rows of the examples at a hook point."""
    points = HookPoints(rest.model, rest.name, side=rest.side)
    total, count = torch.zeros(sae.d_in, dtype=torch.float64), 0
    for inputs in examples.batches(batch_size):
        tensor = points.read(inputs.to(rest.device))[rest.name]
        own = to_rows(
            tensor, meaning, examples=len(inputs), name=rest.name, layout=layout, mask=mask_of(inputs), width=sae.d_in
        ).values
        check_width(sae, own.shape[1], rest.name, meaning)
        total += own.double().sum(0).cpu()
        count += len(own)
    return total / count
