"""The model card says what was measured, and beside what; or that nothing was."""

import json
from pathlib import Path
from typing import Any

import pytest

import unweave as uw
from unweave.core.errors import InputError, StoreError
from unweave.core.hashing import hash_module
from unweave.dictionaries.gelu import GELU
from unweave.dictionaries.random_directions import RandomDirections
from unweave.dictionaries.topk import TopK
from unweave.formats.card import card
from unweave.formats.pushed import pushed
from unweave.store.artifact import Identity, writing

METRICS = {
    "dictionary/explained_variance": 0.75,
    "dictionary/l0": 2.0,
    "labels/significant_share": None,
    "dictionary/explained_variance@random": 0.25,
    "dictionary/l0@random": 2.0,
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    made: dict[str, Any] = {"sae": TopK(d_sae=4, k=2), "sae@random": RandomDirections(d_sae=4, k=2)}
    for role, config in made.items():
        dictionary = config.build(3)
        dictionary.hook_name = "fc2"
        dictionary.save(folder / "artifacts" / role)
    told = {"recipe": "digits", "seed": 3, "status": "complete", "findings": ["It holds <b>nothing</b>."]}
    config = {"data": {"kind": "digits"}, "model": {"kind": "trained", "folder": "/home/me/net"}, "at": "fc2"}
    artifacts = {role: f"artifacts/{role}" for role in made}
    (folder / "run.json").write_text(json.dumps({**told, "config": config, "artifacts": artifacts}))
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    return folder


def test_a_run_with_its_controls(run: Path) -> None:
    text = card(pushed(run), "me/sae", "mit")
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert head.splitlines()[:3] == ["library_name: unweave", 'license: "mit"', "tags:"]
    assert "- saelens" in head
    assert "1 sparse dictionary of a network's hidden activations, with 1 control, made with Unweave." in body
    assert "| `sae` | topk | 3 | 4 | `fc2` |" in body
    assert "|  | explained variance | L0 |" in body  # nothing of what nobody has
    assert "| `sae` | 0.75 | 2 |" in body
    assert "| `sae@random` (control: random directions) | 0.25 | 2 |" in body
    assert "Controls follow the same rule" in body
    assert "- It holds <b>nothing</b>." in body
    assert "| `labels/significant_share` | – |" in body
    assert 'uw.load("hf://me/sae/sae")' in body
    assert 'SAE.from_pretrained("me/sae", "sae")' in body
    assert "/home/me" not in body
    assert '"folder": "net"' in body
    assert '"k": 2' in body


def test_a_dictionary_of_which_nothing_was_measured(tmp_path: Path) -> None:
    made = GELU(d_sae=4).build(3)
    made.origin = {"model_name": "org/net", "note": "a | b"}
    made.save(tmp_path / "gelu")
    text = card(pushed(tmp_path / "gelu"), "me/gelu", "unknown")
    assert "Nothing was measured" in text
    assert "SAELens has no such architecture." in text
    assert "- saelens" not in text
    assert 'base_model: "org/net"' in text
    assert "hook point |\n| --- | --- | --- | --- | --- |\n| `gelu` | gelu | 3 | 4 | not known |" in text


def test_numbers_come_from_a_run_or_an_atlas_of_that_dictionary_only(run: Path, tmp_path: Path) -> None:
    sae = run / "artifacts" / "sae"
    assert pushed(sae).metrics == {}
    assert pushed(sae, run).metrics == METRICS
    TopK(d_sae=4, k=1).build(3).save(tmp_path / "other")
    with pytest.raises(InputError, match="a run of other dictionaries"):
        pushed(tmp_path / "other", run)
    inputs = {"dictionary": hash_module(uw.load(sae)), "activations": "1"}
    with writing(tmp_path / "atlas", Identity(kind="atlas", config={}, inputs=inputs)) as draft:
        draft.details["metrics"] = {"dictionary/l0": 2.0}
    found = pushed(sae, tmp_path / "atlas")
    assert (found.measured, dict(found.metrics)) == ("atlas", {"dictionary/l0": 2.0})
    assert "There is no control beside these numbers" in card(found, "me/sae", "mit")
    with pytest.raises(InputError, match="the atlas of another dictionary"):
        pushed(tmp_path / "other", tmp_path / "atlas")


def test_what_cannot_be_pushed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a dictionary of Unweave's nor a run"):
        pushed(tmp_path)
    told = json.loads((run / "run.json").read_text())
    (run / "metrics.json").write_text('{"a": "b"}')
    with pytest.raises(StoreError, match="names to numbers"):
        pushed(run)
    (run / "run.json").write_text(json.dumps({**told, "artifacts": {}}))
    with pytest.raises(InputError, match="without a dictionary"):
        pushed(run)
    (run / "run.json").write_text(json.dumps({**told, "status": "running"}))
    with pytest.raises(StoreError, match="not ended"):
        pushed(run)
    damaged = run / "artifacts" / "sae" / "sae_weights.safetensors"
    (run / "run.json").write_text(json.dumps(told))
    (run / "metrics.json").write_text("{}")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    with pytest.raises(StoreError, match="sae_weights"):
        pushed(run)


def test_an_artifact_of_before_says_why_saelens_does_not_load_it(tmp_path: Path) -> None:
    made = TopK(d_sae=4, k=2).build(3)
    made.save(tmp_path / "sae")
    given = pushed(tmp_path / "sae")
    assert given.saelens == {"sae": True}
    object.__setattr__(given, "saelens", {"sae": None})
    assert "from before Unweave wrote what SAELens reads; `unweave export`" in card(given, "me/sae", "mit")
