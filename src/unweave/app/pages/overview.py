"""What was run and what came of it, or how it goes."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from fastapi import Request
from nicegui import ui

from unweave.app import charts
from unweave.app.opened import Library, OpenRun
from unweave.app.pages.frame import address, card, chart, chip, later, room
from unweave.app.shelf import State
from unweave.app.training import Course, courses
from unweave.app.views import artifacts
from unweave.core.config import from_json
from unweave.recipes.base import RECIPES
from unweave.recipes.sections import Section, Table
from unweave.report.contents import MAIN
from unweave.report.measures import CONDITIONS, MEASURES
from unweave.report.page import REPORT

_EVERY_SECONDS = 2.0


def add(library: Library) -> None:
    """Serve `/run/NAME`."""

    @room(library, "", "")
    async def overview(opened: OpenRun, request: Request) -> None:
        contents = opened.contents
        _head(opened)
        _findings(contents.run.get("findings", []))
        if contents.state is State.RUNNING:
            _live(library, opened)
        with ui.grid(columns="minmax(0,3fr) minmax(0,2fr)").classes("w-full gap-4 max-lg:grid-cols-1"):
            with ui.column().classes("gap-4 w-full"):
                _measures(contents.metrics)
            with ui.column().classes("gap-4 w-full"):
                _glance(opened)
        if contents.state is not State.RUNNING:
            trained = await asyncio.to_thread(courses, contents, opened.entry.folder)
            _curves(trained)
        for section in contents.run.get("sections", []):
            _section(opened, from_json(Section, section, where="run.json: sections"))
        _artifacts(opened)


def _head(opened: OpenRun) -> None:
    run = opened.contents.run
    recipe = RECIPES.members().get(str(run.get("recipe")))
    with ui.row().classes("items-center gap-3 w-full"):
        ui.label(opened.contents.title).classes("text-2xl").props('role="heading" aria-level="1"')
        chip(opened.contents.state)
        if "seed" in run:
            ui.label(f"seed {run['seed']}").classes("opacity-70")
        if "wall_seconds" in run:
            ui.label(f"{run['wall_seconds']:.0f} s").classes("opacity-70")
        ui.space()
        if (opened.entry.folder / REPORT).is_file():
            ui.link("Report", f"/files/{quote(opened.entry.slug)}/{REPORT}", new_tab=True)
        ui.link("JSON", f"/api/runs/{quote(opened.entry.slug)}", new_tab=True)
    if recipe is not None:
        ui.label(recipe.summary).classes("opacity-80")
    ui.label(str(opened.entry.folder)).classes("font-mono text-xs opacity-60 break-all")
    for role, said in opened.contents.broken.items():
        ui.label(f"{role}: {said}").classes("text-negative break-words")


def _findings(findings: Sequence[str]) -> None:
    if findings:
        with card("What the numbers allow to say"), ui.element("ul").classes("list-disc pl-5"):
            for sentence in findings:
                with ui.element("li"):
                    ui.label(sentence)


def _measures(metrics: Mapping[str, float]) -> None:
    """The dictionary beside its controls; whatever else was measured below it."""
    conditions = [MAIN, *dict.fromkeys(name.partition("@")[2] for name in metrics if "@" in name)]
    known = [m for m in MEASURES if any(_of(metrics, m.name, condition) is not None for condition in conditions)]
    shown = [c for c in conditions if any(_of(metrics, m.name, c) is not None for m in known)]
    if known and len(shown) <= 8:
        columns = [{"name": "label", "label": "", "field": "label", "align": "left"}]
        columns += [{"name": c, "label": c, "field": c, "align": "right"} for c in shown]
        rows = [{"label": m.label, **{c: _write(m.write, _of(metrics, m.name, c)) for c in shown}} for m in known]
        with card(
            "The dictionary and its controls", "On held-out rows; every control has as many active latents a row"
        ):
            ui.table(columns=columns, rows=rows, row_key="label").props("flat dense").classes("w-full")
            for condition in shown:
                if condition in CONDITIONS:
                    ui.label(f"{condition}: {CONDITIONS[condition]}").classes("text-xs opacity-70")
    rest = {name: value for name, value in metrics.items() if not (known and name.partition("@")[0] in _NAMES)}
    if rest:
        with ui.expansion(f"{'All other' if known else 'All'} numbers ({len(rest)})").classes("w-full"):
            rows = [{"name": name, "value": f"{value:.6g}"} for name, value in rest.items()]
            headings: list[dict[str, object]] = [
                {"name": "name", "label": "metric", "field": "name", "align": "left", "sortable": True},
                {"name": "value", "label": "value", "field": "value", "align": "right"},
            ]
            ui.table(columns=headings, rows=rows, row_key="name", pagination=20).props("flat dense").classes("w-full")


_NAMES = {measure.name for measure in MEASURES}


def _of(metrics: Mapping[str, float], name: str, condition: str) -> float | None:
    return metrics.get(name if condition == MAIN else f"{name}@{condition}")


def _write(write: Any, value: float | None) -> str:
    return "–" if value is None or value != value else write(value)  # noqa: PLR0124 - NaN


def _glance(opened: OpenRun) -> None:
    """Frequency and selectivity of the latents of the first atlas."""
    if not opened.atlases:
        return
    role = opened.atlases[0]

    def draw(columns: Mapping[str, Any]) -> None:
        with card(f"Latents of {role}"):
            chart(charts.frequencies(columns["rate"]), "h-52")
            if "mutual_information" in columns:
                fires = columns["count"] > 0
                picked = [columns[name][fires] for name in ("latent", "rate", "mutual_information")]
                plot = chart(charts.selectivity(*picked), "h-56")
                plot.on_point_click(
                    lambda event: ui.navigate.to(address(opened.entry.slug, "latent", event.name or 0, of=role))
                )
            ui.link("Open the atlas", address(opened.entry.slug, "atlas", of=role))

    later(lambda: opened.atlas(role).columns, draw, "Reading the atlas")


def _curves(found: Sequence[Course]) -> None:
    if not found:
        return
    with card("Training"):
        for course in found[:1]:
            _course(course)
        if len(found) > 1:
            with ui.expansion(f"{len(found) - 1} more"):
                for course in found[1:]:
                    _course(course)


def _course(course: Course) -> None:
    ui.label(course.title).classes("text-sm opacity-80")
    with ui.grid(columns="repeat(auto-fit, minmax(260px, 1fr))").classes("w-full gap-2"):
        for title, lines, log in course.panels():
            chart(charts.curves(course.x, lines, title=title, x_name=course.x_name, log=log), "h-48")


def _live(library: Library, opened: OpenRun) -> None:
    """Curves of what is being trained, again and again, until the run has ended."""
    with card("While it runs", "Of the last checkpoint; a training writes one every few seconds"):
        place = ui.column().classes("w-full")
        said = ui.label("").classes("text-sm opacity-70")

    seen: list[tuple[str, int]] = []

    async def look() -> None:
        now = await asyncio.to_thread(library.run, opened.entry.slug)
        if now.contents.state is not State.RUNNING or len(now.contents.manifests) != len(opened.contents.manifests):
            ui.navigate.reload()
            return
        found = await asyncio.to_thread(courses, now.contents, now.entry.folder, live=True)
        marks = [(course.title, len(course.x)) for course in found]
        said.set_text("" if found else "Nothing has written a checkpoint yet.")
        if marks == seen:
            return
        seen[:] = marks
        place.clear()
        with place:
            for course in found:
                _course(course)

    ui.timer(_EVERY_SECONDS, look)
    ui.timer(0.01, look, once=True)


def _section(opened: OpenRun, section: Section) -> None:
    with card(section.title, section.text):
        for table in section.tables:
            _table(table)
        for shown in section.figures:
            path = f"/files/{quote(opened.entry.slug)}/figures/{quote(shown.figure)}.png"
            with ui.element("figure").classes("w-full m-0"):
                ui.image(path).classes("w-full max-w-4xl bg-white rounded").props(
                    f'fit=contain no-spinner alt="{shown.figure}"'
                )
                ui.label(shown.caption).classes("text-sm opacity-70")


def _table(table: Table) -> None:
    columns = [
        {"name": str(place), "label": text, "field": str(place), "align": "left" if place == 0 else "right"}
        for place, text in enumerate(table.headings)
    ]
    rows = [
        {"id": number, **{str(place): cell for place, cell in enumerate(row)}} for number, row in enumerate(table.rows)
    ]
    ui.table(columns=columns, rows=rows, row_key="id").props("flat dense wrap-cells").classes("w-full")
    if table.note:
        ui.label(table.note).classes("text-xs opacity-70")


def _artifacts(opened: OpenRun) -> None:
    found = artifacts(opened.contents)
    if not found:
        return
    with ui.expansion(f"Artifacts ({len(found)})").classes("w-full"):
        columns = [
            {"name": name, "label": name.replace("_", " "), "field": name, "align": "left", "sortable": True}
            for name in ("role", "kind", "id", "created", "wall_seconds")
        ]
        rows = [one.model_dump() for one in found]
        ui.table(columns=columns, rows=rows, row_key="role", pagination=15).props("flat dense").classes("w-full")
