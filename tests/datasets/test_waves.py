"""The two-source experiment's data."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from unweave.core.errors import InputError
from unweave.datasets.waves import Waves


def test_a_few_moments_by_hand() -> None:
    # Four moments of one period: t = 0, 2π/3, 4π/3, 2π; half a step later: π/3, π, 5π/3, ...
    made = Waves(n=4, periods=1).make(seed=0)
    root = math.sqrt(0.75)
    torch.testing.assert_close(made.sources[:, 0], torch.tensor([1, 1 + root, 1 - root, 1]))
    torch.testing.assert_close(made.rows[0], made.sources[0] @ torch.tensor([[1, 0.4], [0.6, 1]]))
    assert made.sources[0, 1] == 1  # sign(0) + 1
    held_out = Waves(n=4, periods=1).make(seed=0, split="test")
    torch.testing.assert_close(held_out.sources[:3, 0], torch.tensor([1 + root, 1, 1 - root]), atol=1e-6, rtol=0)
    assert made.directions is not None
    assert made.directions.tolist() == [pytest.approx([1, 0.4]), pytest.approx([0.6, 1])]


def test_the_published_data() -> None:
    made = Waves().make(seed=0)
    assert made.rows.shape == (3000, 2)
    s1, s2 = made.sources.double().numpy().T
    assert abs(np.corrcoef(s1, s2)[0, 1]) < 1e-3
    # Variances 1/2 and 1: x1 = s1 + 0.6 s2 and x2 = 0.4 s1 + s2 have r² = 0.5/0.86 with s1 and 1/1.08 with s2.
    x1, x2 = made.rows.double().numpy().T
    assert np.corrcoef(s1, x1)[0, 1] == pytest.approx(math.sqrt(0.5 / 0.86), abs=1e-3)
    assert np.corrcoef(s2, x2)[0, 1] == pytest.approx(math.sqrt(1 / 1.08), abs=1e-3)
    # Uncorrelated, and yet the second is a function of the first.
    away = np.abs(s2 - 1) > 0.5
    clear = away & (np.abs(3 * (s1 - 1) - 4 * (s1 - 1) ** 3) > 1e-3)
    assert np.array_equal(np.sign(3 * (s1 - 1) - 4 * (s1 - 1) ** 3)[clear], (s2 - 1)[clear])


def test_only_noise_is_drawn() -> None:
    assert torch.equal(Waves().make(seed=0).rows, Waves().make(seed=1).rows)
    noisy = Waves(noise=0.3)
    first, again, other = (noisy.make(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.rows, again.rows)
    assert not torch.equal(first.rows, other.rows)
    assert torch.equal(first.sources, other.sources)
    assert float((first.rows - Waves().make(seed=0).rows).std()) == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"periods": 0.0}, {"noise": -0.1}, {"mixing": ((1.0, math.inf), (0.0, 1.0))}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Waves(**wrong)
