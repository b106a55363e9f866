"""A study on disk: made once, telling nothing, and opened only when it may be."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from unweave.core.errors import InputError, StoreError
from unweave.store.artifact import MANIFEST
from unweave.study import Study, Studying, make_study

RATES = np.geomspace(0.01, 0.2, 12)
SIZES = Studying(latents=4, images=9, raters=2, repeats=2, skip=2)


def rate_all(study: Study, *, but: int = 0) -> None:
    """Every rater rates every showing, save the last `but` of all."""
    todo = [(rater, number) for rater in study.plan.raters for number in range(study.plan.showings)]
    for rater, number in todo[: len(todo) - but]:
        one = study.order(rater)[number]
        study.database.rate(rater, number, 0, item=one.item, repeat=one.repeat, value=4, at=time.time())


def test_the_same_arguments_find_the_same_study(study: Study, hand_made: Callable) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.folder.rglob("*")}
    again = make_study([hand_made("sae", RATES), hand_made("pca", RATES)], SIZES, seed=3, out=study.folder)
    assert again.plan == study.plan
    assert {path: path.stat().st_mtime_ns for path in study.folder.rglob("*")} == before


def test_the_same_arguments_make_the_same_bytes(study: Study, hand_made: Callable, tmp_path: Path) -> None:
    make_study([hand_made("sae", RATES), hand_made("pca", RATES)], SIZES, seed=3, out=tmp_path / "other")
    for path in study.folder.rglob("*"):
        if path.is_file() and path.name != MANIFEST:
            assert path.read_bytes() == (tmp_path / "other" / path.relative_to(study.folder)).read_bytes(), path


@pytest.mark.parametrize("change", [{"seed": 4}, {"studying": Studying(latents=3, images=9, raters=2, skip=2)}])
def test_other_arguments_are_refused_the_folder(study: Study, hand_made: Callable, change: dict) -> None:
    arguments = {"seed": 3, "studying": SIZES} | change
    with pytest.raises(InputError, match="choose another folder"):
        make_study([hand_made("sae", RATES), hand_made("pca", RATES)], out=study.folder, **arguments)


def test_what_anybody_may_read_tells_no_items_condition(study: Study, tmp_path: Path) -> None:
    key = Study(shutil.copytree(study.folder, tmp_path / "copy")).unseal(early=True)
    plan = json.loads((study.folder / "plan.json").read_text())
    assert set(plan["items"]) == set(key)
    said_of_items = [name for name, value in plan.items() if "item-" in json.dumps(value)]
    assert said_of_items == ["items"], "names, and nothing beside them"
    manifest = json.loads((study.folder / MANIFEST).read_text())
    assert set(manifest["files"]) == {"plan.json", "key.sealed", *(f"grids/{item}.png" for item in key)}
    assert len({entry["size"] for name, entry in manifest["files"].items() if name.startswith("grids/")}) == 1
    sealed = (study.folder / "key.sealed").read_bytes()
    assert b"sae" not in sealed
    assert b"item" not in sealed


def test_the_plan_says_what_was_fixed(study: Study) -> None:
    plan = study.plan
    assert plan.conditions == ["sae", "pca"]
    assert plan.raters == ["rater-1", "rater-2"]
    assert (len(plan.items), plan.showings, plan.planned, plan.enough) == (8, 10, 20, 20)
    assert plan.anchors == {"1": "not at all", "4": "moderately", "7": "perfectly"}
    assert "its index is 2 or more" in plan.rule[0]
    assert plan.matches[0].largest_ratio == 1.0


def test_the_key_opens_when_all_ratings_are_in(study: Study) -> None:
    rate_all(study, but=1)
    with pytest.raises(InputError, match="19 of the 20 ratings"):
        study.unseal()
    assert not study.unsealings(), "a refusal opened nothing"
    last = study.order("rater-2")[9]
    study.database.rate("rater-2", 9, 0, item=last.item, repeat=last.repeat, value=7, at=time.time())
    key = study.unseal()
    assert {entry.condition for entry in key.values()} == {"sae", "pca"}
    assert all(entry.latent >= 2 for entry in key.values())
    (record,) = study.unsealings()
    assert (record.present, record.planned, record.early) == (20, 20, False)
    assert sum(rating.repeat for rating in study.ratings()) == 4


def test_an_early_opening_is_recorded_for_good(study: Study) -> None:
    rate_all(study, but=15)
    study.unseal(early=True)
    rate_all_left = [(rater, n) for rater in study.plan.raters for n in range(10)][5:]
    for rater, number in rate_all_left:
        one = study.order(rater)[number]
        study.database.rate(rater, number, 0, item=one.item, repeat=one.repeat, value=4, at=time.time())
    study.unseal(early=True)
    again = Study(study.folder)
    assert [(one.present, one.early) for one in again.unsealings()] == [(5, True), (20, False)]


def test_fewer_ratings_can_be_planned_as_enough(hand_made: Callable, tmp_path: Path) -> None:
    sizes = Studying(latents=4, images=9, raters=2, repeats=2, skip=2, enough=10)
    study = make_study([hand_made("sae", RATES), hand_made("pca", RATES)], sizes, out=tmp_path / "s")
    rate_all(study, but=10)
    study.unseal()
    assert not study.unsealings()[0].early


def test_a_changed_study_is_found_out(study: Study, tmp_path: Path) -> None:
    for name in ("plan.json", "key.sealed", "grids/item-3.png"):
        copy = shutil.copytree(study.folder, tmp_path / name.replace("/", "-"))
        content = bytearray((copy / name).read_bytes())
        content[-30] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(StoreError, match="changed or damaged"):
            Study(copy)


def test_a_key_changed_together_with_the_manifest_is_found_out(study: Study, hand_made: Callable) -> None:
    from unweave.core.hashing import crc32_of_file
    from unweave.study.seal import KeyEntry, seal

    other, _ = seal([KeyEntry(item=item, condition="sae", latent=1, rate=0.1) for item in study.plan.items], b"x")
    manifest = json.loads((study.folder / MANIFEST).read_text())
    (study.folder / "key.sealed").write_bytes(other)
    manifest["files"]["key.sealed"] = {"size": len(other), "crc32": crc32_of_file(study.folder / "key.sealed")}
    del manifest["checksum"]
    (study.folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="not the one that the plan committed to"):
        Study(study.folder).unseal(early=True)
    assert not Study(study.folder).unsealings()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"latents": 0}, "--latents must be at least 1"),
        ({"raters": 0}, "--raters must be at least 1"),
        ({"skip": -1}, "--skip must be at least 0"),
        ({"question": " "}, "--question is empty"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Studying(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"repeats": 5}, "--repeats can be up to 4"),
        ({"enough": 21}, "--enough must be between 1 and the 20 ratings"),
        ({"latents": 11}, "has 10 latents to draw from"),
        ({"images": 10}, "Lower one of the three"),
    ],
)
def test_settings_that_do_not_fit_leave_nothing_behind(
    hand_made: Callable, tmp_path: Path, settings: dict, said: str
) -> None:
    sizes = Studying(**{"latents": 4, "images": 9, "raters": 2, "repeats": 2, "skip": 2} | settings)
    with pytest.raises(InputError, match=said):
        make_study([hand_made("sae", RATES), hand_made("pca", RATES)], sizes, out=tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_raters_and_items_are_known_or_named(study: Study) -> None:
    with pytest.raises(InputError, match="no rater 'x', only rater-1, rater-2"):
        study.order("x")
    with pytest.raises(InputError, match="no item"):
        study.grid("../key")
    assert study.order("rater-1") != study.order("rater-2")
