"""Latents that fire together: by hand, against dense arrays, and against shuffled rows."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from unweave.core.codes import Codes
from unweave.metrics.coactivation import coactivation, shared_rows
from unweave.metrics.entries import by_latent

DENSE = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0]])
CODES = Codes.from_dense(DENSE)


def test_by_hand():
    entries = by_latent(CODES)
    shared = shared_rows(CODES, entries.of(0)[0])
    assert shared.tolist() == [3, 2, 2, 0]
    found = coactivation(shared, 3, entries.counts, 5)
    assert found.expected.tolist() == pytest.approx([9 / 5, 6 / 5, 12 / 5, 0])
    assert found.lift[:3].tolist() == pytest.approx([5 / 3, 5 / 3, 5 / 6])
    assert np.isnan(found.lift[3])
    assert found.jaccard.tolist() == pytest.approx([1, 2 / 3, 2 / 5, 0])
    for k, count in enumerate((3, 2, 4)):
        null = hypergeom(5, 3, count)
        assert found.expected[k] == pytest.approx(null.mean())
        assert found.z[k] == pytest.approx((shared[k] - null.mean()) / null.std())
    assert np.isnan(found.z[3])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000))
def test_shared_rows_against_dense_arrays(random_codes, seed):
    codes, dense = random_codes(seed)
    entries = by_latent(codes)
    for j in range(codes.d_sae):
        both = ((dense > 0) & (dense[:, [j]] > 0)).sum(0)
        assert shared_rows(codes, entries.of(j)[0]).tolist() == both.tolist()


def test_nothing_is_shared_beyond_chance_where_rows_are_dealt_out():
    rng = np.random.default_rng(0)
    dense = np.stack([rng.permutation(np.arange(4000) < count) for count in (400, 40, 2000, 4000, 0)], 1)
    codes = Codes.from_dense(torch.from_numpy(dense).float())
    entries = by_latent(codes)
    for j in range(4):
        found = coactivation(shared_rows(codes, entries.of(j)[0]), int(entries.counts[j]), entries.counts, 4000)
        others = [k for k in range(3) if k != j]
        if j != 3:
            assert np.abs(found.z[others]).max() < 3
        assert np.isnan(found.z[3:]).all(), "who fires always or never shares what it must"


def test_without_rows_nothing_is_shared():
    empty = Codes(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), 3)
    shared = shared_rows(empty, np.zeros(0, np.int32))
    found = coactivation(shared, 0, shared, 0)
    assert shared.tolist() == found.jaccard.tolist() == [0, 0, 0]
    assert np.isnan(found.z).all()
