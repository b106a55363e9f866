"""Figures of an image embedding and of what its latents show."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unweave.figures.style import ACCENT, FAINT, INK, QUIET, WARM, house_style, panels

_SIDE = 0.42  # inches of a picture in a grid
_COLOURS = {"tuned": ACCENT, "untuned": QUIET}
_NAMES = {"tuned": "fine-tuned", "untuned": "before"}


def tuning_curves(
    curves: Mapping[str, Sequence[float]], *, chance: Mapping[str, float], parts: Mapping[str, str]
) -> Figure:
    """The loss of fine-tuning and its parts.

    Args:
        curves: `step` and a column for each part.
        chance: what a part costs an embedding that tells nothing apart, drawn as a line.
        parts: a panel for each of these columns, with its title.
    """
    with house_style():
        figure, axes = panels(len(parts), width=3.1, height=2.3)
        for axis, (name, title) in zip(axes, parts.items(), strict=True):
            axis.plot(curves["step"], curves[name], color=WARM if name == "loss" else ACCENT)
            if name in chance:
                axis.axhline(chance[name], color=INK, lw=0.8, ls=":")
            axis.set(title=title[:1].upper() + title[1:], xlabel="step", xlim=(0, None))
            largest = max([*curves[name], chance.get(name, 0.0)], default=1.0)
            axis.set_ylim(0, 1.08 * largest or 1.0)
    return figure


def embedding_spread(
    spectra: Mapping[str, Float[np.ndarray, " d"]],
    cosines: Mapping[str, Float[np.ndarray, " pairs"]],
    *,
    turned: Float[np.ndarray, " n"],
) -> Figure:
    """How many directions an embedding uses, and how near different images lie.

    Args:
        spectra: shares of variance, largest first, by condition (`tuned`, `untuned`).
        cosines: of two different images, by condition.
        turned: of an image with itself upside down, fine-tuned.
    """
    with house_style():
        figure, (left, right) = panels(2, width=3.9, height=2.6)
        for name, shares in spectra.items():
            shown = shares[shares > 0]
            left.plot(np.arange(1, len(shown) + 1), shown, color=_COLOURS.get(name, INK), label=_NAMES.get(name, name))
        left.set(title="Directions in use", xscale="log", yscale="log", xlabel="principal direction")
        left.set(ylabel="share of the variance", ylim=(1e-6, 1))
        left.legend()
        bins = np.linspace(min([-0.2, *(float(c.min()) for c in cosines.values())]), 1, 61).tolist()
        for name, values in cosines.items():
            right.hist(
                values,
                bins=bins,
                density=True,
                histtype="stepfilled" if name == "tuned" else "step",
                color=_COLOURS.get(name, INK),
                alpha=0.35 if name == "tuned" else 1,
                label=f"different images, {_NAMES.get(name, name)}",
            )
        right.hist(
            turned, bins=bins, density=True, histtype="step", color=WARM, lw=1.6, label="upside down, fine-tuned"
        )
        right.set(title="How near images lie", xlabel="cosine", yticks=[], ylabel="density")
        right.legend(fontsize=8, loc="upper left")
        right.margins(y=0.45)
    return figure


def image_grids(grids: Mapping[str, Mapping[str, UInt8[np.ndarray, "k c h w"]]]) -> Figure:
    """Sheets of a latent's images, four a row: a row of sheets for each condition.

    Args:
        grids: images by condition, then by the latent's name.
    """
    columns = max(len(one) for one in grids.values())
    sheet, gap, head = 4 * _SIDE, 0.16, 0.2
    width, tall = columns * (sheet + gap) + 0.1, sheet + head + 0.32
    height = len(grids) * tall
    with house_style():
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("none")
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set_axis_off()
        for row, (condition, latents) in enumerate(grids.items()):
            top = row * tall
            axis.text(0.05, top + 0.16, condition, size=10, weight="bold", parse_math=False)
            for column, (name, images) in enumerate(latents.items()):
                left = 0.05 + column * (sheet + gap)
                axis.text(left, top + 0.34, name, size=7.5, color=QUIET)
                for index, image in enumerate(images[:16]):
                    x, y = left + (index % 4) * _SIDE, top + 0.38 + (index // 4) * _SIDE
                    _place(axis, image, x, y, 0.97 * _SIDE)
        axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    return figure


def nearest_images(
    queries: UInt8[np.ndarray, "q c h w"], found: Mapping[str, UInt8[np.ndarray, "q k c h w"]]
) -> Figure:
    """Each query on the left, and beside it what is nearest to it: a line for each condition.

    Args:
        queries: the images asked about.
        found: nearest images of each query, nearest first, by condition.
    """
    side, gap, label = 0.5, 0.22, 0.9
    large = len(found) * side
    nearest = next(iter(found.values())).shape[1]
    width = large + label + nearest * side + 0.15
    height = len(queries) * (large + gap)
    with house_style():
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("none")
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set_axis_off()
        for row, image in enumerate(queries):
            top = row * (large + gap) + gap / 2
            _place(axis, image, 0.05, top, large - 0.02)
            for line, (name, images) in enumerate(found.items()):
                y = top + line * side
                axis.text(large + label, y + side / 2, name, size=7.5, color=QUIET, ha="right", va="center")
                for column, one in enumerate(images[row]):
                    _place(axis, one, large + label + 0.08 + column * side, y, side - 0.02)
        axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    return figure


def attribute_precision(
    names: Sequence[str],
    precision: Mapping[str, Float[np.ndarray, " m"]],
    *,
    null: Float[np.ndarray, " m"],
    share: Float[np.ndarray, " m"],
) -> Figure:
    """Average precision of each attribute's best latent; the first condition stands out.

    Args:
        names: of the attributes, the best first.
        precision: by condition.
        null: what the best of the first condition reaches on permuted images.
        share: share of images that have the attribute.
    """
    marks = ("o", "s", "^", "x")
    with house_style():
        figure = Figure(figsize=(6.4, 0.9 + 0.19 * len(names)))
        axis = figure.subplots()
        place = np.arange(len(names))[::-1]
        axis.hlines(place, share, null, color=FAINT, lw=6)
        for turn, (condition, values) in enumerate(precision.items()):
            colour = ACCENT if turn == 0 else QUIET if turn != 1 else WARM
            size = 30 if turn == 0 else 14
            mark = marks[turn % len(marks)]
            axis.scatter(values, place, s=size, color=colour, marker=mark, label=condition, zorder=3 - (turn > 0))
        axis.set_yticks(place, list(names), fontsize=7.5, parse_math=False)
        axis.set(xlabel="average precision of the best latent", xlim=(0, 1.01), ylim=(-0.8, len(names) - 0.2))
        axis.grid(axis="y", visible=False)
        axis.legend(fontsize=8, loc="lower right")
    return figure


def query_sheet(
    image: UInt8[np.ndarray, "c h w"],
    latents: Mapping[str, UInt8[np.ndarray, "k c h w"]],
    nearest: Mapping[str, UInt8[np.ndarray, "m c h w"]],
) -> Figure:
    """One's own image, its nearest examples, and the strongest examples of its strongest latents.

    Args:
        image: as the network was shown it.
        latents: strongest images of each latent, by its caption.
        nearest: nearest images, by the space they are nearest in.
    """
    side, left, gap = 0.5, 1.75, 0.14
    lines = [*nearest.items(), *latents.items()]
    longest = max((len(images) for _, images in lines), default=1)
    width = left + longest * side + 0.4
    large = 1.55
    height = max(large + 0.3, len(lines) * (side + gap) + 0.35)
    with house_style():
        figure = Figure(figsize=(width + large, height))
        figure.set_layout_engine("none")
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set_axis_off()
        _place(axis, image, 0.1, 0.15, large - 0.15)
        for line, (name, images) in enumerate(lines):
            top = 0.15 + line * (side + gap)
            axis.text(large + left, top + side / 2, name, size=7.5, ha="right", va="center", parse_math=False)
            for column, one in enumerate(images):
                _place(axis, one, large + left + 0.1 + column * side, top, side - 0.02)
        axis.set(xlim=(0, width + large), ylim=(height, 0), aspect="equal")
    return figure


def _place(axis: Axes, image: UInt8[np.ndarray, "c h w"], left: float, top: float, size: float) -> None:
    pixels = np.moveaxis(image, 0, -1)
    shown = pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, -1)
    axis.imshow(shown, extent=(left, left + size, top + size, top), interpolation="nearest")
