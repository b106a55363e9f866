"""What a model answers at each dose of one latent, beside random directions, and what a decoder draws."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from unweave.figures.style import ACCENT, FAINT, INK, QUIET, house_style

_NAMED = ("#1f6feb", "#d1570b", "#0a8f6c", "#8250df")  # classes that the latent moves most, told apart in any order
_LONGEST_NAME = 14
_GAP = 0.35  # between pictures, in heights of one
_KEY = "bands: 95 % over examples     grey: rows moved as far along random directions, middle 95 %"


@dataclass(frozen=True, kw_only=True, eq=False)
class DoseCurves:
    """One latent's answers over doses.

    Attributes:
        latent: its number.
        doses: in increasing order.
        label: what a dose is.
        class_names: names of the classes.
        columns: by dose and class: `logit_change`, `probability`, each with `_low` and `_high`, and the same of
            `control_…`.
        changed: by dose: share of answers that change, `changed`, with `_low` and `_high`, and `control_changed` with
            its own.
        pictures: the mean picture at each dose.
        unedited: the mean picture without an edit.
    """

    latent: int
    doses: Float[np.ndarray, " doses"]
    label: str
    class_names: list[str]
    columns: Mapping[str, Float[np.ndarray, "doses classes"]]
    changed: Mapping[str, Float[np.ndarray, " doses"]]
    pictures: Float[np.ndarray, "doses c h w"] | None = None
    unedited: Float[np.ndarray, "c h w"] | None = None


def dose_figure(curves: DoseCurves) -> Figure:
    """Change of the mean logit and mean probability of each class, share of changed answers, and mean pictures.

    Classes that the latent moves most have colours and names, the others are thin lines. Bands are 95 % over examples.
    Grey is the middle 95 % of what moves of the same length along random directions do, to any class.
    """
    drawn = curves.pictures is not None
    with house_style():
        figure = Figure(figsize=(10.2, 5.2 if drawn else 3.1))
        rows = figure.add_gridspec(2 if drawn else 1, 1, height_ratios=(2.6, 2.0) if drawn else (1,))
        top = rows[0].subgridspec(1, 3, width_ratios=(1, 1, 0.8))
        left, middle, right = (figure.add_subplot(top[place]) for place in range(3))
        named = _most_moved(curves)
        left.axhline(0, color=INK, lw=0.8, ls=":")
        left.set(title="Change of the mean logit", ylabel="against the unedited model")
        _classes(left, curves, "logit_change", named)
        middle.set(title="Mean probability", ylim=_from_zero(curves.columns, "probability", 1.0))
        _classes(middle, curves, "probability", named)
        _answers(right, curves)
        for axis in (left, middle, right):
            axis.set_xlabel(curves.label)
        if drawn:
            _strip(figure, rows[1], curves)
        figure.suptitle(f"Latent {curves.latent}", x=0.008, ha="left", weight="bold", size=11)
        figure.text(0.992, 0.975, _KEY, ha="right", va="top", size=8, color=QUIET)
    return figure


def _most_moved(curves: DoseCurves) -> list[int]:
    """Up to four classes, the most moved first; where few are moved, only those."""
    moved = np.abs(curves.columns["logit_change"]).max(0)
    order = np.argsort(-moved, kind="stable")[: len(_NAMED)]
    return [int(c) for c in order if moved[c] > 0]


def _classes(axis: Axes, curves: DoseCurves, name: str, named: list[int]) -> None:
    low, high = (curves.columns[f"control_{name}_{end}"] for end in ("low", "high"))
    axis.fill_between(curves.doses, low.min(1), high.max(1), color=FAINT, lw=0, zorder=1)
    values = curves.columns[name]
    others = [np.column_stack([curves.doses, values[:, c]]) for c in range(values.shape[1]) if c not in named]
    axis.add_collection(LineCollection(others, colors=QUIET, linewidths=0.7, zorder=2))  # one artist, however many
    ends = []
    for c, colour in zip(named, _NAMED, strict=False):
        axis.fill_between(
            curves.doses,
            curves.columns[f"{name}_low"][:, c],
            curves.columns[f"{name}_high"][:, c],
            color=colour,
            alpha=0.25,
            lw=0,
            zorder=3,
        )
        axis.plot(curves.doses, values[:, c], "o-", color=colour, ms=2.5, zorder=4)
        ends.append((float(values[-1, c]), _short(curves.class_names[c]), colour))
    _name_ends(axis, float(curves.doses[-1]), ends)


def _name_ends(axis: Axes, x: float, ends: list[tuple[float, str, str]]) -> None:
    """Names at the right ends of lines, pushed apart where they would lie on each other."""
    bottom, top = axis.get_ylim()
    step = 0.075 * (top - bottom)
    place = -np.inf
    places = []
    for y, name, colour in sorted(ends):
        place = max(y, place + step)
        places.append((place, y, name, colour))
    above = max(0.0, places[-1][0] - top) if places else 0.0
    for at, y, name, colour in places:
        axis.annotate(
            name,
            (x, y),
            xytext=(6, at - above),
            textcoords=("offset points", "data"),
            color=colour,
            size=8.5,
            va="center",
            annotation_clip=False,
            parse_math=False,
        )


def _from_zero(columns: Mapping[str, np.ndarray], name: str, most: float) -> tuple[float, float]:
    """Limits of an axis for shares: from 0 to a little above the largest, at most to all of them."""
    parts = (name, f"{name}_high", f"control_{name}_high")
    top = min(most, max(0.1 * most, 1.1 * max(float(columns[part].max()) for part in parts)))
    return -0.02 * top, 1.02 * top


def _answers(axis: Axes, curves: DoseCurves) -> None:
    changed = {name: 100 * value for name, value in curves.changed.items()}
    axis.fill_between(curves.doses, changed["control_changed_low"], changed["control_changed_high"], color=FAINT, lw=0)
    axis.plot(curves.doses, changed["control_changed"], color=QUIET, lw=1.0)
    axis.fill_between(curves.doses, changed["changed_low"], changed["changed_high"], color=ACCENT, alpha=0.25, lw=0)
    axis.plot(curves.doses, changed["changed"], "o-", color=ACCENT, ms=2.5)
    axis.set(title="Answers that change", ylabel="% of examples", ylim=_from_zero(changed, "changed", 100.0))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _strip(figure: Figure, cell: SubplotSpec, curves: DoseCurves) -> None:
    """The mean picture without an edit and at each dose, and below each what the dose changed of it."""
    assert curves.pictures is not None
    assert curves.unedited is not None
    shown = [curves.unedited, *curves.pictures]
    changes = [(picture - curves.unedited).mean(0) for picture in shown]
    most = max(float(np.abs(change).max()) for change in changes) or 1.0
    sheet = figure.add_subplot(cell)  # one pair of axes for all: a pair for each picture takes three times as long
    sheet.set_axis_off()
    wide = curves.unedited.shape[2] / curves.unedited.shape[1]
    for place, (picture, change) in enumerate(zip(shown, changes, strict=True)):
        left, middle = place * (wide + _GAP), place * (wide + _GAP) + wide / 2
        pixels = np.moveaxis(np.clip(picture, 0, 1), 0, -1)
        pixels = pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, 2)
        sheet.imshow(pixels, extent=(left, left + wide, 1, 0))
        name = f"{curves.doses[place - 1]:g}" if place else "unedited"
        sheet.text(middle, -0.06, name, ha="center", va="bottom", size=8)
        if place:
            extent = (left, left + wide, 2.08, 1.08)
            sheet.imshow(change, extent=extent, cmap="RdBu_r", vmin=-most, vmax=most)
        else:
            sheet.text(middle, 1.58, f"change\n±{most:.2g}", ha="center", va="center", size=8)
    sheet.set(xlim=(0, len(shown) * (wide + _GAP) - _GAP), ylim=(2.08, -0.25), aspect="equal")
