"""Embeddings that collapsed, that are spread out, and that tell things apart: numbers known beforehand."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from unweave.core.codes import Codes
from unweave.core.errors import InputError
from unweave.metrics.attributes import RankedEntries, best_latents
from unweave.metrics.embedding import (
    alignment,
    cosines,
    effective_rank,
    matched_share,
    neighbour_accuracy,
    separability,
    spectrum,
    uniformity,
)
from unweave.metrics.entries import by_latent


def test_the_effective_rank_counts_directions_used_alike():
    rows = np.concatenate([np.eye(4), -np.eye(4)])[:, :3]
    assert effective_rank(spectrum(rows)) == pytest.approx(3)
    line = np.outer(np.arange(5.0), [1.0, 2.0])
    assert effective_rank(spectrum(line)) == pytest.approx(1)
    assert effective_rank(spectrum(np.ones((5, 3)))) == 0
    assert effective_rank(np.array([0.5, 0.25, 0.25])) == pytest.approx(2**1.5)


def test_cosines_and_uniformity_by_hand():
    rows = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert cosines(rows).tolist() == pytest.approx([0, 1, 0])
    assert uniformity(rows) == pytest.approx(math.log((2 * math.exp(-4) + 1) / 3))
    assert uniformity(np.ones((4, 2))) == pytest.approx(0, abs=1e-6)


def test_alignment_and_matches_by_hand():
    first = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert alignment(first, 5 * first) == pytest.approx(0)
    assert alignment(first, first[::-1].copy()) == pytest.approx(2)
    assert matched_share(first, first) == 1
    assert matched_share(first, first[::-1].copy()) == 0


def test_what_is_planted_can_be_told_and_noise_cannot():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 400, 8))
    assert abs(separability(first, second, generator) - 0.5) < 0.06
    second[:, 0] += 6
    assert separability(first, second, generator) > 0.95
    with pytest.raises(InputError, match="at least 4"):
        separability(first[:3], second[:3], generator)


def test_neighbours_tell_planted_classes_and_never_vote_for_themselves():
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    assert neighbour_accuracy(np.eye(3)[labels] + 0.1 * generator.normal(size=(90, 3)), labels) == 1
    noise = neighbour_accuracy(generator.normal(size=(600, 20)), np.arange(600) % 2)
    assert abs(noise - 0.5) < 0.1


@pytest.fixture
def codes():
    generator = np.random.default_rng(1)
    dense = np.maximum(generator.normal(size=(60, 7)), 0).round(1).astype(np.float32)
    dense[:, 3] = 0
    return dense


def test_average_precision_of_attributes_is_scikit_learns(codes):
    import torch

    has = np.random.default_rng(2).random((60, 4)) < 0.3
    ranked = RankedEntries(by_latent(Codes.from_dense(torch.from_numpy(codes))))
    for column in has.T:
        wanted = [average_precision_score(column, values) for values in codes.T]
        assert ranked.average_precision(column) == pytest.approx(wanted)


def test_a_planted_attribute_is_found_beyond_its_null_and_noise_is_not(codes):
    import torch

    noise = np.random.default_rng(3).random(60) < 0.5
    has = np.stack([codes[:, 5] > 0.6, noise], 1)
    entries = by_latent(Codes.from_dense(torch.from_numpy(codes)))
    found = best_latents(entries, has, permutations=49, generator=np.random.default_rng(0))
    assert found.latent[0] == 5
    assert found.precision[0] == pytest.approx(1)
    assert found.precision[0] > found.null[0]
    assert found.precision[1] < found.null[1] + 0.1
    assert found.share.tolist() == pytest.approx(has.mean(0).tolist())
