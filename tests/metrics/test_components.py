import math

import numpy as np
import pytest
import torch
from sklearn import decomposition

from unweave.metrics.components import components_to_match

ROWS = torch.diag(torch.tensor([4.0, 2.0, 1.0])).repeat(2, 1) * torch.tensor([1.0] * 3 + [-1.0] * 3).unsqueeze(1)


@pytest.mark.parametrize(
    ("explained", "needed"), [(0.1, 1), (16 / 21, 1), (0.8, 2), (20 / 21, 2), (0.99, 3), (0.9999, 3)]
)
def test_by_hand(explained, needed):
    # Variances 16, 4 and 1 along the axes.
    found = components_to_match(explained - 1e-9, ROWS.split(4), torch.zeros(3), torch.eye(3))
    assert found == needed


def test_not_a_number_where_none_suffice():
    assert math.isnan(components_to_match(0.99, [ROWS], torch.zeros(3), torch.eye(3)[:1]))


@pytest.mark.parametrize("block", [7, 500])
def test_as_scikit_learn_counts(block):
    rows = torch.randn(500, 12, generator=torch.Generator().manual_seed(0)) * torch.arange(12, 0, -1) + 5
    reference = decomposition.PCA().fit(rows.numpy())
    cumulative = np.cumsum(reference.explained_variance_ratio_)
    mean, components = torch.tensor(reference.mean_), torch.tensor(reference.components_)
    for explained in (0.3, 0.8, 0.95):
        expected = int(np.searchsorted(cumulative, explained)) + 1
        assert components_to_match(explained, rows.split(block), mean, components) == expected
