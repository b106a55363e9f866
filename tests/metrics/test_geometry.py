"""Cosines, and the correlation of matrices as it was published."""

import numpy as np
import pytest
import torch

from unweave.metrics.geometry import cosine_similarities, entry_correlation


def test_cosines_of_known_vectors() -> None:
    vectors = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0]])
    expected = [[1, 1, 0, -1, 0], [1, 1, 0, -1, 0], [0, 0, 1, 0, 0], [-1, -1, 0, 1, 0], [0, 0, 0, 0, 0]]
    torch.testing.assert_close(cosine_similarities(vectors), torch.tensor(expected, dtype=torch.float64))


def test_shared_diagonals_make_unrelated_matrices_correlate() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (1 - cosine_similarities(torch.rand(12, 6, generator=generator)) for _ in range(2))
    upper = np.triu_indices(12, 1)
    alone = np.corrcoef(a.numpy()[upper], b.numpy()[upper])[0, 1]
    assert entry_correlation(a, b) > alone + 0.2
    assert entry_correlation(a, a) == pytest.approx(1.0)
