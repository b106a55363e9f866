"""What firing says of the class, against scikit-learn and plain loops over dense codes."""

import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from sklearn.metrics import average_precision_score, mutual_info_score

from unweave.core.codes import Codes
from unweave.metrics.entries import by_latent
from unweave.metrics.labels import average_precision, label_counts, mutual_information, purity_of_top, top_class_share

CLASSES = 4
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 10_000)


def labels_of(seed: int, n: int) -> np.ndarray:
    """Class 2 has no example."""
    return np.random.default_rng(seed + 1).choice([0, 1, 3], n)


@shared
@given(seeds)
def test_counts_against_a_loop(random_codes, seed):
    codes, dense = random_codes(seed, levels=None)
    label = labels_of(seed, len(dense))
    counts = label_counts(by_latent(codes), label, CLASSES)
    weights = label_counts(by_latent(codes), label, CLASSES, weighted=True)
    for c in range(CLASSES):
        assert np.array_equal(counts[:, c], (dense[label == c] > 0).sum(0))
        assert np.allclose(weights[:, c], dense[label == c].sum(0), rtol=1e-6)


@shared
@given(seeds)
def test_information_is_scikit_learns_in_bits(random_codes, seed):
    codes, dense = random_codes(seed)
    label = labels_of(seed, len(dense))
    found = mutual_information(label_counts(by_latent(codes), label, CLASSES), np.bincount(label, minlength=CLASSES))
    expected = [mutual_info_score(label, dense[:, j] > 0) / np.log(2) for j in range(codes.d_sae)]
    assert np.allclose(found, expected, atol=1e-12)
    assert (found >= 0).all()


def test_information_by_hand():
    totals = np.array([4, 4])
    counts = np.array([[4.0, 0.0], [2.0, 2.0], [0.0, 0.0], [4.0, 4.0], [1.0, 0.0]])
    # One of eight, in one class: H(1/8) − ½ H(1/4)
    one = -(1 / 8 * np.log2(1 / 8) + 7 / 8 * np.log2(7 / 8)) + 0.5 * (0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    assert mutual_information(counts, totals) == pytest.approx([1, 0, 0, 0, one], abs=1e-12)
    assert mutual_information(np.array([[5.0]]), np.array([9])).tolist() == [0]


@shared
@given(seeds, st.sampled_from([2, 4, None]))
def test_average_precision_is_scikit_learns(random_codes, seed, levels):
    codes, dense = random_codes(seed, levels=levels)
    label = labels_of(seed, len(dense))
    found = average_precision(by_latent(codes), label, CLASSES)
    assert found.shape == (codes.d_sae, CLASSES)
    for c in range(CLASSES):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns that class 2 has no example
            expected = [average_precision_score(label == c, dense[:, j]) for j in range(codes.d_sae)]
        assert np.allclose(found[:, c], expected, atol=1e-12)


def test_average_precision_by_hand():
    codes = Codes.from_dense(torch.tensor([[3.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    found = average_precision(by_latent(codes), np.array([0, 0, 1, 1, 0]), 2)
    # Latent 0, class 0: one at precision 1, one at 2/3 (a tie of two), one with all rows at 3/5.
    assert found[0] == pytest.approx([(1 + 2 / 3 + 3 / 5) / 3, (1 / 3 + 2 / 5) / 2])
    assert found[1] == pytest.approx([3 / 5, 2 / 5])  # silent: every row is one threshold


def test_nothing_fires():
    entries = by_latent(Codes.from_dense(torch.zeros(4, 3)))
    label = np.array([0, 1, 1, 1])
    counts = label_counts(entries, label, 2)
    assert counts.tolist() == [[0, 0]] * 3
    assert mutual_information(counts, np.array([1, 3])).tolist() == [0, 0, 0]
    assert average_precision(entries, label, 2).tolist() == [[0.25, 0.75]] * 3
    best, share = top_class_share(counts)
    assert (best.tolist(), share.tolist()) == ([0, 0, 0], [0, 0, 0])


def test_top_class_and_its_share():
    best, share = top_class_share(np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0], [2.0, 2.0, 0.0]]))
    assert (best.tolist(), share.tolist()) == ([1, 0, 0], [0.75, 0, 0.5])


def test_purity_by_hand():
    latent, label = np.array([0, 0, 0, 2, 2], np.int32), np.array([1, 1, 0, 2, 2])
    assert purity_of_top(latent, label, 4, 3) == pytest.approx([2 / 3, 0, 1, 0])
    assert purity_of_top(latent[:0], label[:0], 2, 3).tolist() == [0, 0]
