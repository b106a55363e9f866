"""Latents moved by hand: the picture and the model's answer change at once."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from nicegui import events, ui

from unweave.app import charts
from unweave.app.opened import Library, OpenAtlas, OpenRun
from unweave.app.pages.frame import address, card, chart, heading, later, picture, redraw, room, state_of
from unweave.app.places import context_html
from unweave.app.schema import ClassAnswer, DoseCurve, EditOrder, Near, Steered, SteerOrder
from unweave.app.steering import dose_curve, learn_to_draw, needs_decoder, reach, seconds_to_draw, start_of, steer_by
from unweave.core.errors import InputError

_OPS = {"set": "set to", "add": "add", "ablate": "ablate"}
_AT_ONCE_SECONDS = 30.0
_NOTHING = 1e-4  # of a logit: below it is rounding


def add(library: Library) -> None:
    """Serve `/run/NAME/steer`."""

    @room(library, "/steer", "steer")
    async def steer(opened: OpenRun, request: Request) -> None:
        chosen = await asyncio.to_thread(opened.atlas, request.query_params.get("of"))
        state = state_of(request, latent=-1, example=-1, cls="", edits="", text="")
        page = _Steer(chosen, state)
        later(page.first, page.build, "Opening the model")


@dataclass
class _Edit:
    """One slider."""

    latent: int
    op: str = "set"
    value: float = 0.0


class _Steer:
    """One visitor at the sliders."""

    def __init__(self, opened: OpenAtlas, state: dict[str, Any]) -> None:
        self.opened, self.run = opened, opened.run.entry.slug
        self.edits = _read(state["edits"])
        latent = state["latent"]
        if latent >= 0 and all(edit.latent != latent for edit in self.edits):
            self.edits.append(_Edit(opened.check(latent), "set", 0.0))  # of its strongest image: what it is there for
        self.example: int | None = state["example"] if state["example"] >= 0 else None
        self.of_class: str | None = state["cls"] or None
        self.text: str | None = state["text"] or None
        self.wanted = latent
        self.scale = "probabilities"
        self.touched: _Edit | None = None
        self.curve: tuple[object, DoseCurve] | None = None
        self.plots: dict[str, ui.echart] = {}
        self.drawn: dict[str, ui.element] = {}
        self.again = False
        self.busy = False

    def order(self) -> SteerOrder:
        """What the page shows, as the API takes it."""
        edits = [EditOrder(latent=edit.latent, op=edit.op, value=edit.value) for edit in self.edits]  # type: ignore[arg-type]
        return SteerOrder(example=self.example, of_class=self.of_class, text=self.text, edits=edits)

    def first(self) -> Steered:
        """The first picture; without a choice it is the example that the latent fires on most."""
        if self.example is None and self.of_class is None and self.text is None:
            self.example = start_of(self.opened, self.wanted)
        return steer_by(self.opened, self.order())

    def build(self, found: Steered) -> None:
        if not self.edits and found.active:
            self.edits = [_Edit(one.latent, "set", one.value) for one in found.active[:3]]
        self.now, self.root = found, ui.element("div")
        self._sources()
        with ui.grid(columns="minmax(0,1fr) minmax(0,1fr)").classes("w-full gap-4 max-lg:grid-cols-1"):
            with ui.column().classes("gap-4 w-full"):
                with card("Latents", "Set a latent to a value, add to it, or take it out; the others stay"):
                    self.sliders = ui.column().classes("w-full gap-1")
                    with ui.row().classes("items-center gap-2"):
                        more = ui.number("latent", min=0, max=self.opened.atlas.d_sae - 1, precision=0)
                        more.props("dense outlined").classes("w-32")
                        ui.button("Add", on_click=lambda: self._more(more.value)).props("dense outline no-caps")
                        ui.button("Start over", on_click=self._reset).props("dense flat no-caps")
                    heading("", "Most active here")
                    self.active = ui.row().classes("gap-2")
                with card("Dose–response", "The model's answer while the latent moved last is set to each value"):
                    self.dose_said = ui.label("").classes("text-sm opacity-80")
                    self.dose = ui.column().classes("w-full")
            with ui.column().classes("gap-4 w-full"):
                if self.opened.of_texts:
                    with card("Text", "The stronger the latent that is moved last, the warmer a token's ground"):
                        self.told = ui.html("", sanitize=False).classes("font-mono text-sm").mark("text")
                else:
                    with card("Picture", "Of the row before and after, by the pixel decoder"):
                        self.pictures = ui.row().classes("gap-6").mark("pictures")
                with card("The model's answer"):
                    ui.toggle(["probabilities", "logits"], value=self.scale, on_change=self._scale).props(
                        "dense no-caps flat toggle-color=primary"
                    )
                    self.answers = ui.column().classes("w-full")
                    self.moved = ui.label("").classes("text-sm opacity-80 whitespace-pre-line")
                what = "texts" if self.opened.of_texts else "images"
                with card(f"Closest {what}", "By the cosine of their row with the one that moves furthest"):
                    self.near = ui.column().classes("w-full gap-1")
        self._draw_sliders()
        self._draw(found)
        self._draw_active(found)
        ui.timer(0.01, self._draw_dose, once=True)

    def _sources(self) -> None:
        names = self.opened.class_names
        with ui.row().classes("items-end gap-3 w-full"):
            what = "text" if self.opened.of_texts else "image"
            number = ui.number(what, value=self.example, min=0, precision=0).props("dense outlined")
            number.classes("w-32").on("change", lambda: self._source(example=number.value))
            if self.opened.of_texts:
                own = ui.input("or a text of your own", value=self.text or "").props("dense outlined maxlength=2000")
                own.classes("grow max-w-2xl").mark("own-text").on("change", lambda: self._source(text=own.value))
            elif names:
                ui.select(
                    {None: "–", **{name: name for name in names}},
                    value=self.of_class,
                    label="or the mean of a class",
                    on_change=lambda event: self._source(of_class=event.value),
                ).props("dense outlined").classes("min-w-44").mark("class")
            self.source = ui.label(self.now.source).classes("opacity-80 pb-2")
            ui.space()
            ui.button("Copy link", icon="link", on_click=self._copy).props("flat dense")

    async def _source(
        self, *, example: float | None = None, of_class: str | None = None, text: str | None = None
    ) -> None:
        if example is None and of_class is None and not (text or "").strip():
            return
        self.example, self.of_class, self.text = None if example is None else int(example), of_class, text
        await self._move()
        self._draw_active(self.now)

    def _draw_sliders(self) -> None:
        self.sliders.clear()
        with self.sliders:
            for edit in self.edits:
                self._slider(edit)
            if not self.edits:
                ui.label("No latent is moved.").classes("opacity-70")

    def _slider(self, edit: _Edit) -> None:
        largest = max(reach(self.opened, edit.latent), abs(edit.value) / 2)
        with ui.row().classes("w-full items-center gap-3 no-wrap"):
            ui.link(str(edit.latent), address(self.run, "latent", edit.latent, of=self.opened.role)).classes(
                "w-14 font-mono"
            )
            op = ui.select(_OPS, value=edit.op).props(
                f'dense outlined aria-label="what is done to latent {edit.latent}"'
            )
            op.classes("w-28 shrink-0")
            low = -2 * largest if edit.op == "add" else 0.0
            slider = ui.slider(min=low, max=2 * largest, step=largest / 50, value=edit.value)
            slider.props(f'throttle=60 aria-label="value of latent {edit.latent}"').classes("grow").mark(
                f"slider-{edit.latent}"
            )
            slider.bind_enabled_from(op, "value", lambda chosen: chosen != "ablate")
            ui.label().bind_text_from(slider, "value", lambda value: f"{value:.3g}").classes("w-14 text-right")
            ui.button(icon="close", on_click=partial(self._less, edit)).props(
                f'flat dense round size=sm aria-label="leave latent {edit.latent} as it is"'
            )
        op.on_value_change(partial(self._operation, edit))
        slider.on_value_change(partial(self._value, edit))

    async def _value(self, edit: _Edit, event: events.ValueChangeEventArguments[Any]) -> None:
        edit.value, self.touched = float(event.value), edit
        await self._move()

    async def _operation(self, edit: _Edit, event: events.ValueChangeEventArguments[Any]) -> None:
        edit.op, self.touched = event.value, edit
        edit.value = 0.0 if edit.op == "add" else edit.value
        self._draw_sliders()
        await self._move()

    async def _less(self, edit: _Edit) -> None:
        self.edits.remove(edit)
        self._draw_sliders()
        await self._move()

    async def _more(self, latent: float | None, value: float | None = None) -> None:
        if latent is None:
            return
        try:
            chosen = self.opened.check(int(latent))
        except InputError as error:
            ui.notify(str(error), type="negative")
            return
        if all(edit.latent != chosen for edit in self.edits):
            self.touched = _Edit(chosen, "set", reach(self.opened, chosen) if value is None else value)
            self.edits.append(self.touched)
            self._draw_sliders()
            await self._move()

    async def _reset(self) -> None:
        self.edits = []
        self._draw_sliders()
        await self._move()

    async def _move(self) -> None:
        """Compute and draw; while that is under way, only the last of further moves counts."""
        self.again = True
        if self.busy:
            return
        self.busy = True
        try:
            while self.again:
                self.again = False
                found = await asyncio.to_thread(steer_by, self.opened, self.order())
                self._draw(found)
                if not self.again:
                    await self._draw_dose()
        except InputError as error:
            ui.notify(str(error), type="negative")
        finally:
            self.busy = False
        ui.navigate.history.replace(self.address())

    def address(self) -> str:
        """The address of what is shown just now."""
        said = ",".join(f"{edit.latent}:{edit.op}:{edit.value:.4g}" for edit in self.edits)
        return address(
            self.run, "steer", of=self.opened.role, example=self.example, cls=self.of_class, edits=said,
            text=self.text,
        )  # fmt: skip

    def _draw(self, found: Steered) -> None:
        self.now = found
        self.source.set_text(found.source)
        if self.opened.of_texts:
            largest = max((one.value or 0.0 for one in found.tokens), default=0.0)
            self.told.set_content(context_html(found.tokens, largest))
        else:
            self._draw_pictures(found)
        self._draw_answers(found)
        self._draw_near(found)

    def _draw_active(self, found: Steered) -> None:
        self.active.clear()
        with self.active:
            for one in found.active[:12]:
                ui.button(
                    f"{one.name or one.latent} {one.value:.3g}", on_click=partial(self._more, one.latent, one.value)
                ).props("dense outline no-caps size=sm")

    def _plot(self, place: ui.element, name: str, options: charts.Options, height: str) -> None:
        """Draw a chart, or change the one that is there."""
        if name in self.plots:
            redraw(self.plots[name], options)
            return
        place.clear()
        with place:
            self.plots[name] = chart(options, height)

    def _draw_answers(self, found: Steered) -> None:
        unit = "nats" if found.answers else "1 - cosine"
        said = [
            f"Rows moved by {100 * found.moved:.1f} % of their length. The answer moved by {found.answer_moved:.3g} "
            f"({unit}), along random directions of the same length by {found.answer_control:.3g} (mean of 4)."
        ]
        if found.answers:
            most = sorted(found.answers, key=lambda one: -max(one.before, one.after))[:12]
            names, *values = zip(*(_bars(one, self.scale) for one in found.answers if one in most), strict=True)
            options = charts.before_and_after(names, *values, percent=self.scale != "logits")
            self._plot(self.answers, "answers", options, f"h-[{90 + 24 * len(names)}px]")
            moved = max(found.answers, key=lambda one: abs(one.logit_after - one.logit_before))
            change = moved.logit_after - moved.logit_before
            if abs(change) > _NOTHING:
                said.insert(0, f"The logit of {moved.name} moves most, by {change:+.3g}.")
        else:
            said.insert(0, "The model's answer is a vector, no choice between classes.")
        self.moved.set_text("\n".join(said))

    async def _scale(self, event: events.ValueChangeEventArguments[Any]) -> None:
        self.scale = event.value
        self._draw_answers(self.now)
        await self._draw_dose()

    def _draw_pictures(self, found: Steered) -> None:
        sources = {"before": found.picture_before or "", "after": found.picture_after or ""}
        if self.drawn and all(sources.values()):
            for name, source in sources.items():
                self.drawn[name].props["src"] = source
            return
        self.pictures.clear()
        with self.pictures:
            if all(sources.values()):
                for name, source in sources.items():
                    with ui.column().classes("gap-0 items-center"):
                        self.drawn[name] = picture(source, 200, name, classes=name)
                        ui.label(name).classes("text-sm opacity-70")
            elif needs_decoder(self.opened):
                later(partial(seconds_to_draw, self.opened), self._offer_to_draw, "Looking at the layer")
            else:
                ui.label("Rows of this layer cannot be drawn; see the closest images.").classes("opacity-70")

    def _offer_to_draw(self, seconds: float) -> None:
        """Learn at once where that takes moments, else when asked to."""
        place = ui.column()

        def learn() -> None:
            place.clear()
            with place:
                waiting = f"Learning to draw this layer (once, about {max(1, round(seconds))} s)"
                later(partial(learn_to_draw, self.opened), self._can_draw, waiting)

        if seconds <= _AT_ONCE_SECONDS:
            learn()
            return
        with place:
            ui.label("There is no pixel decoder of this layer yet; the closest images below show what a move does.")
            ui.button(f"Learn to draw it (about {round(seconds / 60) or 1} min)", on_click=learn).props(
                "dense outline no-caps"
            )

    def _can_draw(self, _: None) -> None:
        with self.root:  # where no drawing clears it away
            ui.timer(0.01, self._move, once=True)

    def _draw_near(self, found: Steered) -> None:
        self.near.clear()
        with self.near:
            for name, near in (("before", found.near_before), ("after", found.near_after)):
                with ui.row().classes("w-full items-center gap-2 no-wrap"):
                    ui.label(name).classes("w-14 shrink-0 text-sm opacity-70")
                    if self.opened.of_texts:
                        self._near_texts(near)
                        continue
                    with ui.row().classes("gap-2"):
                        for one in near:
                            said = f"image {one.example}, {one.label or ''}, cosine {one.cosine:.3f}"
                            picture(one.image, 52, f"image {one.example}", title=said)

    def _near_texts(self, near: Sequence[Near]) -> None:
        with ui.column().classes("gap-0 w-full"):
            for one in near[:5]:
                said = f"{one.cosine:.3f} · {one.label + ' · ' if one.label else ''}{one.text}"
                ui.label(said).classes("text-xs font-mono")

    async def _draw_dose(self) -> None:
        """The curve of the latent that was moved last, with its value now."""
        if not self.edits:
            self.dose_said.set_text("Add a latent to see its curve.")
            self.dose.clear()
            self.plots.pop("dose", None)
            return
        edit = self.touched if self.touched in self.edits else self.edits[-1]
        order, others = self.order(), [(one.latent, one.op, one.value) for one in self.edits if one is not edit]
        key = (order.example, order.of_class, order.text, edit.latent, others)
        if self.curve is None or self.curve[0] != key:
            try:
                self.curve = (key, await asyncio.to_thread(dose_curve, self.opened, order, edit.latent))
            except InputError as error:
                self.dose_said.set_text(str(error))
                return
        found, percent, unit = self.curve[1], self.scale != "logits", "logit"
        lines = dict(zip(found.classes, found.probabilities if percent else found.logits, strict=True))
        if found.cosines:
            lines, percent, unit = {"with the answer as it was": found.cosines}, False, "cosine"
        moving = dict(sorted(lines.items(), key=lambda one: min(one[1]) - max(one[1]))[:6])
        self.dose_said.set_text(f"latent {found.latent}")
        at = {"set": edit.value, "ablate": 0.0}.get(edit.op)
        self._plot(self.dose, "dose", charts.doses(found.doses, moving, percent=percent, at=at, unit=unit), "h-64")

    def _copy(self) -> None:
        ui.clipboard.write(f"{ui.context.client.request.base_url}".rstrip("/") + self.address())
        ui.notify("The address of this view is copied")


def _bars(one: ClassAnswer, scale: str) -> tuple[str, float, float]:
    """A class's name with the model's answer before and after."""
    return (one.name, one.logit_before, one.logit_after) if scale == "logits" else (one.name, one.before, one.after)


def _read(said: str) -> list[_Edit]:
    """Edits of an address: `17:set:5,3:ablate:0`; what makes no sense is left out."""
    found = []
    for one in said.split(","):
        latent, _, rest = one.partition(":")
        op, _, value = rest.partition(":")
        try:
            if op in _OPS:
                found.append(_Edit(int(latent), op, float(value or 0)))
        except ValueError:
            continue
    return found
