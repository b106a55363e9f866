"""Similarity of instances, and of what their dictionaries found."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unweave.figures.style import ACCENT, FAINT, INK, QUIET, WARM, house_style

_MEASURES = {
    "raw_cosine": "raw cosine",
    "raw_correlation": "raw correlation",
    "sorted_cosine": "sorted cosine",
    "sorted_correlation": "sorted correlation",
    "linear_cka": "linear CKA",
    "rsa": "RSA",
    "procrustes": "Procrustes",
    "matched_r": "matched units, |r|",
    "ridge_r2": "ridge R²",
    "mutual_knn": "mutual neighbours",
}
# Colour, marker and words of each condition; the first is what was measured, the others are nulls.
_CONDITIONS = {
    "observed": (ACCENT, "o", "as measured"),
    "untrained": (WARM, "s", "untrained networks"),
    "other_image": ("#0a8f6c", "D", "rows of other examples"),
    "noise": ("#8a6d00", "^", "noise of the same range"),
    "shuffled": (QUIET, "v", "shuffled rows (mean)"),
}
_LANE = 0.17
_ROW = 0.4  # inches


def similarity(
    measures: Sequence[str], values: Mapping[str, Float[np.ndarray, "pairs measures"]], *, title: str = ""
) -> Figure:
    """Every measure as a row: a dot for each pair, and below it the same measure under each null.

    Args:
        measures: names, from above to below.
        values: by condition, `observed` first.
        title: above the figure.
    """
    conditions = [name for name in _CONDITIONS if name in values]
    with house_style():
        figure = Figure(figsize=(6.8, 1.1 + _ROW * len(measures) * len(conditions) / 4.4))
        axis = figure.subplots()
        for row, _ in enumerate(measures):
            for lane, name in enumerate(conditions):
                _lane(axis, values[name][:, row], row + _LANE * (lane - (len(conditions) - 1) / 2), name)
            mean = float(values["observed"][:, row].mean())
            axis.text(1.015, row, f"{mean:.2f}", transform=axis.get_yaxis_transform(), va="center", color=ACCENT)
            if row:
                axis.axhline(row - 0.5, color=FAINT, lw=0.6)
        lowest = min(float(values[name].min()) for name in conditions)
        axis.set(xlim=(min(-0.05, lowest - 0.04), 1.03), ylim=(len(measures) - 0.5, -0.5), xlabel="similarity")
        axis.set_yticks(range(len(measures)), [_MEASURES.get(name, name) for name in measures])
        axis.tick_params(axis="y", length=0)
        axis.axvline(0, color=QUIET, lw=0.8)
        axis.grid(axis="y", visible=False)
        axis.set_title(title)
        handles = [
            Line2D(
                [],
                [],
                color=_CONDITIONS[name][0],
                marker=_CONDITIONS[name][1],
                ms=4.5,
                lw=0,
                label=_CONDITIONS[name][2],
            )
            for name in conditions
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, handletextpad=0.2)
    return figure


def _lane(axis: Axes, numbers: Float[np.ndarray, " pairs"], at: float, name: str) -> None:
    colour, marker, _ = _CONDITIONS[name]
    if len(numbers) > 1:
        axis.plot([numbers.min(), numbers.max()], [at, at], color=colour, lw=1.0, alpha=0.6)
    main = name == "observed"
    axis.plot(numbers, np.full(len(numbers), at), marker, color=colour, ms=4.2 if main else 3, mew=0, alpha=0.75)
    axis.plot([numbers.mean()] * 2, [at - 0.07, at + 0.07], color=INK if main else colour, lw=1.4 if main else 1.0)
