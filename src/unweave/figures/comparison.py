"""Similarity of instances, and of what their dictionaries found."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unweave.figures.style import ACCENT, FAINT, INK, QUIET, WARM, house_style, panels

WORDS = {
    "raw_cosine": "raw cosine",
    "raw_correlation": "raw correlation",
    "sorted_cosine": "sorted cosine",
    "sorted_correlation": "sorted correlation",
    "linear_cka": "linear CKA",
    "rsa": "RSA",
    "procrustes": "Procrustes",
    "matched_r": "matched |r|",
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
_ROOM_BELOW = 8  # % above which there is room for letters below a curve


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
            axis.text(
                1.015,
                row,
                f"{round(mean, 2) + 0.0:.2f}",
                transform=axis.get_yaxis_transform(),
                va="center",
                color=ACCENT,
            )
            if row:
                axis.axhline(row - 0.5, color=FAINT, lw=0.6)
        lowest = min(float(values[name].min()) for name in conditions)
        axis.set(xlim=(min(-0.05, lowest - 0.04), 1.03), ylim=(len(measures) - 0.5, -0.5), xlabel="similarity")
        axis.set_yticks(range(len(measures)), [WORDS.get(name, name) for name in measures])
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


def row_histograms(
    layers: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]], *, xlabel: str, low: float = 0.5
) -> Figure:
    """How one measure, row by row, is spread as measured and under each null: a panel for each layer.

    Args:
        layers: values of every row by condition, by the layer's name.
        xlabel: the measure.
        low: values below are counted in the first bin.
    """
    bins = np.linspace(low, 1, 61)
    with house_style():
        figure, axes = panels(len(layers), width=3.5, height=2.7)
        for axis, (name, values) in zip(axes, layers.items(), strict=True):
            for condition, numbers in values.items():
                colour, _, words = _CONDITIONS[condition]
                main = condition == "observed"
                look: dict[str, Any] = {"color": colour, "lw": 1.3, "alpha": 0.35 if main else 1.0, "label": words}
                share = np.full(len(numbers), 100 / len(numbers))
                look["histtype"] = "stepfilled" if main else "step"
                axis.hist(np.maximum(numbers, low), bins.tolist(), weights=share, **look)
            axis.set(title=name, xlabel=xlabel, xlim=(low, 1), ylim=(0, None))
        axes[0].set_ylabel("% of rows")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


# The dictionaries whose latents are matched; the first is what was measured.
_LATENTS = {
    "dictionary": (ACCENT, "-", "latents"),
    "neurons": (WARM, "-", "raw units"),
    "untrained": ("#0a8f6c", "--", "latents of untrained networks"),
    "random": ("#8a6d00", "-.", "random directions, same rule"),
    "shuffled": (QUIET, ":", "latents, rows shuffled"),
}


def replication(
    thresholds: Float[np.ndarray, " t"], curves: Mapping[str, Float[np.ndarray, "pairs t"]], *, marks: Sequence[float]
) -> Figure:
    """Share of latents with a partner in another instance's dictionary, against how well the two have to agree.

    Args:
        thresholds: correlations.
        curves: share at each threshold of every pair, by condition; the line is the mean, the band the range.
        marks: thresholds at which the share is written down.
    """
    with house_style():
        figure, (axis,) = panels(1, width=5.6, height=3.3)
        for condition, (colour, style, words) in _LATENTS.items():
            if condition not in curves:
                continue
            shares = 100 * curves[condition]
            axis.fill_between(thresholds, shares.min(0), shares.max(0), color=colour, alpha=0.15, lw=0)
            axis.plot(thresholds, shares.mean(0), style, color=colour, label=words)
        main = 100 * curves["dictionary"].mean(0)
        for mark in marks:
            at = int(np.argmin(np.abs(thresholds - mark)))
            axis.plot(mark, main[at], "o", color=ACCENT, ms=4)
            look: dict[str, Any] = {"xytext": (5, 5), "ha": "left", "va": "bottom"}
            if main[at] > _ROOM_BELOW:
                look = {"xytext": (-2, -4), "ha": "right", "va": "top"}
            text = f"{main[at]:.0f} %"
            axis.annotate(text, (mark, main[at]), textcoords="offset points", size=8, color=ACCENT, **look)
        axis.set(xlabel="correlation of the partners' codes, at least", ylabel="% of live latents", xlim=(0, 1))
        axis.set_ylim(0, 102)
        axis.set_title("Latents that another instance's dictionary holds too")
        axis.grid(color=FAINT)
        axis.legend(fontsize=8)
    return figure


def _lane(axis: Axes, numbers: Float[np.ndarray, " pairs"], at: float, name: str) -> None:
    colour, marker, _ = _CONDITIONS[name]
    if len(numbers) > 1:
        axis.plot([numbers.min(), numbers.max()], [at, at], color=colour, lw=1.0, alpha=0.6)
    main = name == "observed"
    axis.plot(numbers, np.full(len(numbers), at), marker, color=colour, ms=4.2 if main else 3, mew=0, alpha=0.75)
    axis.plot([numbers.mean()] * 2, [at - 0.07, at + 0.07], color=INK if main else colour, lw=1.4 if main else 1.0)
