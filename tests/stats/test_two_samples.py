"""Two samples: a published table, scipy's own tests, every arrangement of tied ranks."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from unweave.core.errors import InputError
from unweave.stats.effects import cliffs_delta, cohens_d
from unweave.stats.two_samples import (
    Summary,
    TTest,
    difference_interval,
    dominance,
    mann_whitney,
    mean_difference,
    min_f,
    standardised_difference,
    t_test,
    two_sample_interval,
)

SPARSE = Summary(mean=4.4375, std=1.5478, n=16)
DENSE = Summary(mean=3.25, std=1.4376, n=16)


def test_published_rating_study_from_its_table():
    test = t_test(SPARSE, DENSE, equal_variances=True)
    assert test is not None
    assert test.t == pytest.approx(2.2486, abs=5e-5)
    assert test.p == pytest.approx(0.0320, abs=5e-5)
    assert test.df == 30


samples = st.lists(st.integers(1, 7), min_size=2, max_size=9)


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")  # scipy's, where one sample is constant
@given(samples, samples, st.booleans())
def test_t_from_summaries_is_scipys_t_of_the_values(x, y, pooled):
    test = t_test(Summary.of(np.array(x)), Summary.of(np.array(y)), equal_variances=pooled)
    if test is None:
        assert np.ptp(x) == np.ptp(y) == 0
    else:
        expected = stats.ttest_ind(x, y, equal_var=pooled)
        assert (test.t, test.p, test.df) == pytest.approx((expected.statistic, expected.pvalue, expected.df))


def test_interval_of_the_difference_is_welchs():
    x, y = np.array([1.0, 2, 3, 7]), np.array([2.0, 4, 4, 5, 6])
    expected = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.9)
    assert difference_interval(Summary.of(x), Summary.of(y), level=0.9) == pytest.approx(tuple(expected))


def test_no_spread_or_too_few_values_is_no_test():
    one, flat = Summary.of(np.array([3.0])), Summary.of(np.array([2.0, 2.0]))
    spread = Summary.of(np.array([1.0, 4.0]))
    assert t_test(flat, flat) is None
    assert t_test(flat, Summary.of(np.array([5.0, 5.0])), equal_variances=True) is None
    assert t_test(one, spread) is None
    assert t_test(one, one, equal_variances=True) is None
    pooled = t_test(one, spread, equal_variances=True)
    assert pooled is not None
    assert pooled.df == 1
    assert difference_interval(one, spread) is None
    with pytest.raises(InputError, match="value each"):
        t_test(Summary(mean=0, std=1, n=0), one)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_rank_test_counts_every_arrangement_ties_and_all(x, y):
    test = mann_whitney(np.array(x), np.array(y))
    ranks = stats.rankdata(x + y)
    sums = np.array([ranks[list(chosen)].sum() for chosen in itertools.combinations(range(len(ranks)), len(x))])
    w = ranks[: len(x)].sum()
    expected = min(1.0, 2 * min((sums <= w).mean(), (sums >= w).mean()))
    assert test.exact
    assert test.p == pytest.approx(expected)
    assert test.u == pytest.approx(sum((a > b) + (a == b) / 2 for a in x for b in y))


def test_rank_test_is_scipys_exact_one_without_ties_and_symmetric():
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=16), generator.normal(0.7, 1, size=13)
    assert mann_whitney(x, y).p == pytest.approx(stats.mannwhitneyu(x, y, method="exact").pvalue)
    assert mann_whitney(x, y).p == pytest.approx(mann_whitney(y, x).p)


def test_rank_test_of_many_values_is_the_tie_corrected_normal_one():
    generator = np.random.default_rng(4)
    x, y = generator.integers(1, 8, 300), generator.integers(2, 9, 280)
    test = mann_whitney(x, y)
    assert not test.exact
    assert test.p == pytest.approx(stats.mannwhitneyu(x, y, method="asymptotic").pvalue)
    x, y = x[:60], y[:60]  # at the border both ways agree
    assert mann_whitney(x, y).exact
    assert mann_whitney(x, y).p == pytest.approx(stats.mannwhitneyu(x, y, method="asymptotic").pvalue, abs=2e-3)


def test_equal_values_give_no_reason_to_doubt():
    assert mann_whitney(np.full(5, 4), np.full(3, 4)).p == 1.0


@given(samples, samples)
def test_statistics_along_an_axis_are_those_of_the_effects(x, y):
    first, second = np.array([x, x[::-1]], np.float64), np.array([y, y[::-1]], np.float64)
    assert dominance(first, second) == pytest.approx(cliffs_delta(np.array(x), np.array(y)))
    assert standardised_difference(first, second) == pytest.approx(cohens_d(np.array(x), np.array(y)))
    assert mean_difference(first.T, second.T, 0) == pytest.approx(np.mean(x) - np.mean(y))


def test_bootstrap_of_a_difference_is_as_wide_as_theory_and_covers():
    generator = np.random.default_rng(5)
    x, y = generator.normal(1, 1, 60), generator.normal(0, 2, 50)
    found = two_sample_interval(x, y, mean_difference, generator=generator)
    expected = difference_interval(Summary.of(x), Summary.of(y))
    assert found is not None
    assert expected is not None
    assert (found.low, found.high) == pytest.approx(expected, abs=0.08)  # the bootstrap is a little narrower
    assert found.method == "BCa"
    assert found.n == 110


def test_bootstrap_is_seeded_and_stays_inside_the_range_of_delta():
    x, y = np.array([4.0, 5, 6, 7, 6, 5]), np.array([1.0, 2, 3, 2, 4, 3])
    found = [two_sample_interval(x, y, dominance, generator=np.random.default_rng(6)) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0] is not None
    assert -1 <= found[0].low < found[0].estimate <= found[0].high <= 1


def test_bootstrap_says_where_there_is_no_interval():
    generator = np.random.default_rng(7)
    two, flat = np.array([1.0, 2.0]), np.array([3.0, 3.0])
    assert two_sample_interval(two[:1], flat, mean_difference, generator=generator) is None
    assert two_sample_interval(two, flat, standardised_difference, generator=generator) is None  # half have no spread
    assert two_sample_interval(flat - 1, flat, standardised_difference, generator=generator) is None  # d is infinite
    constant = two_sample_interval(flat - 1, flat, mean_difference, generator=generator)
    assert constant is not None
    assert (constant.method, constant.low, constant.high) == ("constant", -1.0, -1.0)
    with pytest.raises(InputError, match="level"):
        two_sample_interval(two, flat, mean_difference, level=2.0, generator=generator)


def test_min_f_by_hand():
    """F₁ = 4 with 2 degrees of freedom and F₂ = 9 with 20: min F′ = 36 / 13, df = 169 / (16 / 20 + 81 / 2)."""
    differences = np.array([0.0, 1.0, 2.0]) * math.sqrt(3) / 2 + (1 - math.sqrt(3) / 2)
    assert float(stats.ttest_1samp(differences, 0).statistic) ** 2 == pytest.approx(4)
    found = min_f(TTest(t=-3.0, df=20.0, p=0.007), differences)
    assert found is not None
    assert (found.f, found.df) == pytest.approx((36 / 13, 169 / (16 / 20 + 81 / 2)))
    assert found.p == pytest.approx(stats.f.sf(36 / 13, 1, 169 / (0.8 + 40.5)))


def test_min_f_is_below_both_and_the_test_of_items_where_raters_do_not_differ():
    test = TTest(t=2.5, df=18.0, p=float(2 * stats.t.sf(2.5, 18)))
    same = min_f(test, np.array([0.5, 0.5, 0.5]))
    assert same is not None
    assert same.p == pytest.approx(test.p)
    differ = min_f(test, np.array([0.5, 1.5, 0.4]))
    assert differ is not None
    assert differ.p > test.p
    assert min_f(test, np.array([0.5])) is None
    nothing = min_f(test, np.zeros(2))
    assert nothing is not None
    assert nothing.p == 1.0


def test_infinite_d_has_its_sign():
    assert standardised_difference(np.array([1.0, 1.0]), np.array([2.0, 2.0])) == -math.inf
