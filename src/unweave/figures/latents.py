"""One latent at a glance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from unweave.figures.contexts import Context, TopToken, draw_contexts
from unweave.figures.places import PlacedImage, draw_scale, place_sheet
from unweave.figures.style import ACCENT, FAINT, INK, QUIET, WARM, house_style

_LONGEST_NAME = 10


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
        places: strongest examples with the places at which it fires, where rows are places of images.
        contexts: strongest examples as tokens, where rows are tokens.
        tokens: those that it fires on beyond their frequency.
    """

    latent: int
    numbers: Mapping[str, Any]
    images: UInt8[np.ndarray, "k c h w"] | None
    histogram: np.ndarray
    largest: float
    class_names: list[str] | None
    class_counts: np.ndarray | None
    class_totals: np.ndarray | None
    places: Sequence[PlacedImage] = ()
    contexts: Sequence[Context] = ()
    tokens: Sequence[TopToken] = ()

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
        wide = bool(card.places or card.contexts)
        figure = Figure(figsize=(10.8, 3.4) if wide else (8.4, 2.9))
        figure.suptitle(f"Latent {card.latent}", x=0.01, ha="left", weight="bold")
        grid = figure.add_gridspec(1, 3, width_ratios=(2.1 if wide else 1.1, 1, 1))
        pictures = figure.add_subplot(grid[0])
        if wide:
            _places_panel(pictures, card)
        elif card.images is not None and len(card.images):
            pictures.imshow(contact_sheet(card.images, 4), interpolation="nearest")
        else:
            pictures.text(0.5, 0.5, "no images" if card.images is None else "never fires", ha="center", color=QUIET)
        pictures.set_axis_off()
        pictures.set_title(_PANEL[bool(card.places), bool(card.contexts)], weight="normal")
        _histogram(figure.add_subplot(grid[1]), card)
        _classes(figure.add_subplot(grid[2]), card)
        figure.text(0.99, 0.97, card.summary, ha="right", va="top", color=QUIET, parse_math=False)
    return figure


_PANEL = {
    (False, False): "strongest examples",
    (True, False): "strongest examples: place framed, enlarged, all places",
    (False, True): "strongest tokens in context",
}


def _places_panel(axis: Axes, card: LatentCard) -> None:
    """The examples with their places and the colour scale, or tokens in context; axes run in inches from the top."""
    width, height = 4.6, 2.35
    if card.places:
        sheet = place_sheet(card.places[:6], card.largest)
        scale = min(width / sheet.shape[1], (height - 0.2) / sheet.shape[0])
        axis.imshow(sheet, extent=(0, scale * sheet.shape[1], scale * sheet.shape[0], 0), interpolation="nearest")
        draw_scale(axis, 0.15, 1.65, height - 0.13, height, card.largest, 7)
    else:
        draw_contexts(axis, card.contexts, (0, 0, width, height), card.largest, size=7)
    axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal")


_CARD = (3.5, 2.1)  # inches
_NAMES = 0.36  # more for upright names of classes
_SHEET, _CHART = (3.2, 0.8), (1.5, 0.5)
_PLACED = 0.95  # more for places and tokens


def gallery(cards: Sequence[LatentCard], *, columns: int = 3) -> Figure:
    """Latents side by side: strongest examples, histogram of values, and classes against their prior (line).

    All of it lies on one pair of axes measured in inches: a pair for each chart takes three to four times as long.
    """
    rows = max(1, -(-len(cards) // columns))
    more = _PLACED if any(card.places or card.contexts for card in cards) else 0.0
    tall = _CARD[1] + (_NAMES if any(map(_upright, cards)) else 0) + more
    width, height = columns * _CARD[0], rows * tall
    with house_style():
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("none")
        sheet = figure.add_axes((0, 0, 1, 1))
        sheet.set_axis_off()
        for index, card in enumerate(cards):
            left, top = (index % columns) * _CARD[0] + 0.1, (index // columns) * tall
            _place_card(sheet, card, left, top, more)
        sheet.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    return figure


def _upright(card: LatentCard) -> bool:
    """Whether names of classes are too long to stand side by side."""
    return card.class_names is not None and max(map(len, card.class_names)) > 2


def _place_card(axis: Axes, card: LatentCard, left: float, top: float, more: float) -> None:
    axis.text(left, top + 0.22, f"latent {card.latent}", weight="bold", size=10)
    axis.text(left, top + 0.38, card.summary, size=6.5, color=QUIET, parse_math=False)
    if card.places:
        pictures = place_sheet(card.places[:6], card.largest)
        scale = min(_SHEET[0] / pictures.shape[1], (_SHEET[1] + more - 0.12) / pictures.shape[0])
        right, bottom = left + scale * pictures.shape[1], top + 0.44 + scale * pictures.shape[0]
        axis.imshow(pictures, extent=(left, right, bottom, top + 0.44), interpolation="nearest")
        floor = top + 0.44 + _SHEET[1] + more
        draw_scale(axis, left + 0.12, left + 1.2, floor - 0.07, floor, card.largest, 6)
    elif card.contexts:
        place = (left, top + 0.44, left + _SHEET[0], top + 0.44 + _SHEET[1] + more)
        draw_contexts(axis, card.contexts, place, card.largest, size=6)
    elif card.images is not None and len(card.images):
        pictures = contact_sheet(card.images, 8)
        scale = min(_SHEET[0] / pictures.shape[1], _SHEET[1] / pictures.shape[0])
        right, bottom = left + scale * pictures.shape[1], top + 0.44 + scale * pictures.shape[0]
        axis.imshow(pictures, extent=(left, right, bottom, top + 0.44), interpolation="nearest")
    floor = top + 0.44 + _SHEET[1] + more + 0.1 + _CHART[1]
    _place_bars(axis, card.histogram, left, floor, ACCENT, gap=0.0)
    axis.text(left, floor + 0.12, "0", size=7)
    axis.text(left + _CHART[0], floor + 0.12, f"{card.largest:.3g}", size=7, ha="right")
    shares = card.class_shares
    if shares is None or card.class_names is None:
        return
    share, prior = shares
    left += 1.7
    step = _CHART[0] / len(share)
    highest = max(float(share.max()), float(prior.max()))
    _place_bars(axis, share, left, floor, WARM, gap=0.15, highest=highest)
    at = left + step * np.arange(len(share))
    axis.hlines(floor - _CHART[1] * prior / highest, at, at + step, color=INK, lw=1.2)
    turn = 90 if _upright(card) else 0
    for x, name in zip(at, card.class_names, strict=True):
        short = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
        axis.text(x + step / 2, floor + 0.04, short, size=6.5, ha="center", va="top", rotation=turn, parse_math=False)


def _place_bars(
    axis: Axes, heights: np.ndarray, left: float, floor: float, colour: str, *, gap: float, highest: float = 0.0
) -> None:
    """Bars over one chart's width, as one artist; `gap` is the share of a bar's width that stays empty."""
    step = _CHART[0] / max(len(heights), 1)
    tall = _CHART[1] * np.asarray(heights, np.float64) / (highest or max(float(np.max(heights, initial=0)), 1.0))
    x = left + step * (np.arange(len(heights)) + gap / 2)
    right = x + step * (1 - gap)
    corners = np.stack([np.stack([x, x, right, right], 1), floor - np.stack([0 * tall, tall, tall, 0 * tall], 1)], -1)
    axis.add_collection(PolyCollection(list(corners), facecolors=colour, linewidths=0))
    axis.plot([left, left + _CHART[0]], [floor, floor], color=QUIET, lw=0.8)


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
    axis.set_xticks(place, card.class_names, rotation=90 if _upright(card) else 0, parse_math=False)
    axis.set_title("classes it fires on (line: prior)", weight="normal")
    axis.set_ylim(0, None)
    axis.grid(axis="x", visible=False)
    axis.grid(axis="y", color=FAINT)
