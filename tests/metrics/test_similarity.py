"""Similarity from cross-products: against the plain definitions, invariances, and planted maps."""

import numpy as np
import pytest
from scipy.spatial import procrustes as scipy_procrustes
from sklearn.linear_model import Ridge, RidgeCV

from unweave.core.errors import InputError
from unweave.metrics.similarity import (
    Cross,
    Side,
    both_ways,
    linear_cka,
    matched_correlations,
    procrustes,
    ridge_r2,
    rotation,
    unit_correlations,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    return rng(seed).normal(size=(n, d)) @ rng(seed + 100).normal(size=(d, d)) + 3


def turned(x: np.ndarray, seed: int = 9) -> np.ndarray:
    return x @ np.linalg.qr(rng(seed).normal(size=(x.shape[1],) * 2))[0]


@pytest.mark.parametrize("n", [5, 8192, 8200])
def test_sums_do_not_depend_on_blocks(n):
    x, y = rows(n, 3).astype(np.float32), rows(n, 4, 1).astype(np.float32)
    cross = Cross.of(x, y)
    exact_x, exact_y = x.astype(np.float64) - x.mean(0, dtype=np.float64), y - y.mean(0, dtype=np.float64)
    assert cross.xy == pytest.approx(exact_x.T @ exact_y, rel=1e-6)
    assert cross.x.gram == pytest.approx(exact_x.T @ exact_x, rel=1e-6)
    assert cross.turned().xy.shape == (4, 3)


def test_cka_by_hand():
    """Kernels of centred rows: ⟨K, L⟩ / (‖K‖ ‖L‖)."""
    x, y = rows(20, 3), rows(20, 5, 1)
    k, m = ((v - v.mean(0)) @ (v - v.mean(0)).T for v in (x, y))
    assert linear_cka(Cross.of(x, y)) == pytest.approx((k * m).sum() / np.linalg.norm(k) / np.linalg.norm(m))


def test_cka_and_procrustes_see_neither_rotation_nor_scale_nor_offset():
    x = rows(50, 4)
    for measure in (linear_cka, procrustes):
        assert measure(Cross.of(x, 7 * turned(x) - 2)) == pytest.approx(1)
        y = rows(50, 4, 3)
        assert measure(Cross.of(x, y)) == pytest.approx(measure(Cross.of(turned(x) * 3, y)))
        assert measure(Cross.of(x, y)) == pytest.approx(measure(Cross.of(y, x)))


def test_procrustes_is_one_minus_scipys_disparity_and_pads_widths():
    x, y = rows(30, 4), rows(30, 4, 1)
    assert procrustes(Cross.of(x, y)) == pytest.approx(1 - scipy_procrustes(x, y)[2])
    narrow = y[:, :2]
    padded = np.concatenate([narrow, np.zeros((30, 2))], 1)
    assert procrustes(Cross.of(x, narrow)) == pytest.approx(1 - scipy_procrustes(x, padded)[2])


def test_the_rotation_is_the_one_that_was_planted():
    x = rows(40, 5)
    q = np.linalg.qr(rng(4).normal(size=(5, 5)))[0]
    assert rotation(Cross.of(x, x @ q + 1)) == pytest.approx(q)


def test_what_does_not_vary_is_like_nothing():
    x, same = rows(20, 3), np.full((20, 2), 5.0)
    cross = Cross.of(x, same)
    assert linear_cka(cross) == 0
    assert procrustes(cross) == 0
    assert ridge_r2(cross, cross) == 0
    assert (unit_correlations(cross) == 0).all()


def test_correlations_are_numpys():
    x, y = rows(30, 3), rows(30, 2, 1)
    assert unit_correlations(Cross.of(x, y)) == pytest.approx(np.corrcoef(x.T, y.T)[:3, 3:])


def test_matching_finds_a_permutation_with_signs():
    x = rng(1).normal(size=(400, 6))
    order, sign = rng(2).permutation(6), np.array([1, -1, 1, -1, -1, 1])
    y = (x * sign)[:, order] + 0.1 * rng(3).normal(size=(400, 6))
    half = [Cross.of(x[part], y[part]) for part in (slice(0, 200), slice(200, 400))]
    assert (matched_correlations(*half) > 0.98).all(), "r has the sign that it had where the pair was chosen"
    signed = matched_correlations(*half, signed=True)
    assert (signed > 0.98).sum() == (sign > 0).sum()


def test_what_is_matched_by_chance_has_no_correlation_on_other_rows():
    found = []
    for seed in range(40):
        x, y = rng(seed).normal(size=(200, 8)), rng(seed + 1000).normal(size=(200, 8))
        choose, measure = Cross.of(x[:100], y[:100]), Cross.of(x[100:], y[100:])
        assert matched_correlations(choose, choose).mean() > 0.1
        found.append(matched_correlations(choose, measure).mean())
    assert abs(np.mean(found)) < 0.02


def test_ridge_is_sklearns_at_the_penalty_that_it_chooses(monkeypatch):
    x, y = rows(60, 4), rows(60, 3, 1)
    fit, test = Cross.of(x[:30], y[:30]), Cross.of(x[30:], y[30:])
    monkeypatch.setattr("unweave.metrics.similarity._PENALTIES", np.array([0.3]))
    penalty = 0.3 * fit.x.basis[0].mean()
    predicted = Ridge(alpha=penalty).fit(x[:30], y[:30]).predict(x[30:])
    expected = 1 - ((y[30:] - predicted) ** 2).sum() / ((y[30:] - y[30:].mean(0)) ** 2).sum()
    assert ridge_r2(fit, test) == pytest.approx(expected)


def test_ridge_chooses_about_what_leaving_one_out_chooses():
    x = rng(1).normal(size=(80, 30))
    y = x[:, :3] + 2 * rng(2).normal(size=(80, 3))
    fit, test = Cross.of(x[:40], y[:40]), Cross.of(x[40:], y[40:])
    theirs = RidgeCV(alphas=np.logspace(-6, 3, 19) * fit.x.basis[0].mean()).fit(x[:40], y[:40]).predict(x[40:])
    expected = 1 - ((y[40:] - theirs) ** 2).sum() / ((y[40:] - y[40:].mean(0)) ** 2).sum()
    assert ridge_r2(fit, test) == pytest.approx(expected, abs=0.05)


def test_ridge_finds_a_linear_map_and_nothing_in_noise():
    x = rows(400, 5)
    y = x @ rng(5).normal(size=(5, 3)) - 1
    part = [slice(0, 200), slice(200, 400)]
    assert ridge_r2(*(Cross.of(x[p], y[p]) for p in part)) == pytest.approx(1)
    noise = rng(6).normal(size=(400, 3))
    assert abs(both_ways(ridge_r2, *(Cross.of(x[p], noise[p]) for p in part))) < 0.05


def test_more_units_than_rows():
    x, y = rng(0).normal(size=(12, 40)), rng(1).normal(size=(12, 30))
    found = ridge_r2(Cross.of(x[:6], y[:6]), Cross.of(x[6:], y[6:]))
    assert np.isfinite(found)
    assert found < 0.3


def test_an_order_changes_the_cross_products_alone():
    x, y = rows(30, 3), rows(30, 2, 1)
    order = rng(1).permutation(30)
    again = Cross.of(x, y).reordered(x, y[order])
    assert linear_cka(again) == pytest.approx(linear_cka(Cross.of(x, y[order])))
    assert again.y is not None


def test_rows_have_to_be_those_of_the_same_examples():
    with pytest.raises(InputError, match="same examples are compared, got 4 and 5"):
        Cross.of(rows(4, 2), rows(5, 2))
    with pytest.raises(InputError, match="fewer than two"):
        Side.of(rows(1, 2))
