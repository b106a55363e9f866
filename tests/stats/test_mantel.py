"""Mantel's test: its r by hand, its p against every relabelling there is."""

from itertools import permutations as every_order

import numpy as np
import pytest

from unweave.core.errors import InputError
from unweave.stats.mantel import mantel


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def upper(matrix: np.ndarray) -> np.ndarray:
    return matrix[np.triu_indices(len(matrix), 1)]


def test_r_is_pearson_over_each_pair_once():
    a, b = distances(rng(1).normal(size=(7, 3))), distances(rng(2).normal(size=(7, 2)))
    found = mantel(a, b, permutations=9, generator=rng())
    assert found.r == pytest.approx(np.corrcoef(upper(a), upper(b))[0, 1])
    assert (found.n, found.permutations, len(found.null)) == (7, 9, 9)


def test_the_diagonal_does_not_count():
    a, b = distances(rng(1).normal(size=(6, 3))), distances(rng(2).normal(size=(6, 2)))
    shifted = a + 10 * np.eye(6)
    assert mantel(shifted, b, permutations=1, generator=rng()).r == pytest.approx(
        mantel(a, b, permutations=1, generator=rng()).r
    )


def test_p_is_that_of_every_relabelling():
    """Five items have 120 orders: the share of them that reach r is what p converges to."""
    a = distances(rng(3).normal(size=(5, 2)))
    b = distances(rng(3).normal(size=(5, 2)) + 0.7 * rng(4).normal(size=(5, 2)))
    observed = np.corrcoef(upper(a), upper(b))[0, 1]
    all_r = np.array([np.corrcoef(upper(a), upper(b[np.ix_(o, o)]))[0, 1] for o in every_order(range(5))])
    exact = (all_r >= observed - 1e-12).mean()
    found = mantel(a, b, permutations=20_000, generator=rng(5))
    assert 0.005 < exact < 0.5
    assert found.p == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 20_000) ** 0.5 + 1e-4)
    assert np.abs(np.sort(np.unique(found.null.round(9))) - np.unique(all_r.round(9))).max() < 1e-8


def test_a_matrix_agrees_with_itself():
    a = distances(rng(1).normal(size=(12, 3)))
    found = mantel(a, 2 * a, permutations=199, generator=rng())
    assert found.r == pytest.approx(1)
    assert found.p == 1 / 200
    less = mantel(a, a.max() - a, permutations=199, generator=rng(), alternative="less")
    assert (less.r, less.p) == (pytest.approx(-1), 1 / 200)


def test_p_is_uniform_where_there_is_nothing():
    generator = rng(6)
    p = [
        mantel(
            distances(generator.normal(size=(9, 2))),
            distances(generator.normal(size=(9, 2))),
            permutations=99,
            generator=generator,
        ).p
        for _ in range(200)
    ]
    assert 0.4 < np.mean(p) < 0.6
    assert np.mean(np.array(p) <= 0.1) < 0.17


def test_batches_change_nothing(monkeypatch):
    a, b = distances(rng(1).normal(size=(8, 3))), distances(rng(2).normal(size=(8, 2)))
    whole = mantel(a, b, permutations=50, generator=rng(1)).null
    monkeypatch.setattr("unweave.stats.mantel._BATCH_VALUES", 200)
    assert mantel(a, b, permutations=50, generator=rng(1)).null == pytest.approx(whole)


def test_nothing_to_agree_on():
    found = mantel(np.ones((4, 4)), distances(rng().normal(size=(4, 2))), permutations=9, generator=rng())
    assert np.isnan(found.r)
    assert found.p == 1


def test_what_is_no_matrix_of_distances_is_refused():
    square = distances(rng().normal(size=(4, 2)))
    for wrong in (square[:3], square[:3, :3]):
        with pytest.raises(InputError, match="two square matrices"):
            mantel(square, wrong, generator=rng())
    with pytest.raises(InputError, match="second matrix is not symmetric"):
        mantel(square, np.triu(square), generator=rng())
    with pytest.raises(InputError, match="at least 3"):
        mantel(square[:2, :2], square[:2, :2], generator=rng())
