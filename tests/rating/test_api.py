"""The JSON side: what it answers, and what it refuses."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from unweave.rating.api import build_api
from unweave.rating.desk import Desk
from unweave.rating.links import tokens
from unweave.study import Study


@pytest.fixture
def client(study: Study) -> Iterator[Any]:
    """Talks to the API in this process, as the first rater."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of httpx, which does here
        from starlette.testclient import TestClient
    token = tokens(study)["rater-1"]
    with TestClient(build_api(Desk(study)), base_url=f"http://testserver/api/{token}") as made:
        yield made


def test_from_the_first_to_the_last(client: Any, study: Study) -> None:
    begun = client.get("").json()
    assert begun["question"] == study.plan.question
    assert begun["anchors"]["7"] == "perfectly"
    place = client.post("/next").json()
    while place["current"] is not None:
        assert client.get(f"/grids/{place['current']['number']}").headers["content-type"] == "image/png"
        answer = client.post("/rate", json={**place["current"], "value": 3})
        assert answer.status_code == 200
        assert answer.json()["outcome"] == "stored"
        place = answer.json()["place"]
    assert place == client.get("/progress").json()
    assert (place["done"], place["total"], place["last"]) == (10, 10, {"number": 9, "attempt": 0})
    ratings = study.ratings()
    assert len(ratings) == 10
    assert all(0 <= rating.seconds < 60 for rating in ratings)


def test_a_request_sent_again_changes_nothing(client: Any, study: Study) -> None:
    first = {"number": 0, "attempt": 0, "value": 3}
    assert client.post("/rate", json=first).json()["outcome"] == "stored"
    again = client.post("/rate", json={**first, "value": 6})
    assert (again.status_code, again.json()["outcome"]) == (200, "there already")
    assert again.json()["place"]["current"] == {"number": 1, "attempt": 0}
    assert [rating.value for rating in study.ratings()] == [3]
    taken = {"number": 0, "attempt": 0}
    assert client.post("/undo", json=taken).json()["outcome"] == "stored"
    assert client.post("/undo", json=taken).json()["outcome"] == "there already"
    assert not study.ratings()


def test_out_of_turn(client: Any) -> None:
    answer = client.post("/rate", json={"number": 5, "attempt": 0, "value": 3})
    assert answer.status_code == 409
    assert "it is the turn of 0" in answer.json()["detail"]
    assert client.post("/undo", json={"number": 0, "attempt": 0}).status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {"number": 0, "attempt": 0, "value": 0},
        {"number": 0, "attempt": 0, "value": 8},
        {"number": 0, "attempt": 0, "value": 3.5},
        {"number": 0, "attempt": 0, "value": "3"},
        {"number": 0, "attempt": 0, "value": True},
        {"number": 0, "attempt": 0},
        {"number": -1, "attempt": 0, "value": 3},
        {"number": 0, "attempt": 0, "value": 3, "seconds": 4},
        [],
        None,
    ],
)
def test_what_is_no_rating_is_refused(client: Any, study: Study, body: Any) -> None:
    assert client.post("/rate", json=body).status_code == 422
    assert not study.ratings()


def test_a_database_that_fails_is_not_called_a_success(
    client: Any, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    from unweave.study.database import Database

    def full(*_: Any) -> None:
        raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    with monkeypatch.context() as patch:
        patch.setattr(Database, "_added", full)
        answer = client.post("/rate", json={"number": 0, "attempt": 0, "value": 3})
    assert answer.status_code == 503
    assert "send it again" in answer.json()["detail"]
    assert client.post("/rate", json={"number": 0, "attempt": 0, "value": 3}).json()["outcome"] == "stored"
    assert len(study.ratings()) == 1


def test_pictures_come_one_ahead(client: Any) -> None:
    assert [client.get(f"/grids/{number}").status_code for number in (0, 1, 2, 9, 10, -1)] == [200, 200] + [404] * 4
    assert client.get("/grids/one").status_code == 422


def test_strangers_get_nothing(client: Any) -> None:
    for path in ("", "/next", "/progress", "/grids/0"):
        answer = client.get(f"http://testserver/api/stranger{path}")
        assert answer.status_code in {404, 405}
        assert len(answer.content) < 60


def test_the_description_is_whole(client: Any) -> None:
    described = client.get("http://testserver/api/openapi.json").json()
    assert set(described["paths"]) == {
        f"/api/{{token}}{path}" for path in ("", "/next", "/progress", "/rate", "/undo", "/grids/{number}")
    }
    value = described["components"]["schemas"]["RatingModel"]["properties"]["value"]
    assert (value["minimum"], value["maximum"], value["type"]) == (1, 7, "integer")
