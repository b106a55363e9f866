"""Any images, and beside each one the same pixels in disorder, as a further class."""

import math
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
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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
        return ScrambledImages(self.of.images(split, data_dir), self.block, derive_seed(self.seed, "scrambled", split))


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
        if not len(copies):
            return pixels
        return pixels.index_copy(0, copies, self._scrambled(pixels[copies], index[copies] - n))

    def _scrambled(self, pixels: UInt8[Tensor, "b c h w"], image: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Pixels with their blocks in disorder; so many neighbours as a machine word holds move as one."""
        unit = math.gcd(self._block, 8)
        words = pixels.clone(memory_format=torch.contiguous_format).view(_WORDS[unit])
        _, channels, height, width = words.shape
        down, across = torch.arange(height)[:, None], torch.arange(width)[None]
        side, wide = self._block, self._block // unit
        block = down // side * (width // wide) + across // wide  # of each word
        inside = down % side * width + across % wide  # its place, seen from its block's first word
        first = (down[::side] * width + across[:, ::wide]).flatten()
        order = torch.from_numpy(block_orders(image.numpy(), len(first), derive_seed(self._seed, self._epoch)))
        source = first[order][:, block.flatten()] + inside.flatten()
        moved = words.flatten(2).gather(2, source[:, None].expand(-1, channels, -1))
        return moved.view(words.shape).view(torch.uint8)


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
