"""Row by row, representational similarity and neighbours: against their plain n × n definitions."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from unweave.core.errors import InputError
from unweave.metrics.similarity_rows import (
    Patterns,
    mutual_neighbours,
    nearest,
    reorder_neighbours,
    row_similarities,
    row_similarity,
    rsa,
    unit_rows,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def plain_rsa(x: np.ndarray, y: np.ndarray) -> float:
    upper = np.triu_indices(len(x), 1)
    return np.corrcoef((1 - np.corrcoef(x))[upper], (1 - np.corrcoef(y))[upper])[0, 1]


def test_cosine_and_correlation_of_rows():
    x, y = rng(0).normal(size=(6, 4)) + 1, rng(1).normal(size=(6, 4))
    cosine = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(x, y, strict=True)]
    assert row_similarities(unit_rows(x), unit_rows(y)) == pytest.approx(cosine, abs=1e-6)
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)]
    assert row_similarities(unit_rows(x, centred=True), unit_rows(y, centred=True)) == pytest.approx(
        correlation, abs=1e-6
    )
    assert row_similarity(unit_rows(x), unit_rows(y)) == pytest.approx(np.mean(cosine), abs=1e-6)


def test_rows_without_length_count_as_0():
    x = np.array([[0.0, 0.0], [3.0, 4.0], [2.0, 2.0]])
    assert unit_rows(x).tolist() == [[0, 0], [pytest.approx(0.6), pytest.approx(0.8)], [pytest.approx(0.5**0.5)] * 2]
    assert unit_rows(x, centred=True)[[0, 2]].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("a", "b"), [(5, 5), (3, 8)])
def test_rsa_is_that_of_the_whole_matrices(a, b):
    shared = rng(0).normal(size=(40, 3))
    x, y = (shared @ rng(s).normal(size=(3, d)) + 0.3 * rng(s + 9).normal(size=(40, d)) for s, d in ((1, a), (2, b)))
    assert rsa(Patterns.of(x), Patterns.of(y)) == pytest.approx(plain_rsa(x, y), abs=1e-5)
    order = rng(5).permutation(40)
    assert rsa(Patterns.of(x), Patterns.of(y).reordered(order)) == pytest.approx(plain_rsa(x, y[order]), abs=1e-5)


def test_rsa_of_rows_in_many_blocks(monkeypatch):
    x, y = rng(0).normal(size=(50, 4)), rng(1).normal(size=(50, 4))
    whole = rsa(Patterns.of(x), Patterns.of(y))
    monkeypatch.setattr("unweave.metrics.similarity_rows._BLOCK", 7)
    assert rsa(Patterns.of(x), Patterns.of(y)) == pytest.approx(whole, abs=1e-6)


def test_rsa_sees_no_row_offset_or_scale_and_has_no_value_without_difference():
    x = rng(0).normal(size=(20, 5))
    assert rsa(Patterns.of(x), Patterns.of(x * rng(1).uniform(1, 2, (20, 1)) + 3)) == pytest.approx(1, abs=1e-5)
    assert np.isnan(rsa(Patterns.of(x), Patterns.of(np.tile(x[:1], (20, 1)))))


def test_neighbours_are_the_nearest_others(monkeypatch):
    x = rng(0).normal(size=(30, 3))
    monkeypatch.setattr("unweave.metrics.similarity_rows._DISTANCES", 100)
    distance = cdist(x, x) + np.diag([np.inf] * 30)
    assert np.array_equal(np.sort(nearest(x, 4), 1), np.sort(np.argsort(distance, 1)[:, :4], 1))


def test_neighbours_of_reordered_rows():
    x = rng(0).normal(size=(25, 3))
    order = rng(1).permutation(25)
    expected = np.sort(nearest(x[order], 5), 1)
    assert np.array_equal(np.sort(reorder_neighbours(nearest(x, 5), order), 1), expected)


def test_mutual_neighbours_by_hand_and_by_chance():
    first = np.array([[1], [0], [3], [2]])
    assert mutual_neighbours(first, first) == 1
    assert mutual_neighbours(first, np.array([[1], [2], [3], [0]])) == 0.5
    by_chance = [
        mutual_neighbours(nearest(rng(s).normal(size=(60, 3)), 6), nearest(rng(s + 99).normal(size=(60, 3)), 6))
        for s in range(60)
    ]
    assert np.mean(by_chance) == pytest.approx(6 / 59, abs=0.01)


def test_there_must_be_other_rows():
    with pytest.raises(InputError, match="need at least 6 rows, got 5"):
        nearest(np.zeros((5, 2)), 5)
