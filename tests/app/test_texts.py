"""Steering and effects of texts, and of answers that are no classes, by the API."""

import shlex

import pytest

pytest.importorskip("nicegui", reason="needs the app's extra")
pytest.importorskip("transformers", reason="needs the extra transformers")

import tiny_networks as networks

from unweave.cli.main import main
from unweave.core.progress import silenced


@pytest.fixture(scope="module", params=["gpt2", "bert", "sentences"])
def asked(request, client, library, tmp_path_factory):
    """A folder with a store, a dictionary and an atlas of a small network of texts."""
    folder = tmp_path_factory.mktemp(request.param)
    networks.write_network(request.param, folder / "net")
    lines = [f"{' '.join(networks.WORDS[n : n + 4])}\t{('no', 'yes')[n % 2]}" for n in range(16)]
    (folder / "texts.tsv").write_text("\n".join(["text\tlabel", *lines]))
    at = {"gpt2": "transformer.h.0", "bert": "bert.encoder.layer.0", "sentences": "encoder.layer.0"}[request.param]
    run = folder / f"of-{request.param}"
    with silenced():
        for line in (
            f"capture --model pretrained --model.name {folder / 'net'} --data text-file --data-dir "
            f"{folder / 'texts.tsv'} --at {at} --rows position --out {run / 'acts'}",
            f"train {run / 'acts'} --sae.d-sae 16 --sae.k 4 --training.steps 20 --out {run / 'sae'}",
            f"analyze {run / 'sae'} {run / 'acts'} --analysis.permutations 9 --out {run / 'atlas'}",
        ):
            assert main(shlex.split(line)) == 0, line
    library.shelf.places.append(run)
    yield client, run.name, request.param
    library.shelf.places.remove(run)


def post(asked, path, **order):
    client, run, _ = asked
    return client.post(f"/api/runs/{run}/{path}", json=order)


def strongest(asked):
    client, run, _ = asked
    return client.get(f"/api/runs/{run}/latents?sort=max").json()["items"][0]


def test_a_text_is_steered(asked):
    latent = strongest(asked)
    edits = [{"latent": latent["latent"], "op": "set", "value": 3 * latent["max"]}]
    found = post(asked, "steer", example=2, edits=edits).json()
    assert found["source"].startswith("text 2")
    assert found["moved"] > 0
    assert found["answer_moved"] >= 0
    assert found["answer_control"] >= 0
    text = " ".join(networks.WORDS[2:6])
    assert all(word in [token["text"] for token in found["tokens"]] for word in text.split())
    assert sum(token["strongest"] for token in found["tokens"]) == 1
    assert all(one["image"] == "" and "[" in one["text"] for one in found["near_after"])
    assert bool(found["answers"]) == (asked[2] != "sentences")
    nothing = post(asked, "steer", example=2, edits=[]).json()
    assert nothing["answer_moved"] == pytest.approx(0, abs=1e-6)


def test_a_text_of_ones_own_is_steered(asked):
    found = post(asked, "steer", text="the red cat", edits=[]).json()
    assert found["source"] == "your text"
    assert "cat" in [token["text"] for token in found["tokens"]]
    assert post(asked, "steer", text="the cat", example=1, edits=[]).status_code >= 400
    assert post(asked, "steer", of_class="yes", edits=[]).status_code >= 400


def test_the_curve_is_of_tokens_classes_or_a_cosine(asked):
    latent = strongest(asked)["latent"]
    client, run, network = asked
    found = client.post(f"/api/runs/{run}/dose?latent={latent}", json={"example": 1, "edits": []}).json()
    if network == "sentences":
        assert (found["classes"], len(found["cosines"])) == ([], len(found["doses"]))
    else:
        assert len(found["classes"]) == len(found["probabilities"]) == {"gpt2": 12, "bert": 2}[network]


def test_what_is_lost_without_a_latent_stands_beside_its_control(asked):
    client, run, network = asked
    found = client.get(f"/api/runs/{run}/latents/{strongest(asked)['latent']}/effect").json()
    assert found["loss"] >= 0 or network == "bert"
    assert bool(found["classes"]) == (network != "sentences")
    assert "random directions" in found["said"]


@pytest.mark.parametrize("page", ["steer", "image", "latent/0", "atlas"])
def test_the_pages_open(asked, page):
    client, run, _ = asked
    assert client.get(f"/run/{run}/{page}").status_code == 200
