"""The rater's page: a start, one grid at a time, a pause after each third, thanks."""

import logging
import time
from collections.abc import Callable
from typing import Any

from nicegui import events, run, ui
from sqlalchemy.exc import SQLAlchemyError

from unweave.rating import words
from unweave.rating.desk import Desk, OutOfTurn, Place
from unweave.study.ratings import HIGHEST, LOWEST

# A second click within this time was meant for the grid before.
_DOUBLE_CLICK_SECONDS = 0.4
_VALUES = range(LOWEST, HIGHEST + 1)
_STYLE = """
<meta name="robots" content="noindex">
<style>
  .rater { max-width: 760px; min-height: 100vh; }
  .grid-box { width: min(100%, calc(100vh - 236px)); min-width: min(100%, 260px); }
  .grid-box img { width: 100%; height: auto; border-radius: 6px; display: block; }
  .grid-box img.ahead { display: none; }
  .scale { display: grid; grid-template-columns: repeat(7, minmax(0, 1fr)); gap: 8px; width: 100%; }
  .scale .q-btn { height: 52px; font-size: 20px; font-weight: 600; }
  .anchor { font-size: 13px; line-height: 1.25; justify-self: center; white-space: nowrap;
    opacity: 0.75; }
  .quiet { opacity: 0.7; }
  body { --q-primary: #1f6feb !important; }
  body.body--dark { --q-primary: #388bfd !important; }
  @media (max-width: 600px) {
    .scale { gap: 5px; }
    .anchor:nth-of-type(7n + 1) { justify-self: start; }
    .anchor:nth-of-type(7n) { justify-self: end; }
  }
</style>
"""


def rater_page(desk: Desk, rater: str, token: str) -> None:
    """Build the page of a rater into the present NiceGUI client."""
    ui.add_head_html(_STYLE)
    with ui.column().classes("rater w-full mx-auto px-4 py-3 items-center gap-3"):
        _RaterPage(desk, rater, token).start()


class _RaterPage:
    """One browser window of one rater. What counts is in the database; this only shows it."""

    def __init__(self, desk: Desk, rater: str, token: str) -> None:
        self.desk, self.rater, self.token = desk, rater, token
        self.place: Place = desk.place(rater)
        self.body = ui.column().classes("w-full items-center gap-3")
        self.go_on: Callable[[], None] | None = None
        self.images: dict[int, ui.element] = {}
        self.loaded: set[int] = set()
        self.visible_at: float | None = None
        self.busy = False
        ui.keyboard(on_key=self._key, repeating=False, ignore=[])

    # The views; each clears the page and builds itself.

    def start(self) -> None:
        """What is asked, and what will come."""
        if self.place.current is None:
            self._end()
            return
        plan = self.desk.plan
        with self._view(self._grids):
            ui.label(words.WELCOME).classes("text-sm quiet mt-6")
            ui.label(plan.question).classes("text-2xl font-medium text-center").props("role=heading aria-level=1")
            with ui.element("div").classes("scale mt-2"):
                for value in _VALUES:
                    ui.label(str(value)).classes("text-lg font-semibold text-center")
                self._anchors()
            with ui.column().classes("gap-3 mt-4 text-base"):
                for sentence in words.what_comes(self.place.total, plan.images):
                    ui.label(sentence)
                ui.label(words.KEYS).classes("quiet")
            done = self.place.done
            ui.button(f"Go on with grid {done + 1}" if done else "Begin", on_click=self._grids).props(
                "unelevated size=lg no-caps autofocus"
            ).classes("mt-4")

    def _pause(self) -> None:
        with self._view(self._grids):
            self._progress()
            ui.icon("local_cafe", size="48px").classes("mt-16 quiet")
            ui.label(words.pause(self.place.done, self.place.total)).classes("text-lg text-center")
            ui.button("Go on", on_click=self._grids).props("unelevated size=lg no-caps").classes("mt-2")
            self._undo_button()

    def _end(self) -> None:
        with self._view(None):
            self._progress()
            ui.icon("check_circle", size="48px").classes("mt-16 text-primary")
            ui.label(words.THANKS).classes("text-2xl font-medium").props("role=heading aria-level=1")
            ui.label(words.all_done(self.place.total)).classes("text-base text-center")
            self._undo_button()

    def _grids(self) -> None:
        """The view in which grids are rated; from one grid to the next only what changes is changed."""
        with self._view(None):
            self._progress()
            ui.label(self.desk.plan.question).classes("text-lg text-center").props("role=heading aria-level=1")
            self.box = ui.element("div").classes("grid-box")
            with ui.element("div").classes("scale"):
                self.buttons = [self._button(value) for value in _VALUES]
                self._anchors()
            self._undo_button()
        self._show_grid()

    def _view(self, go_on: Callable[[], None] | None) -> ui.column:
        self.go_on = go_on
        self.images, self.loaded, self.visible_at = {}, set(), None
        self.body.clear()
        return self.body

    def _button(self, value: int) -> ui.button:
        said = self.desk.plan.anchors.get(str(value))
        button = ui.button(str(value), on_click=lambda: self._rate(value)).props("outline")
        return button.props(f'aria-label="{value}{f", {said}" if said else ""}"')

    def _anchors(self) -> None:
        for value in _VALUES:
            ui.label(self.desk.plan.anchors.get(str(value), "")).classes("anchor")

    def _progress(self) -> None:
        with ui.row().classes("w-full items-center no-wrap gap-4"):
            self.bar = ui.linear_progress(show_value=False, size="6px").props("rounded").classes("grow")
            self.count = ui.label().classes("text-sm whitespace-nowrap").props("aria-live=polite")
        self._update_progress()

    def _update_progress(self) -> None:
        done, total = self.place.done, self.place.total
        self.bar.set_value(done / total)
        self.count.set_text(f"{min(done + 1, total)} of {total}" if self.place.current else f"{total} of {total}")

    def _undo_button(self) -> None:
        self.undo = ui.button("Take back the last rating", icon="undo", on_click=self._undo)
        self.undo.props("flat no-caps size=md padding=xs").set_enabled(self.place.last is not None)

    # One grid after the other.

    def _show_grid(self) -> None:
        current = self.place.current
        assert current is not None
        for number in set(self.images) - {current.number, current.number + 1}:
            self.images.pop(number).delete()
            self.loaded.discard(number)
        for number in (current.number, min(current.number + 1, self.place.total - 1)):  # the next one is kept ready
            if number not in self.images:
                self._add_image(number)
            # Not set_visibility: what is invisible to NiceGUI has no events, and loading is one.
            ahead = "ahead" if number != current.number else ""
            self.images[number].classes(replace=ahead)
        self._update_progress()
        self.undo.set_enabled(self.place.last is not None)
        self.visible_at = None
        if current.number in self.loaded:
            self._visible()
        else:
            self._enable(False)

    def _add_image(self, number: int) -> None:
        with self.box:
            image = ui.element("img").props(f'src="/api/{self.token}/grids/{number}" alt="grid {number + 1}"')
        image.on("load", lambda: self._has_loaded(number), args=[])
        image.on("error", lambda: ui.notify(words.NOT_LOADED, type="negative", timeout=0), args=[])
        self.images[number] = image

    def _has_loaded(self, number: int) -> None:
        self.loaded.add(number)
        if self.place.current is not None and number == self.place.current.number and self.visible_at is None:
            self._visible()

    def _visible(self) -> None:
        assert self.place.current is not None
        self.visible_at = time.monotonic()
        self.desk.show(self.rater, self.place.current)
        self._enable(True)

    def _enable(self, enabled: bool) -> None:
        for button in self.buttons:
            button.set_enabled(enabled)

    # What raters do.

    async def _rate(self, value: int) -> None:
        current = self.place.current
        early = self.visible_at is None or time.monotonic() - self.visible_at < _DOUBLE_CLICK_SECONDS
        if current is None or early or self.busy:
            return
        if await self._done(self.desk.rate, self.rater, current, value):
            self._go_on_from_here()

    async def _undo(self) -> None:
        last = self.place.last
        if last is not None and not self.busy and await self._done(self.desk.undo, self.rater, last):
            self._grids()

    async def _done(self, action: Callable[..., bool], *given: Any) -> bool:
        """Carry an action out beside the event loop, then learn where the rater stands; False where it failed."""
        self.busy = True
        try:
            try:
                as_meant = await run.io_bound(action, *given)
            except OutOfTurn:
                as_meant = False
            place = await run.io_bound(self.desk.place, self.rater)
        except SQLAlchemyError as error:
            logging.getLogger(__name__).error("the database failed: %s", error)
            ui.notify(words.NOT_STORED, type="negative")
            return False
        finally:
            self.busy = False
        if place is None:  # the server is going down
            return False
        self.place = place
        if not as_meant:
            ui.notify(words.ELSEWHERE, type="info")
        return True

    def _go_on_from_here(self) -> None:
        if self.place.current is None:
            self._end()
        elif self.place.pause:
            self._pause()
        elif self.images:
            self._show_grid()
        else:
            self._grids()

    async def _key(self, event: events.KeyEventArguments) -> None:
        if not event.action.keydown or event.modifiers.ctrl or event.modifiers.alt or event.modifiers.meta:
            return
        name = str(event.key.name)
        if name == "Enter" and self.go_on is not None:
            self.go_on()
        elif name in {"u", "U", "Backspace"}:
            await self._undo()
        elif name in {str(value) for value in _VALUES} and self.images:
            await self._rate(int(name))
