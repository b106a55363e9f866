"""The figure of docs/performance.md: step times as multiples of Unweave's, and quality over training time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.peers.protocol import OURS
from unweave.figures.style import ACCENT, INK, QUIET, house_style

# Okabe and Ito's colours; Unweave is the accent.
_COLOURS = {
    OURS: ACCENT,
    "SAELens": "#d1570b",
    "Overcomplete": "#0a8f6c",
    "dictionary_learning": "#a3508f",
    "sparsify": "#c9a100",
}
_FLOOR = ("floor", "floor-bf16", "product", "product-bf16", "adam", "read")


def draw(found: dict[str, Any], folder: Path) -> Path | None:
    """Draw what is there into `performance.svg` and `performance.png`; None where neither steps nor quality are."""
    shipped, tuned = (_peers(found.get(name, {}).get("rows", [])) for name in ("steps", "steps-tuned"))
    quality = found.get("quality", {}).get("rows", [])
    if not shipped and not quality:
        return None
    with house_style():
        figure = Figure(figsize=(10.5, 4.2))
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _step_times(left, shipped, tuned)
        _quality(right, quality)
        folder.mkdir(parents=True, exist_ok=True)
        # No date, so that the same results give the same file.
        figure.savefig(folder / "performance.svg", metadata={"Date": None})
        figure.savefig(folder / "performance.png")
    return folder / "performance.svg"


def _peers(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["side"] not in (OURS, *_FLOOR) and row["threads"] == 1]


def _library(side: str) -> str:
    return side.partition(" (")[0]


def _step_times(axes: Axes, shipped: Sequence[dict[str, Any]], tuned: Sequence[dict[str, Any]]) -> None:
    """A line of dots for each case: filled as shipped, hollow tuned."""
    axes.set_title("Step time, times that of Unweave")
    if not shipped:
        axes.set_axis_off()
        return
    cases = list(dict.fromkeys(_case(row) for row in shipped))
    place = {case: -number for number, case in enumerate(cases)}
    for rows, filled in ((shipped, True), (tuned, False)):
        for row in rows:
            if _case(row) in place:
                colour = _COLOURS[_library(row["side"])]
                axes.scatter(
                    row["times_unweave"]["median"],
                    place[_case(row)] + (0.12 if filled else -0.12),
                    s=26,
                    facecolor=colour if filled else "white",
                    edgecolor=colour,
                    linewidth=1.2,
                    zorder=3,
                )
    axes.axvline(1, color=ACCENT, linewidth=1.2)
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis, "×")
    axes.set_yticks(list(place.values()), cases)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("1 thread; filled: as shipped, hollow: tuned; blue: Unweave in float32", color=QUIET)


def _case(row: dict[str, Any]) -> str:
    return f"{row['kind']}  {row['shape']['name']}/{row['shape']['batch']}"


def _quality(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """FVU over seconds at equal steps, for the first data set and its largest k."""
    by_k = [row for row in rows if row["kind"] in ("topk", "batch-topk") and row["equal"] == "steps"]
    if not by_k:
        axes.set_axis_off()
        return
    data = by_k[0]["data"]
    k = max(row["k"] for row in by_k if row["data"] == data)
    here = [row for row in by_k if row["data"] == data and row["k"] == k]
    axes.set_title(f"Quality after {here[0]['steps']:,} steps ({data}, k {k})")
    named: set[str] = set()
    for row in here:
        colour = _COLOURS[row["side"]]
        axes.scatter(
            row["seconds"],
            row["fvu"],
            s=18 + 220 * row["dead"],
            facecolor=colour if row["recipe"] == "default" else "white",
            edgecolor=colour,
            alpha=0.9,
            linewidth=1.2,
            zorder=3,
            label=row["side"] if row["side"] not in named else None,
        )
        named.add(row["side"])
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_ticks(axes.xaxis)
    _plain_ticks(axes.yaxis)
    axes.set_xlabel("seconds; size: dead latents, hollow: not the default", color=QUIET)
    axes.set_ylabel("FVU on held-out rows")
    legend = axes.legend(fontsize=7.5, labelcolor=INK, loc="best")
    for handle in legend.legend_handles:
        handle.set_sizes([26])
        handle.set_facecolor(handle.get_edgecolor())


def _plain_ticks(axis: Axis, suffix: str = "") -> None:
    """Ticks at 1, 2 and 5 of each power of ten, written out."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}{suffix}")
    axis.set_minor_locator(NullLocator())
