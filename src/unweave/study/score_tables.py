"""A score as tables of strings, the same for the terminal and for paper."""

from collections.abc import Sequence
from dataclasses import dataclass

from unweave.stats.bootstrap import Interval
from unweave.stats.mixed import MixedDifference
from unweave.stats.two_samples import MinF, TTest
from unweave.study.prose import number, p_value
from unweave.study.result import Comparison, Score

_SIDE_BY_SIDE = 3


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A title, the columns' headings, rows of cells, and what has to be known to read them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables(score: Score) -> list[TextTable]:
    """Conditions, comparisons where there are some, raters."""
    out = [_conditions(score)]
    for start in range(0, len(score.comparisons), _SIDE_BY_SIDE):
        out.append(_comparisons(score, score.comparisons[start : start + _SIDE_BY_SIDE]))
    return [*out, _raters(score)]


def markdown(table: TextTable) -> str:
    """A table in Markdown with its title."""
    lines = [
        f"## {table.title}",
        "",
        f"| {' | '.join(table.columns)} |",
        f"| {' | '.join('---' for _ in table.columns)} |",
    ]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table.rows]
    return "\n".join([*lines, "", table.note]).rstrip() + "\n"


def _conditions(score: Score) -> TextTable:
    rows = tuple(
        (
            one.condition,
            str(one.latents),
            str(one.ratings),
            number(one.mean),
            number(one.std),
            number(one.minimum),
            number(one.lower_quartile),
            number(one.median),
            number(one.upper_quartile),
            number(one.maximum),
            _ends(one.interval),
        )
        for one in score.conditions
    )
    columns = ("condition", "n", "ratings", "mean", "std", "min", "25 %", "50 %", "75 %", "max", "95 % of mean")
    note = "Of n latents, each the mean of its first ratings; std with n − 1; interval by bootstrap over latents."
    return TextTable(title="Conditions", columns=columns, rows=rows, note=note)


def _comparisons(score: Score, some: Sequence[Comparison]) -> TextTable:
    many = len(score.comparisons)
    corrected = f" Holm: Welch’s p corrected over {many}." if many > 1 else ""
    note = (
        f"Of latents. Differences in points, with Welch’s 95 % interval. p: two-sided, uncorrected.{corrected} Min F′ "
        "asks of other raters too. Effects "
        f"with bootstrap intervals over latents. Finds: smallest difference with 80 % power at alpha 0.05"
        f"{f' / {many}' if many > 1 else ''}."
    )
    columns = ("comparison", *(f"{one.first} − {one.second}" for one in some))
    cells = {
        "difference": [number(one.difference) for one in some],
        "95 %": [_interval(one.low, one.high) for one in some],
        "p, Welch’s t": [_p(one.welch) for one in some],
        "p, Holm": [p_value(one.p_holm) for one in some],
        "p, Student’s t": [_p(one.student) for one in some],
        "p, Mann–Whitney U": [p_value(one.rank.p) for one in some],
        "p, mixed model": [_p(one.mixed) + _unconverged(one) for one in some],
        "p, min F′": [_p(one.both) for one in some],
        "Cohen’s d": [number(one.cohens_d) for one in some],
        "95 % of d": [_ends(one.d_interval) for one in some],
        "Cliff’s delta": [number(one.cliffs_delta) for one in some],
        "95 % of delta": [_ends(one.delta_interval) for one in some],
        "finds": [number(None if one.power is None else one.power.smallest) for one in some],
    }
    rows = tuple((name, *values) for name, values in cells.items() if name != "p, Holm" or many > 1)
    return TextTable(title="Comparisons", columns=columns, rows=rows, note=note)


def _p(test: TTest | MixedDifference | MinF | None) -> str:
    return "—" if test is None else p_value(test.p)


def _unconverged(one: Comparison) -> str:
    return " (not converged)" if one.mixed is not None and not one.mixed.converged else ""


def _ends(interval: Interval | None) -> str:
    return "—" if interval is None else _interval(interval.low, interval.high)


def _interval(low: float | None, high: float | None) -> str:
    return "—" if low is None else f"{number(low)} to {number(high)}"


def _raters(score: Score) -> TextTable:
    rows = tuple(
        (
            one.rater,
            str(one.ratings),
            number(one.mean),
            number(one.std),
            "—" if one.median_seconds is None else f"{one.median_seconds:.1f}",
            str(one.repeats),
            "—" if one.same is None else f"{100 * one.same:.0f} %",
            number(one.apart),
            number(one.apart_by_chance),
            number(one.reliability),
        )
        for one in score.raters
    )
    columns = ("rater", "ratings", "mean", "std", "seconds", "again", "same", "apart", "chance", "reliable")
    note = (
        "Seconds: median. Again: hidden repeats; same: how many got the same rating; apart: mean distance of both "
        "ratings, in points; chance: of two different grids. Reliable: 1 − mean square of the one over the other."
    )
    return TextTable(title="Raters", columns=columns, rows=rows, note=note)
