"""Pictures that a pixel decoder draws: side by side, at places of a map, and by class."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from unweave.figures.style import FAINT, QUIET, WARM, house_style

_MOST_LABELLED = 40


def as_bytes(pictures: Float[np.ndarray, "k c h w"]) -> UInt8[np.ndarray, "k h w 3"]:
    """Pictures in [0, 1] as matplotlib shows them."""
    pixels = np.moveaxis(np.clip(np.rint(255 * pictures), 0, 255).astype(np.uint8), 1, -1)
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, -1)


def picture_grid(
    pictures: Float[np.ndarray, "k c h w"], labels: Sequence[str], *, columns: int = 14, size: float = 0.62
) -> Figure:
    """Pictures in rows, each with its label above; `size` is a picture's side in inches."""
    shown = as_bytes(pictures)
    rows = max(1, -(-len(shown) // columns))
    columns = min(columns, max(len(shown), 1))
    wide, tall = size * 1.08, size * 1.08 + 0.14
    with house_style():
        figure = Figure(figsize=(columns * wide, rows * tall))
        figure.set_layout_engine("none")
        sheet = figure.add_axes((0, 0, 1, 1))
        sheet.set_axis_off()
        for index, (picture, label) in enumerate(zip(shown, labels, strict=True)):
            left, top = (index % columns) * wide, (index // columns) * tall
            sheet.text(left + size / 2, top + 0.09, label, ha="center", va="center", size=6.5, color=QUIET)
            _put(sheet, picture, left, top + 0.15, size)
        sheet.set(xlim=(0, columns * wide), ylim=(rows * tall, 0), aspect="equal")
    return figure


def _put(axis: Axes, picture: UInt8[np.ndarray, "h w 3"], left: float, top: float, size: float) -> None:
    axis.imshow(picture, extent=(left, left + size, top + size, top), interpolation="nearest")


def picture_maps(
    maps: Mapping[str, Float[np.ndarray, "k 2"]], pictures: Float[np.ndarray, "k c h w"], labels: Sequence[str]
) -> Figure:
    """Maps of the same things side by side, each with two axes of its own, and the pictures at their points.

    Labels are written above the pictures while there is room for them.
    """
    shown, side, head, gap = as_bytes(pictures), 4.5, 0.3, 0.2
    share = 0.075 if len(shown) <= _MOST_LABELLED else 0.05
    with house_style():
        figure = Figure(figsize=(len(maps) * (side + gap) - gap, side + head))
        figure.set_layout_engine("none")
        width, height = figure.get_size_inches()
        for place, (title, points) in enumerate(maps.items()):
            box = (place * (side + gap) / width, 0.0, side / width, side / height)
            axis = figure.add_axes(box, xticks=[], yticks=[], title=title)
            axis.spines[:].set_visible(True)
            axis.spines[:].set_color(FAINT)
            axis.grid(visible=False)
            places = _inside_unit_square(points, share)
            for layer, ((x, y), picture, label) in enumerate(zip(places, shown, labels, strict=True), start=2):
                extent = (x, x + share, y, y + share)
                axis.imshow(picture, extent=extent, interpolation="nearest", zorder=layer)
                axis.add_patch(Rectangle((x, y), share, share, fill=False, ec="white", lw=0.8, zorder=layer))
                if len(shown) <= _MOST_LABELLED:
                    axis.text(x + share / 2, y + share + 0.004, label, ha="center", va="bottom", size=7, zorder=layer)
            axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    return figure


def _inside_unit_square(points: Float[np.ndarray, "k 2"], share: float) -> Float[np.ndarray, "k 2"]:
    """Lower left corners of pictures that take `share` of a side, the map's own shape kept."""
    size = np.ptp(points, axis=0)
    middle = points.min(0) + size / 2
    return np.asarray((points - middle) / max(float(size.max()), 1e-9) * (1 - share) + (1 - share) / 2)


def stretched(pictures: Float[np.ndarray, "k c h w"]) -> Float[np.ndarray, "k c h w"]:
    """Pictures with each one's own darkest and brightest value at 0 and 1."""
    low, high = pictures.min((1, 2, 3), keepdims=True), pictures.max((1, 2, 3), keepdims=True)
    return np.asarray((pictures - low) / np.maximum(high - low, 1e-9))


def class_pictures(
    pictures: Mapping[str, Float[np.ndarray, "classes c h w"]],
    read: Mapping[str, Bool[np.ndarray, " classes"]],
    names: Sequence[str],
) -> Figure:
    """One picture for each class (columns) under each condition (rows).

    Args:
        pictures: by condition.
        read: whether the model names the right class when it is shown the picture; such pictures have a frame. A
            condition that is missing is not judged.
        names: of the classes.
    """
    size, gap, left, top = 0.62, 0.08, 1.75, 0.3
    width = left + len(names) * (size + gap) + 0.75
    height = top + len(pictures) * (size + gap) + 0.05
    with house_style():
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("none")
        sheet = figure.add_axes((0, 0, 1, 1))
        sheet.set_axis_off()
        for column, name in enumerate(names):
            sheet.text(left + column * (size + gap) + size / 2, top - 0.1, name, ha="center", size=8, weight="bold")
        for row, (condition, drawn) in enumerate(pictures.items()):
            y = top + row * (size + gap)
            sheet.text(0.05, y + size / 2, condition, va="center", size=8)
            for column, picture in enumerate(as_bytes(drawn)):
                x = left + column * (size + gap)
                _put(sheet, picture, x, y, size)
                if condition in read and read[condition][column]:
                    sheet.add_patch(Rectangle((x, y), size, size, fill=False, ec=WARM, lw=1.8))
            if condition in read:
                right = left + len(names) * (size + gap) + 0.04
                text = f"{int(read[condition].sum())} of {len(names)}"
                sheet.text(right, y + size / 2, text, va="center", size=8, color=WARM)
        sheet.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    return figure
