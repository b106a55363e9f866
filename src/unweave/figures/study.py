"""Rating studies: ratings by condition, effects with intervals, and what the tests do where the truth is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unweave.figures.style import ACCENT, CONDITIONS, FAINT, INK, QUIET, WARM, house_style

_OTHERS = ("#d1570b", "#0a8f6c", "#8250df", "#8a6d00", "#bf3989")
_SCALE = np.arange(1, 8)
_BIN = 0.1  # points: dots nearer than this are stacked
_CALLED = 0.05

Ends = tuple[float, float] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class RatedCondition:
    """One row of the figure.

    Attributes:
        name: the condition.
        histogram: ratings of 1 to 7.
        means: each latent's mean over raters.
        ends: interval of their mean.
    """

    name: str
    histogram: Int64[np.ndarray, "7"]
    means: Float[np.ndarray, " latents"]
    ends: Ends = None


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One comparison: effect sizes with intervals, and p as it counts.

    Attributes:
        name: of the comparison.
        d: Cohen's d; None where it is infinite.
        d_ends: its interval.
        delta: Cliff's delta.
        delta_ends: its interval.
        p: corrected where there are several comparisons.
    """

    name: str
    d: float | None
    d_ends: Ends
    delta: float
    delta_ends: Ends
    p: float


def ratings_by_condition(conditions: Sequence[RatedCondition], effects: Sequence[Effect]) -> Figure:
    """A row for each condition: shares of all ratings, then each latent's mean over raters; beside them the effects.

    A dot is a latent, dots of one place are stacked; the diamond is their mean with its interval. Effects compare the
    first condition with another; one whose p is over 0.05 is drawn grey.
    """
    k = len(conditions)
    with house_style():
        figure = Figure(figsize=(10.2, 1.15 + 0.95 * max(k, 2)))
        widths = (1.25, 1.25, 0.75, 0.75) if effects else (1, 1)
        grid = figure.add_gridspec(k, len(widths), width_ratios=widths)
        most = max(float(_shares(one.histogram).max()) for one in conditions)
        tallest = max(float(_stacked(one.means).max(initial=0)) for one in conditions)
        axes: list[list[Axes]] = []
        for row, one in enumerate(conditions):
            colour = _colour(one.name, row)
            pair = [figure.add_subplot(grid[row, column]) for column in range(2)]
            _histogram(pair[0], one, colour, most)
            _dots(pair[1], one, colour, tallest)
            for axis in pair:
                axis.set(xlim=(0.4, 7.6), xticks=_SCALE)
                axis.tick_params(labelbottom=row == k - 1)
            axes.append(pair)
        axes[0][0].set_title("All ratings, %")
        axes[0][1].set_title("Latents, mean over raters")
        axes[-1][0].set_xlabel("rating")
        axes[-1][1].set_xlabel("mean rating, with 95 % interval")
        if effects:
            _effects(figure.add_subplot(grid[:, 2]), effects, "Cohen’s d", named=True)
            _effects(figure.add_subplot(grid[:, 3]), effects, "Cliff’s delta", named=False)
    return figure


def _colour(name: str, row: int) -> str:
    if row == 0:
        return ACCENT
    return CONDITIONS[name] if name in CONDITIONS and name != "dictionary" else _OTHERS[(row - 1) % len(_OTHERS)]


def _shares(histogram: np.ndarray) -> Float[np.ndarray, "7"]:
    return np.asarray(100 * histogram / max(1, int(histogram.sum())), np.float64)


def _histogram(axis: Axes, one: RatedCondition, colour: str, most: float) -> None:
    axis.bar(_SCALE, _shares(one.histogram), width=0.82, color=colour, alpha=0.85)
    axis.set_ylim(0, 1.12 * most)
    axis.set_ylabel(one.name, rotation=0, ha="right", va="center", color=colour, weight="bold", parse_math=False)
    axis.grid(axis="x", visible=False)


def _stacked(means: np.ndarray) -> Int64[np.ndarray, " latents"]:
    """How many dots lie below each, of those at the same place."""
    places = np.rint(means / _BIN).astype(np.int64)
    return np.array([int((places[:i] == place).sum()) for i, place in enumerate(places)], np.int64)


def _dots(axis: Axes, one: RatedCondition, colour: str, tallest: float) -> None:
    axis.scatter(one.means, _stacked(one.means), s=22, color=colour, alpha=0.75, lw=0, zorder=3)
    base = -0.22 * (tallest + 1) - 0.5
    if len(one.means):
        mean = float(one.means.mean())
        if one.ends is not None:
            axis.plot(one.ends, (base, base), color=colour, lw=2.2, solid_capstyle="butt", zorder=4)
        axis.plot(mean, base, "D", color=colour, ms=5.5, zorder=5, mec="white", mew=0.6)
        end = mean if one.ends is None else one.ends[1]
        axis.annotate(f"{mean:.2f}", (end, base), xytext=(6, 0), textcoords="offset points", size=8, va="center")
    axis.set_ylim(base - 0.2 * (tallest + 1) - 0.3, tallest + 0.9)
    axis.set_yticks([])
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)


def _effects(axis: Axes, effects: Sequence[Effect], title: str, *, named: bool) -> None:
    axis.axvline(0, color=INK, lw=0.8, ls=":")
    largest = 0.5
    for row, one in enumerate(effects):
        value, ends = (one.d, one.d_ends) if named else (one.delta, one.delta_ends)
        if value is None:
            axis.text(0, row, "no spread", ha="center", va="bottom", size=8, color=QUIET)
            continue
        colour = ACCENT if one.p <= _CALLED else QUIET
        if ends is not None:
            axis.plot(ends, (row, row), color=colour, lw=2.2, solid_capstyle="butt")
        axis.plot(value, row, "o", color=colour, ms=6, mec="white", mew=0.6)
        label = f"{value:.2f}".replace("-", "−")
        box = {"fc": "white", "ec": "none", "pad": 0.8}
        axis.annotate(
            label, (value, row), xytext=(0, 6), textcoords="offset points", size=8, ha="center", va="bottom", bbox=box
        )
        largest = max(largest, abs(value), *(abs(end) for end in ends or ()))
    limit = 1.0 if not named else 1.12 * largest
    axis.set(xlim=(-1.05 * limit, 1.05 * limit), ylim=(len(effects) - 0.4, -0.6), title=title)
    names = [f"{one.name}\n{_p(one.p)}" if named else "" for one in effects]
    axis.set_yticks(range(len(effects)), names, parse_math=False)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)
    axis.set_xlabel("with 95 % interval")


def _p(p: float) -> str:
    return "p < 0.001" if p < 1e-3 else f"p = {p:.3f}"


@dataclass(frozen=True, kw_only=True)
class SimulatedRate:
    """False positives of one test.

    Attributes:
        name: the test.
        right: whether it is fit for use; others are drawn in another colour.
        share: of studies without a difference where it calls one.
        ends: interval of that share.
        power: share of studies with the difference where it calls one.
        studies: how many of each were simulated.
    """

    name: str
    right: bool
    share: float
    ends: tuple[float, float]
    power: float
    studies: int


def simulated_tests(
    rates: Sequence[SimulatedRate],
    effects: Sequence[float],
    curves: Mapping[int, Sequence[float]],
    *,
    latents: int,
    effect: float,
) -> Figure:
    """Left: how often each test calls a difference where there is none. Right: how often Welch's test finds one.

    Args:
        rates: of each test.
        effects: true differences of the curves, in points.
        curves: power at each, by number of latents.
        latents: of each condition in the studies on the left.
        effect: the difference for which `rates` has the power.
    """
    with house_style():
        figure = Figure(figsize=(10.2, max(2.9, 1.1 + 0.33 * len(rates))))
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _false_positives(left, rates)
        _curves(right, effects, curves, latents, effect)
    return figure


def _false_positives(axis: Axes, rates: Sequence[SimulatedRate]) -> None:
    axis.axvline(100 * _CALLED, color=INK, lw=0.8, ls=":")
    for row, one in enumerate(rates):
        colour = ACCENT if one.right else WARM
        axis.plot([100 * end for end in one.ends], (row, row), color=colour, lw=2.2, solid_capstyle="butt")
        axis.plot(100 * one.share, row, "o", color=colour, ms=5.5, mec="white", mew=0.6)
        axis.annotate(
            f"{100 * one.share:.1f}",
            (100 * one.ends[1], row),
            xytext=(6, 0),
            textcoords="offset points",
            size=8,
            va="center",
            color=colour,
        )
    most = max(100 * one.ends[1] for one in rates)
    axis.set(xlim=(0, 1.14 * max(most, 200 * _CALLED)), ylim=(len(rates) - 0.5, -0.5))
    axis.set_yticks(range(len(rates)), [one.name for one in rates], parse_math=False)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.set(title="Called where there is no difference", xlabel="% of studies, with 95 % interval (promise: 5)")


def _curves(
    axis: Axes, effects: Sequence[float], curves: Mapping[int, Sequence[float]], latents: int, effect: float
) -> None:
    axis.axhline(80, color=INK, lw=0.8, ls=":")
    axis.axvline(effect, color=FAINT, lw=4, zorder=1)
    heights = np.linspace(40, 86, len(curves))  # where each is named, so that names do not lie on each other
    for (size, powers), height in zip(curves.items(), heights, strict=True):
        main = size == latents
        shares = 100 * np.asarray(powers)
        colour = ACCENT if main else QUIET
        axis.plot(effects, shares, "o-", ms=3, color=colour, lw=1.8 if main else 1.1, zorder=3 if main else 2)
        reached = np.maximum.accumulate(shares)
        axis.annotate(
            f"{size}",
            (float(np.interp(height, reached, effects)), min(height, float(reached[-1]))),
            xytext=(6, -8),
            textcoords="offset points",
            size=8,
            color=ACCENT if main else INK,
            weight="bold",
        )
    axis.set(
        title="Found where there is one, by latents",
        xlabel="true difference, points",
        ylabel="% of studies",
        ylim=(0, 103),
    )
    axis.set_xlim(min(effects), max(effects))
