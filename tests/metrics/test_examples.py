"""Examples in their four orders: by hand, against dense arrays, and as draws."""

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from scipy.stats import chisquare

from unweave.core.codes import Codes
from unweave.metrics.entries import Entries, by_latent, one_an_example
from unweave.metrics.examples import RankedExamples, ranked_examples, relative, relative_entries, top_examples

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 10_000)
SEVEN = RankedExamples(
    np.array([0, 7, 7, 9]), np.arange(9, dtype=np.int32), np.array([9, 8, 7, 6, 5, 4, 3, 2, 1], "f4")
)


@given(st.lists(st.lists(st.sampled_from([-2.0, -1.5, 1e-40, 1.0, 1.0, 3.0, 1e30]), max_size=9), max_size=5))
def test_entries_in_order_of_strength_against_a_stable_sort(columns):
    offsets = np.concatenate([[0], np.cumsum([len(column) for column in columns])]).astype(np.int64)
    value = np.array([v for column in columns for v in column], np.float32)
    entries = Entries(offsets, np.arange(len(value), dtype=np.int32), value, len(value))
    expected = [
        a + i for a, column in zip(offsets, columns, strict=False) for i in np.argsort(-np.array(column), kind="stable")
    ]
    assert entries.strongest_first().tolist() == expected


def test_the_entries_of_one_latent_are_views(random_codes):
    codes, dense = random_codes(3)
    entries = by_latent(codes)
    for j in range(codes.d_sae):
        row, value = entries.of(j)
        assert row.tolist() == np.flatnonzero(dense[:, j]).tolist()
        assert value.tolist() == dense[row, j].tolist()
        assert row.base is not None


def test_the_spread_goes_from_the_strongest_to_the_weakest():
    found = SEVEN.spread(3)
    assert found.latent.tolist() == [0, 0, 0, 2, 2]
    assert found.rank.tolist() == [0, 1, 2, 0, 1]
    assert found.row.tolist() == [0, 3, 6, 7, 8]
    assert found.value.tolist() == [9, 6, 3, 2, 1]
    assert SEVEN.spread(1).row.tolist() == [0, 7]
    assert SEVEN.spread(4).row.tolist() == [0, 2, 4, 6, 7, 8]
    assert SEVEN.spread(7).row.tolist() == SEVEN.spread(100).row.tolist() == list(range(9))


@given(st.integers(1, 60), st.integers(1, 20))
def test_the_spread_takes_different_examples_with_both_ends_at_equal_steps(count, most):
    ranked = RankedExamples(np.array([0, count]), np.arange(count, dtype=np.int32), np.ones(count, np.float32))
    row = ranked.spread(most).row
    assert len(row) == len(set(row.tolist())) == min(most, count)
    assert row[0] == 0
    if len(row) > 1:
        assert row[-1] == count - 1
        assert np.abs(row - np.linspace(0, count - 1, len(row))).max() <= 0.5


def test_a_draw_takes_different_examples_and_all_where_there_are_few():
    found = SEVEN.drawn(4, np.random.default_rng(0))
    assert found.latent.tolist() == [0] * 4 + [2] * 2
    assert len(set(found.row[:4].tolist())) == 4
    assert set(found.row[:4].tolist()) <= set(range(7))
    assert set(found.row[4:].tolist()) == {7, 8}
    assert np.array_equal(found.value, SEVEN.value[found.row])
    again, other = (SEVEN.drawn(4, np.random.default_rng(seed)) for seed in (0, 1))
    assert found.row.tolist() == again.row.tolist() != other.row.tolist()


def test_every_example_is_drawn_as_often_in_every_place():
    latents, count, most = 6000, 6, 3
    offsets = np.arange(latents + 1) * count
    row = np.tile(np.arange(count, dtype=np.int32), latents)
    drawn = RankedExamples(offsets, row, np.ones(len(row), np.float32)).drawn(most, np.random.default_rng(0))
    places = drawn.row.reshape(latents, most)
    for place in places.T:
        assert chisquare(np.bincount(place, minlength=count)).pvalue > 0.01
    pairs = np.bincount(places[:, 0] * count + places[:, 1], minlength=count**2)
    assert chisquare(pairs[pairs > 0]).pvalue > 0.01
    assert (pairs > 0).sum() == count * (count - 1)


@shared
@given(seeds, st.integers(1, 9), st.integers(1, 70))
def test_the_strongest_of_the_ranked_are_the_top_examples(random_codes, seed, examples, most):
    codes, _ = random_codes(seed)
    example = np.random.default_rng(seed).permutation(np.arange(codes.n) % examples)
    for of_row in (None, np.arange(codes.n), example):
        ours = ranked_examples(by_latent(codes), of_row).strongest(most)
        theirs = top_examples(by_latent(codes), most, of_row)
        for name in ("latent", "rank", "row", "value"):
            assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()


def test_one_row_stands_for_an_example_by_hand():
    codes = Codes.from_dense(torch.tensor([[3.0, 0], [5, 1], [4, 0], [5, 2], [5, 2]]))
    kept = one_an_example(by_latent(codes), np.array([0, 1, 0, 1, 2]))
    assert kept.offsets.tolist() == [0, 3, 5]
    assert kept.row.tolist() == [1, 2, 4, 3, 4]
    assert kept.value.tolist() == [5, 4, 5, 2, 2]
    assert kept.n == 5


@shared
@given(seeds)
def test_relative_entries_are_the_entries_of_relative_codes(random_codes, seed):
    codes, _ = random_codes(seed)
    ours, theirs = relative_entries(codes, by_latent(codes)), by_latent(relative(codes))
    assert np.array_equal(ours.value, theirs.value)
    assert np.array_equal(ours.row, theirs.row)
