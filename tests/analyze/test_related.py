"""Latents beside a latent: against dense arrays, and against what random directions show."""

import numpy as np
import pytest
import torch

from unweave.analyze import Analysis, analyze, related
from unweave.analyze.related import coactive_latents, similar_latents
from unweave.core.errors import InputError


@pytest.fixture
def made(rows, store_of, dictionary_of):
    x, label = rows
    sae = dictionary_of(x)
    return sae.encode(x).numpy() > 0, analyze(sae, store_of(x, label), analysis=Analysis(permutations=9))


@pytest.mark.parametrize("order", ["jaccard", "lift", "z", "shared"])
def test_coactive_latents_against_dense_arrays(made, order):
    fires, atlas = made
    counts = fires.sum(0)
    for j in range(12):
        found = coactive_latents(atlas, j, most=5, order=order)
        both = (fires & fires[:, [j]]).sum(0)
        assert found.rows == counts[j]
        assert found.n == 90
        assert j not in found.latent
        assert len(found.latent) == min(5, (np.delete(both, j) > 0).sum())
        assert found.beside.shared.tolist() == both[found.latent].tolist()
        assert found.count.tolist() == counts[found.latent].tolist()
        assert np.allclose(found.beside.expected, counts[j] * counts[found.latent] / 90)
        nearness = getattr(found.beside, order)
        assert (np.diff(nearness) <= 0).all()
        rest = np.setdiff1d(np.flatnonzero(both), [j, *found.latent])
        jaccard = both / np.maximum(counts + counts[j] - both, 1)
        if order == "jaccard" and len(rest):
            assert jaccard[rest].max() <= nearness.min()


def test_a_dead_latent_has_no_company(made):
    _, atlas = made
    assert len(coactive_latents(atlas, 11).latent) == 0


def test_similar_latents_against_the_whole_matrix(monkeypatch):
    directions = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 41)[:, None]
    unit = torch.nn.functional.normalize(directions, dim=1).double()
    for chunk in (1 << 20, 96):
        monkeypatch.setattr(related, "_CHUNK_BYTES", chunk)
        for j in range(40):
            found = similar_latents(directions, j, most=4)
            cosine = unit @ unit[j]
            cosine[j] = -2
            assert found.latent.tolist() == cosine.topk(4).indices.tolist()
            assert np.allclose(found.cosine, cosine.topk(4).values, atol=1e-6)


def test_directions_without_length_are_close_to_none():
    directions = torch.tensor([[1.0, 0], [0, 0], [-1, 0], [2, 0.1]])
    assert similar_latents(directions, 0).latent.tolist() == [3, 2]
    assert len(similar_latents(directions, 1).latent) == 0
    assert np.isnan(similar_latents(torch.ones(1, 3), 0).chance)


def test_chance_is_what_random_directions_show():
    generator = torch.Generator().manual_seed(1)
    largest = []
    for _ in range(400):
        drawn = torch.nn.functional.normalize(torch.randn(101, 8, generator=generator), dim=1)
        largest.append(float((drawn[1:] @ drawn[0]).max()))
    found = similar_latents(drawn, 0)
    assert found.chance == pytest.approx(np.median(largest), abs=0.01)
    wide = similar_latents(torch.randn(2000, 768, generator=generator), 3)
    assert wide.cosine[0] == pytest.approx(wide.chance, abs=0.03)


def test_what_is_asked_for_must_be_there(made):
    _, atlas = made
    with pytest.raises(InputError, match="no latent 12"):
        coactive_latents(atlas, 12)
    with pytest.raises(InputError, match="did you mean 'jaccard'"):
        coactive_latents(atlas, 0, order="jacard")
    with pytest.raises(InputError, match="no latent -1"):
        similar_latents(torch.ones(2, 2), -1)
