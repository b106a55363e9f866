"""One latent at a glance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unweave.figures.style import ACCENT, FAINT, INK, QUIET, WARM, house_style


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentCard:
    """What is shown of one latent.

    Attributes:
        latent: its index.
        numbers: its row of the atlas's table.
        images: strongest examples [k, c, h, w], strongest first.
        histogram: counts of its values over equal parts of [0, largest].
        largest: its largest value.
        class_names: names of the classes.
        class_counts: firing examples by class.
        class_totals: all examples by class.
    """

    latent: int
    numbers: Mapping[str, Any]
    images: UInt8[np.ndarray, "k c h w"] | None
    histogram: np.ndarray
    largest: float
    class_names: list[str] | None
    class_counts: np.ndarray | None
    class_totals: np.ndarray | None

    @property
    def class_shares(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Share of each class among firing examples, and among all."""
        if self.class_counts is None or self.class_totals is None:
            return None
        return self.class_counts / max(self.class_counts.sum(), 1), self.class_totals / self.class_totals.sum()

    @property
    def summary(self) -> str:
        """The latent's numbers in a line."""
        text = f"fires on {100 * self.numbers['rate']:.3g} % of rows"
        if self.class_names is not None and self.numbers["count"]:
            name = self.class_names[self.numbers["top_class"]]
            text += f" · {name} is {100 * self.numbers['top_class_share']:.0f} % of its examples"
            text += f" · {self.numbers['mutual_information']:.3f} bits"
        return text


def contact_sheet(images: UInt8[np.ndarray, "k c h w"], columns: int, *, gap: int = 1) -> UInt8[np.ndarray, "H W 4"]:
    """Images side by side, pixel for pixel, with opacity in the last channel: what is no image is clear."""
    k, channels, height, width = images.shape
    rows = -(-k // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), [255, 255, 255, 0], np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        pixels = np.moveaxis(image, 0, -1)
        sheet[top : top + height, left : left + width, :3] = pixels if channels == 3 else np.repeat(pixels, 3, -1)
        sheet[top : top + height, left : left + width, 3] = 255
    return sheet


def latent_card(card: LatentCard) -> Figure:
    """Strongest examples, histogram of values, and classes against their prior."""
    with house_style():
        figure = Figure(figsize=(8.4, 2.9))
        figure.suptitle(f"Latent {card.latent}", x=0.01, ha="left", weight="bold")
        grid = figure.add_gridspec(1, 3, width_ratios=(1.1, 1, 1))
        pictures = figure.add_subplot(grid[0])
        if card.images is not None and len(card.images):
            pictures.imshow(contact_sheet(card.images, 4), interpolation="nearest")
        else:
            pictures.text(0.5, 0.5, "no images" if card.images is None else "never fires", ha="center", color=QUIET)
        pictures.set_axis_off()
        pictures.set_title("strongest examples", weight="normal")
        _histogram(figure.add_subplot(grid[1]), card)
        _classes(figure.add_subplot(grid[2]), card)
        figure.text(0.99, 0.97, card.summary, ha="right", va="top", color=QUIET, parse_math=False)
    return figure


def gallery(cards: Sequence[LatentCard], *, columns: int = 3) -> Figure:
    """Latents side by side: strongest examples, histogram of values, and classes against their prior (line)."""
    rows = max(1, -(-len(cards) // columns))
    width, height = 3.5, 2.1  # inches of a card
    with house_style():
        figure = Figure(figsize=(columns * width, rows * height))
        figure.set_layout_engine("none")
        for index, card in enumerate(cards):
            left, top = (index % columns) * width + 0.1, (rows - index // columns) * height - 0.1

            def axes(x: float, y: float, w: float, h: float, left: float = left, top: float = top) -> Axes:
                box = ((left + x) / (columns * width), (top - y - h) / (rows * height))
                return figure.add_axes((*box, w / (columns * width), h / (rows * height)))

            pictures = axes(0, 0.34, 3.2, 0.8)
            pictures.set_axis_off()
            pictures.set_title(f"latent {card.latent}", pad=14)
            pictures.text(0, 1.04, card.summary, transform=pictures.transAxes, size=7, color=QUIET)
            if card.images is not None and len(card.images):
                pictures.imshow(contact_sheet(card.images, 8), interpolation="nearest")
                pictures.set_anchor("W")
            values, classes = axes(0, 1.24, 1.5, 0.5), axes(1.7, 1.24, 1.5, 0.5)
            _histogram(values, card)
            _classes(classes, card)
            for small in (values, classes):
                small.set(title="", xlabel="", ylabel="", yticks=[])
                small.spines["left"].set_visible(False)
                small.tick_params(labelsize=7, length=0)
                small.grid(visible=False)
    return figure


def _histogram(axis: Axes, card: LatentCard) -> None:
    edges = np.linspace(0, card.largest or 1, len(card.histogram) + 1)
    axis.bar(edges[:-1], card.histogram, width=np.diff(edges), align="edge", color=ACCENT)
    axis.set_title("values where it fires", weight="normal")
    axis.set(xlabel="activation", ylabel="rows", xlim=(0, edges[-1]))


def _classes(axis: Axes, card: LatentCard) -> None:
    shares = card.class_shares
    if shares is None or card.class_names is None:
        axis.set_axis_off()
        return
    share, prior = shares
    place = np.arange(len(share))
    axis.bar(place, share, color=WARM)
    axis.hlines(prior, place - 0.45, place + 0.45, color=INK, lw=1.2)
    upright = max(map(len, card.class_names)) > 2
    axis.set_xticks(place, card.class_names, rotation=90 if upright else 0, parse_math=False)
    axis.set_title("classes it fires on (line: prior)", weight="normal")
    axis.set_ylim(0, None)
    axis.grid(axis="x", visible=False)
    axis.grid(axis="y", color=FAINT)
