"""What reconstruction costs: explained variance and dead latents against active latents a row."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unweave.figures.style import ACCENT, CONDITIONS, FAINT, INK, QUIET, house_style

# Told apart with any colour vision, and from the controls' colours; the first dictionary is always the accent.
_COLOURS = (ACCENT, "#b8408f", "#8a6d00", "#5b3fb8", "#0f7c8c", "#a02c2c", INK)
_STYLES = ("-", "--", "-.")
_TICKS = (-1.0, 0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999)
_HIGHEST = 1 - 1e-6
_MOST_LABELS = 24
_CLOSEST_TICKS = 0.045


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


def pareto(
    curves: Mapping[str, Curve],
    controls: Mapping[str, Curve],
    published: Mapping[str, tuple[float, float]] | None = None,
    *,
    rows: str = "held-out rows",
) -> Figure:
    """Explained variance against L0, where up and left is better; beside it the share of dead latents.

    The scale of explained variance is logarithmic in what is missed: from 90 to 99 % is as far as from 99 to 99.9 %.

    Args:
        curves: dictionaries by kind. Dots are seeds, the line runs through their means.
        controls: by condition, with the same L0s.
        published: L0 and explained variance of what others report, by name.
        rows: which rows were measured, for the axis.
    """
    with house_style():
        figure = Figure(figsize=(8.6, 3.9))
        left, right = figure.subplots(1, 2, width_ratios=(1.75, 1))
        beside, handles = [], []
        labelled = sum(len(curve.labels) for curve in curves.values()) <= _MOST_LABELS
        for name, curve in controls.items():
            beside.append(_line(left, curve.l0, curve.explained, CONDITIONS.get(name, QUIET), ":", name, width=1.2))
        for number, (name, curve) in enumerate(curves.items()):
            colour, style = _COLOURS[number % len(_COLOURS)], _STYLES[number // len(_COLOURS) % len(_STYLES)]
            handles.append(_line(left, curve.l0, curve.explained, colour, style, name))
            _line(right, curve.l0, 100 * curve.dead, colour, style, name)
            if labelled:
                _label(left, curve, colour, above=number % 2 == 0)
        points = {name: Curve.of([[(*point, math.nan)]]) for name, point in (published or {}).items()}
        for name, point in points.items():
            left.plot(point.l0[0], point.explained[0], "D", ms=5.5, mfc="none", mec=INK, mew=1.1, zorder=5)
            place: dict[str, Any] = {"xytext": (-6, -5), "ha": "right", "va": "top"}
            left.annotate(name, (point.l0[0, 0], point.explained[0, 0]), textcoords="offset points", size=7.5, **place)
        _finish(left, right, list(curves.values()), [*controls.values(), *points.values()], rows)
        figure.legend(handles=[*handles, *beside], loc="outside lower center", ncols=min(len(handles) + len(beside), 5))
    return figure


def _nines(explained: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
    """Explained variance as −log₁₀ of what is missed; all of it has a place at the far end."""
    nines: Float[np.ndarray, "*points"] = -np.log10(1 - np.minimum(explained, _HIGHEST))
    return nines


def _explained(nines: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
    """Back."""
    explained: Float[np.ndarray, "*points"] = 1 - 10.0**-nines
    return explained


def _means(values: Float[np.ndarray, "settings seeds"]) -> Float[np.ndarray, " settings"]:
    """Over the seeds that were measured."""
    seen = ~np.isnan(values)
    return np.where(seen.any(1), np.where(seen, values, 0.0).sum(1) / np.maximum(seen.sum(1), 1), np.nan)


def _line(
    axis: Axes,
    x: Float[np.ndarray, "settings seeds"],
    y: Float[np.ndarray, "settings seeds"],
    colour: str,
    style: str,
    name: str,
    *,
    width: float = 1.8,
) -> Line2D:
    """A dot for each seed, and a line through the means of the settings."""
    if x.shape[1] > 1:
        axis.plot(x.ravel(), y.ravel(), "o", ms=3.4, mew=0.5, mec="white", color=colour, alpha=0.8, zorder=4)
    look: dict[str, Any] = {"color": colour, "ls": style, "lw": width, "marker": "o", "ms": 2 + 1.6 * width, "mew": 0}
    (line,) = axis.plot(_means(x), _means(y), label=name, **look)
    return line


def _label(axis: Axes, curve: Curve, colour: str, *, above: bool) -> None:
    """Words beside each setting: above its line or below, by turns, so that those of two close lines can be read."""
    place: dict[str, Any] = {"xytext": (5, -5), "ha": "left", "va": "top"}
    if above:
        place = {"xytext": (-5, 5), "ha": "right", "va": "bottom"}
    for x, y, label in zip(_means(curve.l0), _means(curve.explained), curve.labels, strict=False):
        axis.annotate(label, (x, y), textcoords="offset points", size=7.5, color=colour, parse_math=False, **place)


def _finish(left: Axes, right: Axes, curves: Sequence[Curve], controls: Sequence[Curve], rows: str) -> None:
    low, high = _range(curves, controls)
    shown, last_at = [], -np.inf
    for tick, at in zip(_TICKS, _nines(np.array(_TICKS)).tolist(), strict=True):
        if low <= at <= high and at - last_at > _CLOSEST_TICKS * (high - low):
            shown.append(tick)
            last_at = at
    left.set_yscale("function", functions=(_nines, _explained))
    left.set_ylim(*_explained(np.array([low, high])))
    left.set_yticks(shown, [f"{100 * tick:g} %" for tick in shown])
    left.set(title=f"Explained variance of {rows}", xlabel="L0: active latents a row")
    right.set(title="Dead latents", xlabel="L0: active latents a row", ylabel="% that never fire")
    right.set_ylim(0, max(1.0, 1.08 * float(np.nanmax([100 * np.nanmax(curve.dead) for curve in curves]))))
    l0 = np.concatenate([curve.l0.ravel() for curve in [*curves, *controls]])
    first, last = max(float(np.nanmin(l0)), 1e-3), max(float(np.nanmax(l0)), 2e-3)
    whole = [2.0**power for power in range(-3, 20) if 0.75 * first <= 2.0**power <= 1.25 * last]
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xlim(0.75 * first, 1.25 * last)
        if len(whole) > 1:
            axis.set_xticks(whole, [f"{at:g}" for at in whole])
        axis.grid(color=FAINT)


def _range(curves: Sequence[Curve], controls: Sequence[Curve]) -> tuple[float, float]:
    """What to show of the scale: everything but what lies far above the best dictionary, and would shrink the rest."""
    ours = _nines(np.concatenate([curve.explained.ravel() for curve in curves]))
    beside = _nines(np.concatenate([curve.explained.ravel() for curve in controls])) if controls else ours
    low = float(np.nanmin([np.nanmin(ours), np.nanmin(beside)]))
    best = float(np.nanmax(ours))
    reach = max(best - low, 0.2)
    return low - 0.06 * reach, min(best + 0.45 * reach, max(best, float(np.nanmax(beside))) + 0.12 * reach)
