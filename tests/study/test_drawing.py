"""Which latents are drawn: the rule as it is written, checked by hand and against every other matching."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unweave.core.errors import InputError
from unweave.study.drawing import draw

SIZES = {"images": 9, "skip": 0, "seed": 0}


def test_each_stratum_gives_one_latent(hand_made: Callable) -> None:
    rates = np.geomspace(0.001, 0.1, 20)
    for seed in range(20):
        found = draw([hand_made("a", rates), hand_made("b", rates)], latents=5, images=9, skip=0, seed=seed)
        drawn = sorted(latent for latent, _ in found.drawn["a"])
        assert [latent // 4 for latent in drawn] == [0, 1, 2, 3, 4]
    assert {pair for condition in found.drawn.values() for pair in condition} <= set(enumerate(rates.tolist()))


def test_equal_conditions_match_exactly(hand_made: Callable) -> None:
    rates = np.geomspace(0.001, 0.1, 20)
    found = draw([hand_made("a", rates), hand_made("b", rates)], latents=6, **SIZES)
    assert found.drawn["a"] == found.drawn["b"]
    assert found.matches[0].largest_ratio == 1.0
    assert not found.warnings


@given(st.lists(st.floats(0.001, 0.9), min_size=3, max_size=6), st.lists(st.floats(0.001, 0.9), min_size=3, max_size=6))
def test_no_other_matching_is_closer(hand_made: Callable, one: list[float], other: list[float]) -> None:
    found = draw([hand_made("a", one), hand_made("b", other)], latents=3, **SIZES)
    wanted, given_ = (np.log([rate for _, rate in found.drawn[name]]) for name in ("a", "b"))
    best = min(np.abs(wanted - np.log(chosen)).sum() for chosen in itertools.permutations(other, 3))
    assert np.abs(wanted - given_).sum() == pytest.approx(best, abs=1e-9)
    assert len({latent for latent, _ in found.drawn["b"]}) == 3, "one to one"


def test_seen_dead_and_unfilled_latents_are_left_out(hand_made: Callable) -> None:
    rates = [0.1, 0.1, 0.1, 0.0, 0.1, 0.1]
    one = hand_made("a", rates)
    one = replace(one, shown=np.array([9, 9, 9, 9, 8, 9]))
    found = draw([one, hand_made("b", [0.1] * 6)], latents=2, images=9, skip=2, seed=0)
    assert {latent for latent, _ in found.drawn["a"]} == {2, 5}
    with pytest.raises(InputError) as error:
        draw([one, hand_made("b", [0.1] * 6)], latents=3, images=9, skip=2, seed=0)
    said = str(error.value)
    assert "'a' has 2 latents to draw from, and --latents asks for 3" in said
    assert "of its 6 latents 1 fire too rarely, 2 more are among the first 2 (--skip)" in said
    assert "1 more have fewer than 9 firing examples with pictures (--images)" in said


def test_the_control_counts_too(hand_made: Callable) -> None:
    with pytest.raises(InputError, match="the condition 'b' has 2 latents"):
        draw([hand_made("a", [0.1] * 6), hand_made("b", [0.1, 0.1])], latents=3, **SIZES)


def test_latents_are_drawn_where_all_conditions_reach(hand_made: Callable) -> None:
    wide, narrow = np.geomspace(0.001, 0.9, 40), np.geomspace(0.01, 0.1, 40)
    found = draw([hand_made("a", wide), hand_made("b", narrow)], latents=8, **SIZES)
    assert all(0.01 <= rate <= 0.1 for _, rate in found.drawn["a"])
    assert found.matches[0].largest_ratio < 1.5
    assert not found.warnings


def test_a_poor_match_is_warned_of(hand_made: Callable) -> None:
    found = draw([hand_made("a", [0.01] * 5), hand_made("b", [0.5] * 5)], latents=3, **SIZES)
    assert found.matches[0].largest_ratio == 50.0
    assert "b fires 50 times as often as a" in found.warnings[0]
    assert "fewer than 3 have a firing frequency within the range" in found.rule[1]


def test_item_names_tell_nothing(hand_made: Callable) -> None:
    rates = np.geomspace(0.001, 0.1, 40)
    found = draw([hand_made("a", rates), hand_made("b", rates)], latents=20, **SIZES)
    entries = found.entries(0)
    assert [entry.item for entry in entries] == [f"item-{number:02d}" for number in range(1, 41)]
    places = [place for place, entry in enumerate(entries) if entry.condition == "a"]
    assert 13 < np.mean(places) < 26, "neither condition comes first"
    assert abs(np.corrcoef(np.arange(40), [entry.rate for entry in entries])[0, 1]) < 0.35
    assert found.entries(1) != entries


def test_conditions_are_two_or_more_and_different(hand_made: Callable) -> None:
    one = hand_made("a", [0.1] * 6)
    for conditions in ([], [one], [one, one]):
        with pytest.raises(InputError, match="two or more different conditions"):
            draw(conditions, latents=2, **SIZES)
