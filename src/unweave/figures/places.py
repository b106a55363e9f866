"""Where in an image a latent fires: its strongest place framed, that place enlarged, and its values over the image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from PIL import Image

from unweave.figures.style import QUIET
from unweave.store.layout import WHOLE_IMAGE, Area, Box

SIDE = 96
_GAP = 3
_BETWEEN = 10
_FRAME = (255, 0, 200)  # a colour that photographs seldom have, with white around it
_COLOURS = colormaps["inferno"](np.linspace(0.25, 1.0, 256))[:, :3]
_STRONGEST = 0.85  # opacity of the largest value
_BLANK = 0.85  # how far a place without a row fades into white


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedImage:
    """An example of a latent with the places at which it fires.

    Attributes:
        image: the picture.
        value: at its strongest place.
        box: that place; None for a token that shows no part of the image.
        heat: values at all places; NaN where there is no row.
        area: what the places cover of the image.
    """

    image: UInt8[np.ndarray, "c h w"]
    value: float
    box: Box | None
    heat: Float[np.ndarray, "rows columns"]
    area: Area = WHOLE_IMAGE

    def framed(self, side: int = SIDE) -> UInt8[np.ndarray, "h w 3"]:
        """The image with a frame around the strongest place; its longer side has `side` pixels."""
        picture = _sized(_colours(self.image), side)
        if self.box is None:
            return picture
        height, width = picture.shape[:2]
        top, left, bottom, right = self.box.pixels(height, width)
        for far, colour in ((2, (255, 255, 255)), (1, _FRAME), (0, _FRAME)):
            _outline(picture, (top - far, left - far, bottom + far, right + far), colour)
        return picture

    def enlarged(self, side: int = SIDE) -> UInt8[np.ndarray, "h w 3"] | None:
        """The strongest place alone; None where it is no part of the image."""
        if self.box is None:
            return None
        pixels = _colours(self.image)
        top, left, bottom, right = self.box.pixels(*pixels.shape[:2])
        return _sized(pixels[top:bottom, left:right], side)

    def heated(self, largest: float, side: int = SIDE) -> UInt8[np.ndarray, "h w 3"]:
        """The image in grey under its values, from 0 to `largest`; places without a row fade to white."""
        picture = _sized(_colours(self.image), side).astype(np.float64) / 255
        grey = 0.15 + 0.6 * (picture @ np.array([0.299, 0.587, 0.114]))[..., None]
        return _bytes(_tinted(grey, self._over(*picture.shape[:2]), largest))

    def _over(self, height: int, width: int) -> Float[np.ndarray, "h w"]:
        """The value at each pixel; NaN outside of what the places cover."""
        rows, row_inside = _cells(height, self.area[0], self.area[2], self.heat.shape[0])
        columns, column_inside = _cells(width, self.area[1], self.area[3], self.heat.shape[1])
        values = np.asarray(self.heat[np.ix_(rows, columns)], np.float64)
        values[~(row_inside[:, None] & column_inside)] = np.nan
        return values


def _cells(pixels: int, low: float, high: float, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell that each pixel's middle lies in, and whether it lies in any."""
    share = ((np.arange(pixels) + 0.5) / pixels - low) / (high - low)
    cell = np.floor(share * cells).astype(np.int64)
    return np.clip(cell, 0, cells - 1), (cell >= 0) & (cell < cells)


def _tinted(
    grey: Float[np.ndarray, "h w 1"], values: Float[np.ndarray, "h w"], largest: float
) -> Float[np.ndarray, "h w 3"]:
    share = np.clip(np.nan_to_num(values) / (largest or 1.0), 0, 1)
    colour = _COLOURS[(share * 255).astype(np.int64)]
    opacity = np.where(share > 0, 0.35 + (_STRONGEST - 0.35) * share, 0.0)[..., None]
    made = grey * (1 - opacity) + colour * opacity
    return np.asarray(np.where(np.isnan(values)[..., None], made * (1 - _BLANK) + _BLANK, made))


def scale_strip(width: int = 256, height: int = 1) -> UInt8[np.ndarray, "h w 3"]:
    """The colours of values from 0 to the largest, as they lie over a middle grey."""
    values = np.broadcast_to(np.linspace(0, 1, width), (height, width))
    return _bytes(_tinted(np.full((height, width, 1), 0.45), values, 1.0))


def place_sheet(
    shown: Sequence[PlacedImage], largest: float, *, columns: int = 2, side: int = SIDE
) -> UInt8[np.ndarray, "H W 4"]:
    """Examples side by side, each as image with frame, enlarged place and heat map; what is no image is clear."""
    rows = max(1, -(-len(shown) // columns))
    across = 3 * side + 2 * _GAP + _BETWEEN
    sheet = np.full((rows * (side + _GAP) - _GAP, columns * across - _BETWEEN, 4), [255, 255, 255, 0], np.uint8)
    for index, one in enumerate(shown):
        top, left = (index // columns) * (side + _GAP), (index % columns) * across
        for place, tile in enumerate((one.framed(side), one.enlarged(side), one.heated(largest, side))):
            if tile is not None:
                _paste(sheet, tile, top, left + place * (side + _GAP), side)
    return sheet


def _paste(sheet: UInt8[np.ndarray, "H W 4"], tile: UInt8[np.ndarray, "h w 3"], top: int, left: int, side: int) -> None:
    height, width = tile.shape[:2]
    top, left = top + (side - height) // 2, left + (side - width) // 2
    sheet[top : top + height, left : left + width, :3] = tile
    sheet[top : top + height, left : left + width, 3] = 255


def draw_scale(axis: Axes, left: float, right: float, top: float, bottom: float, largest: float, size: float) -> None:
    """The colour scale with its numbers, inside axes that run in inches from the top."""
    axis.imshow(scale_strip(), extent=(left, right, bottom, top), interpolation="nearest", aspect="auto")
    for x, text, side in ((left, "0", "right"), (right, f"{largest:.3g}", "left")):
        near = -0.03 if side == "right" else 0.03
        axis.text(x + near, (top + bottom) / 2, text, size=size, ha=side, va="center", color=QUIET)


def _colours(image: UInt8[np.ndarray, "c h w"]) -> UInt8[np.ndarray, "h w 3"]:
    pixels = np.moveaxis(image, 0, -1)
    return np.ascontiguousarray(pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, -1))


def _sized(pixels: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "H W 3"]:
    """At this longer side: sharp squares where it grows, smooth where it shrinks."""
    height, width = pixels.shape[:2]
    longer = max(height, width)
    if longer == side:
        return pixels.copy()
    new = (max(1, round(width * side / longer)), max(1, round(height * side / longer)))
    how = Image.Resampling.NEAREST if longer < side else Image.Resampling.LANCZOS
    return np.array(Image.fromarray(pixels).resize(new, how))


def _outline(
    picture: UInt8[np.ndarray, "h w 3"], ends: tuple[int, int, int, int], colour: tuple[int, int, int]
) -> None:
    """A frame one pixel wide, just inside these ends; as much of it as lies in the picture."""
    height, width = picture.shape[:2]
    top, left, bottom, right = ends
    rows, columns = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    for row in (top, bottom - 1):
        if 0 <= row < height:
            picture[row, columns] = colour
    for column in (left, right - 1):
        if 0 <= column < width:
            picture[rows, column] = colour


def _bytes(values: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.asarray((np.clip(values, 0, 1) * 255).round(), np.uint8)
