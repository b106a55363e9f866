"""Each rater's order: everything once, some of it again and much later."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unweave.core.errors import InputError
from unweave.study.order import most_repeats, showings

sizes = st.integers(1, 40).flatmap(lambda items: st.tuples(st.just(items), st.integers(0, items // 2)))


@given(sizes, st.integers(0, 2**40))
def test_every_item_comes_once_and_repeats_a_third_of_the_study_later(size: tuple[int, int], seed: int) -> None:
    items = [f"i{number}" for number in range(size[0])]
    order = showings(items, size[1], seed=seed, rater="a")
    assert sorted(one.item for one in order if not one.repeat) == sorted(items)
    assert len(order) == size[0] + size[1]
    assert max(Counter(one.item for one in order).values()) <= 2
    first = {one.item: place for place, one in enumerate(order) if not one.repeat}
    gaps = [place - first[one.item] for place, one in enumerate(order) if one.repeat]
    assert all(gap >= len(order) / 3 for gap in gaps)


def test_raters_have_orders_of_their_own_and_the_same_one_again() -> None:
    items = [str(number) for number in range(20)]
    one, other = (showings(items, 3, seed=1, rater=name) for name in ("a", "b"))
    assert one != other
    assert one == showings(items, 3, seed=1, rater="a")
    assert one != showings(items, 3, seed=2, rater="a")


def test_any_place_can_hold_a_repeat_and_any_item_can_be_one() -> None:
    """Raters who could guess where repeats are would rate them differently."""
    items = [str(number) for number in range(9)]
    orders = [showings(items, 3, seed=seed, rater="a") for seed in range(300)]
    places = {place for order in orders for place, one in enumerate(order) if one.repeat}
    assert places == set(range(7, 12)), "12 showings, a gap of 4, and 3 more places so that each repeat finds an item"
    assert {one.item for order in orders for one in order if one.repeat} == set(items)


def test_too_many_repeats_are_refused() -> None:
    assert most_repeats(7) == 3
    with pytest.raises(InputError, match="--repeats can be up to 3"):
        showings(list("abcdefg"), 4, seed=0, rater="a")
