"""Small pictures of the examples that an atlas shows."""

from collections.abc import Mapping
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
from unweave.datasets.streamed import StreamedImages
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
    """Pixels of any example as bytes, from a data set, a stream, or a tensor [n, c, h, w] or [n, h, w].

    A stream is read once more, from its beginning to the last example that is asked for. Floats in [0, 1] become bytes
    as they are; floats beyond (normalised images) are stretched so that the smallest value of all is black and the
    largest white.
    """

    def __init__(self, images: ImageDataset | StreamedImages | Tensor) -> None:
        self._images = images
        self.n: int | None = None
        if isinstance(images, StreamedImages):
            self.id = images.id
            return
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
        assert not isinstance(self._images, StreamedImages), "a stream has no index"
        if isinstance(self._images, ImageDataset):
            pictures = self._images.pixels(chosen)
        else:
            pictures = self._images[chosen.to(self._images.device)].cpu()
            pictures = pictures.unsqueeze(1) if pictures.ndim == 3 else pictures
            if pictures.dtype != torch.uint8:
                low, high = self._range
                pictures = ((pictures.float() - low) / (high - low) * 255).round().to(torch.uint8)
        return _shrunk(pictures, side)

    def thumbnails(self, examples: Int64[np.ndarray, " k"], *, with_places: bool = False) -> Thumbnails:
        """Pictures of the examples, each once.

        The longer side is 96 pixels at most. Where all of them together would take more than 1 GiB it is 64, 48 or 32:
        the first at which they do not, or 32, however many they are. Where a part of an image
        is to be seen (`with_places`) it is 224, 160 or 128, as long as all of them take at most 256 MiB.
        """
        unique = np.unique(examples)
        if isinstance(self._images, StreamedImages):
            return self._streamed(self._images, unique, with_places=with_places)
        if self.n is not None and len(unique) and unique[-1] >= self.n:
            raise InputError(
                f"example {unique[-1]} was captured but there are only {self.n:,} images: give analyze the images that "
                "were captured, in the same order"
            )
        sizes = {side: self.pixels(unique[:1], side).nbytes for side in {*_SIDES_WITH_PLACES, *SIDES}}
        side = _side(len(unique), sizes, with_places=with_places)
        pictures = np.empty((len(unique), *self.pixels(unique[:1], side).shape[1:]), np.uint8)
        with progress("Thumbnails", total=len(unique), unit="images") as bar:
            for start in range(0, len(unique), _READ_AT_ONCE):
                part = unique[start : start + _READ_AT_ONCE]
                pictures[start : start + len(part)] = self.pixels(part, side)
                bar.advance(len(part))
        return Thumbnails(unique, pictures)

    def _streamed(self, stream: StreamedImages, unique: Int64[np.ndarray, " k"], *, with_places: bool) -> Thumbnails:
        """The same in one pass over a stream."""
        one = torch.zeros(1, *stream.shape, dtype=torch.uint8)
        sizes = {side: _shrunk(one, side).nbytes for side in {*_SIDES_WITH_PLACES, *SIDES}}
        side = _side(len(unique), sizes, with_places=with_places)
        pictures = np.empty((len(unique), *_shrunk(one, side).shape[1:]), np.uint8)
        done = 0
        with progress("Thumbnails", total=len(unique), unit="images") as bar:
            for batch in stream.batches(_READ_AT_ONCE) if len(unique) else ():
                here = batch.example.numpy()
                wanted = unique[done : int(np.searchsorted(unique, here[-1], side="right"))]
                place = np.minimum(np.searchsorted(here, wanted), len(here) - 1)
                if not np.array_equal(here[place], wanted):
                    break
                chosen = (batch.images[torch.from_numpy(place)] * 255).round().to(torch.uint8)
                pictures[done : done + len(wanted)] = _shrunk(chosen, side)
                done += len(wanted)
                bar.advance(len(wanted))
                if done == len(unique):
                    break
        if done < len(unique):
            raise InputError(
                f"example {unique[done]} was captured, but the stream does not give it again: it holds other images by "
                "now, or gives them in another order"
            )
        return Thumbnails(unique, pictures)


def _shrunk(pictures: UInt8[Tensor, "m c h w"], side: int) -> UInt8[np.ndarray, "m c h2 w2"]:
    """Pictures whose longer side is `side` pixels at most."""
    longer = max(pictures.shape[-2:])
    if longer > side and len(pictures):
        height, width = (max(1, length * side // longer) for length in pictures.shape[-2:])
        small = interpolate(pictures.float(), size=(height, width), mode="bilinear", antialias=True)
        pictures = small.round().clamp(0, 255).to(torch.uint8)
    return pictures.numpy()


def _side(count: int, sizes: Mapping[int, int], *, with_places: bool) -> int:
    """The longer side of so many pictures, by the bytes that one takes at each."""
    room = [(side, _PLACES_BYTES) for side in _SIDES_WITH_PLACES] if with_places else []
    for side, most in [*room, *((side, _ALL_BYTES) for side in SIDES)]:
        if count * sizes[side] <= most:
            return side
    return SIDES[-1]
