"""What units and latents look at: maps over pixels, and how localised they are."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from unweave.figures.style import ACCENT, INK, QUIET, WARM, house_style

_SIGNED = LinearSegmentedColormap.from_list("signed", [WARM, "#ffffff", ACCENT])
_SIDE, _LABEL, _GAP = 0.66, 1.0, 0.05  # inches


def attention_maps(
    rows: Mapping[str, Float[np.ndarray, "k h w"]],
    *,
    outlines: Mapping[str, Bool[np.ndarray, "k h w"]] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Maps side by side, a row for each kind: blue where more ink raises the value, orange where it lowers it.

    Args:
        rows: signed maps by kind, each on its own scale, up to the 99th percentile.
        outlines: sets of pixels to draw a line around.
        notes: a few words below each map.
    """
    most = max(len(maps) for maps in rows.values())
    step = _SIDE + _GAP
    tall = step + (0.13 if notes else 0.0)
    width, height = _LABEL + most * step, len(rows) * tall + _GAP
    with house_style():
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("none")
        for row, (name, maps) in enumerate(rows.items()):
            bottom = height - (row + 1) * tall + (tall - step)
            figure.text(0.06 / width, (bottom + _SIDE / 2) / height, name, va="center", size=9, linespacing=1.3)
            for column, values in enumerate(maps):
                left = _LABEL + column * step
                axis = figure.add_axes((left / width, bottom / height, _SIDE / width, _SIDE / height))
                outline = None if outlines is None or name not in outlines else outlines[name][column]
                _map(axis, values, outline)
                if notes and name in notes:
                    x, y = (left + _SIDE / 2) / width, (bottom - 0.02) / height
                    figure.text(x, y, notes[name][column], size=6.5, ha="center", va="top", color=QUIET)
    return figure


def _map(axis: Axes, values: Float[np.ndarray, "h w"], outline: Bool[np.ndarray, "h w"] | None) -> None:
    largest = float(np.percentile(np.abs(values), 99)) or float(np.abs(values).max()) or 1.0
    axis.imshow(values, cmap=_SIGNED, vmin=-largest, vmax=largest, interpolation="nearest")
    if outline is not None:
        fine = np.kron(outline, np.ones((8, 8)))  # lines run along the pixels' edges
        height, width = values.shape
        place = (-0.5, width - 0.5, -0.5, height - 0.5)
        axis.contour(fine, levels=[0.5], colors=INK, linewidths=0.5, extent=place)
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set(visible=True, linewidth=0.5, color=QUIET)


def localised(
    measures: Mapping[str, Mapping[str, Float[np.ndarray, " m"]]], *, titles: Mapping[str, tuple[str, str]]
) -> Figure:
    """Measures of localisation as boxes (quartiles; line: 5th to 95th percentile; dot: median), a panel for each.

    Args:
        measures: values of every map by condition, by measure; conditions whose name ends in `null` are drawn in grey.
        titles: heading and axis of each measure.
    """
    with house_style():
        conditions = list(next(iter(measures.values())))
        figure = Figure(figsize=(3.1 * len(measures) + 1.2, 0.9 + 0.34 * len(conditions)))
        axes = np.atleast_1d(figure.subplots(1, len(measures), sharey=True))
        for axis, (measure, values) in zip(axes, measures.items(), strict=True):
            for place, (name, numbers) in enumerate(values.items()):
                _box(axis, numbers, place, _colour(name))
            heading, xlabel = titles[measure]
            axis.set_title(heading)
            axis.set(xlabel=xlabel, ylim=(len(conditions) - 0.4, -0.6))
            axis.grid(axis="y", visible=False)
        axes[0].set_yticks(range(len(conditions)), conditions)
    return figure


def _colour(name: str) -> str:
    if name.endswith("null"):
        return QUIET
    return ACCENT if "latents" in name else WARM


def _box(axis: Axes, numbers: Float[np.ndarray, " m"], place: int, colour: str) -> None:
    low, first, median, third, high = np.percentile(numbers, [5, 25, 50, 75, 95])
    axis.plot([low, high], [place, place], color=colour, lw=1.3)
    axis.barh(place, max(third - first, 1e-6), left=first, height=0.42, color=colour, alpha=0.3)
    axis.plot(median, place, "o", color=colour, ms=5)
    axis.annotate(f"{median:.3g}", (median, place), xytext=(0, 6), textcoords="offset points", ha="center", size=7.5)
