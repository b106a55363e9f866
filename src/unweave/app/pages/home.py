"""The list of runs."""

import asyncio

from fastapi import Request
from fastapi.responses import Response
from nicegui import ui

from unweave.app.opened import Library
from unweave.app.pages.frame import PATIENCE_SECONDS, address, card, chip, frame, heading
from unweave.app.schema import RunSummary
from unweave.app.views import run_summary


def add(library: Library) -> None:
    """Serve `/`: every folder on the shelf, whatever it holds."""

    @ui.page("/", response_timeout=PATIENCE_SECONDS)
    async def home(request: Request) -> Response | None:
        found = await asyncio.to_thread(lambda: [run_summary(entry) for entry in library.shelf.entries()])
        with frame(request, title="Runs"):
            heading("Runs", ", ".join(str(place) for place in library.shelf.places))
            for run in found:
                _line(run)
        return None


def _line(run: RunSummary) -> None:
    with card(), ui.row().classes("w-full items-center gap-3"):
        ui.link(run.run, address(run.run)).classes("text-lg font-mono")
        chip(run.state)
        ui.label(run.title).classes("opacity-70")
        ui.space()
        if run.atlases:
            count = len(run.atlases)
            ui.label(f"{count} atlas{'es' if count > 1 else ''}").classes("text-sm opacity-70")
            ui.link("Atlas", address(run.run, "atlas"))
        if run.problem:
            ui.label(run.problem).classes("w-full text-sm opacity-80")
