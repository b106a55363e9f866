"""Corrections for many tests against statsmodels and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from unweave.stats.multiple import benjamini_hochberg, holm


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.5])) == pytest.approx([0.04, 0.09, 0.09, 0.5])


@pytest.mark.parametrize("many", [1, 2, 5, 9])
def test_both_are_those_of_statsmodels(many):
    p = np.random.default_rng(many).uniform(0, 0.2, many)
    for ours, method in ((holm, "holm"), (benjamini_hochberg, "fdr_bh")):
        assert ours(p) == pytest.approx(multipletests(p, method=method)[1])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_never_lowers_a_p(p):
    adjusted = holm(np.array(p, np.float64))
    assert (adjusted >= p).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
