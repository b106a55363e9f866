"""Power against Cohen's tables, statsmodels and itself turned round."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.power import TTestIndPower

from unweave.core.errors import InputError
from unweave.stats.power import detectable_difference, t_power


@pytest.mark.parametrize(("d", "n"), [(0.2, 393), (0.5, 64), (0.8, 26)])
def test_cohens_sample_sizes_for_80_percent(d, n):
    """Cohen (1988), table 2.4.1: n a group at alpha 0.05, two-sided."""
    assert t_power(d, n, n) == pytest.approx(0.8, abs=0.01)


@given(st.floats(0, 1), st.integers(2, 60), st.integers(2, 60), st.sampled_from([0.05, 0.01, 0.05 / 3]))
def test_power_is_that_of_statsmodels(d, n, m, alpha):
    expected = TTestIndPower().power(d, n, alpha, ratio=m / n)
    assert t_power(d, n, m, alpha=alpha) == pytest.approx(expected, abs=1e-6)
    assert t_power(-d, m, n, alpha=alpha) == pytest.approx(expected, abs=1e-6)


def test_power_of_no_difference_is_alpha():
    assert t_power(0.0, 16, 16, alpha=0.03) == pytest.approx(0.03)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 30), (16, 16), (200, 50)])
def test_detectable_difference_has_the_power_asked_for(n, m):
    assert t_power(detectable_difference(n, m), n, m) == pytest.approx(0.8, abs=1e-6)


def test_sixteen_and_sixteen_see_one_standard_deviation():
    assert detectable_difference(16, 16) == pytest.approx(1.0236, abs=1e-3)
    assert detectable_difference(16, 16, alpha=0.05 / 3) > detectable_difference(16, 16)


def test_what_has_no_power_is_refused():
    with pytest.raises(InputError, match="two values"):
        t_power(0.5, 1, 9)
    with pytest.raises(InputError, match="two values"):
        detectable_difference(1, 9)
    with pytest.raises(InputError, match="between alpha and 1"):
        detectable_difference(9, 9, alpha=0.9)
