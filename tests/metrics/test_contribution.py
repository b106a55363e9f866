import numpy as np
import torch

from unweave.core.codes import Codes
from unweave.metrics.contribution import contribution_shares
from unweave.metrics.entries import by_latent
from unweave.metrics.reconstruction import ReconstructionSums

DENSE = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


def test_by_hand():
    shares = contribution_shares(by_latent(Codes.from_dense(DENSE)), np.array([1.0, 2.0, 5.0]), 8.0)
    assert shares.tolist() == [(1 + 9) / 4 / 8, 4 * 4 / 4 / 8, 0]


def test_rows_of_their_own_scale_by_hand():
    scales = np.array([0.5, 2.0, 1.0, 7.0], dtype=np.float32)
    shares = contribution_shares(by_latent(Codes.from_dense(DENSE)), np.array([1.0, 2.0, 5.0]), 8.0, scales)
    assert shares.tolist() == [(4 + 9) / 4 / 8, 4 * 1 / 4 / 8, 0]


def test_orthogonal_latents_about_their_mean_share_the_explained_variance_out():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(4000, 3, generator=generator)  # of both signs, so that their mean is next to nothing
    directions = torch.linalg.qr(torch.randn(5, 3, generator=generator))[0].T * torch.tensor([[1.0], [2], [3]])
    rows = codes @ directions + 0.5 * torch.randn(4000, 5, generator=generator)
    sums = ReconstructionSums(5)
    sums.add(rows, codes @ directions)
    entries = by_latent(Codes.from_dense(codes))
    shares = contribution_shares(entries, directions.norm(dim=1).numpy(), sums.variance)
    assert np.allclose(sums.variance, float(rows.double().var(0, correction=0).sum()))
    assert np.allclose(shares.sum(), sums.explained_variance, atol=0.02)
    assert np.allclose(shares, np.array([1, 4, 9]) / (14 + 5 / 4), atol=0.03)


def test_rows_that_are_all_the_same_have_no_shares():
    sums = ReconstructionSums(2)
    sums.add(torch.ones(4, 2), torch.ones(4, 2))
    assert sums.variance == 0
    assert np.isnan(contribution_shares(by_latent(Codes.from_dense(DENSE)), np.ones(3), sums.variance)).all()
