"""Random sparse codes and their dense form."""

import numpy as np
import pytest
import torch

from unweave.core.codes import Codes


@pytest.fixture
def random_codes():
    """A function: codes [n, d] of a seed, some rows and some latents empty, values from few levels so that they tie."""

    def make(seed: int, n: int = 60, d: int = 8, *, levels: int | None = 4, density: float = 0.3):
        rng = np.random.default_rng(seed)
        values = rng.integers(1, levels + 1, (n, d)) / 2 if levels else rng.exponential(size=(n, d))
        dense = np.where(rng.random((n, d)) < density, values, 0).astype(np.float32)
        dense[rng.integers(n, size=3)] = 0
        dense[:, -1] = 0
        dense[:, 0] = 1.5
        return Codes.from_dense(torch.from_numpy(dense)), dense

    return make
