"""Bootstrap intervals: scipy's own, their coverage, and clear answers where data are degenerate."""

import warnings

import numpy as np
import pytest
from scipy import stats

from unweave.core.errors import InputError
from unweave.stats.bootstrap import bootstrap_interval, mean_band


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_bca_of_a_mean_is_scipys():
    values = rng(1).exponential(size=30)
    found = bootstrap_interval(values, resamples=999, generator=rng(2))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=999, method="BCa", random_state=rng(2))
    assert found.estimate == values.mean()
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval))
    assert (found.n, found.level, found.method) == (30, 0.95, "BCa")


def test_rows_stay_together():
    """A correlation of pairs: drawn as pairs it stays near 1, drawn apart it would fall to 0."""
    x = rng(3).normal(size=60)
    pairs = np.stack([x, x + 0.1 * rng(4).normal(size=60)], 1)
    found = bootstrap_interval(pairs, lambda rows: np.corrcoef(rows.T)[0, 1], resamples=500, generator=rng(5))
    assert 0.97 < found.low < found.estimate < found.high < 1


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_intervals_of_means_hold_the_truth_as_often_as_they_say(method):
    generator = rng(6)
    held = 0
    for _ in range(300):
        found = bootstrap_interval(
            generator.normal(size=40), resamples=400, generator=generator, level=0.9, method=method
        )
        held += found.low <= 0 <= found.high
    assert 0.83 < held / 300 < 0.95  # 0.9 within 3 standard errors, and the bootstrap's slight optimism


def test_degenerate_rows_have_a_clear_answer_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = bootstrap_interval(np.full(5, 2.5), generator=rng())
        assert (same.low, same.high, same.method) == (2.5, 2.5, "constant")
        insensitive = bootstrap_interval(np.arange(5.0), lambda rows: 7.0, resamples=99, generator=rng())
        assert (insensitive.low, insensitive.high, insensitive.method) == (7, 7, "constant")
        outside = bootstrap_interval(np.arange(9.0), lambda rows: float(len(set(rows))), resamples=99, generator=rng())
        assert outside.method == "percentile"
        assert 3 <= outside.low <= outside.high < outside.estimate == 9


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="at least two rows, got 1"):
        bootstrap_interval(np.ones(1), generator=rng())
    with pytest.raises(InputError, match="finite"):
        bootstrap_interval(np.array([1.0, np.nan]), generator=rng())
    with pytest.raises(InputError, match="level"):
        bootstrap_interval(np.arange(3.0), level=95, generator=rng())
    with pytest.raises(InputError, match="NaN for"):
        bootstrap_interval(np.arange(4.0), lambda rows: 1.0 if len(set(rows)) > 1 else np.nan, generator=rng())


def test_the_generator_decides():
    values = rng(1).normal(size=20)
    assert bootstrap_interval(values, generator=rng(1)) == bootstrap_interval(values, generator=rng(1))
    assert bootstrap_interval(values, generator=rng(1)) != bootstrap_interval(values, generator=rng(2))


def test_it_prints_as_a_number_with_its_interval():
    assert str(bootstrap_interval(np.full(3, 0.5), generator=rng())) == "0.5 [0.5, 0.5]"


def test_a_band_holds_each_columns_mean_as_a_single_bootstrap_does():
    values = rng(2).normal(size=(200, 3)) * [1, 5, 0] + [0, 10, 4]
    low, high = mean_band(values, resamples=4000, generator=rng(3))
    error = 1.96 * values.std(0) / 200**0.5
    assert high - low == pytest.approx(2 * error, rel=0.06)
    assert (low + high) / 2 == pytest.approx(values.mean(0), abs=0.1)
    assert low[2] == high[2] == 4


def test_a_band_does_not_depend_on_how_draws_are_batched(monkeypatch):
    values = rng(2).normal(size=(20, 2))
    whole = mean_band(values, resamples=50, generator=rng(3))
    monkeypatch.setattr("unweave.stats.bootstrap._BATCH_VALUES", 60)
    assert mean_band(values, resamples=50, generator=rng(3)) == pytest.approx(whole)


def test_a_band_of_one_row_is_that_row():
    assert mean_band(np.array([[1.0, 2.0]]), generator=rng()).tolist() == [[1, 2], [1, 2]]
    with pytest.raises(InputError, match="at least one row"):
        mean_band(np.zeros((0, 2)), generator=rng())
