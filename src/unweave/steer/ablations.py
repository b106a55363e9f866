"""What a model loses when a latent goes: its own logits and cross-entropy, latent by latent and class by class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from unweave.core.config import Json
from unweave.core.errors import InputError
from unweave.core.hashing import hash_module
from unweave.core.progress import progress
from unweave.core.seeds import torch_generator
from unweave.datasets.base import Dataset
from unweave.dictionaries.base import Dictionary
from unweave.models.hooks import Side
from unweave.models.rest import RestOfNetwork
from unweave.models.rows import RowMeaning
from unweave.steer.context import hook_point
from unweave.steer.edits import check_latent
from unweave.steer.examples import Examples
from unweave.steer.moves import Opened
from unweave.store.artifact import Identity, existing, read_manifest, writing
from unweave.store.files import load_tensors, save_tensors
from unweave.store.layout import Layout, as_details

KIND = "ablations"
_TENSORS = "ablations.safetensors"
_MOST = 1 << 28
_VALUES_AT_ONCE = 1 << 21


@dataclass(frozen=True, kw_only=True, eq=False)
class Ablations:
    """What a model loses when a latent's part is taken out of a layer.

    All changes are means over all examples of a class, of which those where the latent is silent count as 0.

    Attributes:
        latents: which were taken out, one at a time.
        class_names: names of the classes.
        examples: examples of each class.
        active: of each latent and class, the examples where it is active.
        loss: rise of the cross-entropy, in nats, by latent and class of the example.
        control: the same when rows move as far along a random direction instead; the mean of several directions.
        logits: change of each logit, by latent, class of the example and logit.
    """

    latents: Int64[np.ndarray, " latents"]
    class_names: list[str]
    examples: Int64[np.ndarray, " classes"]
    active: Int64[np.ndarray, "latents classes"]
    loss: Float[np.ndarray, "latents classes"]
    control: Float[np.ndarray, "latents classes"]
    logits: Float[np.ndarray, "latents classes classes"]

    @property
    def total_loss(self) -> Float[np.ndarray, " latents"]:
        """Rise of the cross-entropy of each latent, over examples of all classes."""
        return np.asarray(self.loss @ self.examples / self.examples.sum())

    @property
    def total_control(self) -> Float[np.ndarray, " latents"]:
        """The same of the control."""
        return np.asarray(self.control @ self.examples / self.examples.sum())

    def important(self, class_name: str | None = None, *, most: int = 30) -> Int64[np.ndarray, " most"]:
        """The latents whose loss costs the model most, of one class or of all; the costliest first.

        Raises:
            InputError: there is no such class.
        """
        if class_name is not None and class_name not in self.class_names:
            raise InputError(f"there is no class {class_name!r}; choose from: {', '.join(self.class_names)}")
        cost = self.total_loss if class_name is None else self.loss[:, self.class_names.index(class_name)]
        return np.asarray(self.latents[np.argsort(-cost, kind="stable")[:most]])


@torch.no_grad()
def ablation_effects(
    model: nn.Module,
    sae: Dictionary,
    examples: Tensor | Dataset,
    labels: Tensor | Sequence[int] | None = None,
    *,
    at: str | None = None,
    latents: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    rows: RowMeaning = "flatten",
    side: Side = "output",
    layout: Layout | None = None,
    controls: int = 1,
    seed: int = 0,
    batch_size: int = 512,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> Ablations:
    """Take each latent's part out of a layer, x − f_j w_j, and see what the model loses.

    What the dictionary misses of x stays in it. Where a latent is silent nothing changes, so the rest of the network
    runs once for each example and active latent. Where an example has several rows, the part goes out of all of them.

    Args:
        model: a classifier: logits [b, classes].
        sae: a dictionary of the hook point's rows.
        examples: a tensor [n, …] or a data set, of texts too where the model has a tokenizer; held-out ones.
        labels: class of each; a data set has its own.
        at: dotted name of the module; by default the one that the dictionary was trained on.
        latents: which; all by default.
        class_names: names of the classes.
        rows: what a row is, as it was captured.
        side: what the module gives, or its first input.
        layout: how positions lie in an example, as it was captured; needed where some tokens give no rows.
        controls: random directions for each latent, along which rows move as far as they do for the latent.
        seed: decides them.
        batch_size: examples a pass.
        out: folder of the artifact, by default none is left.
        overwrite: replace another artifact in `out`.

    Raises:
        InputError: labels are missing or no classes of the model's, an unknown hook point or latent, rows of another
            width, or more classes and latents than a table can hold.
    """
    given = Examples(examples, labels, class_names, model)
    rest = RestOfNetwork(model, hook_point(model, sae, at), side=side)
    chosen = [check_latent(latent, sae.d_sae) for latent in (range(sae.d_sae) if latents is None else latents)]
    if len(set(chosen)) < len(chosen) or not chosen:
        raise InputError(f"latents must name each latent once, got {chosen}")
    if controls < 0:
        raise InputError(f"controls must not be negative, got {controls}")
    config: Json = {"at": rest.name, "rows": rows, "side": side, "controls": controls, "class_names": given.class_names}
    if layout is not None and layout.prefix_dropped:
        config["layout"] = as_details(layout)
    inputs = {"model": hash_module(model), "dictionary": hash_module(sae), "examples": given.id}
    identity = Identity(kind=KIND, config={**config, "latents": chosen}, inputs=inputs, seed=seed)
    if out is not None and existing(Path(out), identity, overwrite=overwrite):
        return load_ablations(Path(out))
    with rest.threads_for(next(given.batches(batch_size))):
        found = _measure(rest, sae, given, chosen, rows, layout, controls, seed, batch_size)
    if out is not None:
        with writing(Path(out), identity, overwrite=overwrite) as draft:
            arrays = {name: torch.from_numpy(getattr(found, name)) for name in _ARRAYS}
            save_tensors(draft.folder / _TENSORS, arrays)
            draft.details.update(class_names=found.class_names, hook_name=rest.name)
    return found


_ARRAYS = ("latents", "examples", "active", "loss", "control", "logits")


def load_ablations(folder: str | Path) -> Ablations:
    """Read what `ablation_effects` left.

    Raises:
        StoreError: the folder holds something else, or is damaged.
    """
    manifest = read_manifest(Path(folder), KIND, verify=True)
    tensors = load_tensors(Path(folder) / _TENSORS)
    return Ablations(class_names=manifest.details["class_names"], **{name: tensors[name].numpy() for name in _ARRAYS})


def _measure(
    rest: RestOfNetwork,
    sae: Dictionary,
    examples: Examples,
    latents: list[int],
    rows: RowMeaning,
    layout: Layout | None,
    controls: int,
    seed: int,
    batch_size: int,
) -> Ablations:
    index = torch.tensor(latents)
    sums: _Sums | None = None
    seen = 0
    with progress("Ablating", total=examples.n, unit="examples") as bar:
        for inputs in examples.batches(batch_size):
            batch = Opened(rest.on(inputs), sae, rows, rest.name, layout)
            classes = batch.answers.shape[1]
            label = examples.known_labels(classes, "cross-entropy")[seen : seen + len(inputs)]
            if sums is None:
                names = examples.names(classes)
                sums = _Sums(len(latents), classes)
                directions = sae.directions()[index.to(sae.device)]
                beside = _beside(directions, controls, seed)
            codes = batch.codes()[:, index.to(sae.device)]
            sums.take_in(batch, codes, directions, beside, label)
            seen += len(inputs)
            bar.advance(len(inputs))
    assert sums is not None
    count = torch.bincount(examples.known_labels(classes, "cross-entropy"), minlength=classes)
    each = count.clamp(min=1).double()
    return Ablations(
        latents=index.numpy(),
        class_names=names,
        examples=count.numpy(),
        active=sums.active.numpy(),
        loss=(sums.loss / each).numpy(),
        control=(sums.control / each / max(controls, 1)).numpy() if controls else np.full(sums.loss.shape, np.nan),
        logits=(sums.logits / each[:, None]).numpy(),
    )


def _beside(directions: Float[Tensor, "l d_in"], controls: int, seed: int) -> list[Float[Tensor, "l d_in"]]:
    """Random directions as long as the latents' own."""
    generator = torch_generator(seed, "random directions")
    drawn = [torch.randn(directions.shape, generator=generator) for _ in range(controls)]
    lengths = directions.norm(dim=1, keepdim=True)
    return [normalize(one, dim=1).to(directions) * lengths for one in drawn]


class _Sums:
    """Sums of changes by latent and class of the example, in float64."""

    def __init__(self, latents: int, classes: int) -> None:
        if latents * classes * classes > _MOST:
            raise InputError(
                f"{latents:,} latents and {classes:,} classes make {latents * classes * classes:,} numbers; name fewer "
                "latents"
            )
        self.latents, self.classes = latents, classes
        self.active = torch.zeros(latents, classes, dtype=torch.int64)
        self.loss = torch.zeros(latents, classes, dtype=torch.float64)
        self.control = torch.zeros_like(self.loss)
        self.logits = torch.zeros(latents, classes, classes, dtype=torch.float64)

    def take_in(
        self,
        batch: Opened,
        codes: Float[Tensor, "m l"],
        directions: Float[Tensor, "l d_in"],
        beside: list[Float[Tensor, "l d_in"]],
        label: Int64[Tensor, " b"],
    ) -> None:
        """The changes of one batch: a copy of an example for each latent that is active in any of its rows."""
        row, latent = codes.nonzero(as_tuple=True)
        value = codes[row, latent] * batch.scales[row]
        copy, of_copy = torch.unique(batch.example.to(row.device)[row] * self.latents + latent, return_inverse=True)
        in_order = of_copy.argsort(stable=True)
        row, value, of_copy = row[in_order], value[in_order], of_copy[in_order]
        own_loss = cross_entropy(batch.answers, label, reduction="none")
        at_once = max(1, _VALUES_AT_ONCE * len(batch) // max(1, batch.rows.numel()))
        for start in range(0, len(copy), at_once):
            part = copy[start : start + at_once]
            first, last = torch.searchsorted(of_copy, torch.tensor([start, start + len(part)]).to(of_copy)).tolist()
            example, which = part // self.latents, part % self.latents
            moves = (row[first:last], of_copy[first:last] - start, example, -value[first:last])
            here, cell = example.cpu(), which.cpu() * self.classes + label[example.cpu()]
            of_move = which[of_copy[first:last] - start]
            answers = batch.answers_to_single_moves(*moves, directions[of_move])
            loss = cross_entropy(answers, label[here], reduction="none") - own_loss[here]
            self.active.view(-1).index_add_(0, cell, torch.ones_like(cell))
            self.loss.view(-1).index_add_(0, cell, loss)
            self.logits.view(-1, self.classes).index_add_(0, cell, answers - batch.answers[here])
            for other in beside:
                answers = batch.answers_to_single_moves(*moves, other[of_move])
                loss = cross_entropy(answers, label[here], reduction="none") - own_loss[here]
                self.control.view(-1).index_add_(0, cell, loss)
