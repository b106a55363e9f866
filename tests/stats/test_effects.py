"""Effect sizes by hand, and against what other tests say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from unweave.core.errors import InputError
from unweave.stats.effects import cliffs_delta, cohens_d, hedges_g, rank_biserial

SAMPLES = st.lists(st.integers(-5, 5), min_size=2, max_size=8).map(np.array)


def test_cohens_d_by_hand():
    # Means 4 and 2, both variances 1: two standard deviations apart.
    assert cohens_d(np.array([3.0, 4.0, 5.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(2)


def test_cohens_d_is_t_times_its_root():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=9), generator.normal(size=14) + 0.4
    t = stats.ttest_ind(x, y).statistic
    assert cohens_d(x, y) == pytest.approx(t * (1 / 9 + 1 / 14) ** 0.5)


def test_the_published_ratings():
    """Two samples with means 4.4375 and 3.25, deviations 1.5478 and 1.4376, 16 each: t = 2.2486, so d = 0.795."""
    generator = np.random.default_rng(1)
    samples = []
    for mean, deviation in ((4.4375, 1.5478), (3.25, 1.4376)):
        drawn = generator.normal(size=16)
        samples.append(mean + deviation * (drawn - drawn.mean()) / drawn.std(ddof=1))
    assert cohens_d(*samples) == pytest.approx(2.2486 / 8**0.5, abs=1e-4)
    assert hedges_g(*samples) == pytest.approx(cohens_d(*samples) * (1 - 3 / (4 * 30 - 1)), rel=1e-4)


def test_no_spread():
    same, other = np.array([2, 2, 2]), np.array([3, 3])
    assert cohens_d(same, same) == 0
    assert cohens_d(same, other) == -np.inf
    assert cohens_d(np.array([0.1, 0.2]) + 0.2, np.array([0.3, 0.4])) == pytest.approx(0)


@given(SAMPLES, SAMPLES)
def test_cliffs_delta_counts_pairs(x, y):
    pairs = np.sign(x[:, None] - y[None])
    assert cliffs_delta(x, y) == pytest.approx(pairs.mean())
    assert cliffs_delta(y, x) == pytest.approx(-cliffs_delta(x, y))
    assert 2 * stats.mannwhitneyu(x, y).statistic / pairs.size - 1 == pytest.approx(pairs.mean())


def test_rank_biserial_by_hand():
    # Differences 1, −2, 3, 0: ranks 1, 2, 3; (1 + 3 − 2) / 6.
    assert rank_biserial(np.array([2, 1, 4, 5]), np.array([1, 3, 1, 5])) == pytest.approx(1 / 3)
    assert rank_biserial(np.array([1, 2]), np.array([1, 2])) == 0
    assert rank_biserial(np.array([2, 3]), np.array([1, 1])) == 1


@pytest.mark.parametrize("measure", [cohens_d, hedges_g, cliffs_delta, rank_biserial])
def test_nothing_cannot_be_compared(measure):
    with pytest.raises(InputError):
        measure(np.zeros(0), np.zeros(0))
