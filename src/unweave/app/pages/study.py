"""Blind rating studies of a run: how far they are, and what came of those that were scored."""

import asyncio
import shlex
from urllib.parse import quote

from fastapi import Request
from nicegui import ui

from unweave.app.opened import Library, OpenRun
from unweave.app.pages.frame import card, room
from unweave.app.studies import StudyState, studies


def add(library: Library) -> None:
    """Serve `/run/NAME/study`."""

    @room(library, "/study", "study")
    async def study(opened: OpenRun, request: Request) -> None:
        found = await asyncio.to_thread(studies, opened)
        for one in found:
            _study(opened, one)
        folder = shlex.quote(str(opened.entry.folder))
        place = shlex.quote(f"{opened.entry.folder}/studies/NAME")
        with card("A new study", "People rate grids of images without knowing which dictionary they come from"):
            ui.label("Draw latents and seal their key, serve the grids to raters, then score:")
            ui.code(
                f"unweave study new {folder} --conditions sae,neurons,pca,random --raters 3\n"
                f"unweave study serve {place}\n"
                f"unweave study score {place}",
                language="bash",
            ).classes("w-full")
            if not opened.atlases:
                ui.label("This run has no atlas to draw latents from.").classes("text-warning")


def _study(opened: OpenRun, one: StudyState) -> None:
    with card(one.name, one.question):
        if one.problem:
            ui.label(one.problem).classes("text-negative")
            return
        ui.label(one.design).classes("text-sm")
        ui.label(one.rule).classes("text-sm opacity-70")
        for rater, done in one.progress:
            with ui.row().classes("items-center gap-3 w-full no-wrap"):
                ui.label(rater).classes("w-28 font-mono text-sm")
                ui.linear_progress(done / max(1, one.each), show_value=False).classes("grow max-w-md").props[
                    "aria-label"
                ] = rater
                ui.label(f"{done} of {one.each}").classes("text-sm opacity-70")
        ui.label(one.said).classes("text-sm")
        if one.paragraph:
            ui.label(one.paragraph).classes("whitespace-pre-wrap")
            for name in one.figures:
                ui.image(f"/files/{quote(opened.entry.slug)}/studies/{quote(one.name)}/{quote(name)}").classes(
                    "w-full max-w-4xl bg-white rounded"
                ).props(f'fit=contain no-spinner alt="{name}"')
