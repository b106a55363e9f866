"""Entries by latent and by example, firing, histograms and strongest examples: by hand and against dense arrays."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from unweave.core.codes import Codes
from unweave.metrics.entries import by_example, by_latent, stable_order
from unweave.metrics.examples import relative, top_examples
from unweave.metrics.sparsity import firing, histograms, l0

DENSE = torch.tensor([[0.0, 2.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 0.0], [4.0, 2.0, 0.0]])
CODES = Codes.from_dense(DENSE)
NOTHING = Codes.from_dense(torch.zeros(4, 3))
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 10_000)


def test_entries_by_latent_by_hand():
    entries = by_latent(CODES)
    assert entries.offsets.tolist() == [0, 2, 5, 5]
    assert entries.row.tolist() == [1, 3, 0, 1, 3]
    assert entries.value.tolist() == [1, 4, 2, 3, 2]
    assert entries.latent().tolist() == [0, 0, 1, 1, 1]
    assert (entries.n, entries.d_sae, entries.counts.tolist()) == (4, 3, [2, 3, 0])
    assert entries.strongest_first().tolist() == [1, 0, 3, 2, 4]


def test_entries_by_example_by_hand():
    """Rows 0 and 3 belong to example 1, rows 1 and 2 to example 0."""
    entries = by_example(by_latent(CODES), np.array([1, 0, 0, 1]))
    assert entries.n == 2
    assert entries.offsets.tolist() == [0, 2, 4, 4]
    assert entries.row.tolist() == [0, 1, 0, 1]
    assert entries.value.tolist() == [1, 4, 3, 2]


def test_one_row_an_example_in_another_order():
    entries = by_example(by_latent(CODES), np.array([2, 0, 3, 1]))
    assert entries.row.tolist() == [0, 1, 0, 1, 2]
    assert entries.value.tolist() == [1, 4, 3, 2, 2]


@shared
@given(seeds, st.integers(1, 9))
def test_entries_by_example_are_the_largest_over_its_rows(random_codes, seed, examples):
    codes, dense = random_codes(seed)
    example = np.random.default_rng(seed).permutation(np.arange(len(dense)) % examples)
    found = by_example(by_latent(codes), example)
    expected = np.stack([dense[example == e].max(0) for e in range(examples)])
    rebuilt = np.zeros_like(expected)
    rebuilt[found.row, found.latent()] = found.value
    assert np.array_equal(rebuilt, expected)
    assert found.counts.tolist() == (expected > 0).sum(0).tolist()
    assert all(np.all(np.diff(found.row[a:b]) > 0) for a, b in zip(found.offsets, found.offsets[1:], strict=False))


@given(st.lists(st.integers(0, 5), max_size=30))
def test_the_counting_sort_is_a_stable_sort(keys):
    keys = np.array(keys, np.int32)
    assert stable_order(keys, 6).tolist() == np.argsort(keys, kind="stable").tolist()


def test_firing_by_hand():
    fires = firing(by_latent(CODES))
    assert (fires.count.tolist(), fires.mean.tolist(), fires.max.tolist()) == ([2, 3, 0], [2.5, 7 / 3, 0], [4, 3, 0])
    assert fires.rate.tolist() == [0.5, 0.75, 0]
    assert fires.status(live_share=0.5, dense_share=0.7) == ["rare", "dense", "dead"]
    assert fires.status(live_share=0.4, dense_share=0.75) == ["live", "live", "dead"]
    assert fires.status(live_share=0.0, dense_share=1.0) == ["live", "live", "dead"]
    assert l0(CODES) == 5 / 4


@shared
@given(seeds)
def test_firing_and_histograms_against_dense(random_codes, seed):
    codes, dense = random_codes(seed, levels=None)
    entries = by_latent(codes)
    fires = firing(entries)
    assert np.array_equal(fires.count, (dense > 0).sum(0))
    assert np.allclose(fires.max, dense.max(0))
    assert np.allclose(fires.mean * fires.count, dense.sum(0), rtol=1e-6)
    counts, largest = histograms(entries, 7)
    assert np.array_equal(counts.sum(1), fires.count)
    assert np.array_equal(largest, dense.max(0))
    for j in np.flatnonzero(fires.count):
        column = dense[:, j][dense[:, j] > 0].astype(np.float64)
        assert counts[j].tolist() == np.histogram(column, bins=7, range=(0, column.max()))[0].tolist()


def test_a_histogram_by_hand():
    codes = Codes.from_dense(torch.tensor([[1.0], [2.0], [3.9], [4.0], [0.0]]))
    counts, largest = histograms(by_latent(codes), 4)
    assert (counts.tolist(), largest.tolist()) == ([[0, 1, 1, 2]], [4.0])


def test_nothing_fires():
    entries = by_latent(NOTHING)
    fires = firing(entries)
    assert fires.status(live_share=0, dense_share=0.1) == ["dead"] * 3
    assert (fires.mean.tolist(), fires.max.tolist(), l0(NOTHING)) == ([0, 0, 0], [0, 0, 0], 0)
    counts, largest = histograms(entries, 5)
    assert counts.tolist() == [[0] * 5] * 3
    assert largest.tolist() == [0, 0, 0]
    assert len(top_examples(entries, 3).row) == 0
    assert relative(NOTHING).nnz == 0
    assert by_example(entries, np.array([0, 0, 1, 1])).counts.tolist() == [0, 0, 0]


def test_strongest_examples_by_hand():
    top = top_examples(by_latent(CODES), 2)
    assert top.latent.tolist() == [0, 0, 1, 1]
    assert top.rank.tolist() == [0, 1, 0, 1]
    assert top.row.tolist() == [3, 1, 1, 0]  # rows 0 and 3 tie for latent 1: the first comes first
    assert top.value.tolist() == [4, 1, 3, 2]


@shared
@given(seeds, st.integers(1, 70))
def test_strongest_examples_against_a_stable_sort(random_codes, seed, most):
    codes, dense = random_codes(seed)
    top = top_examples(by_latent(codes), most)
    for j in range(codes.d_sae):
        order = np.argsort(-dense[:, j], kind="stable")
        expected = order[: min(most, int((dense[:, j] > 0).sum()))]
        assert top.row[top.latent == j].tolist() == expected.tolist()
        assert top.value[top.latent == j].tolist() == dense[expected, j].tolist()
        assert top.rank[top.latent == j].tolist() == list(range(len(expected)))


def test_relative_values_by_hand():
    found = relative(Codes.from_dense(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 7.0]])))
    assert found.dense().tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0], [0, 1]]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_relative_values_do_not_depend_on_the_rows_length(random_codes, scale):
    _codes, dense = random_codes(0)
    scaled = Codes.from_dense(torch.from_numpy(dense) * scale)
    length = np.linalg.norm(dense, axis=1, keepdims=True)
    assert np.allclose(relative(scaled).dense().numpy(), dense / np.where(length > 0, length, 1), rtol=1e-5)


def test_an_example_of_several_rows_stands_among_the_strongest_once() -> None:
    codes = Codes.from_dense(torch.tensor([[3.0, 0], [5, 1], [4, 0], [2, 2], [5, 0]]))
    top = top_examples(by_latent(codes), 2, np.array([0, 0, 1, 1, 2]))
    assert top.latent.tolist() == [0, 0, 1, 1]
    assert top.rank.tolist() == [0, 1, 0, 1]
    assert top.row.tolist() == [1, 4, 3, 1]
    assert top.value.tolist() == [5, 5, 2, 1]
