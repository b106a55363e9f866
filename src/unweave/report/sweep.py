"""The page of a sweep: the figure, settings beside their controls, and every dictionary in one table."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unweave.core.errors import StoreError
from unweave.figures.files import write
from unweave.recipes.base import RUN, read_metrics
from unweave.recipes.sweep_result import DEAD, EXPLAINED, L0, LIVE, SWEEP, Setting, Sweep
from unweave.report.drawings import Drawing, inline
from unweave.report.measures import CONDITIONS
from unweave.store.artifact import read_json

_CAPTION = (
    "Active latents a row against explained variance (up and left is better), and against the share of latents that "
    "never fire. A small dot is one dictionary; a line runs through the means over seeds. Dotted: controls that keep "
    "as many active latents a row; one that leaves the figure at its top explains more than any dictionary. The left "
    "scale is logarithmic in what is missed."
)
_PUBLISHED = " Diamonds: what others report, in the variance of these rows."


@dataclass(frozen=True)
class Table:
    """Cells in words below their headings."""

    headings: list[str]
    rows: list[list[str]]


def is_sweep(folder: Path) -> bool:
    """Whether a sweep has written its result there."""
    return (folder / SWEEP).is_file()


def sweep_contents(folder: Path) -> dict[str, Any]:
    """What the template of a sweep's page asks for, its figure drawn into `figures/`.

    Raises:
        StoreError: the sweep has not ended, or a file of it is damaged.
    """
    run: Mapping[str, Any] = read_json(folder / RUN) if (folder / RUN).is_file() else {}
    if run.get("status", "complete") != "complete":
        raise StoreError(f"{folder} holds a sweep that has not ended; start the same command again to finish it")
    found = Sweep.read(folder)
    caption = _CAPTION + (_PUBLISHED if found.published else "")
    drawing = Drawing("pareto", caption, inline(write(found.figure(), folder / "figures", "pareto"), "pareto"))
    conditions = list(dict.fromkeys(control.condition for control in found.controls))
    settings = settings_table(found, conditions)
    return {
        "title": str(run.get("recipe", folder.name)).replace("sweep ", "Sweep: ", 1),
        "summary": "Many dictionaries of one layer: how much each explains, with how many active latents.",
        "facts": _facts(folder, run, found),
        "findings": run.get("findings", []),
        "drawing": drawing,
        "judged_on": found.judged_on,
        "headings": settings.headings,
        "rows": settings.rows,
        "notes": [(name, CONDITIONS[name]) for name in conditions if name in CONDITIONS],
        "every": every_table(found),
        "atlases": any(role.startswith("atlas@") for role in run.get("artifacts", {})),
        "provenance": [
            (name, json.dumps(run[name], indent=1, ensure_ascii=False))
            for name in ("config", "versions", "hardware", "artifacts")
            if name in run
        ],
    }


def settings_table(found: Sweep, conditions: list[str]) -> Table:
    """One row for each setting."""
    headings = ["setting", "seeds", "L0", "explained variance", "live", "dead", *conditions]
    return Table(headings, [_setting_row(setting, conditions) for setting in found.settings])


def _setting_row(setting: Setting, conditions: list[str]) -> list[str]:
    seeds = f"{len(setting.points)}" + (f" ({setting.failed} failed)" if setting.failed else "")
    if not setting.points:
        return [setting.label, seeds, *["–"] * (4 + len(conditions))]
    return [
        setting.label,
        seeds,
        _number(setting, L0, 1),
        _number(setting, EXPLAINED, 2, factor=100, unit=" %"),
        _number(setting, LIVE, 0),
        _number(setting, DEAD, 0),
        *(f"{100 * setting.beside[name]:.1f} %" if name in setting.beside else "–" for name in conditions),
    ]


def _number(setting: Setting, metric: str, digits: int, *, factor: float = 1.0, unit: str = "") -> str:
    mean, deviation = setting.mean(metric), setting.deviation(metric)
    if math.isnan(mean):
        return "–"
    spread = "" if deviation is None else f" ± {factor * deviation:,.{digits}f}"
    return f"{factor * mean:,.{digits}f}{spread}{unit}"


def every_table(found: Sweep) -> Table:
    """One row for each dictionary; the files beside the page have all of its numbers."""
    headings = ["name", "L0", "explained variance", "live", "dead", *(["what went wrong"] if found.failed else [])]
    rows = []
    for point in found.points:
        numbers = [point.metrics.get(metric, math.nan) for metric in (L0, EXPLAINED, LIVE, DEAD)]
        worded = ["{:.2f}", "{:.4f}", "{:,.0f}", "{:,.0f}"]
        cells = ["–" if math.isnan(v) else form.format(v) for form, v in zip(worded, numbers, strict=True)]
        rows.append([point.name, *cells, *([point.error] if found.failed else [])])
    return Table(headings, rows)


def _facts(folder: Path, run: Mapping[str, Any], found: Sweep) -> list[tuple[str, str]]:
    """The few facts under the title."""
    facts = []
    if run:
        accuracy = read_metrics(folder).get("model/test_accuracy")
        facts += [] if accuracy is None else [("model", f"{100 * accuracy:.1f} % test accuracy")]
        at = run["config"].get("at") or run["config"].get("capture", {}).get("at", "")
        facts += [("layer", at if isinstance(at, str) else ", ".join(at))]
    rows = next((point.metrics["dictionary/rows"] for point in found.points if point.metrics), 0.0)
    seeds = sorted({point.seed for point in found.points})
    facts += [
        ("evaluated on", f"{rows:,.0f} {found.judged_on}"),
        ("dictionaries", f"{len(found.points)}"),
        ("seeds" if len(seeds) > 1 else "seed", ", ".join(map(str, seeds))),
    ]
    if run:
        facts += [("took", f"{run['wall_seconds']:.0f} s"), ("unweave", run["versions"]["unweave"])]
    return facts
