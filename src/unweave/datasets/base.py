"""What every data set offers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from unweave.core.config import fingerprint
from unweave.core.errors import InputError
from unweave.core.framing import Framing
from unweave.core.hashing import hash_tensor
from unweave.core.registry import Component, Registry

Split = Literal["train", "test"]


class ImageBatch(NamedTuple):
    """Images in [0, 1], their classes and their indices in the data set."""

    images: Float[Tensor, "b c h w"]
    labels: Int64[Tensor, " b"]
    example: Int64[Tensor, " b"]


class Dataset(ABC):
    """Examples of a kind that can be read again, by index.

    Attributes:
        labels: class of each example, int64 [n].
        class_names: a name for each class.
        id: fingerprint of the content.
    """

    labels: Int64[Tensor, " n"]
    class_names: list[str]
    id: str

    def __len__(self) -> int:
        return len(self.labels)


class TextDataset(Dataset):
    """Labelled texts; where nothing is known of them, all are of one class that says nothing.

    Attributes:
        texts: each as it was written.
    """

    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.texts)


class MemoryTexts(TextDataset):
    """Texts that lie in memory.

    Raises:
        InputError: there are labels for more or fewer texts, or a class has no name.
    """

    def __init__(
        self, texts: Sequence[str], labels: Int64[Tensor, " n"] | None = None, class_names: Sequence[str] = ()
    ) -> None:
        self.texts = list(texts)
        self.labels = torch.zeros(len(self.texts), dtype=torch.int64) if labels is None else labels
        self.class_names = list(class_names) or [str(number) for number in range(int(max(self.labels, default=0)) + 1)]
        if labels is None and not class_names:
            self.class_names = ["text"]
        if len(self.labels) != len(self.texts):
            raise InputError(f"there are {len(self.labels):,} labels for {len(self.texts):,} texts")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.class_names):
            raise InputError(f"labels of texts must lie from 0 to {len(self.class_names) - 1}, one for each class name")
        self.id = fingerprint(self.texts, hash_tensor(self.labels))


class ImageDataset(Dataset):
    """Labelled images of one size; pixels are bytes, so they can be shown as they are."""

    @abstractmethod
    def pixels(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Pixels of the images at these indices."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.pixels(torch.zeros(1, dtype=torch.int64)).shape[1:]
        return channels, height, width

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
    def load(self, split: Split, data_dir: Path | None = None) -> Dataset:
        """Read one split.

        Args:
            split: train or test.
            data_dir: where the files lie, for data sets that are made of files.

        Raises:
            InputError: the files are missing, damaged or not what they should be, and what to do.
        """

    def images(self, split: Split, data_dir: Path | None = None) -> ImageDataset:
        """The same, for those who need images.

        Raises:
            InputError: as `load`; or the data are no images.
        """
        return images_of(self.load(split, data_dir))

    def located(self) -> "DatasetConfig":
        """The same configuration with the places of its files in full, so that they are found from everywhere."""
        return self

    def for_model(self, framing: Framing | None) -> "DatasetConfig":
        """The configuration with the size of its images as a model's own preprocessing asks for, where it left it open.

        Args:
            framing: what the model asks for; None where it takes what it gets.
        """
        return self


def images_of(data: Dataset) -> ImageDataset:
    """The data set itself, where it is one of images.

    Raises:
        InputError: it is not.
    """
    if not isinstance(data, ImageDataset):
        raise InputError("the data are texts, and images are needed here; choose a data set of images by --data NAME")
    return data


def texts_of(data: Dataset) -> TextDataset:
    """The data set itself, where it is one of texts.

    Raises:
        InputError: it is not.
    """
    if not isinstance(data, TextDataset):
        raise InputError("the data are images, and texts are needed here; choose a data set of texts by --data NAME")
    return data
