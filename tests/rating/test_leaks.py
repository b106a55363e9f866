"""An attempt to tell all-black grids from noise by everything that a rater's browser gets, save the pictures."""

import re
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from unweave.study import Study


@pytest.fixture(scope="module")
def seen(server: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """One rater from the first grid to the last: what came, and which condition it was."""
    folder = Path(server.log).parent / "study"
    study = Study(folder)
    key = Study(shutil.copytree(folder, tmp_path_factory.mktemp("copy") / "study")).unseal(early=True)
    order, api, told = study.order("rater-2"), server.api("rater-2"), []
    with httpx.Client(headers={"Accept-Encoding": "gzip, deflate, br"}) as client:
        place = client.post(f"{api}/next").json()
        while place["current"] is not None:
            number = place["current"]["number"]
            seconds = []
            for _ in range(15):
                started = time.perf_counter()
                grid = client.get(f"{api}/grids/{number}")
                seconds.append(time.perf_counter() - started)
            rated = client.post(f"{api}/rate", json={**place["current"], "value": 4})
            told.append(
                {
                    "number": number,
                    "condition": key[order[number].item].condition,
                    "repeat": order[number].repeat,
                    "grid": grid,
                    "seconds": statistics.median(seconds),
                    "rated": rated,
                }
            )
            place = rated.json()["place"]
    assert {one["condition"] for one in told} == set(study.plan.conditions)
    return told


def test_every_grid_has_the_same_size_and_headers(seen: list[dict[str, Any]]) -> None:
    headers = [{name: value for name, value in one["grid"].headers.items() if name != "date"} for one in seen]
    assert all(one == headers[0] for one in headers)
    assert set(headers[0]) == {
        "server",
        "content-length",
        "content-type",
        "cache-control",
        "referrer-policy",
        "x-content-type-options",
        "x-frame-options",
        "x-robots-tag",
    }
    assert len({len(one["grid"].content) for one in seen}) == 1


def test_addresses_and_answers_are_a_function_of_the_number_alone(seen: list[dict[str, Any]]) -> None:
    total = len(seen)
    for one in seen:
        number = one["number"]
        assert one["grid"].url.path.endswith(f"/grids/{number}")
        following = {"number": number + 1, "attempt": 0} if number + 1 < total else None
        pause = number + 1 in {4, 7}
        assert one["rated"].json() == {
            "outcome": "stored",
            "place": {
                "total": total,
                "done": number + 1,
                "current": following,
                "last": {"number": number, "attempt": 0},
                "pause": pause,
            },
        }


def test_time_tells_nothing(seen: list[dict[str, Any]]) -> None:
    """Pictures lie in memory, so that black is not answered faster than noise; a busy machine adds its own noise."""
    by_condition: dict[str, list[float]] = {}
    for one in seen:
        by_condition.setdefault(one["condition"], []).append(one["seconds"])
    one, other = (statistics.median(values) for values in by_condition.values())
    assert 0.4 < one / other < 2.5


def test_the_page_names_nothing(server: Any, seen: list[dict[str, Any]]) -> None:
    del seen
    page = httpx.get(server.links["rater-2"]).text
    for word in ("nachtschwarz", "rauschbunt", "item-", "latent", "condition", "seed", "commitment"):
        assert word not in page
    tokens = re.findall(r"[\w-]{32}", page)
    assert server.token("rater-1") not in tokens


def test_the_order_of_showing_tells_nothing(study: Study, tmp_path: Path) -> None:
    """Mean places of both conditions over many raters: no further apart than chance has them."""
    from unweave.study.order import showings

    key = Study(shutil.copytree(study.folder, tmp_path / "copy")).unseal(early=True)
    black = {item for item, entry in key.items() if entry.condition == "nachtschwarz"}
    places: list[float] = []
    for rater in range(400):
        order = showings(study.plan.items, 2, seed=7, rater=str(rater))
        places.append(float(np.mean([place for place, one in enumerate(order) if one.item in black])))
    error = np.std(places) / np.sqrt(len(places))
    assert abs(np.mean(places) - 4.5) < 4 * error
