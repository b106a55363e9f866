"""Two geometries of the same things: their matrices, and the distances of each pair."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from unweave.figures.style import ACCENT, QUIET, house_style, panels

_MOST_NAMED = 40


def matrices(distances: Mapping[str, Float[np.ndarray, "m m"]], labels: Sequence[str]) -> Figure:
    """Matrices of distances between the same things, side by side, each on a scale of its own from 0."""
    named = len(labels) <= _MOST_NAMED
    ticks = list(range(0, len(labels), 1 if named else max(1, len(labels) // 8)))
    with house_style():
        figure, axes = panels(len(distances), width=3.2, height=3.3)
        for axis, (title, matrix) in zip(axes, distances.items(), strict=True):
            image = axis.imshow(matrix, vmin=0, vmax=max(float(matrix.max()), 1e-12), cmap="viridis_r")
            axis.set_xticks(ticks, [labels[tick] for tick in ticks], rotation=90, size=6.5)
            axis.set_yticks(ticks, [labels[tick] for tick in ticks], size=6.5)
            axis.set_title(title, size=9)
            axis.grid(visible=False)
            bar = figure.colorbar(image, ax=axis, location="bottom", shrink=0.8, aspect=30)
            bar.ax.tick_params(labelsize=7)
            bar.set_label("cosine distance", size=8)
    return figure


def agreement(
    first: Float[np.ndarray, " pairs"],
    second: Mapping[str, Float[np.ndarray, " pairs"]],
    notes: Mapping[str, str],
    *,
    axis_names: tuple[str, str],
) -> Figure:
    """Distances of all pairs in one geometry against those in others, one panel each, with a note in the corner."""
    with house_style():
        figure, axes = panels(len(second), width=3.4, height=3.0)
        for place, (axis, (title, values)) in enumerate(zip(axes, second.items(), strict=True)):
            axis.scatter(first, values, s=12, lw=0, alpha=0.6, color=QUIET if place else ACCENT)
            axis.set(title=title, xlabel=axis_names[0], ylabel=axis_names[1])
            axis.annotate(notes[title], (0.03, 0.97), xycoords="axes fraction", va="top", size=8.5, linespacing=1.4)
            low, high = axis.get_ylim()
            axis.set_ylim(low, high + 0.3 * (high - low))  # room for the note
    return figure
