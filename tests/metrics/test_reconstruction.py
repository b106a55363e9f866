"""Explained variance and squared error: by hand, against the formula, and whatever the batches."""

import itertools
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from unweave.metrics.reconstruction import ReconstructionSums


def sums(x, x_hat, splits=()) -> ReconstructionSums:
    total = ReconstructionSums(x.shape[1])
    edges = [0, *sorted(splits), len(x)]
    for start, stop in itertools.pairwise(edges):
        total.add(x[start:stop], x_hat[start:stop])
    return total


def formula(x, x_hat) -> float:
    x, x_hat = x.double(), x_hat.double()
    return float(1 - (x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


def test_by_hand():
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    x_hat = torch.tensor([[0.0, 2.0], [2.0, 1.0]])
    total = sums(x, x_hat)
    assert total.sum_squares == (1 + 4) / 2
    assert total.explained_variance == 1 - 5 / 4  # mean (1, 2): 1 + 1 + 1 + 1
    assert total.n == 2


def test_known_values():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert sums(x, x).explained_variance == 1
    assert sums(x, x.mean(0).expand_as(x)).explained_variance == pytest.approx(0, abs=1e-6)
    # About the mean of all rows, not about zero: reconstructing by zero explains less than nothing.
    assert sums(x + 100, torch.zeros_like(x)).explained_variance < -1000


@given(st.integers(0, 10_000), st.integers(2, 40), st.lists(st.integers(0, 40), max_size=6))
def test_batches_do_not_matter(seed, n, splits):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator) * 10 + 5
    x_hat = x + torch.randn(n, 3, generator=generator)
    at_once, in_parts = sums(x, x_hat), sums(x, x_hat, [min(s, n) for s in splits])
    assert in_parts.n == n
    assert in_parts.explained_variance == pytest.approx(at_once.explained_variance, rel=1e-12)
    assert in_parts.sum_squares == pytest.approx(at_once.sum_squares, rel=1e-12)
    assert at_once.explained_variance == pytest.approx(formula(x, x_hat), rel=1e-10)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_a_large_offset_costs_no_digits(offset):
    x = torch.randn(1000, 4, generator=torch.Generator().manual_seed(1)).double() + offset
    x_hat = x + 0.1 * torch.randn(1000, 4, generator=torch.Generator().manual_seed(2))
    assert sums(x, x_hat).explained_variance == pytest.approx(formula(x, x_hat), rel=1e-9)


def test_an_outlier_first_costs_few_digits():
    x = torch.randn(1000, 4, generator=torch.Generator().manual_seed(1)).double()
    x[0] = 1e4
    assert sums(x, x + 0.1).explained_variance == pytest.approx(formula(x, x + 0.1), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-30, 1e30])
def test_rows_that_are_all_the_same_have_no_variance_to_explain(value):
    x = torch.full((7, 3), value)
    assert math.isnan(sums(x, x).explained_variance)
    assert math.isnan(sums(x[:1], x[:1] + 1).explained_variance)


def test_rows_that_differ_by_a_last_bit_are_the_same():
    x = torch.full((50, 4), 0.4176)
    x[::3] = torch.nextafter(x[0], torch.ones(4))
    assert math.isnan(sums(x, x[:1].expand_as(x)).explained_variance)


def test_tiny_variance_is_still_variance():
    x = torch.tensor([[1e-20], [3e-20]])
    assert sums(x, x).explained_variance == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_rows_are_summed_in_double(dtype):
    x = torch.full((5000, 1), 3.0, dtype=dtype)
    x[::2] = 1.0
    total = sums(x, torch.zeros_like(x))
    assert total.sum_squares == 5.0
    assert total.explained_variance == 1 - 25_000 / 5000
