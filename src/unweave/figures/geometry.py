"""Two geometries of the same things: their matrices, and the distances of each pair."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from unweave.figures.style import ACCENT, QUIET, house_style, panels

_MOST_NAMED = 40


def matrices(similarities: Mapping[str, Float[np.ndarray, "m m"]], labels: Sequence[str]) -> Figure:
    """Matrices of cosine similarities of the same things, side by side, on one scale from −1 to 1."""
    with house_style():
        figure, axes = panels(len(similarities), width=3.5, height=3.5)
        for axis, (title, matrix) in zip(axes, similarities.items(), strict=True):
            image = axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
            named = len(labels) <= _MOST_NAMED
            ticks = range(len(labels)) if named else range(0, len(labels), max(1, len(labels) // 8))
            axis.set_xticks(list(ticks), [labels[tick] for tick in ticks], rotation=90, size=6.5)
            axis.set_yticks(list(ticks), [labels[tick] for tick in ticks], size=6.5)
            axis.set_title(title)
            axis.grid(visible=False)
        figure.colorbar(image, ax=axes, shrink=0.7, label="cosine similarity")
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
