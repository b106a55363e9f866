"""A part of a data set, drawn at random: as good as all of it for most questions, and a fraction of the work."""

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from unweave.core.config import fingerprint
from unweave.core.seeds import torch_generator
from unweave.datasets.base import Dataset, ImageDataset, MemoryTexts, TextDataset


class SomeImages(ImageDataset):
    """Some images of a data set, read when they are asked for."""

    def __init__(self, images: ImageDataset, index: Int64[Tensor, " n"]) -> None:
        self._images, self._index = images, index
        self.labels, self.class_names = images.labels[index], images.class_names
        self.id = fingerprint("some of", images.id, index.tolist())

    def pixels(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Pixels of the images at these indices."""
        return self._images.pixels(self._index[index])


def drawn(data: Dataset, most: int, seed: int) -> Dataset:
    """Up to `most` examples, drawn evenly and kept in their order; all of them where there are no more."""
    if len(data) <= most:
        return data
    index = torch.randperm(len(data), generator=torch_generator(seed, "drawn examples"))[:most].sort().values
    if isinstance(data, ImageDataset):
        return SomeImages(data, index)
    assert isinstance(data, TextDataset)
    return MemoryTexts([data.texts[i] for i in index.tolist()], data.labels[index], data.class_names)
