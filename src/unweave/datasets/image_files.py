"""One image file, whatever its format and mode, as a square of bytes."""

from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from unweave.core.errors import InputError
from unweave.core.framing import Framing

# Pillow knows these formats by their header only, or hands them to programs outside (EPS to Ghostscript).
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})

MAX_PIXELS = 89_478_485
"""Larger images are taken for decompression bombs, as Pillow's own limit does (256 MiB in RGB)."""


class BrokenImageError(InputError):
    """A file that should be an image cannot be read as one; the message names it and says why."""


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_DECODED)


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes (small letters, with the dot) of the image formats that Pillow decodes here."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in _formats())


def check_header(path: Path | BytesIO) -> None:
    """Make sure that a file begins as an image does; what comes after the header is not read.

    Raises:
        BrokenImageError: it does not, or the image is too large.
    """
    try:
        with Image.open(path, formats=_formats()) as image:
            _check_size(image)
    except MemoryError:
        raise
    except Exception as error:
        named = path if isinstance(path, Path) else getattr(path, "name", "the image")
        raise BrokenImageError(f"{named}: {_reason(error)}") from error


def shorter_side(path: Path | BytesIO) -> int | None:
    """The shorter of an image's width and height by its header; None where it is broken."""
    try:
        with Image.open(path, formats=_formats()) as image:
            return min(image.size)
    except MemoryError:
        raise
    except Exception:  # what is broken is named when it is read
        return None


def read_image(path: Path | BytesIO, size: int | Framing, channels: int) -> UInt8[np.ndarray, "c h w"]:
    """The largest centred part of an image that has the wanted aspect, at the wanted size, upright by EXIF orientation.

    For a square that is the shorter side resized (bicubic, antialiased), then a centre crop; a framing may ask for the
    whole image, stretched, and for another filter. A large JPEG is decoded at a half, a quarter or an eighth of its
    size as long as that stays twice as large as what is wanted. Transparent parts show white, 16-bit grey is scaled to
    8 bits, and of an animation it is the first frame.

    Args:
        path: an image file, or its content.
        size: width and height of a square; or what becomes of the image in full.
        channels: 3 for RGB, 1 for grey (ITU-R 601 luma).

    Raises:
        BrokenImageError: the file is damaged, no image, too large, or has pixels without a known white.
    """
    framing = Framing(height=size, width=size) if isinstance(size, int) else size
    try:
        with Image.open(path, formats=_formats()) as image:
            _check_size(image)
            twice = 2 * max(framing.height, framing.width)
            image.draft(None, (twice, twice))
            ImageOps.exif_transpose(image, in_place=True)
            framed = _framed(_with_channels(image, channels), framing)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged header leads them to
        named = path if isinstance(path, Path) else getattr(path, "name", "the image")
        raise BrokenImageError(f"{named}: {_reason(error)}") from error
    pixels = np.asarray(framed)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than the {MAX_PIXELS:,} allowed; make it smaller")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "no image in a format that Pillow decodes"
    return str(error) or type(error).__name__


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
    """Grey or RGB of an image in any mode."""
    if image.mode.startswith("I"):
        image = _from_16_bits(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed white; save it with 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    if channels == 1 and image.mode in ("L", "1"):
        return image.convert("L")
    image = image.convert("RGB")  # palettes, CMYK and YCbCr reach grey by way of RGB
    return image.convert("L") if channels == 1 else image


def _from_16_bits(image: Image.Image) -> Image.Image:
    """8-bit grey of 16-bit grey, rounded; Pillow's own conversion would clip all that is above 255."""
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError("32-bit pixels have no agreed white; save it with 8 or 16 bits")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _framed(image: Image.Image, framing: Framing) -> Image.Image:
    width, height = image.size
    wanted, resample = (framing.width, framing.height), Image.Resampling[framing.resample.upper()]
    if framing.fit == "stretch":
        return image.resize(wanted, resample)
    scale = min(width / framing.width, height / framing.height)
    across, down = min(framing.width * scale, width), min(framing.height * scale, height)  # rounding may exceed them
    left, top = (width - across) / 2, (height - down) / 2
    return image.resize(wanted, resample, box=(left, top, min(left + across, width), min(top + down, height)))
