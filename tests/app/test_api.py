"""The API: typed, in parts, and honest about what there is not."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient


@pytest.fixture
def at(client: TestClient, run_name: str) -> Any:
    """Asks about the run: `at("latents", limit=3)`."""

    def ask(path: str = "", verb: str = "GET", json: Any = None, files: Any = None, **parameters: Any) -> Any:
        address = f"/api/runs/{run_name}" + (f"/{path}" if path else "")
        return client.request(verb, address, params=parameters, json=json, files=files)

    return ask


def _picture(written: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(written)).convert("RGB"))


def _drawn(address: str) -> np.ndarray:
    assert address.startswith("data:image/png;base64,")
    return _picture(base64.b64decode(address.partition(",")[2]))


def test_it_describes_itself_without_a_network(client: TestClient) -> None:
    described = client.get("/api/openapi.json").json()
    assert set(described["paths"]) >= {"/api/runs", "/api/runs/{run}/latents", "/api/runs/{run}/steer"}
    assert all(path.startswith("/api/") for path in described["paths"])
    assert "LatentDetail" in described["components"]["schemas"]
    assert client.get("/docs").status_code == 404


def test_runs(client: TestClient, at: Any, run_name: str) -> None:
    (run,) = client.get("/api/runs").json()
    assert (run["run"], run["state"], run["title"]) == (run_name, "complete", "digits")
    assert client.get("/api/runs", params={"offset": 1}).json() == []
    detail = at().json()
    assert detail["metrics"]["dictionary/d_sae"] == 24
    assert {one["kind"] for one in detail["artifacts"]} == {"model", "activations", "dictionary", "atlas"}
    assert detail["findings"]


def test_the_table_comes_in_parts(at: Any) -> None:
    whole = at("latents", limit=500).json()
    assert whole["total"] == 24
    parts = [one for start in range(0, 24, 7) for one in at("latents", offset=start, limit=7).json()["items"]]
    assert parts == whole["items"]
    assert at("latents", limit=0).status_code == 422
    assert at("latents", limit=501).status_code == 422
    assert at("latents", offset=-1).status_code == 422


def test_a_latent(at: Any, firing: int, class_names: tuple[str, ...]) -> None:
    detail = at(f"latents/{firing}").json()
    assert [one["name"] for one in detail["classes"]] == list(class_names)
    assert sum(one["share"] for one in detail["classes"]) == pytest.approx(1)
    assert sum(one["prior"] for one in detail["classes"]) == pytest.approx(1)
    assert sum(detail["histogram"]["counts"]) == detail["count"]
    row = at("latents", text=str(firing)).json()["items"][0]
    assert {name: detail[name] for name in row} == row


@pytest.mark.parametrize("order", ["value", "relative", "quantile", "random"])
def test_examples_have_pictures(client: TestClient, at: Any, firing: int, order: str) -> None:
    shown = at(f"latents/{firing}/examples", order=order).json()
    assert shown
    values = [one["value"] for one in shown]
    if order in ("value", "quantile"):
        assert values == sorted(values, reverse=True)
    picture = client.get(shown[0]["image"])
    assert picture.headers["content-type"] == "image/png"
    assert _picture(picture.content).shape == (126, 126, 3), "six pixels, enlarged by a whole factor"


def test_any_image_can_be_seen_whether_it_has_a_thumbnail_or_not(at: Any) -> None:
    assert all(at(f"images/{example}.png").status_code == 200 for example in range(0, 36, 5))
    assert at("images/36.png").status_code == 404
    assert at("images/-1.png").status_code == 404


def test_neighbours_and_companions(at: Any, firing: int) -> None:
    near = at(f"latents/{firing}/neighbours", most=5).json()
    assert len(near) == 5
    assert all(one["latent"] != firing and -1 <= one["cosine"] <= 1.001 for one in near)
    together = at(f"latents/{firing}/companions").json()
    count = at(f"latents/{firing}").json()["count"]
    assert all(0 < one["both"] <= count for one in together)
    assert at(f"latents/{firing}/neighbours", most=0).status_code == 422


def test_the_map_falls_back_to_principal_components(at: Any) -> None:
    found = at("map", method="pca", colouring="frequency").json()
    assert len(found["latent"]) == len(found["x"]) == len(found["y"]) == len(found["value"]) > 0
    assert at("map", method="somehow").status_code == 422
    assert at("map", method="pca", colouring="taste").status_code == 422


def test_notes_are_kept_in_the_run(at: Any, firing: int, runs: Path) -> None:
    assert at(f"latents/{firing}/note", "PUT", {"name": "bars", "text": "<b>upper</b>"}).status_code == 200
    detail = at(f"latents/{firing}").json()
    assert (detail["name"], detail["note"]) == ("bars", "<b>upper</b>")
    (folder,) = runs.iterdir()
    assert "bars" in (folder / "notes.json").read_text()
    assert at(f"latents/{firing}/note", "PUT", {"name": "x" * 81}).status_code == 422
    assert at(f"latents/{firing}/note", "PUT", {}).status_code == 200
    assert at("latents/99/note", "PUT", {"name": "x"}).status_code == 404


def test_steering_moves_the_answer(at: Any, firing: int, class_names: tuple[str, ...]) -> None:
    still = at("steer", "POST", {"example": 0}).json()
    assert still["moved"] == 0
    assert all(one["before"] == pytest.approx(one["after"]) for one in still["answers"])
    assert sum(one["before"] for one in still["answers"]) == pytest.approx(1)
    order = {"of_class": class_names[0], "edits": [{"latent": firing, "op": "set", "value": 50}]}
    moved = at("steer", "POST", order).json()
    assert moved["moved"] > 0.1
    assert any(abs(one["logit_after"] - one["logit_before"]) > 0.1 for one in moved["answers"])
    assert moved["near_before"]
    ablated = {"example": 0, "edits": [{"latent": one["latent"], "op": "ablate"} for one in still["active"]]}
    assert at("steer", "POST", ablated).json()["moved"] > 0
    curve = at("dose", "POST", {"example": 0}, latent=firing).json()
    assert curve["classes"] == list(class_names)
    assert all(sum(column) == pytest.approx(1) for column in zip(*curve["probabilities"], strict=True))


@pytest.mark.parametrize(
    ("order", "status"),
    [
        ({}, 422),
        ({"example": 0, "of_class": "x"}, 422),
        ({"example": 99}, 422),
        ({"of_class": "Zebra"}, 422),
        ({"example": 0, "edits": [{"latent": 24}]}, 422),
        ({"example": 0, "edits": [{"latent": 0, "op": "explode"}]}, 422),
    ],
)
def test_orders_that_make_no_sense(at: Any, order: Any, status: int) -> None:
    answer = at("steer", "POST", order)
    assert answer.status_code == status
    assert answer.json()["detail"]


def test_what_a_latent_does_and_where_it_comes_from(at: Any, firing: int, class_names: tuple[str, ...]) -> None:
    lost = at(f"latents/{firing}/effect").json()
    assert lost["classes"] == list(class_names)
    assert any(lost["change"])
    shown = at(f"latents/{firing}/examples").json()[0]["example"]
    for method in ("integrated-gradients", "occlusion"):
        found = at(f"latents/{firing}/attribution", example=shown, method=method).json()
        assert _drawn(found["map"]).std() > 0
        assert found["control"]
    assert at(f"latents/{firing}/attribution", example=shown, method="guess").status_code == 422


def test_a_picture_of_ones_own(at: Any, class_names: tuple[str, ...]) -> None:
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[40:] = 250
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG")
    found = at("image", "POST", files={"file": ("mine.jpg", written.getvalue())}).json()
    assert (found["width"], found["height"]) == (90, 60)
    assert found["active"]
    assert [one["name"] for one in found["answers"]] == list(class_names)
    assert found["near"][0]["label"] == class_names[2]
    assert _drawn(found["seen"])[-1].mean() > 200
    for nonsense in (b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"0" * 100):
        answer = at("image", "POST", files={"file": ("mine.jpg", nonsense)})
        assert answer.status_code == 422
        assert "cannot be read as a picture" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/runs/nowhere",
        "/api/runs/..",
        "/api/runs/%2e%2e/latents",
        "/api/runs/..%2f..%2fetc/latents",
        "/api/runs/%2Fetc%2Fpasswd",
        "/api/runs/{run}/latents/99",
        "/api/runs/{run}/latents/-1",
        "/api/runs/{run}/latents/0?of=../../sae",
        "/api/runs/{run}/latents?of=sae",
        "/api/runs/{run}/images/..%2f..%2frun.json",
        "/files/{run}/run.json",
        "/files/{run}/..%2f..%2f..%2fetc%2fpasswd",
        "/files/{run}/figures/..%2frun.json",
        "/files/{run}/figures/..%2f..%2frun.png",
        "/files/{run}/figures/.hidden.png",
        "/files/{run}/figures/%2Fetc%2Fpasswd.png",
        "/files/{run}/studies/../notes/x.png",
        "/files/{run}/studies/..%2f..%2f/x.png",
        "/files/nowhere/report.html",
    ],
)
def test_nothing_outside_is_reached(client: TestClient, run_name: str, path: str) -> None:
    answer = client.get(path.replace("{run}", run_name))
    assert answer.status_code in (404, 422)
    assert "root:" not in answer.text
