"""Recovery by hand, and what must hold of it always."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unweave.metrics.recovery import correlations, cosines, match, precision

SQUARE = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.floats(0, 1, width=32))


def test_cosines_by_hand() -> None:
    true = np.array([[1.0, 0], [0, 2]])
    found = np.array([[3.0, 4], [-5, 0], [0, 0]])
    np.testing.assert_allclose(cosines(true, found), [[0.6, -1, 0], [0.8, 0, 0]])
    np.testing.assert_allclose(cosines(true, found, signed=False), [[0.6, 1, 0], [0.8, 0, 0]])


def test_matching_is_the_best_of_all_and_not_greedy() -> None:
    # Greedy takes 0.9 first and has 0.9 + 0.1 left; the best is 0.8 + 0.8.
    matching = match(np.array([[0.9, 0.8, 0.0], [0.8, 0.1, 0.2]]))
    assert matching.latent.tolist() == [1, 0]
    assert matching.score.tolist() == [0.8, 0.8]
    assert matching.unmatched.tolist() == [2]
    assert matching.mean == pytest.approx(0.8)
    assert matching.recall(0.8) == 1
    assert matching.recall() == 0


def test_what_no_latent_is_left_for_counts_as_nothing() -> None:
    matching = match(np.array([[0.5], [1.0], [0.2]]))
    assert matching.latent.tolist() == [-1, 0, -1]
    assert matching.mean == pytest.approx(1 / 3)
    assert matching.recall() == pytest.approx(1 / 3)
    assert len(matching.unmatched) == 0


@given(SQUARE)
def test_no_other_assignment_is_better(similarity: np.ndarray) -> None:
    n, m = similarity.shape
    matching = match(similarity)
    rows, columns = (similarity, range(m)) if n <= m else (similarity.T, range(n))
    best = max(sum(rows[i, j] for i, j in enumerate(chosen)) for chosen in itertools.permutations(columns, min(n, m)))
    assert matching.score.sum() == pytest.approx(best)
    used = matching.latent[matching.latent >= 0]
    assert len(set(used.tolist())) == len(used) == min(n, m)
    assert sorted([*used.tolist(), *matching.unmatched.tolist()]) == list(range(m))


def test_precision_counts_live_latents_and_allows_copies() -> None:
    similarity = np.array([[0.95, 0.92, 0.1, 0.99], [0.0, 0.3, 0.2, 0.0]])
    assert precision(similarity, np.array([True, True, True, False])) == pytest.approx(2 / 3)
    assert precision(similarity, np.array([False, False, True, False])) == 0
    assert np.isnan(precision(similarity, np.zeros(4, bool)))
    assert precision(similarity, np.ones(4, bool), at=0.1) == 1


def test_correlations_by_hand() -> None:
    sources = np.array([[0.0], [1], [2]])
    codes = np.array([[0.0, 5, 1, 7], [2, 5, 0, 4], [4, 5, 1, 1]])
    np.testing.assert_allclose(correlations(sources, codes), [[1, 0, 0, 1]], atol=1e-12)


@given(st.integers(0, 50), st.floats(0.01, 100), st.floats(-100, 100))
def test_correlations_do_not_depend_on_scale_and_origin(seed: int, scale: float, shift: float) -> None:
    generator = np.random.default_rng(seed)
    sources, codes = generator.normal(size=(30, 2)), generator.normal(size=(30, 3))
    found = correlations(sources, codes)
    np.testing.assert_allclose(found, np.abs(np.corrcoef(sources.T, codes.T)[:2, 2:]))
    np.testing.assert_allclose(correlations(sources, -scale * codes + shift), found, atol=1e-7)


def test_the_truth_finds_itself_in_any_order() -> None:
    generator = np.random.default_rng(0)
    true = generator.normal(size=(20, 8))
    order = generator.permutation(20)
    matching = match(cosines(true, 3 * true[order]))
    assert matching.mean == pytest.approx(1)
    assert np.array_equal(order[matching.latent], np.arange(20))
    assert match(cosines(true, -true)).mean < 0.9  # signs count
    assert match(cosines(true, -true, signed=False)).mean == pytest.approx(1)
