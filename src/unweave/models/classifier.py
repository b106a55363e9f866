"""Training of the small registered models as classifiers."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from unweave.core.config import from_json
from unweave.core.errors import StoreError
from unweave.core.hashing import hash_module
from unweave.core.runtime import Runtime, flops
from unweave.core.seeds import torch_generator
from unweave.models.base import ModelConfig
from unweave.models.fitting import Curves, Fit, LabelledImages, descend, image_batches
from unweave.store.artifact import Identity, existing, read_manifest, writing
from unweave.store.files import load_table, load_tensors, save_table, save_tensors

KIND = "model"
_WEIGHTS = "model.safetensors"
_CURVES = "curves.parquet"


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
    curves: Curves
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
        curves = descend(
            module,
            fit,
            train,
            lambda batch: cross_entropy(module(batch.given), batch.labels),
            lambda: dict(zip(("test_accuracy", "test_loss"), evaluate(module, test), strict=True)),
            seed=seed,
            label="Training the model",
        )
    with writing(out, identity) as draft:
        save_tensors(draft.folder / _WEIGHTS, {name: tensor.clone() for name, tensor in module.state_dict().items()})
        save_table(draft.folder / _CURVES, curves)
        draft.details.update(shape=list(train.shape), classes=classes)
    return TrainedModel(module.eval(), curves, identity.id)


def _forward_flops(module: nn.Module, fit: Fit, images: LabelledImages) -> float:
    """Floating-point operations of one batch on its way through."""
    module.eval()  # counting must not move running statistics
    pixels = images.pixels(torch.arange(min(fit.batch_size, len(images.labels)))).float()
    return flops(lambda: module(pixels.to(next(module.parameters()).device)))


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


@torch.no_grad()
def evaluate(module: nn.Module, images: LabelledImages) -> tuple[float, float]:
    """Accuracy and mean cross-entropy of a classifier."""
    module.eval()
    device = next(module.parameters()).device
    right, loss = 0, 0.0
    for batch in image_batches(images, 2048):
        logits, labels = module(batch.images.to(device)).cpu(), batch.labels
        right += int((logits.argmax(1) == labels).sum())
        loss += float(cross_entropy(logits, labels, reduction="sum"))
    return right / len(images.labels), loss / len(images.labels)
