"""`unweave study score` and `unweave study simulate`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from unweave.study import Study, Studying, make_study
from unweave.study.drawing import Candidates


def _candidates(condition: str) -> Candidates:
    rate = np.geomspace(0.01, 0.2, 14)
    return Candidates(
        condition=condition,
        source=f"source of {condition}",
        latent=np.arange(14),
        live=rate > 0,
        rate=rate,
        shown=np.full(14, 4),
        pictures=lambda latent: np.random.default_rng(latent).integers(0, 256, (4, 1, 4, 4), np.uint8),
    )


def _rate(study: Study, *, of: int) -> None:
    """The first `of` showings of each rater; values that depend on nothing but item and rater."""
    for place, rater in enumerate(study.plan.raters):
        for number, shown in enumerate(study.order(rater)[:of]):
            value = 1 + (3 * study.plan.items.index(shown.item) + place) % 7
            at = 100.0 + 5 * number
            study.database.rate(
                rater, number, 0, item=shown.item, repeat=shown.repeat, value=value, at=at, shown_at=at - 3
            )


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Three conditions of five latents, two raters, two repeats, not rated."""
    studying = Studying(latents=5, images=4, raters=2, repeats=2, skip=2)
    conditions = [_candidates(name) for name in ("sae", "neurons", "pca")]
    return make_study(conditions, studying, out=tmp_path / "study")


def test_score_prints_tables_and_words_and_leaves_them_in_the_study(cli: Callable, study: Study) -> None:
    _rate(study, of=17)
    done = cli(f"study score {study.folder}")
    assert done.code == 0, done.err
    for said in ("Conditions", "Comparisons", "sae − neurons", "rater-2", "2 people rated", "Krippendorff"):
        assert said in done.out
    assert (study.folder / "score" / "ratings.png").is_file()
    words = (study.folder / "score" / "paragraph.txt").read_text()
    assert words.strip() in done.out
    numbers = json.loads((study.folder / "score" / "score.json").read_text())
    assert [one["second"] for one in numbers["comparisons"]] == ["neurons", "pca"]
    again = cli(f"study score {study.folder} --all-pairs --out {study.folder.parent}/elsewhere")
    assert again.code == 0
    assert "neurons − pca" in again.out
    assert (study.folder.parent / "elsewhere" / "score.md").is_file()


def test_score_waits_for_all_ratings_unless_told(cli: Callable, study: Study) -> None:
    assert "no ratings yet" in cli(f"study score {study.folder}").err
    _rate(study, of=9)
    refused = cli(f"study score {study.folder}")
    assert refused.code == 2
    assert "18 of the 34 ratings" in refused.err
    assert not (study.folder / "score").exists()
    early = cli(f"study score {study.folder} --early")
    assert early.code == 0
    assert "opened early, with 18 of 34 ratings in" in early.out


def test_simulate_prints_what_each_test_does(cli: Callable, tmp_path: Path) -> None:
    done = cli(f"study simulate --studies 60 --mixed-studies 5 --effect 1.5 --conditions 3 --out {tmp_path}/sim")
    assert done.code == 0, done.err
    for said in ("false alarms", "finds 1.5", "Student’s t, ratings", "any comparison, Holm", "for contrast"):
        assert said in done.out
    assert (tmp_path / "sim" / "simulation.png").is_file()
    assert (tmp_path / "sim" / "simulation.svg").is_file()


def test_simulate_says_what_is_wrong(cli: Callable, here: Path) -> None:
    assert "noise is a standard deviation" in cli("study simulate --noise -1").err
    assert "two latents" in cli("study simulate --latents 1").err
    (here / "taken").write_text("")
    assert "is no folder" in cli("study simulate --studies 5 --out taken").err
