"""Importance in closed form, against taking latents out one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unweave.core.codes import Codes
from unweave.metrics.ablation import (
    divergence,
    divergence_offset,
    divergence_rises,
    effective_number,
    entry_error_rises,
    error_rises,
    mean_rises,
)


def _case(seed: int, n: int, d_in: int, d_sae: int, density: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, codes and directions; many codes are zero, as after a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d_in, generator=generator, dtype=torch.float64)
    codes = torch.rand(n, d_sae, generator=generator, dtype=torch.float64)
    codes = torch.where(torch.rand(n, d_sae, generator=generator) < density, codes, 0.0)
    return x, codes, torch.randn(d_sae, d_in, generator=generator, dtype=torch.float64)


def _loop(x: torch.Tensor, codes: torch.Tensor, directions: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Every latent set to zero in turn, and the rows decoded anew."""
    whole = (x - codes @ directions - bias).square().sum(1)
    rises = []
    for latent in range(codes.shape[1]):
        without = codes.clone()
        without[:, latent] = 0
        rises.append((x - without @ directions - bias).square().sum(1) - whole)
    return torch.stack(rises, 1)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 9),
    d_in=st.integers(1, 6),
    d_sae=st.integers(1, 8),
    density=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_every_latent_and_row_is_what_the_loop_gives(seed: int, n: int, d_in: int, d_sae: int, density: float) -> None:
    x, codes, directions = _case(seed, n, d_in, d_sae, density)
    bias = torch.linspace(-1, 1, d_in, dtype=torch.float64)
    residual = x - codes @ directions - bias
    assert torch.allclose(error_rises(codes, residual, directions), _loop(x, codes, directions, bias), atol=1e-10)


@pytest.mark.parametrize("density", [0.005, 0.5])  # below and above what makes dense products worth while
def test_sparse_codes_give_the_same_as_dense_ones(density: float) -> None:
    x, codes, directions = (tensor.float() for tensor in _case(0, 300, 7, 50, density))
    residual = x - codes @ directions
    dense, sparse = error_rises(codes, residual, directions), Codes.from_dense(codes)
    at_entries = dense[torch.from_numpy(sparse.row()).long(), torch.from_numpy(sparse.latent).long()]
    np.testing.assert_allclose(entry_error_rises(sparse, residual, directions), at_entries, rtol=2e-4, atol=1e-5)
    assert dense[codes == 0].abs().max() == 0


def test_class_means_count_silent_rows_too() -> None:
    codes = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 3.0]])
    rises = np.array([10.0, 20.0, 30.0])  # of entries (0, 0), (2, 0), (2, 1)
    label = np.array([0, 0, 2])
    means = mean_rises(Codes.from_dense(codes), rises, label, 3)
    np.testing.assert_array_equal(means, [[5.0, 0.0], [0.0, 0.0], [20.0, 30.0]])


@given(seed=st.integers(0, 10_000), rho=st.sampled_from([0.1, 0.5, 0.999]))
def test_the_rise_of_a_rows_divergence_is_what_the_loop_gives(seed: int, rho: float) -> None:
    _, codes, _ = _case(seed, 4, 2, 5, 0.6)
    whole = divergence(codes, rho).sum(1)
    rises = divergence_rises(codes, rho)
    for latent in range(5):
        without = codes.clone()
        without[:, latent] = 0
        torch.testing.assert_close(rises[:, latent], divergence(without, rho).sum(1) - whole)


def test_divergence_of_known_numbers() -> None:
    assert float(divergence(torch.tensor(0.5), 0.5)) == pytest.approx(0.0, abs=1e-12)
    expected = 0.1 * np.log(0.1 / 0.3) + 0.9 * np.log(0.9 / 0.7)
    assert float(divergence(torch.tensor(0.3, dtype=torch.float64), 0.1)) == pytest.approx(expected)
    assert torch.isfinite(divergence(torch.tensor([0.0, 1.0, 7.0]), 0.1)).all()


@given(seed=st.integers(0, 10_000), rho=st.sampled_from([0.05, 0.5, 0.9]))
def test_the_divergence_of_a_mean_is_never_above_the_mean_of_divergences(seed: int, rho: float) -> None:
    _, codes, _ = _case(seed, 6, 2, 4, 0.7)
    assert divergence_offset(codes, rho) >= -1e-12


def test_rows_that_are_all_alike_have_no_offset() -> None:
    assert divergence_offset(torch.full((5, 3), 0.2), 0.1) == pytest.approx(0.0, abs=1e-9)


def test_importance_is_spread_over_as_many_latents_as_share_it() -> None:
    importance = np.array([[1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0]])
    np.testing.assert_allclose(effective_number(importance), [4.0, 1.0, np.nan, 2.0])
