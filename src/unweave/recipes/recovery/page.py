"""The page of the recipe `recovery`, and the table that the command line prints."""

import math
from collections.abc import Sequence

import numpy as np
import scipy
from matplotlib.figure import Figure

from unweave.figures.recovery import Column, Line, along_penalty, recovery_by_kind
from unweave.recipes.base import Run
from unweave.recipes.recovery.scores import CODES, DEAD, EXPLAINED, L0, MCC, PRECISION, RECALL, WIDTH, Summary
from unweave.recipes.recovery.setup import ANY, Tried, chosen
from unweave.stats.spread import Spread

HEADINGS = ["", "MCC", "recall", "precision", "codes r", "explained", "L0", "dead", "latents"]
_SHARES = (MCC, RECALL, PRECISION, CODES, EXPLAINED)
_FAR = 1.25  # an L0 beyond this factor of what was planted is another comparison
_FAR_BETTER = 0.05
_RANDOM = "random"
_MEANING = (
    "MCC: mean cosine of true directions and the latents matched with them, one to one. Recall: share of true "
    "directions whose latent reaches a cosine of 0.9. Precision: share of latents that fire and reach 0.9 with a true "
    "direction. Codes r: mean |r| of a true source with the codes of its latent. Explained: share of the variance. "
    "Dead: latents that fire on no held-out row. ±: half of the 95 % t-interval of the mean over seeds."
)


def write_page(run: Run, found: Sequence[Summary], tried: Sequence[Tried], *, l0: float, seeds: int) -> None:
    """Sections, figure and tables.

    Args:
        run: whose page it is.
        found: kinds over seeds.
        tried: values of penalties that were tried.
        l0: active latents a row that all were brought to.
        seeds: repetitions.
    """
    run.section(
        "Who finds the planted directions?",
        f"Every kind of dictionary on the same rows, {seeds} times with other data and other starts. Kinds that count "
        f"their active latents are told to have as many as were planted ({l0:.2f} a row); those with a penalty were "
        "tuned to that by what they do on training rows. None saw the truth. All numbers are of held-out rows.",
    )
    run.show(
        "recovery",
        figure(found, l0),
        "Small dots are seeds, large ones their means, lines 95 % t-intervals of the mean, cut off at the ends of the "
        "scale. Dotted: what random directions reach (MCC), and the planted number of active features (L0).",
    )
    for rows in dict.fromkeys(one.rows for one in found):
        of_rows = [one for one in found if one.rows == rows]
        called = "" if rows == ANY else f"Rows without negative entries. {_MEANING}"
        run.table(HEADINGS, [cells(one) for one in of_rows], note=called or _MEANING, main=1)
    if tried:
        _tuning(run, tried, l0)


def figure(found: Sequence[Summary], l0: float) -> Figure:
    """The figure of the page."""
    groups: dict[str, list[Line]] = {}
    for one in found:
        if one.spreads:
            groups.setdefault(f"{one.rows} rows", []).append(_line(one))
    chance = next((one.mean(MCC) for one in found if one.kind == _RANDOM and one.rows == ANY), None)
    l0s = [value for one in found if one.spreads for value in one.spreads[L0].values]
    low, high = min([*l0s, l0]), max([*l0s, l0])
    explained = [value for one in found if one.spreads for value in one.spreads[EXPLAINED].values]
    columns = [
        Column(MCC, "MCC", (0, 1), reference=chance),
        Column(RECALL, "recall at 0.9", (0, 1)),
        Column(PRECISION, "precision at 0.9", (0, 1)),
        Column(EXPLAINED, "explained variance", (min(0.0, *explained), 1)),
        Column(L0, "L0", (max(low, 1 / 8) / 1.3, high * 1.3), log=True, reference=l0),
    ]
    return recovery_by_kind(groups, columns)


def _line(one: Summary) -> Line:
    values = {name: np.array(spread.values) for name, spread in one.spreads.items()}
    return Line(one.kind, one.trained, values, {name: (s.low, s.high) for name, s in one.spreads.items()})


def cells(one: Summary) -> list[str]:
    """A line of the table; a kind without a dictionary says why."""
    if not one.spreads:
        return [f"{one.kind}: {'; '.join(one.errors)}", *["–"] * (len(HEADINGS) - 1)]
    failed = f" ({len(one.errors)} failed)" if one.errors else ""
    name = f"{one.kind}{failed}" + (f" ({one.tuned})" if one.tuned else "")
    shares = [_with_half(one.spreads[metric], 3) for metric in _SHARES]
    return [name, *shares, f"{one.mean(L0):.2f}", f"{one.mean(DEAD):.1f}", f"{one.mean(WIDTH):.0f}"]


def _with_half(spread: Spread, digits: int) -> str:
    half = (spread.high - spread.low) / 2
    return f"{spread.mean:.{digits}f}" + (f" ± {half:.{digits}f}" if math.isfinite(half) else "")


def _tuning(run: Run, tried: Sequence[Tried], l0: float) -> None:
    run.section(
        "How penalties were tuned",
        f"Values that a kind declares, then those between or beyond them that should give an L0 of {l0:.2f} on the "
        "training rows of the first repetition. The one that came nearest was taken for all repetitions. What else a "
        "value gave was not looked at, and is shown because one L0 does not suit every kind: an L1 penalty that is "
        "strong enough for few active latents also shrinks what is left.",
    )
    kinds = list(dict.fromkeys(one.kind for one in tried))
    curves, at = {}, {}
    for kind in kinds:
        of_kind = [one for one in tried if one.kind == kind and one.metrics]
        if of_kind:
            curves[kind] = np.array([[one.l0, one.metrics[MCC], one.metrics[EXPLAINED]] for one in of_kind])
            best = chosen(of_kind, kind, l0)
            at[kind] = of_kind.index(best) if best is not None else 0
    if curves:
        run.show(
            "penalties",
            along_penalty(curves, at, l0),
            "MCC (left) and explained variance (right) on held-out rows of the first repetition, for every value of a "
            "penalty, against the L0 that it gives on training rows. Rings: what was chosen. Dotted: the planted L0.",
        )
    rows = []
    for kind in kinds:
        of_kind = sorted((one for one in tried if one.kind == kind), key=lambda one: one.value)
        best = chosen(tried, kind, l0)
        values = ",  ".join(f"{one.value:.3g}: {one.l0:.2f}" for one in of_kind)
        rows.append([kind, of_kind[0].option, values, "" if best is None else f"{best.value:.3g}"])
    run.table(["", "option", "values and their L0", "chosen"], rows, main=3)


def findings(found: Sequence[Summary], tried: Sequence[Tried], l0: float) -> list[str]:
    """What the numbers allow to say, in sentences."""
    measured = [one for one in found if one.spreads and one.rows == ANY]
    if not measured:
        return ["No dictionary could be measured; the table says why."]
    best = measured[0]
    said = [_best(best, measured)]
    chance = next((one for one in measured if one.kind == _RANDOM), None)
    if chance is not None:
        said.append(
            f"Random directions have an MCC of {chance.mean(MCC):.3f} by chance: what a dictionary found counts from "
            "there, not from 0."
        )
    if len(measured) > 3:
        rank = float(
            scipy.stats.spearmanr([o.mean(MCC) for o in measured], [o.mean(EXPLAINED) for o in measured]).statistic
        )
        highest = max(measured, key=lambda one: one.mean(EXPLAINED))
        said.append(
            f"Explained variance and MCC order the kinds alike to {rank:.2f} (rank correlation). {highest.kind} "
            f"explains most ({100 * highest.mean(EXPLAINED):.1f} %, L0 {highest.mean(L0):.1f}), with an MCC of "
            f"{highest.mean(MCC):.3f}."
        )
    off = [one for one in measured if not 1 / _FAR <= max(one.mean(L0), 1e-9) / l0 <= _FAR]
    if off:
        told = ", ".join(f"{one.kind} {one.mean(L0):.1f}" for one in off)
        said.append(f"Not at the planted L0 of {l0:.1f}, and so not quite comparable: {told}.")
    said += _elsewhere(measured, tried)
    absent = [one for one in found if not one.spreads]
    if absent:
        said.append("Left out: " + "; ".join(f"{one.kind} ({'; '.join(one.errors)})" for one in absent) + ".")
    return said


def _elsewhere(measured: Sequence[Summary], tried: Sequence[Tried]) -> list[str]:
    """Kinds that find far more at another strength of their penalty."""
    told = []
    for one in measured:
        of_kind = [value for value in tried if value.kind == one.kind and value.metrics]
        best = max(of_kind, key=lambda value: value.metrics[MCC], default=None)
        if best is not None and best.metrics[MCC] > one.mean(MCC) + _FAR_BETTER:
            told.append(f"{one.kind} {best.metrics[MCC]:.3f} at L0 {best.l0:.1f} ({best.option}={best.value:.3g})")
    return [f"With a weaker or stronger penalty some find far more: {'; '.join(told)}."] if told else []


def _best(best: Summary, measured: Sequence[Summary]) -> str:
    """Who is ahead, and who cannot be told apart from it."""
    ahead = best.spreads[MCC]
    line = f"{best.kind} finds most: MCC {_with_half(ahead, 3)}, recall {_with_half(best.spreads[RECALL], 3)}"
    if len(ahead.values) < 2:
        return f"{line}. One seed says nothing of how far chance brings kinds apart."
    close = [one.kind for one in measured[1:] if not _clearly_less(one.spreads[MCC], ahead)]
    return line + (
        f"; these cannot be told apart from it (t-interval of the difference, seed by seed): {', '.join(close)}."
        if close
        else "; all others are below it by more than seeds explain (t-interval of the difference, seed by seed)."
    )


def _clearly_less(one: Spread, best: Spread) -> bool:
    """Whether the interval of the difference, on the same data each, leaves out 0."""
    if len(one.values) != len(best.values):
        return one.high < best.mean
    return Spread.of([b - a for a, b in zip(one.values, best.values, strict=True)]).low > 0
