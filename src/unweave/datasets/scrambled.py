"""Any images, and beside each one the same pixels in disorder, as a further class."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from unweave.core.config import fingerprint
from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.core.seeds import derive_seed
from unweave.datasets.base import DatasetConfig, ImageDataset, Split
from unweave.datasets.mnist import Mnist

SCRAMBLED = "scrambled"


@register("scrambled")
@dataclass(frozen=True, kw_only=True)
class Scrambled(DatasetConfig):
    """The images of another data set, and after them a scrambled copy of each, which makes up one more class.

    An image is cut into square blocks, and the blocks are put back in random order. Each pass of training over the
    images draws the orders anew; read outside training, a split is the same at every time.

    Shapes: pixels [2n, c, h, w]; image n + i is the copy of image i.
    """

    of: DatasetConfig = field(default_factory=Mnist)
    "the images"
    block: int = 4
    "side of a block in pixels; height and width have to be multiples of it"
    seed: int = 0
    "decides the orders of the blocks"

    def load(self, split: Split, data_dir: Path | None = None) -> "ScrambledImages":
        """Read one split.

        Args:
            split: train or test; their orders are independent.
            data_dir: where the images' files lie.

        Raises:
            InputError: the images cannot be read, or cannot be cut into blocks of this size.
        """
        return ScrambledImages(self.of.load(split, data_dir), self.block, derive_seed(self.seed, "scrambled", split))


class ScrambledImages(ImageDataset):
    """Images and their scrambled copies; which order a copy has depends on seed, epoch and image alone."""

    def __init__(self, images: ImageDataset, block: int, seed: int, epoch: int = 0) -> None:
        _, height, width = images.shape
        if block < 1 or height % block or width % block:
            raise InputError(
                f"images of {height} x {width} pixels cannot be cut into blocks of {block} x {block}: choose a block "
                "that divides height and width"
            )
        self._images, self._block, self._seed, self._epoch = images, block, seed, epoch
        self.labels = torch.cat([images.labels, torch.full_like(images.labels, len(images.class_names))])
        self.class_names = [*images.class_names, SCRAMBLED]
        self.id = fingerprint(SCRAMBLED, images.id, block, seed)

    def at_epoch(self, epoch: int) -> "ScrambledImages":
        """The same images with the copies in the orders of this epoch."""
        return ScrambledImages(self._images.at_epoch(epoch), self._block, self._seed, epoch)

    def pixels(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Pixels of the images at these indices."""
        n = len(self._images)
        pixels = self._images.pixels(index % n)
        copies = (index >= n).nonzero().squeeze(1)
        if len(copies):
            pixels = pixels.clone()  # what a data set gives may be its own memory
            pixels[copies] = self._scrambled(pixels[copies], index[copies] - n)
        return pixels

    def _scrambled(self, pixels: UInt8[Tensor, "b c h w"], image: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        b, channels, height, width = pixels.shape
        side = self._block
        down, across = height // side, width // side
        blocks = pixels.view(b, channels, down, side, across, side).permute(0, 2, 4, 1, 3, 5)
        blocks = blocks.reshape(b, down * across, channels, side, side)
        order = torch.from_numpy(block_orders(image.numpy(), down * across, derive_seed(self._seed, self._epoch)))
        mixed = blocks[torch.arange(b)[:, None], order].view(b, down, across, channels, side, side)
        return mixed.permute(0, 3, 1, 4, 2, 5).reshape(b, channels, height, width)


def block_orders(image: Int64[np.ndarray, " b"], blocks: int, seed: int) -> Int64[np.ndarray, "b blocks"]:
    """A random order of blocks for each image: the ranks of hashed numbers, so that any image's can be had alone.

    The hash is the finaliser of SplitMix64: Steele, Lea and Flood (2014), "Fast splittable pseudorandom number
    generators", https://doi.org/10.1145/2660193.2660195.
    """
    key: np.ndarray = image.astype(np.uint64)[:, None] * np.uint64(blocks) + np.arange(blocks, dtype=np.uint64)
    key = (key + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(np.argsort(key ^ (key >> np.uint64(31)), axis=1), np.int64)
