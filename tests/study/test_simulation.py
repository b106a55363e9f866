"""Simulated raters: what they are, and that the tests keep their promise on studies without a difference."""

import numpy as np
import pytest

from unweave.core.errors import InputError
from unweave.study.simulation import Population, Simulation, simulate, simulate_key, simulate_ratings


@pytest.fixture(scope="module")
def usual() -> Simulation:
    """1,000 studies of three conditions, 16 latents of each and three raters; the mixed model on 100."""
    return simulate(Population(effect=1.2), conditions=3, mixed_studies=100, seed=0)


def test_tests_that_score_uses_are_honest(usual):
    right = [one for one in usual.rates if one.right]
    assert {one.test for one in right} == {
        "Welch’s t, latents",
        "Student’s t, latents",
        "Mann–Whitney, latents",
        "mixed model, t",
        "min F′, raters too",
        "any comparison, Holm",
    }
    for one in right:
        assert one.low <= 0.05, one
        assert one.honest, one
        assert one.studies == (100 if "mixed" in one.test else 1000)
    timid = {"any comparison, Holm", "min F′, raters too"}  # by design
    assert all(one.high >= 0.05 for one in right if one.test not in timid)


def test_ratings_as_units_and_no_correction_find_what_is_not_there(usual):
    rates = {one.test: one for one in usual.rates}
    assert rates["Student’s t, ratings"].low > 0.14
    assert not rates["Student’s t, ratings"].honest
    assert rates["any, uncorrected"].low > 0.05
    assert rates["mixed model, normal"].false_positives >= rates["mixed model, t"].false_positives


def test_power_grows_with_difference_and_latents(usual):
    assert {one.test: one for one in usual.rates}["Welch’s t, latents"].power > 0.6
    assert list(usual.curves) == [8, 16, 32]
    for few, many in ((8, 16), (16, 32)):
        assert np.mean(usual.curves[few]) < np.mean(usual.curves[many])
    assert np.all(np.diff(usual.curves[32]) > -0.02)
    assert usual.curves[32][-1] > 0.99


def test_few_latents_and_one_rater_are_honest_too():
    found = simulate(Population(latent_sd=0.5, noise=1.5), latents=5, raters=1, studies=1000, seed=1)
    assert [one.test for one in found.rates if one.right] == [
        "Welch’s t, latents",
        "Student’s t, latents",
        "Mann–Whitney, latents",
    ]
    assert all(one.honest for one in found.rates)


def test_raters_who_prefer_a_condition_are_found_as_such():
    """Tests of latents speak of these raters: where each has a taste of their own, only min F′ asks of others."""
    found = simulate(Population(taste=1.0), raters=3, studies=400, mixed_studies=0, seed=2)
    rates = {one.test: one for one in found.rates}
    assert rates["Welch’s t, latents"].low > 0.05
    assert rates["min F′, raters too"].honest


def test_a_population_rates_as_it_says():
    people = Population(effect=1.0, latent_sd=0.7, rater_sd=0.0, noise=0.4, bias=0.0)
    twice = people.draw(200, 2, 2, 50, np.random.default_rng(0), times=2)
    assert twice.shape == (2, 200, 2, 2, 50)
    assert (twice.min(), twice.max()) == (1, 7)
    means = twice.mean((0, 1, 2, 4))
    assert means[1] == pytest.approx(4.0, abs=0.03)
    assert means[0] - means[1] == pytest.approx(1.0, abs=0.04)
    within = (twice[0] - twice[1]).var() / 2
    assert within == pytest.approx(0.4**2 + 1 / 12, abs=0.02)  # rounding adds a twelfth


def test_simulated_ratings_are_whole_and_seeded():
    key = simulate_key(["sae", "pca"], 5)
    ratings = simulate_ratings(Population(), key, raters=["a", "b"], repeats=3, seed=1)
    assert len(ratings) == 2 * (10 + 3)
    assert {(one.rater, one.item) for one in ratings if not one.repeat} == {(r, i) for r in "ab" for i in key}
    assert all(1 <= one.value <= 7 for one in ratings)
    assert ratings == simulate_ratings(Population(), key, raters=["a", "b"], repeats=3, seed=1)
    large = Population(effect=4.0, latent_sd=0.1)
    seen = simulate_ratings(large, key, raters=["a"], conditions=["pca", "sae"])
    means = {name: np.mean([r.value for r in seen if key[r.item].condition == name]) for name in ("sae", "pca")}
    assert means["pca"] > means["sae"] + 1


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(InputError, match="latent_sd is a standard deviation"):
        Population(latent_sd=-1)
    with pytest.raises(InputError, match="two latents of each"):
        simulate(Population(), latents=1)
    key = simulate_key(["a", "b"], 3)
    with pytest.raises(InputError, match="at most 6 repeats"):
        simulate_ratings(Population(), key, raters=["x"], repeats=7)
    key.popitem()
    with pytest.raises(InputError, match="as many items of each"):
        simulate_ratings(Population(), key, raters=["x"])
