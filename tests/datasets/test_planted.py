"""Rows that are sums of known directions: what was asked for is what is there."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

import unweave as uw
from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError
from unweave.datasets.planted import Planted
from unweave.datasets.rows import KnownRows, RowsConfig

N = 20_000


def fires(made: KnownRows) -> np.ndarray:
    return (made.sources != 0).numpy()


def standard_error(p: np.ndarray | float) -> np.ndarray:
    return np.sqrt(np.asarray(p) * (1 - np.asarray(p)) / N)


@given(
    n=st.integers(1, 30),
    d_in=st.integers(1, 9),
    n_features=st.integers(1, 14),
    depth=st.integers(1, 3),
    correlation=st.sampled_from([0.0, 0.5, 1.0]),
    magnitude=st.sampled_from(["uniform", "half-normal", "lognormal", "exponential", "constant"]),
    non_negative=st.booleans(),
    seed=st.integers(0, 50),
)
def test_rows_are_sums_of_unit_directions(
    n: int, d_in: int, n_features: int, depth: int, correlation: float, magnitude: Any, non_negative: bool, seed: int
) -> None:
    config = Planted(
        d_in=d_in, n_features=n_features, l0=0.9, exponent=0.2, depth=depth, correlation=correlation,
        magnitude=magnitude, noise=0, non_negative=non_negative,
    )  # fmt: skip
    made = config.make(n, seed=seed)
    assert made.directions is not None
    assert made.rows.shape == (n, d_in)
    assert made.sources.shape == (n, n_features)
    assert made.sources.min() >= 0
    torch.testing.assert_close(made.directions.norm(dim=1), torch.ones(n_features))
    torch.testing.assert_close(made.rows, made.sources @ made.directions)
    if non_negative:
        assert made.directions.min() >= 0


def test_frequencies_follow_the_power_law_and_sum_to_l0() -> None:
    config = Planted(n_features=40, l0=3, exponent=0.8)
    expected = config.frequencies().numpy()
    assert expected.sum() == pytest.approx(3)
    assert expected[9] / expected[0] == pytest.approx(10**-0.8)
    found = fires(config.make(N, seed=1))
    assert np.all(np.abs(found.mean(0) - expected) < 4.5 * standard_error(expected))
    assert found.sum(1).mean() == pytest.approx(3, abs=5 * math.sqrt((expected * (1 - expected)).sum() / N))


def test_without_correlation_features_fire_by_themselves() -> None:
    found = fires(Planted(n_features=12, l0=3, exponent=0.5).make(N, seed=2)).astype(float)
    between = np.corrcoef(found.T)[~np.eye(12, dtype=bool)]
    assert np.abs(between).max() < 5 / math.sqrt(N)


def test_features_of_a_group_fire_together_as_the_copula_says() -> None:
    config = Planted(n_features=12, l0=3, exponent=0, correlation=0.6, group=3)
    found = fires(config.make(N, seed=3))
    p = 0.25
    np.testing.assert_allclose(found.mean(0), p, atol=4.5 * float(standard_error(p)))
    both = multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]]).cdf([norm.ppf(p)] * 2)
    for first, second in ((0, 1), (4, 5), (9, 11)):
        together = (found[:, first] & found[:, second]).mean()
        assert together == pytest.approx(both, abs=4.5 * float(standard_error(both)))
    apart = (found[:, 0] & found[:, 3]).mean()
    assert apart == pytest.approx(p * p, abs=4.5 * float(standard_error(p * p)))


def test_a_correlation_of_1_makes_a_group_fire_as_one() -> None:
    found = fires(Planted(n_features=6, l0=1.5, exponent=0, correlation=1, group=3).make(500, seed=4))
    assert np.array_equal(found[:, 0], found[:, 1])
    assert np.array_equal(found[:, 3], found[:, 5])
    assert not np.array_equal(found[:, 0], found[:, 3])


def test_children_fire_only_with_their_parent() -> None:
    config = Planted(n_features=21, l0=3, exponent=0.3, depth=3, branching=2, child_share=0.4)
    assert config.levels().tolist() == [0] * 3 + [1] * 6 + [2] * 12
    assert config.parents().tolist() == [-1] * 3 + [0, 0, 1, 1, 2, 2] + [i for i in range(3, 9) for _ in range(2)]
    expected = config.frequencies().numpy()
    parents = config.parents().numpy()
    assert expected.sum() == pytest.approx(3)
    assert expected[1] / expected[0] == pytest.approx(2**-0.3)
    found = fires(config.make(N, seed=5))
    for child in range(3, 21):
        parent = parents[child]
        assert not (found[:, child] & ~found[:, parent]).any()
        assert expected[child] == pytest.approx(0.4 * expected[parent])
    assert np.all(np.abs(found.mean(0) - expected) < 4.5 * standard_error(expected))


def test_a_forest_that_does_not_come_out_even_is_cut_off() -> None:
    config = Planted(n_features=5, l0=1, depth=2, branching=3)
    assert config.levels().tolist() == [0, 0, 1, 1, 1]
    assert config.parents().tolist() == [-1, -1, 0, 0, 0]
    assert Planted(n_features=2, l0=1, depth=4).levels().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("magnitude", "variance"),
    [
        ("uniform", 1 / 12),
        ("half-normal", math.pi / 2 - 1),
        ("lognormal", math.exp(0.25) - 1),
        ("exponential", 1.0),
        ("constant", 0.0),
    ],
)
def test_every_law_of_magnitudes_has_mean_1(magnitude: Any, variance: float) -> None:
    made = Planted(n_features=8, l0=4, exponent=0, magnitude=magnitude).make(N, seed=6)
    values = made.sources[made.sources != 0].double()
    assert float(values.mean()) == pytest.approx(1, abs=5 * math.sqrt(variance / len(values)) + 1e-9)
    assert float(values.var()) == pytest.approx(variance, rel=0.06, abs=1e-9)


def test_the_noise_is_as_large_as_was_asked_for() -> None:
    made = Planted(noise=0.2).make(4000, seed=7)
    assert made.directions is not None
    noise = made.rows - made.sources @ made.directions
    assert float(noise.std()) == pytest.approx(0.2, rel=0.01)
    assert float(Planted(noise=0.2, non_negative=True).make(100, seed=7).rows.min()) == 0


def test_exact_rows_have_l0_features_each() -> None:
    found = fires(Planted(n_features=10, l0=4, count="exact", exponent=0).make(500, seed=8))
    assert (found.sum(1) == 4).all()


def test_splits_share_directions_and_nothing_else() -> None:
    config = Planted(n_features=8, d_in=5, l0=2)
    train, again, test = config.make(50, seed=1), config.make(50, seed=1), config.make(50, seed=1, split="test")
    longer, other = config.make(80, seed=1), config.make(50, seed=2)
    for one in (again, test, longer):
        assert torch.equal(one.directions, train.directions)  # type: ignore[arg-type]
    assert torch.equal(again.rows, train.rows)
    assert not torch.equal(test.rows, train.rows)
    assert not torch.equal(other.directions, train.directions)  # type: ignore[arg-type]
    assert len(config.make(seed=1).rows) == config.n
    before = torch.get_rng_state()
    config.make(3, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"d_in": 0}, "d_in must be at least 1"),
        ({"l0": 0}, "l0 must be above 0"),
        ({"l0": 200}, "up to n_features"),
        ({"noise": -1.0}, "noise must be at least 0"),
        ({"noise": math.nan}, "noise must be at least 0"),
        ({"correlation": 1.5}, "between 0 and 1"),
        ({"child_share": 0.0}, "child_share"),
        ({"exponent": 2.0, "l0": 8}, "would fire on 4.. % of the rows"),
        ({"count": "exact", "l0": 2.5, "exponent": 0}, "whole l0"),
        ({"count": "exact", "l0": 2}, "goes with exponent 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Planted(**options)


def test_no_rows_are_refused() -> None:
    with pytest.raises(InputError, match="n must be at least 1"):
        Planted().make(0, seed=0)


@pytest.mark.parametrize("member", RowsConfig.registry.members().values(), ids=lambda member: member.kind)
def test_every_row_data_set_is_at_hand_and_reads_back(member: type[RowsConfig], tmp_path: Path) -> None:
    assert getattr(uw, member.__name__) is member
    assert member.__name__ in dir(uw)
    config = member()
    assert from_json(RowsConfig, to_json(config)) == config
    made = config.make(7, seed=0)
    assert made.rows.shape[0] == made.sources.shape[0] == 7
    assert made.rows.dtype == made.sources.dtype == torch.float32
    assert made.rows.isfinite().all()
