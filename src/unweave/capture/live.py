"""Rows that are computed while they are read: for images that are others at each pass over them."""

import threading
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unweave.core.config import fingerprint
from unweave.core.errors import InputError
from unweave.core.hashing import hash_module
from unweave.core.seeds import torch_generator
from unweave.datasets.base import ImageDataset
from unweave.models.hooks import HookPoints
from unweave.models.rows import RowMeaning, to_rows
from unweave.store.rows import Moments, MomentSums

_READ_BYTES = 32 << 20


class LiveRows:
    """Rows [n, d_in] of one hook point, one for each image: a `RowSource` over a model and images, not over files.

    Each epoch reads the images as they are at that epoch. What does not depend on one (`moments`, `blocks`) is of the
    images as they are outside training.

    Raises:
        InputError: the hook point is unknown, or gives more than one row an image.
    """

    def __init__(self, model: nn.Module, images: ImageDataset, *, at: str, rows: RowMeaning = "flatten") -> None:
        self.hook_name = at
        self._points = HookPoints(model, at)
        self._images, self._meaning = images, rows
        self._device = next((one.device for one in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
        self._turn = threading.Lock()  # hooks sit in the model: two passes at once would read each other's
        self._moments: Moments | None = None
        self.id = fingerprint("live rows", hash_module(model), images.id, at, rows)
        self.d_in = self._read(images, torch.zeros(1, dtype=torch.int64)).shape[1]

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self._images)

    def moments(self) -> Moments:
        """Mean and variance of all rows."""
        if self._moments is None:
            sums = MomentSums(self.d_in)
            for block in self.blocks(8192):
                sums.add(block)
            self._moments = sums.moments()
        return self._moments

    def blocks(self, rows: int) -> Iterator[Float[Tensor, "b d_in"]]:
        """All rows in the order of the images, float32, at most `rows` at a time."""
        yield from self._batches(self._images, torch.arange(self.n), rows)

    def batches(
        self, batch_size: int, *, seed: int, epoch: int, shuffle: bool = True, skip: int = 0
    ) -> Iterator[Float[Tensor, "b d_in"]]:
        """One epoch of float32 batches, from batch `skip` on; the last may be smaller."""
        order = torch.randperm(self.n, generator=torch_generator(seed, epoch)) if shuffle else torch.arange(self.n)
        yield from self._batches(self._images.at_epoch(epoch), order[skip * batch_size :], batch_size)

    def _batches(self, images: ImageDataset, order: Tensor, batch_size: int) -> Iterator[Tensor]:
        channels, height, width = images.shape
        at_once = max(1, _READ_BYTES // (4 * channels * height * width * batch_size))
        for index in order.split(at_once * batch_size):
            yield from self._read(images, index).split(batch_size)

    def _read(self, images: ImageDataset, index: Tensor) -> Tensor:
        pixels = images.pixels(index).float().div_(255).to(self._device)
        with self._turn:
            tensor = self._points.read(pixels)[self.hook_name]
        read = to_rows(tensor, self._meaning, examples=len(index), name=self.hook_name)
        if read.per_example != 1:
            raise InputError(
                f"{self.hook_name!r} gives {read.per_example} rows an image with rows={self._meaning!r}; use flatten, "
                "pool or cls, or capture the rows first"
            )
        return read.values.float()
