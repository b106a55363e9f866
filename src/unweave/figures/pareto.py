"""What reconstruction costs: explained variance and dead latents against active latents a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unweave.figures.style import ACCENT, CONDITIONS, FAINT, INK, QUIET, house_style

# Told apart with any colour vision, and from the controls' colours; the first dictionary is always the accent.
_COLOURS = (ACCENT, "#b8408f", "#8a6d00", "#5b3fb8", "#0f7c8c", "#a02c2c", INK)
_STYLES = ("-", (0, (5, 1.5)), (0, (1, 1)), "-.")
_TICKS = (-1.0, 0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999)
_HIGHEST = 1 - 1e-6
_MOST_LABELS = 24


@dataclass(frozen=True, eq=False)
class Curve:
    """Settings that belong together, each measured under one or more seeds.

    Attributes:
        l0: active latents a row; NaN where fewer seeds were measured than in another setting.
        explained: explained variance, likewise.
        dead: share of latents that never fire, likewise; NaN where it says nothing.
        labels: words for each setting; none for controls.
    """

    l0: Float[np.ndarray, "settings seeds"]
    explained: Float[np.ndarray, "settings seeds"]
    dead: Float[np.ndarray, "settings seeds"]
    labels: tuple[str, ...] = ()

    @staticmethod
    def of(settings: Sequence[Sequence[tuple[float, float, float]]], labels: Sequence[str] = ()) -> "Curve":
        """From (l0, explained variance, share of dead latents) of each seed of each setting; by rising mean L0."""
        order = sorted(range(len(settings)), key=lambda i: float(np.mean([point[0] for point in settings[i]])))
        values = np.full((3, len(settings), max(map(len, settings), default=0)), np.nan)
        for place, i in enumerate(order):
            values[:, place, : len(settings[i])] = np.array(settings[i]).T
        return Curve(values[0], values[1], values[2], tuple(labels[i] for i in order) if labels else ())


def pareto(curves: Mapping[str, Curve], controls: Mapping[str, Curve], *, rows: str = "held-out rows") -> Figure:
    """Explained variance against L0, where up and left is better; beside it the share of dead latents.

    The scale of explained variance is logarithmic in what is missed: from 90 to 99 % is as far as from 99 to 99.9 %.

    Args:
        curves: dictionaries by kind. Dots are seeds, the line runs through their means.
        controls: by condition, with the same L0s.
        rows: which rows were measured, for the axis.
    """
    with house_style():
        figure = Figure(figsize=(8.6, 3.9))
        left, right = figure.subplots(1, 2, width_ratios=(1.75, 1))
        beside, handles = [], []
        labelled = sum(len(curve.labels) for curve in curves.values()) <= _MOST_LABELS
        for name, curve in controls.items():
            colour = CONDITIONS.get(name, QUIET)
            beside.append(_line(left, curve.l0, _nines(curve.explained), colour, (0, (2, 1.5)), name, width=1.2))
        for number, (name, curve) in enumerate(curves.items()):
            colour, style = _COLOURS[number % len(_COLOURS)], _STYLES[number // len(_COLOURS) % len(_STYLES)]
            handles.append(_line(left, curve.l0, _nines(curve.explained), colour, style, name))
            _line(right, curve.l0, 100 * curve.dead, colour, style, name)
            if labelled:
                _label(left, curve, colour, above=number % 2 == 0)
        _finish(left, right, [*curves.values(), *controls.values()], rows)
        figure.legend(handles=[*handles, *beside], loc="outside lower center", ncols=min(len(handles) + len(beside), 5))
    return figure


def _nines(explained: Float[np.ndarray, "settings seeds"]) -> Float[np.ndarray, "settings seeds"]:
    """Explained variance as −log₁₀ of what is missed."""
    missed: Float[np.ndarray, "settings seeds"] = 1 - np.minimum(explained, _HIGHEST)
    return -1 * np.log10(missed)


def _line(
    axis: Axes,
    x: Float[np.ndarray, "settings seeds"],
    y: Float[np.ndarray, "settings seeds"],
    colour: str,
    style: object,
    name: str,
    *,
    width: float = 1.8,
) -> Line2D:
    """A dot for each seed, and a line through the means of the settings."""
    if x.shape[1] > 1:
        axis.plot(x.ravel(), y.ravel(), "o", ms=3.4, mew=0.5, mec="white", color=colour, alpha=0.8, zorder=4)
    with np.errstate(all="ignore"):
        count = np.maximum((~np.isnan(x)).sum(1), 1)
        middle = np.nansum(x, 1) / count, np.where(np.isnan(y).all(1), np.nan, np.nansum(y, 1) / count)
    (line,) = axis.plot(*middle, color=colour, ls=style, lw=width, marker="o", ms=2 + 1.6 * width, mew=0, label=name)
    return line


def _label(axis: Axes, curve: Curve, colour: str, *, above: bool) -> None:
    """Words beside each setting: above its line or below, by turns, so that those of two close lines can be read."""
    side = 1 if above else -1
    for place, label in enumerate(curve.labels):
        at = float(np.nanmean(curve.l0[place])), float(np.nanmean(_nines(curve.explained[place][None])))
        axis.annotate(
            label,
            at,
            xytext=(-5 * side, 5 * side),
            textcoords="offset points",
            ha="right" if above else "left",
            va="bottom" if above else "top",
            size=7.5,
            color=colour,
            parse_math=False,
        )


def _finish(left: Axes, right: Axes, curves: Sequence[Curve], rows: str) -> None:
    explained = np.concatenate([curve.explained.ravel() for curve in curves])
    l0 = np.concatenate([curve.l0.ravel() for curve in curves])
    nines = _nines(explained[None])
    low, high = float(np.nanmin(nines)), float(np.nanmax(nines))
    pad = 0.06 * max(high - low, 0.2)
    ticks = [tick for tick in _TICKS if low - pad <= -np.log10(1 - tick) <= high + 2 * pad]
    left.set_yticks([float(-np.log10(1 - tick)) for tick in ticks], [f"{100 * tick:g} %" for tick in ticks])
    left.set_ylim(low - pad, high + 2 * pad)
    left.set(title=f"Explained variance of {rows}", xlabel="L0: active latents a row")
    right.set(title="Dead latents", xlabel="L0: active latents a row", ylabel="% that never fire")
    right.set_ylim(0, max(1.0, 1.08 * right.get_ylim()[1]))
    whole = sorted({2.0**p for p in range(-3, 16) if 0.7 * np.nanmin(l0) <= 2.0**p <= 1.4 * np.nanmax(l0)})
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xlim(0.72 * max(float(np.nanmin(l0)), 1e-3), 1.25 * max(float(np.nanmax(l0)), 2e-3))
        if len(whole) > 1:
            axis.set_xticks(whole, [f"{at:g}" for at in whole])
        axis.grid(color=FAINT)
