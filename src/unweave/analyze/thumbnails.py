"""Small pictures of the examples that an atlas shows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from unweave.core.errors import InputError
from unweave.core.hashing import hash_tensor
from unweave.core.progress import progress
from unweave.datasets.base import ImageDataset
from unweave.store.files import load_tensors, save_tensors

SIDES = (96, 64, 48, 32)
_SIDES_WITH_PLACES = (224, 160, 128)
_PLACES_BYTES = 256 << 20
_ALL_BYTES = 1 << 30
_READ_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Pictures [m, c, h, w] of some examples; `example` is increasing."""

    example: Int64[np.ndarray, " m"]
    pixels: UInt8[np.ndarray, "m c h w"]

    def of(self, examples: Int64[np.ndarray, " k"]) -> UInt8[np.ndarray, "k c h w"]:
        """Pictures of these examples, all of which must be there."""
        place = np.searchsorted(self.example, examples)
        assert np.array_equal(self.example[place], examples), "an example without a picture"
        return self.pixels[place]

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        save_tensors(path, {"example": torch.from_numpy(self.example), "pixels": torch.from_numpy(self.pixels)})

    @staticmethod
    def load(path: Path) -> "Thumbnails":
        """Read back, mapped into memory."""
        tensors = load_tensors(path)
        return Thumbnails(tensors["example"].numpy(), tensors["pixels"].numpy())


class ImageReader:
    """Pixels of any example as bytes, from a data set or a tensor [n, c, h, w] or [n, h, w].

    Floats in [0, 1] become bytes as they are; floats beyond (normalised images) are stretched so that the smallest
    value of all is black and the largest white.
    """

    def __init__(self, images: ImageDataset | Tensor) -> None:
        self._images = images
        if isinstance(images, ImageDataset):
            self.n, self.id = len(images), images.id
            return
        if images.ndim not in {3, 4} or (images.ndim == 4 and images.shape[1] not in {1, 3}):
            raise InputError(f"images must be [n, h, w] or [n, c, h, w] with 1 or 3 channels, got {list(images.shape)}")
        if not images.numel():
            raise InputError(f"there are no pixels in images {list(images.shape)}")
        self.n, self.id = len(images), hash_tensor(images)
        low, high = float(images.min()), float(images.max())
        self._range = (0.0, 1.0) if low >= 0 and high <= 1 else (low, max(high, low + 1e-12))

    def pixels(self, index: Int64[np.ndarray, " m"], side: int = SIDES[0]) -> UInt8[np.ndarray, "m c h w"]:
        """Pictures at most `side` pixels on their longer side."""
        chosen = torch.from_numpy(index)
        if isinstance(self._images, ImageDataset):
            pictures = self._images.pixels(chosen)
        else:
            pictures = self._images[chosen.to(self._images.device)].cpu()
            pictures = pictures.unsqueeze(1) if pictures.ndim == 3 else pictures
            if pictures.dtype != torch.uint8:
                low, high = self._range
                pictures = ((pictures.float() - low) / (high - low) * 255).round().to(torch.uint8)
        longer = max(pictures.shape[-2:])
        if longer > side and len(pictures):
            height, width = (max(1, length * side // longer) for length in pictures.shape[-2:])
            small = interpolate(pictures.float(), size=(height, width), mode="bilinear", antialias=True)
            pictures = small.round().clamp(0, 255).to(torch.uint8)
        return pictures.numpy()

    def thumbnails(self, examples: Int64[np.ndarray, " k"], *, with_places: bool = False) -> Thumbnails:
        """Pictures of the examples, each once.

        The longer side is 96 pixels at most. Where all of them together would take more than 1 GiB it is 64, 48 or 32:
        the first at which they do not, or 32, however many they are. Where a part of an image
        is to be seen (`with_places`) it is 224, 160 or 128, as long as all of them take at most 256 MiB.
        """
        unique = np.unique(examples)
        if len(unique) and unique[-1] >= self.n:
            raise InputError(
                f"example {unique[-1]} was captured but there are only {self.n:,} images: give analyze the images that "
                "were captured, in the same order"
            )
        side = self._side(unique, with_places=with_places)
        pictures = np.empty((len(unique), *self.pixels(unique[:1], side).shape[1:]), np.uint8)
        with progress("Thumbnails", total=len(unique), unit="images") as bar:
            for start in range(0, len(unique), _READ_AT_ONCE):
                part = unique[start : start + _READ_AT_ONCE]
                pictures[start : start + len(part)] = self.pixels(part, side)
                bar.advance(len(part))
        return Thumbnails(unique, pictures)

    def _side(self, examples: Int64[np.ndarray, " k"], *, with_places: bool) -> int:
        room = [(side, _PLACES_BYTES) for side in _SIDES_WITH_PLACES] if with_places else []
        for side, most in [*room, *((side, _ALL_BYTES) for side in SIDES)]:
            if len(examples) * self.pixels(examples[:1], side).nbytes <= most:
                return side
        return SIDES[-1]
