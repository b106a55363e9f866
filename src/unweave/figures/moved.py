"""How far a model's answers move when a latent is moved: curves over doses, and texts before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unweave.figures.contexts import around, draw_contexts, shown
from unweave.figures.style import ACCENT, FAINT, INK, QUIET, WARM, house_style

_COLOURS = (ACCENT, WARM, "#0a8f6c", "#8250df", "#b5338a", "#6e7781")
_KEY = "bands: 95 % over examples · grey: middle 95 % of random directions, rows moved as far"
_MOST_TEXTS = 8
_LINE = 0.24  # inches a text
_LONGEST_NAME = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Followed:
    """A class or token whose probability is followed: its mean at each dose, and how it changes, with a 95 % band."""

    name: str
    probability: Float[np.ndarray, " doses"]
    change: Float[np.ndarray, " doses"]
    low: Float[np.ndarray, " doses"]
    high: Float[np.ndarray, " doses"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MovedText:
    """A text before and after a latent was moved.

    Attributes:
        example: its number in the data set.
        tokens: as the model's tokenizer splits it.
        values: the latent's code at each token; NaN where there is no row.
        change: how far the answer moved.
        before: the answer as it was, with its probability; "" where answers are vectors.
        after: the answer then, with its probability.
    """

    example: int
    tokens: list[str]
    values: Float[np.ndarray, " t"]
    change: float
    before: str
    after: str


@dataclass(frozen=True, kw_only=True, eq=False)
class MovedCurves:
    """What the figure shows of one latent.

    Attributes:
        latent: its number.
        doses: increasing.
        label: what a dose is.
        logits: whether answers are logits; else they are vectors.
        columns: `change` and, of logits, `changed`, each with `_low` and `_high` and those of `control_`.
        followed: classes or tokens, the most moved first.
        by_chance: the largest change of a mean probability that random directions make.
        texts: before and after.
    """

    latent: int
    doses: Float[np.ndarray, " doses"]
    label: str
    logits: bool
    columns: Mapping[str, Float[np.ndarray, " doses"]]
    followed: Sequence[Followed]
    by_chance: float
    texts: Sequence[MovedText]


def moved_figure(curves: MovedCurves) -> Figure:
    """How far answers move over the doses, what becomes likelier, how many change; below, texts with their tokens."""
    count = 3 if curves.logits else 1
    texts = list(curves.texts[:_MOST_TEXTS])
    below = 0.55 + _LINE * len(texts) if texts else 0.0
    width = max(3.5 * count, 7.6) if texts else 3.6 * count
    with house_style():
        figure = Figure(figsize=(width, 2.75 + below))
        rows = figure.add_gridspec(2 if texts else 1, 1, height_ratios=[2.75, below] if texts else [1])
        cells = rows[0].subgridspec(1, count)
        axes = [figure.add_subplot(cells[0, column]) for column in range(count)]
        unit = "nats of divergence" if curves.logits else "1 − cosine"
        _curve(axes[0], curves, "change", 1.0)
        axes[0].set(title="How far answers move", ylabel=unit)
        if curves.logits:
            _probabilities(axes[1], curves)
            _curve(axes[2], curves, "changed", 100.0)
            axes[2].set(title="Answers that change", ylabel="% of examples")
        for axis in axes:
            axis.set_xlabel(curves.label)
        if texts:
            _texts(figure.add_subplot(rows[1]), curves, texts, width - 0.3, below)
        figure.suptitle(f"Latent {curves.latent}", x=0.008, ha="left", weight="bold", size=11)
        if count > 1 or texts:
            figure.text(0.992, 0.985, _KEY, ha="right", va="top", size=7.5, color=QUIET)
    return figure


def _curve(axis: Axes, curves: MovedCurves, name: str, factor: float) -> None:
    part = {key: factor * value for key, value in curves.columns.items()}
    axis.fill_between(curves.doses, part[f"control_{name}_low"], part[f"control_{name}_high"], color=FAINT, lw=0)
    axis.plot(curves.doses, part[f"control_{name}"], color=QUIET, lw=1.0)
    axis.fill_between(curves.doses, part[f"{name}_low"], part[f"{name}_high"], color=ACCENT, alpha=0.25, lw=0)
    axis.plot(curves.doses, part[name], "o-", color=ACCENT, ms=2.5)
    top = max(float(part[key].max()) for key in (name, f"{name}_high", f"control_{name}_high"))
    axis.set_ylim(-0.03 * top, 1.08 * top or 1.0)


def _probabilities(axis: Axes, curves: MovedCurves) -> None:
    """The most moved, named at their ends; grey is what chance makes of whichever is moved most."""
    chance = 100 * curves.by_chance
    axis.axhspan(-chance, chance, color=FAINT, lw=0)
    axis.axhline(0, color=INK, lw=0.8, ls=":")
    chosen = list(curves.followed[: len(_COLOURS)])
    for one, colour in zip(chosen, _COLOURS, strict=False):
        axis.fill_between(curves.doses, 100 * one.low, 100 * one.high, color=colour, alpha=0.2, lw=0)
        axis.plot(curves.doses, 100 * one.change, "o-", color=colour, ms=2.5, label=_short(one.name))
    axis.set(title="Mean probability", ylabel="change in points of %")
    note = "grey: the most that a random direction moves any"
    axis.annotate(
        note, (0, 0), xytext=(3, 3), xycoords="axes fraction", textcoords="offset points", size=6.5, color=QUIET
    )
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.02), handlelength=1.0, borderaxespad=0.2)


def _texts(axis: Axes, curves: MovedCurves, texts: Sequence[MovedText], width: float, height: float) -> None:
    """A line a text: its tokens under the latent's codes, how far the answer moved, the answer before and after."""
    axis.set_axis_off()
    axis.set(xlim=(0, width), ylim=(height, 0))
    right = 2.7 if curves.logits else 0.8
    values = np.concatenate([one.values for one in texts])
    largest = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    head: dict[str, Any] = {"va": "center", "size": 8, "color": QUIET}
    axis.text(0, 0.1, "texts on which it is strongest, tokens by its code", **head)
    axis.text(width - right, 0.1, "moved", **head)
    if curves.logits:
        axis.text(width - right + 0.6, 0.1, "answer before → at the furthest dose", **head)
    for line, one in enumerate(texts):
        top = 0.25 + line * _LINE
        known = np.isfinite(one.values)
        strongest = int(np.nanargmax(one.values)) if known.any() else 0
        context = around(one.tokens, one.values, strongest, reach=24)
        draw_contexts(axis, [context], (0.0, top, width - right - 0.1, top + _LINE), largest, size=7.5)
        y = top + 0.075
        axis.text(width - right, y, f"{one.change:.3g}", va="center", size=8)
        if curves.logits:
            said = f"{one.before} → {one.after}"
            axis.text(width - right + 0.6, y, said, va="center", size=8, parse_math=False)


def _short(name: str) -> str:
    plain = shown(name)
    return plain if len(plain) <= _LONGEST_NAME else plain[: _LONGEST_NAME - 1] + "…"
