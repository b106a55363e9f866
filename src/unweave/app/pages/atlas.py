"""Every latent as a point on a map and as a row of a table."""

import asyncio
import math
from dataclasses import replace
from typing import Any

from fastapi import Request
from nicegui import events, ui

from unweave.analyze.maps import METHODS
from unweave.app import charts
from unweave.app.latents import Query, colourings
from unweave.app.maps import Maps, map_points, said_of_map
from unweave.app.opened import Library, OpenAtlas, OpenRun
from unweave.app.pages.frame import address, card, chart, room, state_of
from unweave.app.schema import LatentRow, MapPoints
from unweave.app.views import latent_page, latent_picture

_ROWS = (10, 25, 50, 100)
_MAP_HEIGHT = "h-[560px]"
_WORDS = {
    "class": "strongest class",
    "frequency": "share of rows",
    "information": "bits about the class",
    "importance": "share of the variance",
}
_METHODS = {"tsne": "t-SNE", "umap": "UMAP", "pca": "Principal components"}
_COLUMNS = {
    "latent": "latent",
    "status": "status",
    "rate": "fires on",
    "importance": "variance",
    "mutual_information": "bits",
    "q": "q",
    "top_class": "class",
    "top_class_share": "its share",
    "average_precision": "precision",
}
_STATUSES = {"any": "", **{name: name for name in ("firing", "live", "dense", "rare", "dead")}}  # in an address
_TEXT = {"status", "top_class"}


def add(library: Library) -> None:
    """Serve `/run/NAME/atlas`; its whole state is in its address."""
    maps = Maps()

    @room(library, "/atlas", "atlas")
    async def atlas(opened: OpenRun, request: Request) -> None:
        role = request.query_params.get("of")
        chosen = await asyncio.to_thread(opened.atlas, role)
        view = _View(chosen, request, maps)
        await view.build()


class _View:
    """One visitor's look at an atlas."""

    def __init__(self, opened: OpenAtlas, request: Request, maps: Maps) -> None:
        self.opened, self.maps = opened, maps
        offered = colourings(opened)
        state = state_of(
            request, color=offered[0], method=METHODS[0], sort="", desc=True, status="firing", cls="", q="", page=1,
            rows=25, low=0.0, high=1.0,
        )  # fmt: skip
        self.colour = state["color"] if state["color"] in offered else offered[0]
        self.method = state["method"] if state["method"] in METHODS else METHODS[0]
        self.page = max(1, state["page"])
        self.size = state["rows"] if state["rows"] in _ROWS else 25
        self.query = Query(
            sort=state["sort"] if state["sort"] in opened.columns else "",
            descending=state["desc"],
            status=_STATUSES.get(state["status"], "firing"),
            of_class=state["cls"] if state["cls"] in opened.class_names else "",
            least_rate=state["low"] if 0 <= state["low"] <= 1 else 0.0,
            most_rate=state["high"] if 0 <= state["high"] <= 1 else 1.0,
            text=state["q"],
        )

    @property
    def run(self) -> str:
        return self.opened.run.entry.slug

    def address(self) -> str:
        """The address of what is shown just now."""
        query = self.query
        return address(
            self.run, "atlas", of=self.opened.role, color=self.colour, method=self.method, sort=query.sort,
            desc=int(query.descending), status=query.status or "any", cls=query.of_class, q=query.text,
            low=query.least_rate or None, high=query.most_rate if query.most_rate < 1 else None,
            page=self.page if self.page > 1 else None, rows=self.size if self.size != 25 else None,
        )  # fmt: skip

    async def build(self) -> None:
        self._controls()
        with ui.grid(columns="minmax(0,2fr) minmax(0,3fr)").classes("w-full gap-4 max-lg:grid-cols-1"):
            with card(classes="w-full lg:sticky lg:top-16 self-start"):
                self.map_said = ui.label("").classes("text-sm opacity-70")
                self.map_place = ui.element("div").classes(f"w-full {_MAP_HEIGHT} flex items-center justify-center")
                with self.map_place:
                    ui.spinner(size="2em")
            with card():
                self._table()
        await self.fill()
        ui.timer(0.01, self.draw_map, once=True)
        ui.timer(2.0, self.draw_map_when_ready)

    def _controls(self) -> None:
        opened = self.opened
        with ui.row().classes("w-full items-end gap-3"):
            if len(opened.run.atlases) > 1:
                ui.select(opened.run.atlases, value=opened.role, label="atlas", on_change=self._other_atlas).props(
                    "dense outlined"
                ).classes("min-w-32")
            ui.select(colourings(opened), value=self.colour, label="colour", on_change=self._colour).props(
                "dense outlined"
            ).classes("min-w-32").mark("colour")
            ui.select(
                {name: _METHODS[name] for name in METHODS}, value=self.method, label="map", on_change=self._method
            ).props("dense outlined").classes("min-w-24")
            ui.select(
                {own: said for said, own in _STATUSES.items()},
                value=self.query.status,
                label="status",
                on_change=self._set("status"),
            ).props("dense outlined").classes("min-w-28")
            if opened.class_names:
                classes = {"": "any", **{name: name for name in opened.class_names}}
                ui.select(
                    classes, value=self.query.of_class, label="strongest class", on_change=self._set("of_class")
                ).props("dense outlined").classes("min-w-32")
            with ui.column().classes("gap-0 px-2"):
                low, high = (math.log10(max(1e-6, v)) for v in (self.query.least_rate, self.query.most_rate))
                said = ui.label().classes("text-xs opacity-70")
                rates = ui.range(min=-6, max=0, step=0.25, value={"min": max(-6.0, low), "max": high})
                rates.props("dense").classes("w-48").on("change", lambda event: self._rates(event.args))
                said.bind_text_from(rates, "value", _range_of_rates)
            ui.input("number, name or note", value=self.query.text, on_change=self._set("text")).props(
                "dense outlined clearable debounce=300"
            ).classes("min-w-48")
            ui.space()
            ui.button("Copy link", icon="link", on_click=self._copy).props("flat dense")

    def _table(self) -> None:
        columns = [
            {
                "name": name,
                "label": label,
                "field": name,
                "sortable": True,
                "align": "left" if name in _TEXT | {"latent"} else "right",
            }
            for name, label in _COLUMNS.items()
            if name in self.opened.columns
        ]
        columns.insert(0, {"name": "image", "label": "", "field": "image", "align": "left", "style": "width: 48px"})
        self.table = ui.table(columns=columns, rows=[], row_key="latent", pagination={"rowsPerPage": self.size}).props(
            f'flat dense binary-state-sort :rows-per-page-options="{list(_ROWS)}"'
        )
        self.table.classes("w-full cursor-pointer")
        self.table.add_slot(
            "body-cell-image",
            '<q-td :props="props"><img :src="props.row.image" alt="" v-if="props.row.image" '
            'style="object-fit:contain;width:34px;height:34px;max-width:none;image-rendering:pixelated"></q-td>',
        )
        self.table.add_slot(
            "body-cell-latent",
            '<q-td :props="props"><a :href="props.row.link" class="font-mono nicegui-link">{{ props.row.latent }}</a> '
            '<span class="opacity-70">{{ props.row.name }}</span></q-td>',
        )
        self.table.on("request", self._request)
        self.table.on("rowClick", lambda event: ui.navigate.to(event.args[1]["link"]), [[], ["link"], None])

    async def fill(self) -> None:
        """The rows of the table's page."""
        found = await asyncio.to_thread(
            latent_page, self.opened, self.query, offset=(self.page - 1) * self.size, limit=self.size
        )
        if self.page > 1 and not found.items:
            self.page = 1
            return await self.fill()
        self.table.rows = [self._row(item) for item in found.items]
        self.table.pagination = {
            "page": self.page,
            "rowsPerPage": self.size,
            "rowsNumber": found.total,
            "sortBy": self.query.sort or "mutual_information",
            "descending": self.query.descending,
        }
        return None

    def _row(self, item: LatentRow) -> dict[str, Any]:
        return {
            "latent": item.latent,
            "name": item.name,
            "image": latent_picture(self.opened, item.latent),
            "link": address(self.run, "latent", item.latent, of=self.opened.role),
            "status": item.status,
            "rate": f"{100 * item.rate:.3g} %",
            "importance": "" if item.importance is None else f"{100 * item.importance:.2g} %",
            "mutual_information": _short(item.mutual_information),
            "q": _short(item.q),
            "top_class": item.top_class or "",
            "top_class_share": "" if item.top_class is None else f"{100 * (item.top_class_share or 0):.0f} %",
            "average_precision": _short(item.average_precision),
        }

    async def draw_map(self) -> None:
        """The map by its method; while that is computed, the principal components."""
        points = await asyncio.to_thread(self._points)
        self.map_said.set_text(self._words(points))
        self.shown = points.method
        self.map_place.clear()
        with self.map_place:
            plot = chart(
                charts.map_of_latents(
                    points.latent,
                    points.x,
                    points.y,
                    points.value,
                    label=_WORDS[points.colouring],
                    class_names=self.opened.class_names if points.colouring == "class" else (),
                    picture=latent_picture(self.opened, "{b}"),
                    log=points.colouring in ("frequency", "importance"),
                ),
                _MAP_HEIGHT,
            )
            plot.on_point_click(lambda event: self._open(event.name))
            plot.mark("map")

    def _points(self) -> MapPoints:
        self.maps.start(self.opened, self.method)
        return map_points(self.opened, self.maps.ready(self.opened, self.method), self.colour)

    def _words(self, points: MapPoints) -> str:
        count = f"{len(points.latent):,} latents that fire, of {self.opened.atlas.d_sae:,}."
        if points.method == self.method:
            kept = said_of_map(self.opened, self.method)
            return f"{_METHODS.get(self.method, self.method)} of decoder directions. {count} {kept}"
        why = self.maps.failure(self.opened, self.method)
        waiting = why or f"{_METHODS[self.method]} is being computed (once); it will come here by itself."
        return f"Principal components. {count} {waiting}"

    async def draw_map_when_ready(self) -> None:
        """Change to the map that was asked for once it is there."""
        if getattr(self, "shown", self.method) != self.method:
            if self.maps.ready(self.opened, self.method) == self.method:
                await self.draw_map()
            elif why := self.maps.failure(self.opened, self.method):
                self.map_said.set_text(f"Principal components. {why}")

    def _open(self, name: str | None) -> None:
        if name:
            ui.navigate.to(address(self.run, "latent", name, of=self.opened.role))

    def _keep(self) -> None:
        ui.navigate.history.replace(self.address())

    def _other_atlas(self, event: events.ValueChangeEventArguments[Any]) -> None:
        ui.navigate.to(address(self.run, "atlas", of=event.value, color=self.colour, method=self.method))

    async def _colour(self, event: events.ValueChangeEventArguments[Any]) -> None:
        self.colour = event.value
        self._keep()
        await self.draw_map()

    async def _method(self, event: events.ValueChangeEventArguments[Any]) -> None:
        self.method = event.value
        self._keep()
        await self.draw_map()

    def _set(self, field: str) -> Any:
        async def change(event: events.ValueChangeEventArguments[Any]) -> None:
            self.query = replace(self.query, **{field: event.value or ""})  # type: ignore[arg-type]
            await self._again()

        return change

    async def _rates(self, value: dict[str, float]) -> None:
        low, high = float(value["min"]), float(value["max"])
        self.query = replace(self.query, least_rate=0.0 if low <= -6 else 10**low, most_rate=10**high)
        await self._again()

    async def _again(self) -> None:
        self.page = 1
        self._keep()
        await self.fill()

    async def _request(self, event: events.GenericEventArguments) -> None:
        asked = event.args["pagination"]
        self.page, self.size = int(asked["page"]), int(asked["rowsPerPage"])
        sort = asked.get("sortBy")
        sort = sort if sort in self.opened.columns else ""
        if (sort, bool(asked["descending"])) != (self.query.sort, self.query.descending):
            self.page = 1
        self.query = replace(self.query, sort=sort, descending=bool(asked["descending"]))
        self._keep()
        await self.fill()

    async def _copy(self) -> None:
        ui.clipboard.write(f"{ui.context.client.request.base_url}".rstrip("/") + self.address())
        ui.notify("The address of this view is copied")


def _range_of_rates(value: dict[str, float]) -> str:
    """What the two handles mean, whose scale is the logarithm's."""
    low = "0" if value["min"] <= -6 else f"{100 * 10 ** value['min']:.3g}"
    return f"fires on {low} to {100 * 10 ** value['max']:.3g} % of rows"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
