"""A picture of the visitor's own: what the model and its latents make of it."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import Request
from nicegui import events, ui

from unweave.app import charts
from unweave.app.opened import Library, OpenAtlas, OpenRun
from unweave.app.own_image import LARGEST_BYTES, ask
from unweave.app.pages.frame import address, card, chart, picture, room
from unweave.app.schema import ActiveLatent, ImageAnswer, Near
from unweave.app.views import latent_picture
from unweave.core.errors import InputError


def add(library: Library) -> None:
    """Serve `/run/NAME/image`."""

    @room(library, "/image", "image")
    async def image(opened: OpenRun, request: Request) -> None:
        chosen = await asyncio.to_thread(opened.atlas, request.query_params.get("of"))
        if chosen.of_texts:
            with card("Your text", "This run is of texts: give the model one of your own where latents are steered."):
                ui.link("Steer", address(opened.entry.slug, "steer", of=chosen.role))
            return
        with card(
            "Your image",
            "It is turned upright, cut to its largest centred square and resized as the model's images are; it stays "
            "in this computer's memory and is not kept.",
        ):
            uploader = (
                ui.upload(
                    label="Drop a picture here, or choose one",
                    auto_upload=True,
                    max_file_size=LARGEST_BYTES,
                    max_files=1,
                    on_rejected=lambda: ui.notify(
                        f"A picture may have up to {LARGEST_BYTES >> 20} MiB", type="negative"
                    ),
                )
                .props('accept="image/*" flat bordered')
                .classes("w-full max-w-xl")
            )
            place = ui.column().classes("w-full gap-4")
        uploader.on_upload(partial(_asked, chosen, place, uploader))


async def _asked(opened: OpenAtlas, place: ui.column, uploader: ui.upload, event: events.UploadEventArguments) -> None:
    place.clear()
    with place:
        ui.spinner()
    written = await event.file.read()
    uploader.reset()
    found: ImageAnswer | str
    try:
        answer: Any = await asyncio.to_thread(ask, opened, written)
        found = answer
    except InputError as error:
        found = str(error)
    place.clear()
    with place:
        if isinstance(found, str):
            ui.label(found).classes("text-negative")
        else:
            _draw(opened, found)


def _draw(opened: OpenAtlas, found: ImageAnswer) -> None:
    with ui.row().classes("w-full gap-6 items-start"):
        with ui.column().classes("gap-1"):
            picture(found.seen, 160, "your image as the model sees it")
            ui.label(f"as the model sees it; {found.width} × {found.height} before").classes("text-xs opacity-70")
        if found.answers:
            most = sorted(found.answers, key=lambda one: -one.after)[:10]
            with ui.column().classes("grow min-w-72 gap-0"):
                ui.label("The model's answer, in %").classes("font-medium")
                values = [one.after for one in most]
                options = charts.class_bars([one.name for one in most], values, values, labels=("probability", ""))
                options["series"], options["legend"] = options["series"][:1], {"show": False}
                chart(options, f"h-[{60 + 22 * len(most)}px]")
    ui.label("Strongest latents").classes("font-medium")
    _latents(opened, found.active)
    if found.explained is not None:
        ui.label(f"The dictionary gives back {100 * found.explained:.1f} % of its row.").classes("text-sm opacity-80")
    ui.label("Closest captured images, by their rows").classes("font-medium")
    _near(found.near)
    ui.label("Closest captured images, by their latents").classes("font-medium")
    _near(found.near_by_code)


def _latents(opened: OpenAtlas, active: Sequence[ActiveLatent]) -> None:
    run = opened.run.entry.slug
    with ui.row().classes("gap-3"):
        for one in active[:16]:
            link = ui.link(target=address(run, "latent", one.latent, of=opened.role))
            with link.classes("no-underline text-inherit"), ui.column().classes("gap-0 items-center"):
                if source := latent_picture(opened, one.latent):
                    picture(source, 72, f"latent {one.latent}")
                ui.label(one.name or str(one.latent)).classes("text-xs font-mono")
                ui.label(f"{one.value:.3g}").classes("text-xs opacity-70")
        if not active:
            ui.label("None is active.").classes("opacity-70")


def _near(near: Sequence[Near]) -> None:
    with ui.row().classes("gap-3"):
        for one in near:
            with ui.column().classes("gap-0 items-center"):
                picture(one.image, 72, f"image {one.example}")
                ui.label(f"{one.label or one.example} · {one.cosine:.3f}").classes("text-xs opacity-70")
