"""The page: one HTML file with everything inside it, made from a template."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from unweave.analyze import Analysis
from unweave.core.config import to_json
from unweave.figures.contexts import shown as readable
from unweave.figures.files import write
from unweave.figures.latents import gallery
from unweave.recipes.base import FIGURES, RECIPES
from unweave.report.cards import galleries
from unweave.report.contents import MAIN, Contents
from unweave.report.drawings import draw_all
from unweave.report.measures import CONDITIONS, MEASURES
from unweave.report.sections import sections
from unweave.report.sweep import is_sweep, sweep_contents
from unweave.store.drafts import disk_errors, replacing

REPORT = "report.html"
_NOTHING: dict[str, Any] = {name: [] for name in ("conditions", "rows", "notes", "drawings", "galleries", "selective")}


@dataclass(frozen=True)
class Row:
    """A line of the table of dictionary against controls."""

    label: str
    meaning: str
    cells: list[str]


def build_report(folder: str | Path) -> Path:
    """Write `report.html` and `figures/` into a run's folder, or the folder of one dictionary or atlas beside it.

    Args:
        folder: a complete run or sweep, or a single artifact (whose page goes to `<folder>-report/`, so that the
            artifact stays as it was).

    Returns:
        The page.

    Raises:
        StoreError: there is nothing in the folder that a report can be made of, or it is damaged.
    """
    folder = Path(folder).resolve()
    if is_sweep(folder):
        return _write_page(folder, "sweep.html.j2", sweep_contents(folder))
    contents = Contents.read(folder)
    provenance = _provenance(contents)  # first: it has every artifact compared with what was written
    place = folder if contents.run else folder.with_name(f"{folder.name}-report")
    values = {
        "title": contents.run.get("recipe", folder.name),
        "summary": _summary(contents),
        "facts": _facts(contents),
        "findings": contents.run.get("findings", []),
        "provenance": provenance,
        "main": MAIN,
    }
    told = sections(contents)
    parts = {**_NOTHING, "sections": told}
    recipe = RECIPES.members().get(contents.run.get("recipe", ""))
    if not told or (recipe is not None and recipe.and_atlas):
        parts |= _from_artifacts(contents, place)
    return _write_page(place, "report.html.j2", {**values, **parts})


def _from_artifacts(contents: Contents, place: Path) -> dict[str, Any]:
    """What the page of a dictionary and its controls shows, its figures drawn into `place`."""
    shown = galleries(contents.atlases, seed=int(contents.run.get("seed", 0)))
    for one in shown:
        write(gallery(one.latents), place / FIGURES, one.name)
    conditions = contents.conditions()
    return {
        "conditions": conditions,
        "rows": table_rows(contents, conditions),
        "notes": [(condition, CONDITIONS[condition]) for condition in conditions if condition in CONDITIONS],
        "drawings": draw_all(contents, place / FIGURES),
        "galleries": shown,
        "selective": selective_rows(contents),
    }


def _write_page(place: Path, template: str, values: Mapping[str, Any]) -> Path:
    environment = Environment(
        loader=PackageLoader("unweave.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["readable"] = readable
    css = environment.get_template("report.css").render()
    page = environment.get_template(template).render(css=css, **values)
    path = place / REPORT
    with disk_errors(path):
        place.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(page, encoding="utf-8")
    return path


def table_rows(contents: Contents, conditions: list[str]) -> list[Row]:
    """The measures that were taken, worded."""
    analysis = next((atlas.analysis for atlas in contents.atlases.values()), Analysis())
    shares = {"live": f"{100 * analysis.live_share:g} %", "dense": f"{100 * analysis.dense_share:g} %"}
    rows = []
    for measure in MEASURES:
        numbers = [contents.metric(measure.name, condition) for condition in conditions]
        if any(number is not None for number in numbers):
            cells = ["–" if number is None or math.isnan(number) else measure.write(number) for number in numbers]
            rows.append(Row(measure.label, measure.meaning.format(**shares), cells))
    return rows


def selective_rows(contents: Contents, most: int = 8) -> list[tuple[str, list[tuple[int, str]]]]:
    """For each class its most selective latents with their average precision."""
    atlas = contents.atlases.get(MAIN)
    if atlas is None or atlas.selective is None or atlas.class_names is None:
        return []
    table: list[dict[str, Any]] = atlas.selective.to_pylist()
    return [
        (name, [(r["latent"], f"{r['average_precision']:.2f}") for r in table if r["class"] == c and r["rank"] < most])
        for c, name in enumerate(atlas.class_names)
    ]


def _summary(contents: Contents) -> str:
    name = contents.run.get("recipe")
    return RECIPES[name].summary if name in RECIPES.members() else "What the latents of a dictionary stand for."


def _facts(contents: Contents) -> list[tuple[str, str]]:
    """The few facts under the title."""
    facts = []
    if contents.run:
        facts.append(("settings", _preset(contents)))
    if contents.curves is not None and "test_accuracy" in contents.curves:
        facts.append(("model", f"{100 * contents.curves['test_accuracy'][-1]:.1f} % test accuracy"))
    if (atlas := contents.atlases.get(MAIN)) is not None:
        which = "held-out rows" if contents.run else "rows"
        facts += [("layer", atlas.hook_name), ("evaluated on", f"{int(atlas.metrics['dictionary/rows']):,} {which}")]
    if contents.run:
        facts.append(("seed", str(contents.run["seed"])))
        facts.append(("took", f"{contents.run['wall_seconds']:.0f} s"))
        facts.append(("unweave", contents.run["versions"]["unweave"]))
    else:
        facts.append(("made", time.strftime("%Y-%m-%d")))
    return facts


def _preset(contents: Contents) -> str:
    """The recipe's preset that the run was made with."""
    recipe = RECIPES.members().get(contents.run["recipe"])
    presets = {} if recipe is None else recipe.presets
    config = contents.run["config"]
    return next((f"preset {name}" for name, preset in presets.items() if to_json(preset) == config), "its own")


def _provenance(contents: Contents) -> list[tuple[str, str]]:
    """What a reader needs to get the same again: configuration, versions, hardware, artifacts."""
    artifacts = {role: f"{m.kind} {m.id}, {m.wall_seconds:.1f} s" for role, m in contents.manifests.items()}
    parts = [
        ("configuration", contents.run.get("config")),
        ("versions", contents.run.get("versions")),
        ("hardware", contents.run.get("hardware")),
        ("artifacts", artifacts),
    ]
    return [(name, json.dumps(value, indent=1, ensure_ascii=False)) for name, value in parts if value]
