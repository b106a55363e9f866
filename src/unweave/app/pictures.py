"""Pictures as PNG, for pages and the API."""

import io

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from unweave.app.opened import OpenAtlas
from unweave.core.errors import InputError

_SHOWN_SIDE = 128


def png(pixels: UInt8[np.ndarray, "c h w"], *, side: int | None = None) -> bytes:
    """A picture as PNG.

    Args:
        pixels: grey (one channel) or RGB.
        side: pictures smaller than this on their longer side are enlarged by a whole factor, so that pixels stay
            sharp squares.
    """
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    if side is not None and (factor := side // max(image.size)) > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    written = io.BytesIO()
    image.save(written, "PNG", compress_level=1)
    return written.getvalue()


def bytes_of(image: Float[np.ndarray, "c h w"]) -> UInt8[np.ndarray, "c h w"]:
    """Values in [0, 1] as bytes."""
    return np.asarray((np.clip(image, 0, 1) * 255).round(), np.uint8)


def heat(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "3 h w"]:
    """A signed map in blue (against) and red (for) around white, its largest magnitude in full colour."""
    most = float(np.abs(values).max()) or 1.0
    share = np.clip(values / most, -1, 1)
    faded = 1 - np.abs(share)
    red, green, blue = np.where(share < 0, faded, 1), faded, np.where(share > 0, faded, 1)
    return bytes_of(np.stack([0.75 * red + 0.25 * faded, green, 0.75 * blue + 0.25 * faded]))


def example_png(opened: OpenAtlas, example: int, *, side: int = _SHOWN_SIDE) -> bytes:
    """An example's picture: its thumbnail, or else the image itself.

    Raises:
        InputError: there is no such example, or no picture of it can be had.
    """
    thumbnails = opened.atlas.thumbnails
    if thumbnails is not None:
        place = int(np.searchsorted(thumbnails.example, example))
        if place < len(thumbnails.example) and thumbnails.example[place] == example:
            return png(np.asarray(thumbnails.pixels[place]), side=side)
    return png(image_pixels(opened, example), side=side)


def image_pixels(opened: OpenAtlas, example: int) -> UInt8[np.ndarray, "c h w"]:
    """An image of the captured data set.

    Raises:
        InputError: there is no such image, or the data set cannot be had.
    """
    images = opened.images
    if not 0 <= example < len(images):
        raise InputError(f"there is no image {example}: there are {len(images):,}, counted from 0")
    return images.pixels(torch.tensor([example]))[0].numpy()
