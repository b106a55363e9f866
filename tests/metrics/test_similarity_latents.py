"""Latents matched by codes and by directions: what is planted is found, what is chance is not."""

import numpy as np
import pytest
import torch

from unweave.core.codes import Codes
from unweave.core.errors import InputError
from unweave.metrics.similarity_latents import CodePair, Matched, live_latents, matched_directions


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sparse(n: int, d_sae: int, seed: int, rate: float = 0.2) -> np.ndarray:
    generator = rng(seed)
    return (generator.random((n, d_sae)) < rate) * generator.exponential(size=(n, d_sae))


def codes(dense: np.ndarray) -> Codes:
    return Codes.from_dense(torch.from_numpy(dense.astype(np.float32)))


def pair(x: np.ndarray, y: np.ndarray, **options) -> CodePair:
    half = len(x) // 2
    return CodePair(codes(x), codes(y), choose=np.arange(half), measure=np.arange(half, len(x)), **options)


def test_a_renamed_dictionary_is_found_latent_by_latent():
    x = sparse(300, 7, 0)
    order = rng(1).permutation(7)
    found = pair(x, 3 * x[:, order]).matched()
    assert order[found.second].tolist() == found.first.tolist()
    assert found.score == pytest.approx(np.ones(7))
    assert (found.mean, found.sizes) == (pytest.approx(1), (7, 7))


def test_the_score_is_the_correlation_on_the_other_rows():
    x = sparse(200, 4, 0)
    y = x + sparse(200, 4, 1)
    found = pair(x, y).matched()
    for first, second, score in zip(found.first, found.second, found.score, strict=True):
        assert score == pytest.approx(np.corrcoef(x[100:, first], y[100:, second])[0, 1], abs=1e-5)


def test_shuffled_rows_leave_nothing():
    x = sparse(2000, 10, 0)
    null = [pair(x, x).matched(rng(seed)).mean for seed in range(20)]
    assert abs(np.mean(null)) < 0.01


def test_dead_latents_are_not_counted():
    x = sparse(400, 5, 0)
    x[:, 2] = 0
    x[:, 4] = 0
    x[0, 4] = 1  # once in 400 rows
    assert live_latents(codes(x), 0.01).tolist() == [0, 1, 3]
    assert live_latents(codes(x), 0.0).tolist() == [0, 1, 3, 4]
    found = pair(x, x, live_share=0.01).matched()
    assert found.sizes == (3, 3)
    assert found.first.tolist() == [0, 1, 3]


def test_shares_count_both_sides():
    found = Matched(np.arange(2), np.arange(2), np.array([0.95, 0.75]), (2, 6))
    assert found.share(np.array([0.7, 0.9, 0.99])).tolist() == [4 / 8, 2 / 8, 0]
    assert found.mean == pytest.approx(2 * 1.7 / 8)


def test_dictionaries_of_different_sizes():
    x = sparse(300, 8, 0)
    found = pair(x, x[:, :5]).matched()
    assert found.first.tolist() == [0, 1, 2, 3, 4]
    assert found.share(np.array([0.9]))[0] == pytest.approx(10 / 13)


def test_directions_are_matched_by_cosine():
    d = rng(0).normal(size=(6, 4))
    order = rng(1).permutation(6)
    assert matched_directions(d, 5 * d[order]).score == pytest.approx(np.ones(6))
    flipped = d * np.array([1, -1, 1, 1, -1, 1])[:, None]
    assert matched_directions(d, flipped, either_sign=True).mean == pytest.approx(1)
    assert matched_directions(d, flipped).mean < 0.95


def test_codes_of_other_rows_are_refused():
    with pytest.raises(InputError, match="got 6 and 8"):
        CodePair(codes(sparse(6, 3, 0)), codes(sparse(8, 3, 0)), choose=np.arange(3), measure=np.arange(3))
    with pytest.raises(InputError, match="two rows each, got 1 and 3"):
        CodePair(codes(sparse(6, 3, 0)), codes(sparse(6, 3, 0)), choose=np.arange(1), measure=np.arange(3))
