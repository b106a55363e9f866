import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unweave.core.errors import InputError
from unweave.testing import Planted, planted


@given(
    n=st.integers(1, 40),
    d_in=st.integers(1, 9),
    n_features=st.integers(1, 12),
    l0=st.integers(1, 12),
    non_negative=st.booleans(),
    seed=st.integers(0, 100),
)
def test_rows_are_sums_of_l0_unit_directions(
    n: int, d_in: int, n_features: int, l0: int, non_negative: bool, seed: int
) -> None:
    l0 = min(l0, n_features)
    data = planted(n, d_in=d_in, n_features=n_features, l0=l0, noise=0, non_negative=non_negative, seed=seed)
    assert data.rows.shape == (n, d_in)
    torch.testing.assert_close(data.directions.norm(dim=1), torch.ones(n_features))
    assert ((data.codes != 0).sum(1) == l0).all()
    active = data.codes[data.codes != 0]
    assert active.min() >= 0.5
    assert active.max() < 1.5
    torch.testing.assert_close(data.rows, data.codes @ data.directions)
    if non_negative:
        assert data.directions.min() >= 0


def test_the_noise_is_as_large_as_was_asked_for() -> None:
    data = planted(5000, noise=0.3)
    noise = data.rows - data.codes @ data.directions
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)
    assert abs(float(noise.mean())) < 0.01


def test_every_feature_is_as_frequent_as_every_other() -> None:
    share = (planted(20_000, n_features=24, l0=3).codes != 0).float().mean(0)
    torch.testing.assert_close(share, torch.full((24,), 3 / 24), atol=4 * (0.125 * 0.875 / 20_000) ** 0.5, rtol=0)


def test_rows_without_negative_entries_have_spread_directions() -> None:
    data = planted(500, d_in=400, n_features=50, noise=0.05, non_negative=True)
    assert data.rows.min() >= 0
    cosines = data.directions @ data.directions.T
    # E|g|³² / E g⁶ = (8 / π) / 15 for a standard normal g.
    assert float((cosines.sum() - 50) / (50 * 49)) == pytest.approx(8 / (torch.pi * 15), abs=0.02)


def test_the_seed_decides_everything() -> None:
    first, again, other = planted(30, seed=1), planted(30, seed=1), planted(30, seed=2)
    assert torch.equal(first.rows, again.rows)
    assert torch.equal(first.codes, again.codes)
    assert not torch.equal(first.rows, other.rows)
    assert not torch.equal(first.directions, other.directions)
    assert torch.equal(first.directions, planted(7, seed=1).directions)
    before = torch.get_rng_state()
    planted(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_cosines_by_hand() -> None:
    truth = Planted(torch.zeros(1, 2), torch.tensor([[1.0, 0], [0, 1]]), torch.zeros(1, 2))
    # (3, 4)/5 has cosines 0.6 and 0.8; (−7, 0) points away from the first; the longest does not win by its length.
    assert truth.cosines(torch.tensor([[30.0, 40], [-7, 0]])).tolist() == pytest.approx([0.6, 0.8])
    assert truth.cosines(torch.tensor([[0.0, 0]])).tolist() == [0, 0]
    assert planted(1).cosines(planted(1).directions.flip(0) * 9).tolist() == pytest.approx([1] * 24)


@pytest.mark.parametrize(
    "wrong",
    [{"n": 0}, {"d_in": 0}, {"n_features": 0}, {"l0": 0}, {"l0": 25}, {"noise": -1.0}, {"noise": float("nan")}],
)
def test_sizes_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        planted(**{"n": 3, **wrong})
