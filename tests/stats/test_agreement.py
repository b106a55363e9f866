"""Krippendorff's alpha against his published tables, hand-made coincidences, and its properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unweave.core.errors import InputError
from unweave.stats.agreement import alpha_interval, krippendorff_alpha

_ = np.nan
# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: four observers, twelve units, gaps.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)


@pytest.mark.parametrize(
    ("scale", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)]
)
def test_published_reliability_data(scale, alpha):
    assert krippendorff_alpha(PUBLISHED, scale) == pytest.approx(alpha, abs=5e-4)


def test_published_binary_data():
    """Section A: two observers, ten units; α = 0.095."""
    ratings = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]])
    assert krippendorff_alpha(ratings, "nominal") == pytest.approx(0.095, abs=5e-4)
    assert krippendorff_alpha(ratings, "interval") == pytest.approx(0.095, abs=5e-4)  # two values: every scale the same


def test_published_nominal_data():
    """Section B: two observers, twelve units, five names; α = 0.692."""
    ratings = np.array([["abcde".index(name) for name in row] for row in ("aabbdcccedda", "babbbccceddd")])
    assert krippendorff_alpha(ratings, "nominal") == pytest.approx(0.692, abs=5e-4)


def test_alpha_from_a_coincidence_matrix_made_by_hand():
    """Units (1, 1), (1, 2), (2, 2), (3, 3): o_12 = o_21 = 1, n = (3, 3, 2).

    Nominal: D_o = 2 / 8, D_e = (64 − 22) / (8 · 7) = 3/4: α = 2/3. Interval: D_o = 2 / 8,
    D_e = 2 (9 · 1 + 6 · 4 + 6 · 1) / 56 = 78 / 56: α = 1 − 56 / 312. Ordinal: mid-ranks 1.5, 4.5, 7, distances 9, 6.25
    and 30.25: D_o = 18 / 8, D_e = 2 (9 · 9 + 6 · 30.25 + 6 · 6.25) / 56 = 600 / 56: α = 1 − 18 · 7 / 600.
    """
    ratings = np.array([[1, 1, 2, 3], [1, 2, 2, 3]])
    assert krippendorff_alpha(ratings, "nominal") == pytest.approx(2 / 3)
    assert krippendorff_alpha(ratings, "interval") == pytest.approx(1 - 56 / 312)
    assert krippendorff_alpha(ratings, "ordinal") == pytest.approx(1 - 18 * 7 / 600)


tables = st.lists(st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, 7.0, math.nan]), min_size=3, max_size=3), min_size=2)


@given(tables, st.sampled_from(["nominal", "ordinal", "interval", "ratio"]), st.randoms(use_true_random=False))
def test_order_of_raters_and_units_and_lonely_values_do_not_matter(rows, scale, random):
    ratings = np.array(rows).T
    alpha = krippendorff_alpha(ratings, scale)
    assert np.isnan(alpha) or alpha <= 1 + 1e-12
    order = random.sample(range(len(rows)), len(rows))
    mixed = np.hstack([ratings[::-1, order], [[5.0], [math.nan], [math.nan]]])  # one value makes no pair
    assert krippendorff_alpha(mixed, scale) == pytest.approx(alpha, nan_ok=True)


@given(tables)
def test_only_the_order_counts_on_an_ordinal_scale(rows):
    ratings = np.array(rows).T
    assert krippendorff_alpha(ratings**3, "ordinal") == pytest.approx(
        krippendorff_alpha(ratings, "ordinal"), nan_ok=True
    )


def test_perfect_agreement_is_one_and_chance_is_nothing():
    generator = np.random.default_rng(0)
    values = generator.integers(1, 8, 400).astype(np.float64)
    assert krippendorff_alpha(np.stack([values, values])) == pytest.approx(1.0)
    interval = alpha_interval(generator.integers(1, 8, (3, 400)), generator=generator)
    assert interval.low < 0 < interval.high
    assert interval.high - interval.low < 0.2


def test_alpha_is_not_defined_without_variation_or_pairs():
    assert math.isnan(krippendorff_alpha(np.full((2, 5), 4)))
    assert math.isnan(krippendorff_alpha(np.array([[1.0, _], [_, 2.0]])))
    with pytest.raises(InputError, match="all values are equal"):
        alpha_interval(np.full((2, 5), 4), generator=np.random.default_rng(0))
    with pytest.raises(InputError, match="two units"):
        alpha_interval(np.array([[1.0], [2.0]]), generator=np.random.default_rng(0))


def test_interval_covers_the_published_alpha_and_repeats():
    first = alpha_interval(PUBLISHED, generator=np.random.default_rng(1))
    assert first.low < first.estimate == krippendorff_alpha(PUBLISHED) < first.high <= 1
    assert first.n == 11  # the twelfth unit has one value
    assert first == alpha_interval(PUBLISHED, generator=np.random.default_rng(1))


def test_what_cannot_be_rated_is_refused():
    with pytest.raises(InputError, match="negative"):
        krippendorff_alpha(-PUBLISHED, "ratio")
    with pytest.raises(InputError, match="finite"):
        krippendorff_alpha(np.array([[np.inf, 1.0], [1.0, 2.0]]))
    with pytest.raises(InputError, match="level"):
        alpha_interval(PUBLISHED, level=1.0, generator=np.random.default_rng(0))
