"""What every data set offers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from unweave.core.hashing import hash_tensor
from unweave.core.registry import Component, Registry

Split = Literal["train", "test"]


class ImageBatch(NamedTuple):
    """Images in [0, 1], their classes and their indices in the data set."""

    images: Float[Tensor, "b c h w"]
    labels: Int64[Tensor, " b"]
    example: Int64[Tensor, " b"]


class ImageDataset(ABC):
    """Labelled images of one size, read by index; pixels are bytes, so they can be shown as they are.

    Attributes:
        labels: class of each image, int64 [n].
        class_names: a name for each class.
        id: fingerprint of the content.
    """

    labels: Int64[Tensor, " n"]
    class_names: list[str]
    id: str

    @abstractmethod
    def pixels(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Pixels of the images at these indices."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.pixels(torch.zeros(1, dtype=torch.int64)).shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.labels)

    def at_epoch(self, epoch: int) -> "ImageDataset":
        """The images as they are at one pass over them: the same at each, unless the data set draws them anew."""
        return self

    def stream(self, index: Iterable[Int64[Tensor, " _"]]) -> Iterator[UInt8[Tensor, "_ c h w"]]:
        """Pixels of many batches, in their order; the next made ready while one is in use, where that takes time."""
        return map(self.pixels, index)

    def batches(self, batch_size: int) -> Iterator[ImageBatch]:
        """All images in order, as floats in [0, 1]."""
        for index in torch.arange(len(self)).split(batch_size):
            yield ImageBatch(self.pixels(index).float() / 255, self.labels[index], index)


class MemoryImages(ImageDataset):
    """Images that lie in memory."""

    def __init__(self, pixels: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"], class_names: list[str]) -> None:
        self._pixels = pixels
        self.labels = labels
        self.class_names = class_names
        self.id = hash_tensor(pixels, labels)

    def pixels(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Pixels of the images at these indices."""
        return self._pixels[index]


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(Component, ABC):
    """Base of data set configurations."""

    registry: ClassVar[Registry[type[Component]]] = Registry("data set", "unweave.datasets")

    @abstractmethod
    def load(self, split: Split, data_dir: Path | None = None) -> ImageDataset:
        """Read one split.

        Args:
            split: train or test.
            data_dir: where the files lie, for data sets that are made of files.

        Raises:
            InputError: the files are missing, damaged or not what they should be, and what to do.
        """
