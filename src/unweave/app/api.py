"""The API: the pages' data as JSON, typed and in parts."""

from typing import Annotated

from fastapi import APIRouter, File, HTTPException, Query, Response

from unweave.analyze.attribution import METHODS
from unweave.app.comparing import comparisons
from unweave.app.evidence import attribution, effect
from unweave.app.latents import Colouring, colourings
from unweave.app.latents import Query as LatentQuery
from unweave.app.maps import Maps, map_points
from unweave.app.notes import Note
from unweave.app.opened import Library, OpenAtlas, OpenRun
from unweave.app.own_image import ask
from unweave.app.pictures import example_png
from unweave.app.places import scale_png, strip_png, top_tokens
from unweave.app.schema import (
    Attributed,
    Companion,
    ComparedTable,
    DoseCurve,
    EffectOfLatent,
    Example,
    ImageAnswer,
    LatentDetail,
    LatentPage,
    MapPoints,
    Neighbour,
    NoteText,
    RunDetail,
    RunSummary,
    Steered,
    SteerOrder,
    StudyProgress,
    TokenShare,
)
from unweave.app.steering import dose_curve, steer_by
from unweave.app.studies import studies
from unweave.app.views import (
    MOST_AT_ONCE,
    companions,
    examples,
    latent_detail,
    latent_page,
    neighbours,
    run_detail,
    run_summary,
)
from unweave.core.errors import InputError

Of = Annotated[str | None, Query(description="role of the atlas; by default the dictionary's own")]
Most = Annotated[int, Query(ge=1, le=100)]
_KEEP = {"Cache-Control": "private, max-age=3600"}


def router(library: Library) -> APIRouter:
    """Everything under `/api`."""
    api = APIRouter(prefix="/api")
    _runs(api, library)
    _latents(api, library)
    _evidence(api, library)
    _steering(api, library)
    return api


def known_run(library: Library, run: str) -> OpenRun:
    """A run by its name in addresses.

    Raises:
        HTTPException: 404, there is none.
    """
    try:
        return library.run(run)
    except InputError as error:
        raise HTTPException(404, str(error)) from None


def _atlas(library: Library, run: str, of: str | None, latent: int | None = None) -> OpenAtlas:
    """An atlas of a run, and where a latent is named, one that has it; 404 where there is none."""
    try:
        opened = known_run(library, run).atlas(of)
        if latent is not None:
            opened.check(latent)
    except InputError as error:
        raise HTTPException(404, str(error)) from None
    return opened


def _runs(api: APIRouter, library: Library) -> None:
    @api.get("/runs", summary="Every folder that is served, whatever it holds")
    def runs(offset: int = Query(0, ge=0), limit: int = Query(100, ge=1, le=MOST_AT_ONCE)) -> list[RunSummary]:
        return [run_summary(entry) for entry in library.shelf.entries()[offset : offset + limit]]

    @api.get("/runs/{run}", summary="A run with its numbers and artifacts")
    def run(run: str) -> RunDetail:
        return run_detail(known_run(library, run).entry)

    @api.get("/runs/{run}/comparisons", summary="Instances side by side, with their nulls")
    def compared(run: str) -> list[ComparedTable]:
        return [ComparedTable(**vars(one)) for one in comparisons(known_run(library, run))]

    @api.get("/runs/{run}/studies", summary="How far the rating studies are")
    def progress(run: str) -> list[StudyProgress]:
        return [
            StudyProgress(name=one.name, question=one.question, each=one.each, rated=dict(one.progress), said=one.said)
            for one in studies(known_run(library, run))
        ]


def _latents(api: APIRouter, library: Library) -> None:
    @api.get("/runs/{run}/latents", summary="The table of latents, filtered, sorted, in parts")
    def page(
        run: str,
        of: Of = None,
        sort: str = "",
        descending: bool = True,
        status: str = "",
        of_class: str = "",
        least_rate: float = Query(0.0, ge=0, le=1),
        most_rate: float = Query(1.0, ge=0, le=1),
        text: str = "",
        offset: int = Query(0, ge=0),
        limit: int = Query(50, ge=1, le=MOST_AT_ONCE),
    ) -> LatentPage:
        query = LatentQuery(
            sort=sort, descending=descending, status=status, of_class=of_class, least_rate=least_rate,
            most_rate=most_rate, text=text,
        )  # fmt: skip
        return latent_page(_atlas(library, run, of), query, offset=offset, limit=limit)

    @api.get("/runs/{run}/latents/{latent}.png", response_class=Response, summary="A latent's strongest image")
    def picture(run: str, latent: int, of: Of = None) -> Response:
        opened = _atlas(library, run, of, latent)
        shown = opened.atlas.examples_of(latent, "value")
        if not len(shown):
            raise HTTPException(404, f"latent {latent} fires on no row, so it has no image")
        return _png(example_png(opened, int(shown["example"][0].as_py())))

    @api.get("/runs/{run}/latents/{latent}", summary="Everything that the tables say of one latent")
    def detail(run: str, latent: int, of: Of = None) -> LatentDetail:
        return latent_detail(_atlas(library, run, of, latent), latent)

    @api.get("/runs/{run}/latents/{latent}/examples", summary="The examples that a latent is shown by")
    def shown(run: str, latent: int, order: str = "value", of: Of = None) -> list[Example]:
        return examples(_atlas(library, run, of, latent), latent, order)

    @api.get(
        "/runs/{run}/latents/{latent}/places/{example}.png",
        response_class=Response,
        summary="An example with the latent's strongest place framed, that place enlarged, and all places",
    )
    def places(run: str, latent: int, example: int, of: Of = None) -> Response:
        opened = _atlas(library, run, of, latent)
        try:
            return _png(strip_png(opened, latent, example))
        except InputError as error:
            raise HTTPException(404, str(error)) from None

    @api.get("/heat-scale.png", response_class=Response, summary="The colours of values from 0 to the largest")
    def scale() -> Response:
        return _png(scale_png())

    @api.get("/runs/{run}/latents/{latent}/tokens", summary="The tokens that a latent fires on beyond their frequency")
    def tokens(run: str, latent: int, of: Of = None) -> list[TokenShare]:
        return top_tokens(_atlas(library, run, of, latent), latent)

    @api.put("/runs/{run}/latents/{latent}/note", summary="Name a latent, and write down what is known of it")
    def note(run: str, latent: int, note: NoteText, of: Of = None) -> NoteText:
        opened = _atlas(library, run, of, latent)
        opened.run.notes.write(opened.role, latent, Note(name=note.name, text=note.text))
        return note

    @api.get("/runs/{run}/map", summary="Latents as points; the principal components until a slower map is there")
    def points(run: str, of: Of = None, method: str = "tsne", colouring: Colouring | None = None) -> MapPoints:
        opened = _atlas(library, run, of)
        maps.start(opened, method)
        return map_points(opened, maps.ready(opened, method), colouring or colourings(opened)[0])

    @api.get("/runs/{run}/images/{example}.png", response_class=Response, summary="The picture of an example")
    def image(run: str, example: int, of: Of = None, side: int = Query(128, ge=1, le=512)) -> Response:
        opened = _atlas(library, run, of)
        try:
            return _png(example_png(opened, example, side=side))
        except InputError as error:
            raise HTTPException(404, str(error)) from None

    maps = Maps()


def _png(written: bytes) -> Response:
    return Response(written, media_type="image/png", headers=_KEEP)


def _evidence(api: APIRouter, library: Library) -> None:
    @api.get("/runs/{run}/latents/{latent}/neighbours", summary="Latents with the closest directions")
    def close(run: str, latent: int, of: Of = None, most: Most = 12) -> list[Neighbour]:
        return neighbours(_atlas(library, run, of, latent), latent, most)

    @api.get("/runs/{run}/latents/{latent}/companions", summary="Latents that fire on the same rows")
    def together(run: str, latent: int, of: Of = None, most: Most = 12) -> list[Companion]:
        return companions(_atlas(library, run, of, latent), latent, most)

    @api.get("/runs/{run}/latents/{latent}/effect", summary="What the model loses without a latent, logit by logit")
    def lost(run: str, latent: int, of: Of = None) -> EffectOfLatent:
        found = effect(_atlas(library, run, of, latent), latent)
        return EffectOfLatent(
            classes=found.names,
            change=found.change,
            loss=found.loss,
            control=found.control,
            said=found.said,
            probabilities=found.probabilities,
        )

    @api.get("/runs/{run}/latents/{latent}/attribution", summary="Where in an image a latent's value comes from")
    def where(run: str, latent: int, example: int, method: str = METHODS[0], of: Of = None) -> Attributed:
        return attribution(_atlas(library, run, of, latent), latent, example, method)


def _steering(api: APIRouter, library: Library) -> None:
    @api.post("/runs/{run}/steer", summary="Move latents; see the picture and the model's answer change")
    def steer(run: str, order: SteerOrder, of: Of = None) -> Steered:
        return steer_by(_atlas(library, run, of), order)

    @api.post("/runs/{run}/dose", summary="The model's answer over values of one latent")
    def dose(run: str, latent: int, order: SteerOrder, of: Of = None) -> DoseCurve:
        return dose_curve(_atlas(library, run, of, latent), order, latent)

    @api.post("/runs/{run}/image", summary="A picture of your own: its latents, closest images, the model's answer")
    def own(run: str, file: Annotated[bytes, File()], of: Of = None) -> ImageAnswer:
        return ask(_atlas(library, run, of), file)
