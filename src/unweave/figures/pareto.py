"""What reconstruction costs: explained variance and dead latents against active latents a row."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from unweave.figures.style import ACCENT, CONDITIONS, FAINT, INK, QUIET, house_style

# Told apart with any colour vision, and from the controls' colours; the first dictionary is always the accent.
_COLOURS = (ACCENT, "#b8408f", "#8a6d00", "#5b3fb8", "#0f7c8c", "#a02c2c", INK)
_STYLES = ("-", "--", "-.")
_TICKS = (-4.0, -1.0, 0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)
_CALLED = {"pca": "PCA", "neurons": "raw neurons", "random": "random directions"}
_HIGHEST = 1 - 1e-6
_SIZE = 7.5  # of words in the picture, in points
_PLACES = ((-5.0, 4.0), (5.0, 4.0), (5.0, -4.0), (-5.0, -4.0))  # of a label beside its point, by preference
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
        for name, curve in controls.items():
            beside.append(_line(left, curve.l0, curve.explained, CONDITIONS.get(name, QUIET), ":", name, width=1.2))
        for number, (name, curve) in enumerate(curves.items()):
            colour, style = _COLOURS[number % len(_COLOURS)], _STYLES[number // len(_COLOURS) % len(_STYLES)]
            handles.append(_line(left, curve.l0, curve.explained, colour, style, name))
            _line(right, curve.l0, 100 * curve.dead, colour, style, name)
        points = {name: Curve.of([[(*point, math.nan)]]) for name, point in (published or {}).items()}
        for name, point in points.items():
            left.plot(point.l0[0], point.explained[0], "D", ms=5.5, mfc="none", mec=INK, mew=1.1, zorder=5)
            place: dict[str, Any] = {"xytext": (-6, -5), "ha": "right", "va": "top"}
            left.annotate(
                name, (point.l0[0, 0], point.explained[0, 0]), textcoords="offset points", size=_SIZE, **place
            )
        _finish(left, right, list(curves.values()), [*controls.values(), *points.values()], rows)
        labels = [*curves, *(_CALLED.get(name, name) for name in controls)]
        figure.legend([*handles, *beside], labels, loc="outside lower center", ncols=min(len(labels), 5))
        figure.draw_without_rendering()  # from here on places on the paper are known
        for name, curve in controls.items():
            _tell_what_is_above(left, curve, _CALLED.get(name, name), CONDITIONS.get(name, QUIET))
        colours = [str(line.get_color()) for line in handles]
        _label(left, [*zip(curves.values(), colours, strict=True)], [*controls.values(), *points.values()])
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


def _label(axis: Axes, curves: Sequence[tuple[Curve, str]], others: Sequence[Curve]) -> None:
    """Words beside each setting, above its line or below it; none where they would lie on words, a point or a line."""
    taken = [box for curve in [*(curve for curve, _ in curves), *others] for box in _along(axis, curve)]
    for text in axis.texts:
        if isinstance(text, Annotation):
            taken.append(_box(*_on_paper(axis, *text.xy), text.get_text(), *text.xyann))
    curves = [pair for pair in curves if np.isfinite(_means(pair[0].explained)).any()]  # rows that are all the same
    means = [float(np.nanmean(_nines(_means(curve.explained)))) for curve, _ in curves]
    for (curve, colour), mean in zip(curves, means, strict=True):
        places = _PLACES[:2] if mean == max(means) else _PLACES[2:]  # above another line, words would seem to be its
        for x, y, label in zip(_means(curve.l0), _means(curve.explained), curve.labels, strict=False):
            boxes = {place: _box(*_on_paper(axis, x, y), label, *place) for place in places}
            free = next((place for place, box in boxes.items() if box.count_overlaps(taken) == 0), None)
            if free is None:
                continue
            taken.append(boxes[free])
            look: dict[str, Any] = {"ha": "left" if free[0] > 0 else "right", "va": "bottom" if free[1] > 0 else "top"}
            axis.annotate(
                label, (x, y), free, textcoords="offset points", size=_SIZE, color=colour, parse_math=False, **look
            )


def _on_paper(axis: Axes, x: float, y: float) -> tuple[float, float]:
    """Where a point of the data lies, in printer's points."""
    across, up = axis.transData.transform((x, y)) * 72 / axis.figure.dpi
    return float(across), float(up)


def _along(axis: Axes, curve: Curve) -> list[Bbox]:
    """The points of a line and what lies between them, as small boxes."""
    points = [_on_paper(axis, x, y) for x, y in zip(_means(curve.l0), _means(curve.explained), strict=True)]
    boxes = [Bbox.from_bounds(across - 2.5, up - 2.5, 5, 5) for across, up in points]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        steps = max(2, math.ceil(math.hypot(x1 - x0, y1 - y0) / 3)) if math.isfinite(x1 + y1 + x0 + y0) else 0
        for share in np.linspace(0, 1, steps).tolist():
            boxes.append(Bbox.from_bounds(x0 + share * (x1 - x0) - 0.8, y0 + share * (y1 - y0) - 0.8, 1.6, 1.6))
    return boxes


def _box(across: float, up: float, words: str, right: float, above: float) -> Bbox:
    """About the space of words that begin, or end, so far from a point."""
    width, height = 0.62 * _SIZE * len(words), 1.1 * _SIZE
    left = across + right - (width if right < 0 else 0)
    return Bbox.from_bounds(left, up + above - (height if above < 0 else 0), width, height)


def _tell_what_is_above(axis: Axes, curve: Curve, name: str, colour: str) -> None:
    """Where a control leaves the picture at its top: how far it goes."""
    l0, explained = _means(curve.l0), _means(curve.explained)
    top = axis.get_ylim()[1]
    above = np.flatnonzero(explained > top)
    if not len(above):
        return
    first, last = above[0], above[-1]
    at = l0[first]
    if first:  # where its line goes through the edge
        here, there = (float(_nines(explained[i : i + 1])[0]) for i in (first - 1, first))
        share = (float(_nines(np.array([top]))[0]) - here) / (there - here)
        at = math.exp((1 - share) * math.log(l0[first - 1]) + share * math.log(l0[first]))
    words = f"↑ {name} {100 * explained[last]:.3g} % at {l0[last]:.3g}"
    left = at > math.sqrt(axis.get_xlim()[0] * axis.get_xlim()[1])
    place: dict[str, Any] = {"xytext": (-12 if left else 8, -2), "ha": "right" if left else "left", "va": "top"}
    axis.annotate(words, (at, top), textcoords="offset points", size=_SIZE, color=colour, parse_math=False, **place)


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
    ours = ours[np.isfinite(ours)] if np.isfinite(ours).any() else np.zeros(1)  # of rows that are all alike none is
    beside = beside[np.isfinite(beside)] if np.isfinite(beside).any() else ours
    low = float(np.nanmin([np.nanmin(ours), np.nanmin(beside)]))
    best = float(np.nanmax(ours))
    reach = max(best - low, 0.2)
    return low - 0.06 * reach, min(best + 0.45 * reach, max(best, float(np.nanmax(beside))) + 0.12 * reach)
