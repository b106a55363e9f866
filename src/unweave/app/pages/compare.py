"""Instances and dictionaries side by side, with what each number is worth."""

import asyncio
from collections.abc import Sequence
from functools import partial

from fastapi import Request
from nicegui import ui

from unweave.app.comparing import Compared, Pair, comparisons, pairs, side_by_side
from unweave.app.opened import Library, OpenRun
from unweave.app.pages.frame import address, card, later, room


def add(library: Library) -> None:
    """Serve `/run/NAME/compare`."""

    @room(library, "/compare", "compare")
    async def compare(opened: OpenRun, request: Request) -> None:
        found = await asyncio.to_thread(comparisons, opened)
        for one in found:
            _comparison(one)
        _dictionaries(opened)
        await _runs(library, opened, request.query_params.get("with"))
        if not found and not opened.contents.roles("dictionary"):
            ui.label("This run holds no comparison and no dictionary; `unweave compare` makes one.").classes(
                "opacity-70"
            )


def _comparison(one: Compared) -> None:
    with card(one.title, one.sentence):
        _table(one.headings, one.rows, one.note)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
    columns = [
        {"name": str(place), "label": text, "field": str(place), "align": "left" if place == 0 else "right"}
        for place, text in enumerate(headings)
    ]
    shown = [{"id": number, **{str(p): cell for p, cell in enumerate(row)}} for number, row in enumerate(rows)]
    ui.table(columns=columns, rows=shown, row_key="id").props("flat dense wrap-cells").classes("w-full")
    if note:
        ui.label(note).classes("text-xs opacity-70")


def _dictionaries(opened: OpenRun) -> None:
    offered = pairs(opened)
    if len(offered) < 2:
        return
    with card(
        "Dictionaries latent by latent",
        "Live latents, matched one to one by the correlation of their codes on half of the rows, measured on the other "
        "half. The null deals out one dictionary's rows at random.",
    ):
        roles = list(offered)
        place = ui.column().classes("w-full")

        def draw() -> None:
            place.clear()
            with place:
                later(partial(side_by_side, opened, left.value, right.value), _pair, "Matching directions")

        with ui.row().classes("gap-3 items-end"):
            left = ui.select(roles, value=roles[0], label="dictionary").props("dense outlined").classes("min-w-40")
            right = ui.select(roles, value=roles[1], label="beside").props("dense outlined").classes("min-w-40")
            ui.button("Match", on_click=draw).props("dense outline no-caps")
        place.move(target_index=-1)


def _pair(found: Pair) -> None:
    ui.label(found.sentence)
    _table(found.headings, found.rows)


async def _runs(library: Library, opened: OpenRun, beside: str | None) -> None:
    """The numbers of two runs, where both have them."""
    others = [entry.slug for entry in library.shelf.entries() if entry.slug != opened.entry.slug]
    if not others:
        return
    with card("Beside another run", "Numbers that both runs have"):
        ui.select(
            others,
            value=beside if beside in others else None,
            label="run",
            on_change=lambda event: ui.navigate.to(address(opened.entry.slug, "compare", **{"with": event.value})),
        ).props("dense outlined").classes("min-w-48")
        if beside in others:
            other = await asyncio.to_thread(library.run, beside)
            _shared(opened, other)


def _shared(one: OpenRun, other: OpenRun) -> None:
    a, b = one.contents.metrics, other.contents.metrics
    rows = [[name, _number(a[name]), _number(b[name]), _number(b[name] - a[name])] for name in a if name in b]
    if rows:
        _table(["metric", one.entry.slug, other.entry.slug, "difference"], rows)
    else:
        ui.label("They share no number.").classes("opacity-70")


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.5g}"  # noqa: PLR0124 - NaN
