"""Kinds of dictionaries beside each other on rows whose truth is known."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unweave.figures.style import ACCENT, FAINT, INK, QUIET, WARM, house_style, panels

# Told apart with any colour vision, and by their markers.
_KINDS = ((ACCENT, "o"), (WARM, "s"), ("#0a8f6c", "^"), ("#5b3fb8", "D"), (INK, "v"), ("#8a6d00", "P"), (QUIET, "X"))
_ROW_INCHES = 0.24
_GAP = 1.6  # rows between two groups, with the name of the second in it


@dataclass(frozen=True, eq=False)
class Line:
    """One kind of dictionary.

    Attributes:
        name: what it is called.
        trained: whether it is trained by gradient, or fitted in closed form.
        values: of each metric, one for each seed.
        intervals: of each metric, the ends of the mean's interval; NaN where there is none.
    """

    name: str
    trained: bool
    values: Mapping[str, Float[np.ndarray, " seeds"]]
    intervals: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Column:
    """One metric: its key, its title, its range, whether the scale is logarithmic, and a value to compare with."""

    metric: str
    title: str
    limits: tuple[float, float]
    log: bool = False
    reference: float | None = None


def recovery_by_kind(groups: Mapping[str, Sequence[Line]], columns: Sequence[Column]) -> Figure:
    """A row for each kind, a panel for each metric: dots for seeds, a mark for their mean, a line for its interval.

    Args:
        groups: kinds by the rows they were tried on, in the order from top to bottom.
        columns: the metrics, from left to right; dotted lines show their references.
    """
    places, ticks, heads = _places(groups)
    with house_style():
        height = _ROW_INCHES * (max(ticks) + 1) + 1.0
        figure = Figure(figsize=(2.0 + 1.62 * len(columns), height))
        axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axis, column in zip(axes, columns, strict=True):
            _setup(axis, column)
            for name, lines in groups.items():
                for line in lines:
                    _draw(axis, line, column, places[name, line.name])
        names = [line.name for lines in groups.values() for line in lines]
        axes[0].set_yticks(ticks, names)
        axes[0].set_ylim(max(ticks) + 0.7, -0.9)
        for name, place in heads.items():
            axes[0].annotate(
                name, (0, place), xycoords=axes[0].get_yaxis_transform(), xytext=(-6, 0), textcoords="offset points",
                ha="right", va="center", size=8.5, style="italic", color=QUIET, annotation_clip=False,
            )  # fmt: skip
        looks = {"trained by gradient": ACCENT, "fitted in closed form": WARM}
        handles: list[Line2D] = [Line2D([], [], color=c, marker="o", ms=4.5, lw=1.6, label=n) for n, c in looks.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8.5)
    return figure


def along_penalty(curves: Mapping[str, Float[np.ndarray, "values 3"]], chosen: Mapping[str, int], l0: float) -> Figure:
    """MCC and explained variance of kinds whose L0 follows a penalty, along that penalty.

    Args:
        curves: by kind, for each value of its penalty: L0, MCC, explained variance.
        chosen: by kind, which of the values was chosen; it is ringed.
        l0: what all were to be brought to; dotted.
    """
    every = np.concatenate(list(curves.values()))[:, 0]
    limits = max(float(every.min()), 1 / 8) / 1.3, float(every.max()) * 1.3
    with house_style():
        figure, axes = panels(2, width=4.0, height=2.9)
        for axis, column, title in zip(axes, (1, 2), ("MCC", "explained variance"), strict=True):
            _setup(axis, Column(title, title, limits, log=True, reference=l0))
            for (kind, values), (colour, marker) in zip(curves.items(), itertools.cycle(_KINDS), strict=False):
                order = values[:, 0].argsort()
                x = np.clip(values[:, 0], *limits)
                axis.plot(x[order], values[order, column], color=colour, marker=marker, ms=4, lw=1.3, label=kind)
                here = chosen[kind]
                axis.plot(x[here], values[here, column], "o", ms=9, mfc="none", mec=colour, mew=1.2)
            axis.set_title(title)
            axis.set_xlabel("L0: active latents a row")
            axis.set_ylim(min(0.0, float(np.concatenate(list(curves.values()))[:, column].min())), 1)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8.5)
    return figure


def _places(groups: Mapping[str, Sequence[Line]]) -> tuple[dict[tuple[str, str], float], list[float], dict[str, float]]:
    """The height of every kind, all heights in order, and that of the names of the groups after the first."""
    places: dict[tuple[str, str], float] = {}
    heads: dict[str, float] = {}
    at = 0.0
    for number, (name, lines) in enumerate(groups.items()):
        if number:
            heads[name] = at + 0.5 * _GAP - 0.5
            at += _GAP
        for line in lines:
            places[name, line.name] = at
            at += 1
    return places, list(places.values()), heads


def _setup(axis: Axes, column: Column) -> None:
    axis.set_title(column.title, size=9)
    if column.log:
        axis.set_xscale("log", base=2)
        low, high = column.limits
        whole = [2.0**power for power in range(-4, 16) if low <= 2.0**power <= high]
        whole = whole[:: max(1, len(whole) // 4)]
        axis.set_xticks(whole, [f"{at:g}" for at in whole])
        axis.minorticks_off()
    axis.set_xlim(*column.limits)
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", color=FAINT, lw=0.5)
    axis.spines["left"].set_visible(False)
    if column.reference is not None:
        axis.axvline(column.reference, color=INK, lw=0.9, ls=":")


def _draw(axis: Axes, line: Line, column: Column, place: float) -> None:
    values = line.values.get(column.metric)
    if values is None or not len(values):
        return
    colour = ACCENT if line.trained else WARM
    low, high = line.intervals.get(column.metric, (np.nan, np.nan))
    if np.isfinite(low) and np.isfinite(high):
        axis.plot(np.clip([low, high], *column.limits), [place, place], color=colour, lw=1.6, solid_capstyle="butt")
    shown = np.clip(values, *column.limits)
    axis.plot(shown, np.full(len(shown), place), "o", ms=2.6, mew=0, color=colour, alpha=0.45, clip_on=False)
    mean = float(np.clip(values.mean(), *column.limits))
    axis.plot(mean, place, "o", ms=4.5, mew=0.6, mec="white", color=colour, clip_on=False, zorder=5)
