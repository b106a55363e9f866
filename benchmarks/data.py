"""Rows to measure on: planted dictionaries with a known truth, and the activations of a small network on MNIST.

All rows are scaled to variance 1 a dimension, as Unweave's own training and SAELens's activation scaling do, and every
side gets the same ones: a learning rate means the same to all of them.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from unweave import MLP, Mnist, capture
from unweave.core.seeds import torch_generator
from unweave.models.classifier import train_classifier
from unweave.models.fitting import Fit

MNIST_HOW = (
    "MNIST through an MLP 784-128-128-10 (ReLU, Adam 1e-3, 2 epochs of 64): output of fc1 before its ReLU, "
    "60,000 training images to learn from, 10,000 test images to judge on"
)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to learn from, rows to judge on, and the true directions where they are known."""

    name: str
    how: str
    train: Tensor
    held_out: Tensor
    truth: Tensor | None = None

    def to(self, device: str) -> "Rows":
        """The same rows on a device."""
        return replace(self, train=self.train.to(device), held_out=self.held_out.to(device))

    @property
    def d_in(self) -> int:
        """Width of a row."""
        return self.train.shape[1]


def planted(d_in: int, features: int, active: int, *, n: int, held_out: int, seed: int = 0) -> Rows:
    """Sums of `active` out of `features` random unit directions, plus a little noise.

    Feature i is drawn with a probability proportional to (i + 1)^-1/2, with replacement; its value is uniform between
    0.5 and 1.5; the noise has a hundredth of the signal's variance a dimension.
    """
    generator = torch_generator(seed, "planted", d_in, features, active)
    directions = normalize(torch.randn(features, d_in, generator=generator), dim=1)
    odds = torch.arange(1, features + 1).float().rsqrt()
    total = n + held_out
    which = torch.multinomial(odds, total * active, replacement=True, generator=generator).view(total, active)
    value = torch.rand(total, active, generator=generator) + 0.5
    rows = embedding_bag(which, directions, per_sample_weights=value, mode="sum")
    noise = torch.randn(rows.shape, generator=generator)
    rows = _scaled(rows + noise * (0.1 * float(rows.std())))
    how = f"planted: {active} of {features:,} random directions a row, values 0.5 to 1.5, noise of 1 % of the variance"
    return Rows(f"planted-{features}", how, rows[:n], rows[n:], directions)


def mnist_fc1(scratch: Path, *, held_out: int) -> Rows | None:
    """Activations of an MLP's first layer on MNIST; None where UNWEAVE_DATA names no data."""
    if not os.environ.get("UNWEAVE_DATA"):
        return None
    train, test = Mnist().load("train"), Mnist().load("test")
    model = train_classifier(
        MLP(mean=0.1307, std=0.3081), Fit(epochs=2), train, test, seed=0, out=scratch / "mnist-mlp"
    )
    parts = [capture(model.module, images, at="fc1", batch_size=2048) for images in (train, test)]
    tensors = [part.rows(0, part.n).clone() for part in parts]
    scale = _scale(tensors[0])
    return Rows("mnist-fc1", MNIST_HOW, tensors[0] * scale, tensors[1][:held_out] * scale)


def activations(scratch: Path, *, n: int = 60_000, held_out: int = 10_000) -> Rows:
    """MNIST activations where they are at hand, else rows of the same width with a planted dictionary."""
    return mnist_fc1(scratch, held_out=held_out) or planted(128, 1024, 16, n=n, held_out=held_out)


def batches(rows: Tensor, size: int, steps: int, *, seed: int = 0) -> list[Tensor]:
    """The same seeded batches for every side: `steps` index tensors over epochs without replacement."""
    generator = torch_generator(seed, "benchmark batches")
    order = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(-(-steps * size // len(rows)))])
    return list(order[: steps * size].split(size))


def _scale(rows: Tensor) -> float:
    return float((rows - rows.mean(0)).square().mean()) ** -0.5


def _scaled(rows: Tensor) -> Tensor:
    return rows * _scale(rows)
