"""Training of the small registered models as classifiers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from unweave.core.config import from_json
from unweave.core.errors import InputError, StoreError
from unweave.core.hashing import hash_module
from unweave.core.progress import progress
from unweave.core.runtime import Runtime
from unweave.core.seeds import torch_generator
from unweave.models.base import ModelConfig
from unweave.store.artifact import Identity, existing, read_manifest, writing
from unweave.store.files import load_table, load_tensors, save_table, save_tensors

KIND = "model"
_WEIGHTS = "model.safetensors"
_CURVES = "curves.parquet"
_LOG_POINTS = 200


@runtime_checkable
class LabelledImages(Protocol):
    """What training needs of a data set."""

    labels: Int64[Tensor, " n"]
    class_names: list[str]
    id: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        ...

    def pixels(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Pixels by index."""
        ...


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a classifier is trained: cross-entropy on shuffled batches."""

    optimizer: Literal["adam", "sgd"] = "adam"
    "Adam, or plain stochastic gradient descent without momentum"
    learning_rate: float = 1e-3
    "step size"
    epochs: int = 5
    "passes over the images; 0 takes the network as it is"
    batch_size: int = 64
    "images a step"

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1:
            what = f"got {self.epochs} and {self.batch_size}"
            raise InputError(f"epochs must not be negative and batch_size must be at least 1, {what}")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate must be above 0, got {self.learning_rate}")


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A classifier and how it got there.

    Attributes:
        module: the network, in evaluation mode; images in [0, 1] in, logits out.
        curves: `step`, `epoch`, `train_loss` (mean since the row before) and, before training and on the last
            row of each epoch, `test_accuracy` and `test_loss` (NaN elsewhere).
        id: fingerprint of how it was made.
    """

    module: nn.Module
    curves: dict[str, list[float]]
    id: str

    @property
    def test_accuracy(self) -> float:
        """Share of test images that are classified right after the last epoch."""
        return self.curves["test_accuracy"][-1]


def train_classifier(
    config: ModelConfig,
    fit: Fit,
    train: LabelledImages,
    test: LabelledImages,
    *,
    seed: int,
    out: Path,
    runtime: Runtime | None = None,
) -> TrainedModel:
    """Train a model and write it as an artifact; one that is already there is read back.

    Raises:
        InputError: `out` holds something else.
    """
    runtime = runtime or Runtime()
    device = runtime.torch_device()
    classes = len(train.class_names)
    module = config.build(train.shape, classes, torch_generator(seed, "model"))
    inputs = {"train": train.id, "test": test.id, "start": hash_module(module)}
    identity = Identity(kind=KIND, config={"model": config, "fit": fit}, inputs=inputs, seed=seed)
    if existing(out, identity):
        found = load_model(out)
        found.module.to(device)
        return found
    with runtime.threads_for(3 * _forward_flops(module.to(device), fit, train)):
        curves = _fit(module, fit, train, test, seed)
    with writing(out, identity) as draft:
        save_tensors(draft.folder / _WEIGHTS, {name: tensor.clone() for name, tensor in module.state_dict().items()})
        save_table(draft.folder / _CURVES, curves)
        draft.details.update(shape=list(train.shape), classes=classes)
    return TrainedModel(module.eval(), curves, identity.id)


@torch.no_grad()
def _forward_flops(module: nn.Module, fit: Fit, images: LabelledImages) -> float:
    """Floating-point operations of one batch on its way through."""
    module.eval()  # counting must not move running statistics
    batch, _ = next(_batches(images, fit.batch_size))
    with FlopCounterMode(display=False) as counter:
        module(batch.to(next(module.parameters()).device))
    return float(counter.get_total_flops())


def load_model(folder: Path) -> TrainedModel:
    """Read a model that `train_classifier` wrote.

    Raises:
        StoreError: the folder is no model, or a file in it is missing or damaged.
    """
    manifest = read_manifest(folder, KIND, verify=True)
    config = from_json(ModelConfig, manifest.config["model"], where=f"{folder}: model")
    channels, height, width = manifest.details["shape"]
    module = config.build((channels, height, width), int(manifest.details["classes"]), torch.Generator())
    try:
        module.load_state_dict({name: tensor.clone() for name, tensor in load_tensors(folder / _WEIGHTS).items()})
    except RuntimeError as error:
        raise StoreError(f"{folder / _WEIGHTS} does not fit {config}: {error}") from None
    return TrainedModel(module.eval(), load_table(folder / _CURVES).to_pydict(), manifest.id)


def load_curves(folder: Path) -> dict[str, list[float]]:
    """How the training of a model went, without building its network.

    Raises:
        StoreError: the folder is no model, or a file in it is missing or damaged.
    """
    read_manifest(folder, KIND, verify=True)
    columns: dict[str, list[float]] = load_table(folder / _CURVES).to_pydict()
    return columns


def _fit(module: nn.Module, fit: Fit, train: LabelledImages, test: LabelledImages, seed: int) -> dict[str, list[float]]:
    make = torch.optim.Adam if fit.optimizer == "adam" else torch.optim.SGD
    optimizer = make(module.parameters(), lr=fit.learning_rate)
    per_epoch = -(-len(train.labels) // fit.batch_size)
    every = max(1, per_epoch * fit.epochs // _LOG_POINTS)
    curves: dict[str, list[float]] = {
        name: [] for name in ("step", "epoch", "train_loss", "test_accuracy", "test_loss")
    }
    device = next(module.parameters()).device
    total, since, step = torch.zeros((), device=device), 0, 0

    def log(epoch: float, *, measure: bool) -> None:
        accuracy, test_loss = evaluate(module, test) if measure else (float("nan"), float("nan"))
        row = (step, epoch, float(total) / since if since else float("nan"), accuracy, test_loss)
        for name, value in zip(curves, row, strict=True):
            curves[name].append(float(value))

    log(0.0, measure=True)
    with progress("Training the model", total=per_epoch * fit.epochs, unit="steps") as bar:
        for epoch in range(fit.epochs):
            module.train()
            for images, labels in _batches(train, fit.batch_size, torch_generator(seed, "images", epoch)):
                loss = cross_entropy(module(images.to(device)), labels.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total, since, step = total + loss.detach(), since + 1, step + 1
                ends = step % per_epoch == 0
                if ends or since >= every:
                    log(step / per_epoch, measure=ends)
                    bar.advance(since, loss=float(total) / since)
                    total, since = torch.zeros((), device=device), 0
    optimizer.zero_grad()  # the last step's gradients are no part of the model
    return curves


def _batches(
    images: LabelledImages, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"]]]:
    n = len(images.labels)
    order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
    for index in order.split(batch_size):
        yield images.pixels(index).float() / 255, images.labels[index]


@torch.no_grad()
def evaluate(module: nn.Module, images: LabelledImages) -> tuple[float, float]:
    """Accuracy and mean cross-entropy of a classifier."""
    module.eval()
    device = next(module.parameters()).device
    right, loss = 0, 0.0
    for batch, labels in _batches(images, 2048):
        logits = module(batch.to(device)).cpu()
        right += int((logits.argmax(1) == labels).sum())
        loss += float(cross_entropy(logits, labels, reduction="sum"))
    return right / len(images.labels), loss / len(images.labels)
