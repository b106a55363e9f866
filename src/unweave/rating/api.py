"""The rater's side as JSON over HTTP: what the page does, for load tests and pages of one's own."""

import logging
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, HTTPException, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError

from unweave.rating.desk import Desk, OutOfTurn, Place, Showing

DESCRIPTION = "/api/openapi.json"
_KEPT = {"Cache-Control": "private, max-age=3600"}


class ShowingModel(BaseModel):
    """A grid in the rater's own order, and the attempt at rating it."""

    model_config = ConfigDict(extra="forbid")
    number: int = Field(strict=True, ge=0, description="place in the rater's own order, from 0")
    attempt: int = Field(strict=True, ge=0, description="0, and one more each time its rating was taken back")


class RatingModel(ShowingModel):
    """An answer about one grid."""

    value: int = Field(strict=True, ge=1, le=7, description="1 to 7")


class PlaceModel(BaseModel):
    """Where the rater stands."""

    total: int
    done: int
    current: ShowingModel | None = Field(description="the grid to rate now; none at the end")
    last: ShowingModel | None = Field(description="the grid rated last, which can be taken back")
    pause: bool = Field(description="a good moment for a break")


class StudyModel(BaseModel):
    """What the rater is asked."""

    question: str
    anchors: dict[str, str]
    place: PlaceModel


class OutcomeModel(BaseModel):
    """What came of a rating or of an undo."""

    outcome: Literal["stored", "there already"]
    place: PlaceModel


def _model(place: Place) -> PlaceModel:
    def one(showing: Showing | None) -> ShowingModel | None:
        return None if showing is None else ShowingModel(number=showing.number, attempt=showing.attempt)

    return PlaceModel(
        total=place.total, done=place.done, current=one(place.current), last=one(place.last), pause=place.pause
    )


def build_api(desk: Desk) -> FastAPI:
    """The application that answers below `/api/{token}`; `/api/openapi.json` describes it."""
    app = FastAPI(title="Unweave rating study", docs_url=None, redoc_url=None, openapi_url=DESCRIPTION)

    def known(token: Annotated[str, Path(description="the rater's own")]) -> str:
        rater = desk.rater(token)
        if rater is None:
            raise HTTPException(404, "there is nothing here")
        return rater

    Rater = Annotated[str, Depends(known)]

    def shown(rater: str) -> PlaceModel:
        place = desk.place(rater)
        if place.current is not None:
            desk.show(rater, place.current)
        return _model(place)

    @app.exception_handler(OutOfTurn)
    def _(_request: Request, error: OutOfTurn) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409)

    @app.exception_handler(SQLAlchemyError)
    def _(_request: Request, error: SQLAlchemyError) -> JSONResponse:
        logging.getLogger(__name__).error("the database failed: %s", error)
        return JSONResponse({"detail": "that could not be stored or read; send it again in a moment"}, 503)

    @app.get("/api/{token}", summary="The question, the scale, and where the rater stands")
    def study(rater: Rater) -> StudyModel:
        return StudyModel(question=desk.plan.question, anchors=desk.plan.anchors, place=_model(desk.place(rater)))

    @app.get("/api/{token}/progress", summary="Where the rater stands")
    def progress(rater: Rater) -> PlaceModel:
        return _model(desk.place(rater))

    @app.post("/api/{token}/next", summary="The grid to rate now; from here on it counts as shown")
    def following(rater: Rater) -> PlaceModel:
        return shown(rater)

    @app.post("/api/{token}/rate", summary="Rate the present grid; on the disk when this answers")
    def rate(rater: Rater, rating: RatingModel) -> OutcomeModel:
        new = desk.rate(rater, Showing(rating.number, rating.attempt), rating.value)
        return OutcomeModel(outcome="stored" if new else "there already", place=shown(rater))

    @app.post("/api/{token}/undo", summary="Take back the rating given last")
    def undo(rater: Rater, showing: ShowingModel) -> OutcomeModel:
        new = desk.undo(rater, Showing(showing.number, showing.attempt))
        return OutcomeModel(outcome="stored" if new else "there already", place=shown(rater))

    @app.get("/api/{token}/grids/{number}", summary="The picture of one showing (PNG)", response_class=Response)
    def grid(rater: Rater, number: int) -> Response:
        png = desk.grid(rater, number)
        if png is None:
            raise HTTPException(404, "there is nothing here")
        return Response(png, media_type="image/png", headers=_KEPT)

    return app
