"""saev 0.1: what its autoencoder computes and dumps, read by Unweave.

Later versions are not on the package index. Their files, and those that Unweave writes, are tested by formula in
`tests/formats/test_saev.py`.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from unweave.formats import load

config = pytest.importorskip("saev.config", reason="saev is not installed; make test-interop installs it")
peer: ModuleType = pytest.importorskip("saev.nn")


def encode(model: Any) -> Any:
    """Its codes: it has no method for them alone."""
    return lambda rows: model(rows)[1]


@pytest.mark.parametrize(("d_in", "factor"), [(16, 4), (64, 1), (784, 1)])
def test_what_it_computes(d_in: int, factor: int, tmp_path: Path, same: Any, scrambled: Any) -> None:
    model = peer.SparseAutoencoder(config.SparseAutoencoder(d_vit=d_in, exp_factor=factor))
    scrambled(model, seed=d_in)
    peer.dump(str(tmp_path / "sae.pt"), model)
    same(load(tmp_path / "sae.pt"), encode(model), model.decode, d_in)


def test_after_some_training(tmp_path: Path, same: Any) -> None:
    torch.manual_seed(2)
    model = peer.SparseAutoencoder(config.SparseAutoencoder(d_vit=16, exp_factor=4, sparsity_coeff=0.02))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        model.normalize_w_dec()
        loss = model(torch.randn(128, 16) + torch.arange(16.0))[2].loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    peer.dump(str(tmp_path / "sae.pt"), model)
    same(load(tmp_path), encode(model), model.decode, 16)
