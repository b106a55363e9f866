"""What every page has: its head, its ways on, light and dark, and what is said where something is missing."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from nicegui import ui

from unweave.app.opened import Library, OpenRun
from unweave.app.shelf import State
from unweave.app.views import said_of
from unweave.core.errors import InputError, StoreError

T = TypeVar("T")
ROOMS = {
    "": "Overview",
    "atlas": "Atlas",
    "steer": "Steer",
    "image": "Your image",
    "compare": "Compare",
    "study": "Study",
}
THEMES = {"auto": None, "light": False, "dark": True}
_THEME = "unweave_theme"
PATIENCE_SECONDS = 60.0  # a first look may read from a slow disk
_ICONS = {"auto": "brightness_auto", "light": "light_mode", "dark": "dark_mode"}
_COLOURS = {State.COMPLETE: "positive", State.RUNNING: "info", State.ARTIFACTS: "positive"}
# Links and buttons on a dark page: the colour of the light one has too little contrast there.
_ON_DARK = """
.body--dark { --q-primary: #5a9fd8 !important }
.body--dark .nicegui-link { color: #7db5ea }
.body--dark .q-table__bottom .text-grey-8 { color: inherit !important }
"""
Page = Callable[[OpenRun, Request], Awaitable[None]]


def address(run: str, *parts: str | int, **state: Any) -> str:
    """Address of a page of a run; what is empty or None is left out of the state."""
    path = "/".join(["", "run", quote(run, safe=""), *(quote(str(part), safe="") for part in parts if part != "")])
    query = {name: value for name, value in state.items() if value not in (None, "")}
    return f"{path}?{urlencode(query)}" if query else path


def room(library: Library, path: str, name: str) -> Callable[[Page], Page]:
    """Function decorator: the page of a run at `/run/NAME/…`.

    Args:
        library: the runs.
        path: what follows the run's name.
        name: which of the rooms it is.
    """

    def enter(build: Page) -> Page:
        @ui.page(f"/run/{{run}}{path}", response_timeout=PATIENCE_SECONDS)
        async def shown(request: Request, run: str) -> Response | None:
            client = ui.context.client
            try:
                opened = await asyncio.to_thread(library.run, run)
            except (InputError, StoreError) as error:
                with frame(request, title="Not here"):
                    problem("There is no such run", said_of(error))
                return client.build_response(request, 404)
            with frame(request, opened, name):
                try:
                    await build(opened, request)
                except (InputError, StoreError) as error:
                    problem("This cannot be shown", said_of(error))
                    return client.build_response(request, 404)
            return None

        return build

    return enter


@contextmanager
def frame(request: Request, opened: OpenRun | None = None, room_name: str = "", *, title: str = "") -> Iterator[None]:
    """A page with its head; what the block draws comes below."""
    theme = request.cookies.get(_THEME, "auto")
    ui.dark_mode(THEMES.get(theme))
    ui.colors(primary="#2f6fab", accent="#d9822b", positive="#3f8f5f", info="#5b8bb5")
    ui.query("body").style("font-feature-settings: 'tnum'")
    ui.add_css(_ON_DARK)
    run = opened.entry.slug if opened else ""
    ui.page_title(" · ".join(part for part in (title or ROOMS.get(room_name, ""), run, "Unweave") if part))
    with ui.header().classes("items-center gap-4 px-6 py-2").style("background: #1f3347"):
        ui.link("Unweave", "/").classes("text-white text-lg font-medium no-underline")
        if opened:
            ui.label(run).classes("text-white opacity-70 font-mono text-sm")
            with ui.row().classes("gap-1 items-center").props('role="navigation" aria-label="pages of this run"'):
                for name, said in ROOMS.items():
                    here = name == room_name
                    link = ui.link(said, address(run, name)).classes(
                        "text-white no-underline px-3 py-1 rounded " + ("bg-white/20" if here else "opacity-80")
                    )
                    if here:
                        link.props('aria-current="page"')
        ui.space()
        following = list(THEMES)[(list(THEMES).index(theme) + 1) % 3 if theme in THEMES else 0]
        back = quote(request.url.path + (f"?{request.url.query}" if request.url.query else ""), safe="")
        with (
            ui.link(target=f"/theme/{following}?back={back}")
            .classes("text-white")
            .props(f'aria-label="colours: {theme}; change to {following}"')
        ):
            ui.icon(_ICONS.get(theme, _ICONS["auto"])).classes("text-xl")
    with ui.column().classes("w-full max-w-[1500px] mx-auto px-4 py-3 gap-4"):
        if opened and opened.contents.problem:
            colour = "info" if opened.contents.state is State.RUNNING else "warning"
            notice(opened.contents.problem, colour)
        yield


def theme_route(mode: str, back: str) -> Response:
    """Keep the choice of colours and go back."""
    local = back if back.startswith("/") and not back.startswith(("//", "/\\")) else "/"
    answer = RedirectResponse(local, 303)
    if mode in THEMES:
        answer.set_cookie(_THEME, mode, max_age=10 * 365 * 86400, samesite="lax")
    return answer


def problem(title: str, text: str) -> None:
    """A card that says what is missing."""
    with ui.card().classes("w-full max-w-3xl").props("flat bordered"):
        ui.label(title).classes("text-xl")
        ui.label(text).classes("whitespace-pre-wrap break-words")
        ui.link("All runs", "/")


def notice(text: str, colour: str = "info") -> None:
    """A line that should be seen."""
    with ui.row().classes(f"w-full items-center gap-2 rounded px-3 py-2 bg-{colour} text-white no-wrap"):
        ui.icon("info")
        ui.label(text)


def heading(text: str, under: str = "") -> None:
    """A section's title, and a line on what it shows."""
    with ui.column().classes("gap-0 w-full"):
        ui.label(text).classes("text-lg font-medium").props('role="heading" aria-level="2"')
        if under:
            ui.label(under).classes("text-sm opacity-70")


@contextmanager
def card(title: str = "", under: str = "", classes: str = "w-full") -> Iterator[None]:
    """A bordered part of the page."""
    with ui.card().classes(f"{classes} gap-2").props("flat bordered"):
        if title:
            heading(title, under)
        yield


def chip(state: State) -> None:
    """What a folder holds, as a coloured word."""
    ui.badge(state.value, color=_COLOURS.get(state, "warning"))


def chart(options: Mapping[str, Any], height: str = "h-64", **more: Any) -> ui.echart:
    """A chart in the full width of what it lies in."""
    return ui.echart(dict(options), **more).classes(f"w-full {height}")


def redraw(plot: ui.echart, options: Mapping[str, Any]) -> None:
    """Change what a chart shows; one that is made anew would flicker."""
    plot.options.clear()
    plot.options.update(options)
    plot.update()


def picture(source: str, side: int, alt: str, *, title: str = "", classes: str = "") -> ui.element:
    """A small picture in a square, its pixels sharp."""
    drawn = (
        ui.element("img")
        .classes(f"{classes} object-contain")
        .style(f"width: {side}px; height: {side}px; image-rendering: pixelated")
    )
    said = {"src": source, "alt": alt, "width": side, "height": side, **({"title": title} if title else {})}
    for name, value in said.items():
        drawn.props[name] = value
    return drawn


def later(compute: Callable[[], T], draw: Callable[[T], None], waiting: str) -> None:
    """Compute in a thread once the page is open, and draw what came of it here; an error is said here too."""
    place = ui.column().classes("w-full gap-2")
    with place, ui.row().classes("items-center gap-2 opacity-70"):
        ui.spinner(size="1.2em")
        ui.label(waiting)

    async def fill() -> None:
        try:
            found: Any = await asyncio.to_thread(compute)
        except (InputError, StoreError) as error:
            place.clear()
            with place:
                ui.label(said_of(error)).classes("opacity-70 whitespace-pre-wrap")
            return
        place.clear()
        with place:
            draw(found)

    ui.timer(0.01, fill, once=True)


def state_of(request: Request, **defaults: Any) -> dict[str, Any]:
    """The page's state as its address gives it: each value of its default's type; nonsense gives the default."""
    found = {}
    for name, default in defaults.items():
        said = request.query_params.get(name)
        try:
            found[name] = default if said is None else _as(type(default), said)
        except ValueError:
            found[name] = default
    return found


def _as(kind: type, said: str) -> Any:
    return said not in ("0", "false", "False") if kind is bool else kind(said)
