"""Scoring: the published study, planted effects, every way in which data can be too little, and the seal."""

import json
import math

import numpy as np
import pytest

from unweave.core.errors import InputError
from unweave.study import KeyEntry, Rating, Study
from unweave.study.prose import paragraph
from unweave.study.score_files import figure, page, write_score
from unweave.study.scoring import score, score_study
from unweave.study.simulation import Population, simulate_key, simulate_ratings

# Whole ratings that have the published summaries exactly; those of the second condition are the only ones that do.
SPARSE = [2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 6, 7]
DENSE = [1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 5, 6]


def rated(values: dict[str, list[int]], *, rater: str = "author", seconds: float = 5.0) -> list[Rating]:
    """One rater's ratings of latents 0, 1, 2, ... of each condition, in order."""
    items = [f"{name}{number}" for name, of in values.items() for number in range(len(of))]
    every = [value for of in values.values() for value in of]
    return [
        Rating(rater=rater, item=item, value=value, repeat=False, rated_at=float(place), seconds=seconds)
        for place, (item, value) in enumerate(zip(items, every, strict=True))
    ]


def key_of(values: dict[str, list[int]]) -> dict[str, KeyEntry]:
    return {
        f"{name}{number}": KeyEntry(item=f"{name}{number}", condition=name, latent=number, rate=0.01)
        for name, of in values.items()
        for number in range(len(of))
    }


def test_published_study_through_the_whole_path():
    """4.4375 ± 1.5478 and 3.25 ± 1.4376 of 16 each give t = 2.2486, p = 0.0320 (two-sided, equal variances)."""
    values = {"sparse": SPARSE, "dense": DENSE}
    found = score(rated(values), key_of(values))
    sparse, dense = found.conditions
    assert (sparse.latents, sparse.mean, sparse.std) == (16, 4.4375, pytest.approx(1.5478, abs=5e-5))
    assert (sparse.lower_quartile, sparse.median, sparse.upper_quartile) == (3, 4.5, 6)
    assert (dense.latents, dense.mean, dense.std) == (16, 3.25, pytest.approx(1.4376, abs=5e-5))
    assert (dense.lower_quartile, dense.median, dense.upper_quartile) == (2, 3, 4.25)
    assert sparse.histogram == (0, 2, 3, 3, 3, 4, 1)
    (one,) = found.comparisons
    assert one.student is not None
    assert (one.student.t, one.student.p) == (pytest.approx(2.2486, abs=5e-5), pytest.approx(0.0320, abs=5e-5))
    assert one.cohens_d == pytest.approx(2.2486 * math.sqrt(2 / 16), abs=1e-4)
    assert one.difference == 1.1875
    assert one.mixed is None
    assert one.power is not None
    assert one.power.smallest == pytest.approx(1.53, abs=0.01)  # more than was seen
    assert one.d_interval is not None
    assert 0 < one.d_interval.low < one.cohens_d < one.d_interval.high
    said = paragraph(found)
    assert "1 person rated the images of 32 latents, 16 from each of sparse and dense" in said
    assert "1.19 points, 95 % interval 0.11 to 2.27" in said
    assert "There was one rater" in said
    assert "Of the plan" not in said


def test_ratings_of_one_latent_count_as_one():
    """Three raters who agree wholly know no more than one: same test, no smaller p."""
    values = {"sparse": SPARSE, "dense": DENSE}
    once = score(rated(values), key_of(values))
    thrice = score([rating for name in "abc" for rating in rated(values, rater=name)], key_of(values))
    assert thrice.comparisons[0].welch == once.comparisons[0].welch
    assert thrice.comparisons[0].d_interval == once.comparisons[0].d_interval
    assert thrice.conditions[0].ratings == 48
    assert thrice.agreement.ordinal == 1.0
    assert thrice.comparisons[0].mixed is None
    assert "more than a constant" in thrice.comparisons[0].no_mixed


def test_whole_design_mixed_model_is_students_test():
    key = simulate_key(["sae", "pca"], 12)
    found = score(simulate_ratings(Population(effect=1.0), key, raters=["a", "b", "c"]), key)
    (one,) = found.comparisons
    assert one.mixed is not None
    assert one.student is not None
    assert one.mixed.p == pytest.approx(one.student.p, rel=1e-3)


def test_several_conditions_are_corrected_together():
    key = simulate_key(["sae", "neurons", "pca", "random"], 12)
    ratings = simulate_ratings(Population(effect=2.5), key, raters=["a", "b"], repeats=6)
    found = score(ratings, key)
    assert [(one.first, one.second) for one in found.comparisons] == [("sae", x) for x in ("neurons", "pca", "random")]
    assert all(one.p <= one.p_holm <= 3 * one.p for one in found.comparisons)
    assert found.comparisons[0].power is not None
    assert found.comparisons[0].power.alpha == pytest.approx(0.05 / 3)
    assert (found.ratings, found.repeats, found.missing) == (96, 12, 0)
    assert "Latents of sae were rated higher than those of neurons, pca and random." in paragraph(found)
    every = score(ratings, key, conditions=["random", "pca", "neurons", "sae"], all_pairs=True)
    assert len(every.comparisons) == 6
    assert every.comparisons[0].first == "random"
    assert every.comparisons[2].difference == pytest.approx(-found.comparisons[2].difference)


def test_a_negative_result_reads_as_one():
    key = simulate_key(["sae", "random"], 16)
    found = score(simulate_ratings(Population(effect=0.0), key, raters=["a", "b", "c"], seed=4), key)
    assert found.comparisons[0].p_holm > 0.05
    said = paragraph(found)
    assert "No difference between sae and random was shown." in said
    assert "where none was shown, a smaller one may still be there" in said
    assert "higher than" not in said


def test_repeats_tell_of_the_rater_and_never_count_twice():
    values = {"a": [1, 3, 5, 7], "b": [2, 4, 6, 7]}
    ratings = rated(values)
    again = [
        Rating(rater="author", item=f"a{n}", value=v, repeat=True, rated_at=100.0 + n, seconds=5.0)
        for n, v in enumerate([1, 4, 7, 7])
    ]
    plain, found = score(ratings, key_of(values)), score([*again, *ratings], key_of(values))
    assert found.conditions == plain.conditions
    assert found.comparisons == plain.comparisons
    (person,) = found.raters
    assert (person.repeats, person.same, person.apart) == (4, 0.5, 0.75)
    every = [1, 3, 5, 7, 2, 4, 6, 7]
    chance = [abs(x - y) for i, x in enumerate(every) for j, y in enumerate(every) if i != j]
    assert person.apart_by_chance == pytest.approx(np.mean(chance))
    assert person.reliability == pytest.approx(1 - (5 / 4) / np.mean(np.square(chance)))
    assert person.same_by_chance == pytest.approx(2 / 56)  # the two of 7
    assert person.kappa is None
    assert "Of 4 hidden repeats 50 % got the same rating again" in paragraph(found)


def test_weighted_kappa_with_enough_repeats():
    values = {"a": [1, 2, 3, 4, 5, 6], "b": [7, 6, 5, 4, 3, 2]}
    again = [Rating(**{**vars(one), "repeat": True, "rated_at": 99.0}) for one in rated(values)]
    assert score([*rated(values), *again], key_of(values)).raters[0].kappa == 1.0


def test_doubtful_raters_are_named_and_left_out_beside():
    key = simulate_key(["sae", "pca"], 10)
    ratings = simulate_ratings(Population(effect=2.0, noise=0.3), key, raters=["ann", "bob"], repeats=4)
    lazy = [Rating(rater="cy", item=item, value=4, repeat=False, rated_at=n, seconds=0.4) for n, item in enumerate(key)]
    found = score([*ratings, *lazy], key)
    flags = {one.rater: " ".join(one.flags) for one in found.raters}
    assert flags["ann"] == flags["bob"] == ""
    assert "pressed 4 for every one of 20 grids" in flags["cy"]
    assert "100 % of the ratings in under a second" in flags["cy"]
    without = score(ratings, key).comparisons[0]
    assert found.without_flagged == {"sae against pca": (without.difference, without.p)}
    assert "Cy pressed 4" in paragraph(found)


def test_a_rater_who_answers_anything_the_second_time_is_named():
    values = {"a": [1, 1, 7, 7, 1, 7], "b": [1, 7, 1, 7, 4, 4]}
    again = [
        Rating(rater="author", item=f"a{n}", value=8 - v, repeat=True, rated_at=50.0, seconds=3.0)
        for n, v in enumerate(values["a"])
    ]
    (person,) = score([*rated(values), *again], key_of(values)).raters
    assert person.reliability is not None
    assert person.reliability < 0
    assert "a second time 6.0 points apart" in person.flags[0]


def test_missing_ratings_are_said_and_taken_into_account():
    key = simulate_key(["sae", "pca"], 10)
    ratings = simulate_ratings(Population(), key, raters=["a", "b"])[:-5]
    found = score(ratings, key)
    assert found.missing == 5
    assert "Of the plan, 5 ratings are missing" in paragraph(found)
    assert found.comparisons[0].mixed is not None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"a": [4], "b": [6]}, "there is no t-test, since a condition has one latent only; rank test p = 1.00"),
        ({"a": [4, 5, 6], "b": [2]}, "there is no t-test, since a condition has one latent only"),
        ({"a": [4, 4, 4], "b": [4, 4, 4]}, "0.00 points; there is no t-test, since latents of a condition do not vary"),
        ({"a": [5, 5, 5], "b": [2, 2, 2]}, "since latents of a condition do not vary; rank test p = 0.10"),
        ({"a": [5, 6]}, "Only one condition was rated, so there is nothing to compare."),
    ],
)
@pytest.mark.parametrize("raters", [["ann"], ["ann", "bob"]])
def test_too_little_data_give_a_sentence(values, said, raters):
    found = score([one for rater in raters for one in rated(values, rater=rater)], key_of(values))
    words = paragraph(found)
    assert said in words
    assert "nan" not in words.lower()
    assert "inf " not in words
    assert "None" not in words
    assert "nan" not in page(found).lower()
    assert "None" not in page(found)
    figure(found)


def test_one_rating_in_all(tmp_path):
    key = key_of({"a": [1, 2], "b": [1, 2]})
    found = score([Rating(rater="x", item="b1", value=3, repeat=False, rated_at=0.0, seconds=math.nan)], key)
    assert [one.latents for one in found.conditions] == [0, 1]
    assert found.conditions[0].unrated == 2
    assert "1 person rated the images of 1 latent, 0 from a and 1 from b" in paragraph(found)
    assert found.raters[0].median_seconds is None
    folder = write_score(found, tmp_path / "score")
    assert "NaN" not in (folder / "score.json").read_text()
    assert json.loads((folder / "score.json").read_text())["conditions"][0]["mean"] is None


def test_what_cannot_be_scored_is_refused():
    values = {"a": [4, 5], "b": [3, 4]}
    with pytest.raises(InputError, match="no ratings"):
        score([], key_of(values))
    with pytest.raises(InputError, match="'b1', which the key does not have"):
        score(rated(values), {name: entry for name, entry in key_of(values).items() if name != "b1"})
    with pytest.raises(InputError, match="scale goes from 1 to 7"):
        score(rated({"a": [4, 8], "b": [3, 4]}), key_of(values))
    with pytest.raises(InputError, match="has the conditions a, b, not a, c"):
        score(rated(values), key_of(values), conditions=["a", "c"])


def test_raters_who_do_not_agree_are_said_not_to():
    key = simulate_key(["sae", "pca"], 12)
    ratings = simulate_ratings(Population(latent_sd=0.0, noise=2.0, effect=0.0), key, raters=["a", "b"], seed=1)
    found = score(ratings, key)
    assert found.agreement.interval is not None
    assert found.agreement.interval.low < 0
    assert "not shown to be better than chance" in paragraph(found)


def test_score_is_seeded():
    values = {"sparse": SPARSE, "dense": DENSE}
    assert score(rated(values), key_of(values), seed=3) == score(rated(values), key_of(values), seed=3)
    other = score(rated(values), key_of(values), seed=4)
    assert other.comparisons[0].d_interval != score(rated(values), key_of(values), seed=3).comparisons[0].d_interval


def fill(study: Study, *, effect: float = 2.0, leave_out: int = 0) -> None:
    """Let people of known preferences rate a study, through its database, in each rater's own order.

    Who is what is read from a copy of the key: the study's own log stays clean.
    """
    from unweave.study.seal import opened

    key = opened((study.folder / "key.sealed").read_bytes(), study.plan.commitment)
    made = simulate_ratings(
        Population(effect=effect), key, raters=study.plan.raters, conditions=study.plan.conditions, repeats=len(key)
    )
    values = {(one.rater, one.item, one.repeat): one.value for one in made}
    planned = [(rater, n, one) for rater in study.plan.raters for n, one in enumerate(study.order(rater))]
    already = {(one.rater, one.item, one.repeat) for one in study.ratings()}
    for place, (rater, number, shown) in enumerate(planned[: len(planned) - leave_out]):
        if (rater, shown.item, shown.repeat) not in already:
            study.database.rate(
                rater,
                number,
                0,
                item=shown.item,
                repeat=shown.repeat,
                value=values[rater, shown.item, shown.repeat],
                at=1000.0 + 6 * place,
                shown_at=996.0 + 6 * place,
            )


def test_from_plan_through_database_to_score(study, tmp_path):
    fill(study)
    found = score_study(study)
    assert [one.condition for one in found.conditions] == ["sae", "pca"]
    assert (found.ratings, found.repeats, found.missing) == (16, 4, 0)
    assert found.seal is not None
    assert (found.seal.present, found.seal.planned, found.seal.early, found.seal.early_before) == (20, 20, False, ())
    assert found.raters[0].median_seconds == 4.0
    assert study.plan.question in paragraph(found)
    assert "opened" not in paragraph(found)
    again = score_study(study)
    assert again == found  # opening a whole study twice is no fault
    folder = write_score(found, study.folder / "score", study=study.plan.study)
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json",
        "score.json",
        "score.md",
        "paragraph.txt",
        "latents.parquet",
        "ratings.png",
        "ratings.svg",
    }
    numbers = json.loads((folder / "score.json").read_text())
    assert numbers["comparisons"][0]["difference"] == found.comparisons[0].difference
    assert Study(study.folder).ratings() == study.ratings()  # a score inside leaves the study whole


def test_early_opening_stands_in_this_score_and_in_every_later_one(study):
    with pytest.raises(InputError, match="no ratings yet"):
        score_study(study)
    fill(study, leave_out=6)
    with pytest.raises(InputError, match="14 of the 20"):
        score_study(study)
    assert study.unsealings() == []
    assert "opened early, with 14 of 20 ratings in" in paragraph(score_study(study, early=True))
    fill(study)
    later = score_study(study)
    assert later.seal is not None
    assert not later.seal.early
    assert later.seal.early_before == (14,)
    assert "had been opened before all ratings were in, at 14 of 20" in paragraph(later)
