"""Grids of pictures as PNG files that tell nothing but what they show: equal in pixels and in bytes."""

import hashlib
import io
import math
import struct
import zlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from unweave.core.errors import InputError

PICTURE_SIDE = 112
_GAP = 4
_BACKGROUND = 128
_PADDING = b"upAd"  # lower, lower, upper, lower: ancillary, private, safe to copy
_CHUNK = 12
_END = 12  # of the closing IEND


def grids(pictures: Mapping[str, UInt8[np.ndarray, "_ _ _ _"]]) -> dict[str, bytes]:
    """One PNG for each item, all of the same size in pixels and in bytes.

    Args:
        pictures: of each item [k, c, h, w], all of the same shape.

    Raises:
        InputError: their shapes differ.
    """
    shapes = {array.shape for array in pictures.values()}
    if len(shapes) > 1:
        raise InputError(
            f"grids must not differ in size, but the pictures come in shapes {sorted(shapes)} (images, channels, "
            "height, width): conditions of one study need atlases of the same images"
        )
    plain = {item: _png(arranged(array)) for item, array in pictures.items()}
    size = max(map(len, plain.values()), default=0) + _CHUNK
    return {item: padded(png, size) for item, png in plain.items()}


def arranged(pictures: UInt8[np.ndarray, "k c h w"]) -> UInt8[np.ndarray, "height width channels"]:
    """Pictures row by row in the smallest square that holds them, small ones enlarged by a whole factor."""
    count, channels, height, width = pictures.shape
    factor = max(1, round(PICTURE_SIDE / max(height, width)))
    large = pictures.repeat(factor, axis=2).repeat(factor, axis=3)
    height, width = height * factor, width * factor
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    size = (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels)
    canvas = np.full(size, _BACKGROUND, np.uint8)
    for place, picture in enumerate(large):
        top, left = _GAP + place // columns * (height + _GAP), _GAP + place % columns * (width + _GAP)
        canvas[top : top + height, left : left + width] = picture.transpose(1, 2, 0)
    return canvas


def _png(canvas: UInt8[np.ndarray, "height width channels"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(canvas[:, :, 0] if canvas.shape[2] == 1 else canvas).save(file, "PNG")
    return file.getvalue()


def padded(png: bytes, size: int) -> bytes:
    """The same picture in exactly `size` bytes, by a chunk before the end that viewers pass over.

    What fills it looks random: zeros would be squeezed out again by a compressed connection.
    """
    room = size - len(png) - _CHUNK
    assert room >= 0, (size, len(png))
    body = _PADDING + hashlib.shake_256(png).digest(room)
    chunk = struct.pack(">I", room) + body + struct.pack(">I", zlib.crc32(body))
    return png[:-_END] + chunk + png[-_END:]
