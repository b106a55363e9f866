"""The label-permutation null: exact bounds, uniform where nothing is there, and the same as shuffling labels."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, kstest

from unweave.core.errors import InputError
from unweave.metrics.labels import mutual_information
from unweave.stats.multiple import benjamini_hochberg
from unweave.stats.permutation import difference_p, label_permutation_p, permutation_p


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def p_of(counts, totals, *, permutations=199, seed=0, statistic=mutual_information):
    counts, totals = np.asarray(counts, np.float64), np.asarray(totals, np.int64)
    return label_permutation_p(counts, totals, statistic, permutations=permutations, generator=rng(seed))


@pytest.mark.parametrize("permutations", [1, 19, 999])
def test_the_smallest_p_is_one_in_m_plus_one(permutations):
    assert p_of([[50, 0]], [50, 50], permutations=permutations).tolist() == [1 / (permutations + 1)]


def test_what_cannot_depend_on_the_class_has_p_1():
    assert p_of([[0, 0], [30, 70]], [30, 70]).tolist() == [1, 1]
    assert p_of([[0], [3], [5]], [5]).tolist() == [1, 1, 1]  # a single class


def test_the_observed_table_counts_as_reached():
    """One firing row of two: every shuffle gives the same information, so every one reaches it."""
    assert p_of([[1, 0], [0, 1]], [1, 1]).tolist() == [1, 1]


def test_p_is_b_plus_1_over_m_plus_1_for_a_known_null():
    def third_class(counts, totals):
        return counts[..., 2]

    drawn = rng(7).multivariate_hypergeometric([5, 5, 10], 6, size=99)
    for observed in range(7):
        expected = ((drawn[:, 2] >= observed).sum() + 1) / 100
        found = p_of([[6 - observed, 0, observed]], [5, 5, 10], permutations=99, seed=7, statistic=third_class)
        assert found.tolist() == [expected]


def test_p_is_that_of_shuffling_the_labels():
    """A moderately selective latent among 60 examples: the p-value of 4,000 shuffles, within its noise."""
    label = np.repeat([0, 1, 2], [10, 20, 30])
    fires = np.zeros(60, bool)
    fires[[0, 1, 2, 3, 4, 12, 14, 31, 35, 40, 50, 59]] = True
    totals = np.bincount(label)
    counts = np.bincount(label[fires], minlength=3).astype(np.float64)
    observed = mutual_information(counts[None], totals)[0]
    generator = rng(1)
    tables = np.stack([np.bincount(generator.permutation(label)[fires], minlength=3) for _ in range(4000)])
    reached = (mutual_information(tables.astype(np.float64), totals) >= observed - 1e-12).mean()
    found = p_of([counts], totals, permutations=4000)[0]
    assert 0.005 < reached < 0.2
    assert found == pytest.approx(reached, abs=5 * (2 * reached / 4000) ** 0.5)


def test_p_is_uniform_where_firing_says_nothing():
    """Different numbers of firing rows, so that latents do not share a null; ties make p a little too large at most."""
    generator, totals = rng(3), np.array([300, 400, 300])
    firing = generator.permutation(np.arange(100, 500))
    counts = np.stack([generator.multivariate_hypergeometric(totals, n) for n in firing])
    p = p_of(counts, totals, permutations=199, seed=4)
    assert kstest(p, "uniform").pvalue > 1e-3
    assert (p <= 0.05).mean() < 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_the_seed_decides_and_other_latents_of_the_same_rate_share_the_null():
    counts, totals = [[6, 4], [3, 2], [6, 4], [2, 8]], [20, 20]
    p = p_of(counts, totals, seed=5)
    assert p.tolist() == p_of(counts, totals, seed=5).tolist()
    assert p[0] == p[2]
    assert p[3] < p[0]


def test_a_class_without_examples_changes_nothing_that_matters():
    p = p_of([[50, 0, 0], [26, 0, 24]], [50, 0, 50])
    assert p[0] == 1 / 200
    assert p[1] > 0.2


def test_benjamini_hochberg_by_hand():
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.5])
    # Sorted: .005·5/1, .01·5/2, .03·5/3, .04·5/4, .5·5/5; then the smallest from the right.
    assert benjamini_hochberg(p) == pytest.approx([0.025, 0.05, 0.05, 0.025, 0.5])
    assert benjamini_hochberg(p) == pytest.approx(false_discovery_control(p))


def test_benjamini_hochberg_of_nothing_and_of_ones():
    assert len(benjamini_hochberg(np.zeros(0))) == 0
    assert benjamini_hochberg(np.ones(3)).tolist() == [1, 1, 1]


def test_permutation_p_counts_the_observed_arrangement():
    null = np.arange(99.0)
    assert permutation_p(200.0, null) == 1 / 100
    assert permutation_p(-1.0, null) == 1
    assert permutation_p(90.0, null) == 10 / 100  # 90 … 98 reach it
    assert permutation_p(90.0, null, "less") == 92 / 100
    assert permutation_p(90.0, null, "two-sided") == 20 / 100
    assert permutation_p(49.0, null, "two-sided") == 1


def test_rounding_is_no_difference():
    observed = 0.1 + 0.2
    assert permutation_p(observed, np.array([0.3, 0.3, 0.0])) == 3 / 4
    assert permutation_p(1e-17, np.array([0.0, 1.0, -1.0])) == 3 / 4, "the scale is that of the null"
    assert permutation_p(1e8 * observed, 1e8 * np.array([0.3, 0.3, 0.0])) == 3 / 4


def test_a_statistic_without_value():
    assert permutation_p(float("nan"), np.array([1.0])) == 1
    with pytest.raises(InputError, match="NaN under 1 of 2"):
        permutation_p(0.5, np.array([1.0, np.nan]))


def test_the_difference_of_means_tries_every_arrangement_where_it_can():
    """{5, 6} against {1, 2, 3}: of 10 ways to choose two of five, one has so large a mean."""
    first, second = np.array([5, 6]), np.array([1, 2, 3])
    assert difference_p(first, second, generator=rng(), alternative="greater") == pytest.approx(1 / 10)
    assert difference_p(first, second, generator=rng()) == pytest.approx(2 / 10)
    pairs = difference_p(np.array([2, 3, 4]), np.array([1, 1, 1]), generator=rng(), alternative="greater", paired=True)
    assert pairs == pytest.approx(1 / 8)


def test_the_difference_of_means_of_larger_samples_is_drawn():
    generator = rng(2)
    x, y = generator.normal(size=40) + 3, generator.normal(size=40)
    assert difference_p(x, y, permutations=199, generator=rng(), alternative="greater") == 1 / 200
    p = [difference_p(generator.normal(size=12), generator.normal(size=12), permutations=99, generator=generator)
         for _ in range(150)]  # fmt: skip
    assert 0.42 < np.mean(p) < 0.6


def test_samples_need_values():
    with pytest.raises(InputError, match="a value each, got 0 and 2"):
        difference_p(np.zeros(0), np.zeros(2), generator=rng())
    with pytest.raises(InputError, match="one size, got 3 and 2"):
        difference_p(np.zeros(3), np.zeros(2), generator=rng(), paired=True)
