"""One latent: what activates it, what it goes with, and what it does."""

import asyncio
from collections.abc import Sequence
from functools import partial

from fastapi import Request
from nicegui import ui

from unweave.analyze.attribution import METHODS
from unweave.app import charts
from unweave.app.evidence import Effect, attribution, decoder_picture, effect
from unweave.app.notes import LONGEST_NAME, LONGEST_NOTE, Note
from unweave.app.opened import Library, OpenAtlas, OpenRun
from unweave.app.pages.frame import address, card, chart, heading, later, picture, room, state_of
from unweave.app.places import context_html, has_places, top_tokens
from unweave.app.schema import Attributed, Companion, Example, LatentDetail, Neighbour
from unweave.app.views import (
    ORDERS,
    companions,
    examples,
    image_address,
    latent_detail,
    latent_picture,
    neighbours,
)
from unweave.core.errors import InputError


def add(library: Library) -> None:
    """Serve `/run/NAME/latent/NUMBER`."""

    @room(library, "/latent/{latent}", "atlas")
    async def latent(opened: OpenRun, request: Request) -> None:
        number = request.path_params["latent"]
        if not number.isdigit():
            raise InputError(f"there is no latent {number!r}; a latent is named by its number")
        chosen = await asyncio.to_thread(opened.atlas, request.query_params.get("of"))
        detail = await asyncio.to_thread(latent_detail, chosen, int(number))
        state = state_of(request, order="value", example=-1)
        order = state["order"] if state["order"] in ORDERS else "value"
        shown = await asyncio.to_thread(examples, chosen, detail.latent, order)
        _Latent(chosen, detail, order, state["example"]).build(shown)


class _Latent:
    """One visitor's look at a latent."""

    def __init__(self, opened: OpenAtlas, detail: LatentDetail, order: str, example: int) -> None:
        self.opened, self.detail, self.order = opened, detail, order
        self.run, self.latent, self.example = opened.run.entry.slug, detail.latent, example
        self.method = METHODS[0]

    def build(self, shown: Sequence[Example]) -> None:
        self._head()
        with ui.grid(columns="minmax(0,3fr) minmax(0,2fr)").classes("w-full gap-4 max-lg:grid-cols-1"):
            with ui.column().classes("gap-4 w-full"):
                what = "Texts" if self.of_texts else "Images"
                with card(f"{what} that activate it", self._said_of_places()):
                    ui.toggle(ORDERS, value=self.order, on_change=lambda e: self._order(e.value)).props(
                        "dense no-caps flat toggle-color=primary"
                    ).classes("flex-wrap")
                    self.images = ui.row().classes("w-full gap-2")
                    self._draw_images(shown)
                    if has_places(self.opened):
                        self._scale()
                if not self.of_texts:
                    self._where(shown)
                self._effects()
            with ui.column().classes("gap-4 w-full"):
                self._numbers()
                self._tokens()
                self._classes()
                self._neighbours()
                self._notes()

    @property
    def of_texts(self) -> bool:
        """Whether rows are tokens."""
        return self.opened.of_texts

    def _said_of_places(self) -> str:
        if has_places(self.opened):
            return "Each with its strongest place framed, that place enlarged, and the values of all its places"
        return "The stronger a token, the warmer its ground" if self.of_texts else ""

    def _scale(self) -> None:
        with ui.row().classes("items-center gap-2 text-xs opacity-70"):
            ui.label("0")
            image = ui.element("img").style("width: 160px; height: 10px")
            image.props["src"], image.props["alt"] = "/api/heat-scale.png", "colours of the values"
            ui.label(f"{self.detail.max:.3g}")
            ui.label("White: no row.")

    def _where(self, shown: Sequence[Example]) -> None:
        with card("Where in the image", "Choose an image above. Red raises the latent's value, blue lowers it."):
            ui.toggle(list(METHODS), value=self.method, on_change=lambda e: self._method(e.value)).props(
                "dense no-caps flat toggle-color=primary"
            )
            self.attributed = ui.column().classes("w-full")
            if self.example < 0 and shown:
                self.example = shown[0].example
            if self.example >= 0:
                self._attribute()

    def _head(self) -> None:
        detail, last = self.detail, self.opened.atlas.d_sae - 1
        with ui.row().classes("items-center gap-2 w-full"):
            title = f"Latent {self.latent}" + (f" · {detail.name}" if detail.name else "")
            self.title = ui.label(title).classes("text-2xl").props('role="heading" aria-level="1"')
            ui.badge(detail.status, color="positive" if detail.status in ("live", "dense") else "grey")
            ui.label(f"of {self.opened.role}").classes("opacity-70")
            ui.space()
            for icon, other in (("chevron_left", self.latent - 1), ("chevron_right", self.latent + 1)):
                if 0 <= other <= last:
                    with ui.link(target=self._address(other)).props(f'aria-label="latent {other}"'):
                        ui.icon(icon).classes("text-2xl")
            ui.link("Atlas", address(self.run, "atlas", of=self.opened.role))
            if detail.count:
                steer = address(self.run, "steer", of=self.opened.role, latent=self.latent)
                ui.link("Steer it", steer).classes("px-3 py-1 rounded text-white no-underline bg-[#2f6fab]").mark(
                    "steer"
                )

    def _address(self, latent: int) -> str:
        return address(self.run, "latent", latent, of=self.opened.role)

    def _draw_images(self, found: Sequence[Example]) -> None:
        self.images.clear()
        with self.images:
            if not found:
                said = "It fires on no row." if not self.detail.count else "The atlas keeps no examples in this order."
                ui.label(said).classes("opacity-70")
            for one in found:
                if self.of_texts:
                    self._draw_text(one)
                    continue
                label = f"image {one.example}" + (f", {one.label}" if one.label else "") + f", value {one.value:.3g}"
                button = ui.button(on_click=partial(self._choose, one.example)).classes("example")
                button.props("flat no-caps padding=2px").props["aria-label"] = label
                with button, ui.column().classes("gap-0 items-center"):
                    if one.places is None:
                        picture(one.image, 84, "")
                    else:
                        strip = ui.element("img").style("height: 96px; width: auto")
                        strip.props["src"], strip.props["alt"] = one.places, ""
                    ui.label(f"{one.label + ' · ' if one.label else ''}{one.value:.3g}").classes("text-xs opacity-70")

    def _draw_text(self, one: Example) -> None:
        with ui.row().classes("w-full no-wrap gap-3 items-baseline border-b border-gray-500/20"):
            said = f"{one.value:.3g}" + (f" · {one.label}" if one.label else "")
            ui.label(said).classes("text-xs opacity-70 w-24 shrink-0")
            if one.context:
                ui.html(context_html(one.context, self.detail.max), sanitize=False).classes("font-mono text-sm")
            else:
                ui.label(f"text {one.example}, token {one.position}").classes("text-sm")

    def _tokens(self) -> None:
        found = top_tokens(self.opened, self.latent)
        if not found:
            return
        table = card("Tokens", "Of the rows on which it fires, beside the token's share of all rows")
        with table, ui.element("dl").classes("grid grid-cols-3 gap-x-4 gap-y-1 w-full text-sm m-0"):
            for one in found:
                with ui.element("dt"):
                    ui.label(one.token).classes("font-mono")
                for said in (f"{100 * one.share:.1f} %", f"{100 * one.expected:.2f} %"):
                    with ui.element("dd").classes("m-0"):
                        ui.label(said)

    async def _order(self, order: str) -> None:
        self.order = order
        self._keep()
        self._draw_images(await asyncio.to_thread(examples, self.opened, self.latent, order))

    def _choose(self, example: int) -> None:
        self.example = example
        self._keep()
        self._attribute()

    def _method(self, method: str) -> None:
        self.method = method
        if self.example >= 0:
            self._attribute()

    def _keep(self) -> None:
        chosen = self.example if self.example >= 0 else None
        ui.navigate.history.replace(
            address(self.run, "latent", self.latent, of=self.opened.role, order=self.order, example=chosen)
        )

    def _attribute(self) -> None:
        self.attributed.clear()
        with self.attributed:
            later(
                partial(attribution, self.opened, self.latent, self.example, self.method),
                self._draw_attribution,
                f"{self.method} on image {self.example}",
            )

    def _draw_attribution(self, found: Attributed) -> None:
        with ui.row().classes("gap-4"):
            pictures = [("image", image_address(self.opened, self.example))]
            pictures += [("this latent", found.map)] + ([("control", found.control)] if found.control else [])
            for name, source in pictures:
                with ui.column().classes("gap-0 items-center"):
                    picture(source, 180, name)
                    ui.label(name).classes("text-xs opacity-70")
        ui.label(found.said).classes("text-sm opacity-80")

    def _effects(self) -> None:
        if not self.detail.count:
            return
        with card("What the model loses without it", "The latent's part taken out of the layer where it is active"):
            later(partial(effect, self.opened, self.latent), self._draw_effects, "Taking it out")

    def _draw_effects(self, found: Effect) -> None:
        if found.names:
            options = charts.effects(found.names, found.change, probabilities=found.probabilities)
            chart(options, f"h-[{90 + 26 * len(found.names)}px]")
        ui.label(found.said).classes("text-sm opacity-80")

    def _numbers(self) -> None:
        detail = self.detail
        facts = [
            ("fires on", f"{detail.count:,} rows, {100 * detail.rate:.3g} %"),
            ("mean where it fires", f"{detail.mean:.4g}"),
            ("largest", f"{detail.max:.4g}"),
        ]
        if detail.importance is not None:
            facts.append(("share of the rows' variance", f"{100 * detail.importance:.3g} %"))
        if detail.mutual_information is not None:
            facts.append(("tells of the class", f"{detail.mutual_information:.4f} bits"))
        if detail.p is not None:
            facts.append(("p against shuffled labels", f"{detail.p:.3g} (q = {detail.q:.3g} over all latents)"))
        if detail.average_precision is not None and detail.best_class is not None:
            facts.append((f"average precision for {detail.best_class}", f"{detail.average_precision:.3f}"))
        with card("In numbers"):
            with ui.element("dl").classes("grid grid-cols-2 gap-x-4 gap-y-1 w-full text-sm m-0"):
                for name, said in facts:
                    with ui.element("dt").classes("opacity-70"):
                        ui.label(name)
                    with ui.element("dd").classes("m-0"):
                        ui.label(said)
            if detail.count:
                chart(charts.histogram(detail.histogram.counts, detail.histogram.largest), "h-44")
            later(partial(decoder_picture, self.opened, self.latent), self._draw_picture, "Drawing its direction")

    def _draw_picture(self, source: str | None) -> None:
        if source is not None:
            heading("", "What its direction adds to the mean row, drawn by the pixel decoder (red more, blue less)")
            picture(source, 160, "decoder picture")

    def _classes(self) -> None:
        shares = self.detail.classes
        if shares and self.detail.count:
            most = sorted(shares, key=lambda one: -one.share)[:20] if len(shares) > 20 else shares
            with card("Classes", "Of the examples that activate it, beside their share of all examples"):
                names, share, prior = zip(*((one.name, one.share, one.prior) for one in most), strict=True)
                chart(charts.class_bars(names, share, prior), f"h-[{90 + 24 * len(most)}px]")

    def _neighbours(self) -> None:
        with card("Closest directions", "Cosine of decoder directions"):
            later(lambda: neighbours(self.opened, self.latent), self._draw_neighbours, "Comparing directions")
        if self.detail.count:
            with card("Fires together with", "Rows on which both fire, against independent latents of these rates"):
                later(lambda: companions(self.opened, self.latent), self._draw_companions, "Counting rows")

    def _draw_neighbours(self, found: Sequence[Neighbour]) -> None:
        with ui.row().classes("gap-3"):
            for one in found:
                self._small(one.latent, one.name, f"{one.cosine:+.2f}")
        if found and found[0].chance is not None:
            ui.label(f"The closest of as many random directions: {found[0].chance:+.2f}.").classes("text-xs opacity-70")

    def _draw_companions(self, found: Sequence[Companion]) -> None:
        with ui.row().classes("gap-3"):
            for one in found:
                self._small(one.latent, one.name, f"{one.both:,} rows, {one.lift or 0:.1f}×")
        if not found:
            ui.label("With no other more often than chance would have it.").classes("opacity-70")

    def _small(self, latent: int, name: str, said: str) -> None:
        link = ui.link(target=self._address(latent)).classes("no-underline text-inherit")
        with link, ui.column().classes("gap-0 items-center"):
            if source := latent_picture(self.opened, latent):
                picture(source, 52, f"strongest image of latent {latent}")
            ui.label(name or str(latent)).classes("text-xs font-mono")
            ui.label(said).classes("text-xs opacity-70")

    def _notes(self) -> None:
        with card("Name and notes", "Kept in the run's folder, notes.json"):
            name = ui.input("name", value=self.detail.name).props(f"dense outlined maxlength={LONGEST_NAME}")
            name.classes("w-full").mark("name")
            text = ui.textarea("notes", value=self.detail.note).props(
                f"dense outlined autogrow maxlength={LONGEST_NOTE}"
            )
            text.classes("w-full").mark("notes")

            def keep() -> None:
                note = Note(name=name.value.strip(), text=text.value.strip())
                try:
                    self.opened.run.notes.write(self.opened.role, self.latent, note)
                except InputError as error:
                    ui.notify(str(error), type="negative")
                    return
                self.title.set_text(f"Latent {self.latent}" + (f" · {note.name}" if note.name else ""))
                ui.notify("Kept")

            ui.button("Keep", on_click=keep).props("dense outline no-caps")
