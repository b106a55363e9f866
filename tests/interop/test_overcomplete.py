"""Overcomplete: whole modules as its users save them, read by Unweave without running any of them."""

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unweave.core.errors import InputError
from unweave.formats import load

if importlib.util.find_spec("overcomplete") is None:
    pytest.skip("overcomplete is not installed; make test-interop installs it", allow_module_level=True)
if importlib.util.find_spec("torchvision") is None:  # its models of vision import it; no SAE does
    stand_in = types.ModuleType("torchvision")
    stand_in.transforms = types.ModuleType("torchvision.transforms")
    sys.modules.update({"torchvision": stand_in, "torchvision.transforms": stand_in.transforms})
    peer = pytest.importorskip("overcomplete.sae")
    del sys.modules["torchvision"], sys.modules["torchvision.transforms"]
else:
    peer = pytest.importorskip("overcomplete.sae")

MAKES: dict[str, Callable[..., Any]] = {
    "SAE": peer.SAE,
    "TopKSAE": lambda d, s, **more: peer.TopKSAE(d, s, top_k=5, **more),
    "BatchTopKSAE": lambda d, s, **more: peer.BatchTopKSAE(d, s, top_k=90, **more),
    "JumpSAE": peer.JumpSAE,
    "RATopKSAE": lambda d, s, **more: peer.RATopKSAE(d, s, torch.randn(50, d), top_k=5, delta=0.4, **more),
    "RAJumpSAE": lambda d, s, **more: peer.RAJumpSAE(d, s, torch.randn(50, d), delta=0.4, **more),
}
LINEAR = ["linear", "mlp_bn_1"]


def trained(model: Any, d_in: int, seed: int = 0) -> Any:
    """The model after a few steps, whose weights and statistics have moved."""
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-2)
    model.train()
    for _ in range(10):
        _, codes, reconstruction = model(torch.randn(64, d_in) + 0.5)
        optimiser.zero_grad()
        ((reconstruction - 1).square().mean() + codes.mean()).backward()
        optimiser.step()
    return model


def compare(model: Any, path: Path, same: Any, d_in: int) -> None:
    read = load(path)
    model.eval()
    same(read, lambda rows: model.encode(rows)[1], model.decode, d_in)


@pytest.mark.parametrize("encoder", LINEAR)
@pytest.mark.parametrize("name", MAKES)
def test_what_it_computes(name: str, encoder: str, tmp_path: Path, same: Any) -> None:
    torch.manual_seed(4)
    for d_in, d_sae in ((16, 40), (784, 48)):
        model = trained(MAKES[name](d_in, d_sae, encoder_module=encoder), d_in)
        torch.save(model, tmp_path / f"{d_in}.pt")
        compare(model, tmp_path / f"{d_in}.pt", same, d_in)


@pytest.mark.parametrize("normalisation", ["l2", "max_l2", "l1", "max_l1", "identity"])
def test_every_normalisation_and_the_multiplier(normalisation: str, tmp_path: Path, same: Any) -> None:
    options = {"normalization": normalisation, "use_multiplier": True}
    model = trained(peer.TopKSAE(12, 30, top_k=4, dictionary_params=options), 12)
    assert abs(model.dictionary.multiplier.item()) > 1e-3
    torch.save(model, tmp_path / "sae.pt")
    compare(model, tmp_path / "sae.pt", same, 12)


def test_a_model_that_was_saved_in_eval(tmp_path: Path, same: Any) -> None:
    model = trained(peer.BatchTopKSAE(12, 30, top_k=60), 12).eval()
    torch.save(model, tmp_path / "sae.pt")
    compare(model, tmp_path / "sae.pt", same, 12)


@pytest.mark.parametrize("tie", [lambda model: model.tied(bias=True), lambda model: model.untied(bias=True)])
def test_encoders_that_share_the_dictionary(tie: Any, tmp_path: Path, same: Any) -> None:
    model = trained(tie(peer.TopKSAE(12, 30, top_k=4)), 12)
    torch.save(model, tmp_path / "sae.pt")
    compare(model, tmp_path / "sae.pt", same, 12)


@pytest.mark.parametrize("encoder", ["mlp_ln_1", "mlp_ln_3", "mlp_bn_3", "identity"])
def test_other_encoders_are_refused_by_name(encoder: str, tmp_path: Path) -> None:
    torch.save(peer.SAE(12, 30, encoder_module=encoder), tmp_path / "sae.pt")
    with pytest.raises(InputError, match="encoder"):
        load(tmp_path / "sae.pt")


@pytest.mark.parametrize("name", ["QSAE", "MpSAE", "OMPSAE"])
def test_other_kinds_are_refused_by_name(name: str, tmp_path: Path) -> None:
    torch.save(getattr(peer, name)(12, 30), tmp_path / "sae.pt")
    with pytest.raises(InputError, match=name):
        load(tmp_path / "sae.pt")


def test_a_state_dict_says_too_little(tmp_path: Path) -> None:
    torch.save(peer.TopKSAE(12, 30).state_dict(), tmp_path / "sae.pt")
    with pytest.raises(InputError, match="whole modules"):
        load(tmp_path / "sae.pt")
