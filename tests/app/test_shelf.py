"""What folders hold, and what is said where something is missing."""

import json
import shutil
from pathlib import Path

import pytest

from unweave.app.shelf import Shelf, State
from unweave.core.errors import InputError


def _state(folder: Path) -> tuple[State, str]:
    (entry,) = Shelf([folder]).entries()
    contents = entry.contents()
    return contents.state, contents.problem


def test_a_finished_run(runs: Path) -> None:
    (entry,) = Shelf([runs]).entries()
    contents = entry.contents()
    assert contents.state is State.COMPLETE
    assert contents.problem == ""
    assert contents.title == "digits"
    assert contents.roles("atlas") == ["atlas", "atlas@neurons", "atlas@pca", "atlas@random"]
    assert contents.metrics["dictionary/d_sae"] == 24
    assert entry.contents() is contents, "nothing changed, so nothing is read again"


def test_names_that_cannot_stand_in_an_address(runs: Path, tmp_path: Path) -> None:
    for name in ("a b", "a?b", "..", "über/x"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    places = [tmp_path / "a b", tmp_path / "a?b", tmp_path / "über", runs]
    slugs = [entry.slug for entry in Shelf(places).entries()]
    assert slugs[:2] == ["a-b", "a-b-2"]
    assert slugs[3] == "i-run-co-i"
    assert len(set(slugs)) == 4


def test_an_empty_folder(tmp_path: Path) -> None:
    state, said = _state(tmp_path)
    assert state is State.EMPTY
    assert "run.json" in said


def test_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    state, said = _state(tmp_path)
    assert state is State.FOREIGN
    assert "manifest.json" in said


@pytest.mark.parametrize("text", ["{", "[]", '"x"', '{"recipe": "digits"}', '{"status": "complete", "artifacts": []}'])
def test_a_damaged_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    state, said = _state(tmp_path)
    assert state is State.DAMAGED
    assert said


def test_a_half_written_run(runs: Path, tmp_path: Path) -> None:
    (source,) = runs.iterdir()
    half = tmp_path / "half"
    shutil.copytree(source, half)
    run = json.loads((half / "run.json").read_text())
    kept = {name: run[name] for name in ("recipe", "config", "seed", "versions", "hardware")}
    (half / "run.json").write_text(json.dumps({**kept, "status": "running"}))
    (half / "metrics.json").unlink()
    shutil.rmtree(half / "artifacts" / "atlas@pca")
    (half / "artifacts" / "atlas" / "latents.parquet").write_bytes(b"cut")
    (entry,) = Shelf([half]).entries()
    contents = entry.contents()
    assert contents.state is State.RUNNING
    assert "has not ended" in contents.problem
    assert contents.roles("atlas") == ["atlas@neurons", "atlas@random"]
    assert "latents.parquet" in contents.broken["atlas"]
    shutil.rmtree(half)
    assert entry.contents().state is State.GONE


def test_artifacts_without_a_run(runs: Path, tmp_path: Path) -> None:
    (source,) = runs.iterdir()
    shutil.copytree(source / "artifacts", tmp_path / "mine")
    (entry,) = Shelf([tmp_path / "mine"]).entries()
    assert entry.contents().state is State.ARTIFACTS
    assert "atlas" in entry.contents().roles("atlas")
    (single,) = Shelf([tmp_path / "mine" / "atlas"]).entries()
    assert single.contents().roles("atlas") == ["atlas"]


def test_runs_that_come_later_are_found(runs: Path, tmp_path: Path) -> None:
    (source,) = runs.iterdir()
    shutil.copytree(source, tmp_path / "one")
    shelf = Shelf([tmp_path])
    assert [entry.slug for entry in shelf.entries()] == ["one"]
    shutil.copytree(source, tmp_path / "two")
    assert shelf["two"].contents().state is State.COMPLETE
    with pytest.raises(InputError, match="there is no run 'tow' here: did you mean 'two'"):
        shelf["tow"]


def test_places_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Shelf([tmp_path / "nowhere"])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        Shelf([tmp_path / "file"])
