"""The training loop of the small registered networks."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.core.progress import progress
from unweave.core.seeds import torch_generator

_LOG_POINTS = 200
_READ_BYTES = 32 << 20  # images are read for several batches at once: a call a batch would cost more than the pixels

Curves = dict[str, list[float]]


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

    def at_epoch(self, epoch: int) -> "LabelledImages":
        """The images as they are at one pass over them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a small network is trained: on shuffled batches."""

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


T = TypeVar("T")


class Batch(NamedTuple):
    """Images in [0, 1], their classes, and what the module is given of them."""

    images: Float[Tensor, "b c h w"]
    labels: Int64[Tensor, " b"]
    given: Float[Tensor, "b ..."]


def image_batches(
    images: LabelledImages,
    batch_size: int,
    generator: torch.Generator | None = None,
    *,
    given: Callable[[Tensor], Tensor] = lambda pixels: pixels,
) -> Iterator[Batch]:
    """Images in order, or in the one that the generator draws; what comes next is read while a batch is used.

    Args:
        images: the data set.
        batch_size: images in a batch; the last may be smaller.
        generator: of the order.
        given: what the module gets of many images at once; by default the images.
    """
    n = len(images.labels)
    order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
    channels, height, width = images.shape
    at_once = max(1, _READ_BYTES // (4 * channels * height * width * batch_size))

    def read() -> Iterator[Batch]:
        for index in order.split(at_once * batch_size):
            pixels = images.pixels(index).float().div_(255)
            yield Batch(pixels, images.labels[index], given(pixels))

    for several in read_ahead(read()):
        yield from map(Batch, *(tensor.split(batch_size) for tensor in several))


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Items, each made on another thread while the one before it is in use."""
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as reader:
        coming = reader.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = reader.submit(next, items, None)
            yield item


def descend(
    module: nn.Module,
    fit: Fit,
    images: LabelledImages,
    loss: Callable[[Batch], Float[Tensor, ""]],
    measure: Callable[[], Mapping[str, float]],
    *,
    seed: int,
    label: str | None,
    given: Callable[[Tensor], Tensor] = lambda pixels: pixels,
) -> Curves:
    """Train a module in place, and tell how it went.

    Args:
        module: what is trained.
        fit: how.
        images: in a new seeded order at each epoch.
        loss: of a batch, on the module's device.
        measure: taken before training and at the end of each epoch.
        seed: decides the orders.
        label: what the progress bar calls it; none is shown without.
        given: what the module gets of many images at once; by default the images.

    Returns:
        Columns `step`, `epoch`, `train_loss` (mean since the row before) and those of `measure` (NaN inside epochs).
    """
    make = torch.optim.Adam if fit.optimizer == "adam" else torch.optim.SGD
    optimizer = make(module.parameters(), lr=fit.learning_rate, fused=True)
    per_epoch = -(-len(images.labels) // fit.batch_size)
    every = max(1, per_epoch * fit.epochs // _LOG_POINTS)
    device = next(module.parameters()).device
    total, since, step = torch.zeros((), device=device), 0, 0
    first = measure()
    curves: Curves = {name: [] for name in ("step", "epoch", "train_loss", *first)}

    def log(measured: Mapping[str, float]) -> None:
        mean = float(total) / since if since else float("nan")
        row = {"step": step, "epoch": step / per_epoch, "train_loss": mean, **measured}
        for name, column in curves.items():
            column.append(float(row.get(name, float("nan"))))

    log(first)
    with progress(label or "", total=per_epoch * fit.epochs, unit="steps", quiet=label is None) as bar:
        for epoch in range(fit.epochs):
            module.train()
            order = torch_generator(seed, "images", epoch)
            for batch in image_batches(images.at_epoch(epoch), fit.batch_size, order, given=given):
                cost = loss(Batch(*(tensor.to(device) for tensor in batch)))
                optimizer.zero_grad()
                cost.backward()
                optimizer.step()
                total, since, step = total + cost.detach(), since + 1, step + 1
                ends = step % per_epoch == 0
                if ends or since >= every:
                    log(measure() if ends else {})
                    bar.advance(since, loss=float(total) / since)
                    total, since = torch.zeros((), device=device), 0
    optimizer.zero_grad()  # the last step's gradients are no part of the module
    return curves
