"""Overcomplete's modules: pickled by classes that only stand in for its own, read without them, by formula."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import assert_computes, random_rows, standing_in
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.formats.overcomplete import Overcomplete
from unweave.formats.places import load

D, S, K = 6, 12, 4
FORMAT = Overcomplete()


class Module(nn.Module):
    """A module with attributes of its own, which is all that a pickle keeps of Overcomplete's."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        for name, value in values.items():
            setattr(self, name, value)


class SAE(Module): ...


class TopKSAE(Module): ...


class BatchTopKSAE(Module): ...


class JumpSAE(Module): ...


class RATopKSAE(Module): ...


class QSAE(Module): ...


class MLPEncoder(Module): ...


class TieableEncoder(Module): ...


class DictionaryLayer(Module): ...


class RelaxedArchetypalDictionary(Module): ...


def normalize_l2(x: Tensor) -> Tensor:
    """Stands for theirs, which a dictionary layer names."""
    return x


PLACES = {
    "base": [SAE],
    "topk_sae": [TopKSAE],
    "batchtopk_sae": [BatchTopKSAE],
    "jump_sae": [JumpSAE],
    "rasae": [RATopKSAE],
    "qsae": [QSAE],
    "modules": [MLPEncoder, TieableEncoder],
    "dictionary": [DictionaryLayer, normalize_l2],
    "archetypal_dictionary": [RelaxedArchetypalDictionary],
}
STAND_INS = {f"overcomplete__sae__{place}__{it.__name__}": it for place, made in PLACES.items() for it in made}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def encoder(norm: nn.Module | None = None, blocks: list[nn.Module] | None = None, last: nn.Module | None = None) -> Any:
    linear = nn.Linear(D, S)
    made = MLPEncoder(
        mlp_blocks=nn.ModuleList(blocks or []),
        final_block=nn.Sequential(linear, norm or nn.Identity()),
        final_activation=last or nn.ReLU(),
        norm_layer=nn.Identity,
    )
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator()))
    return made


def layer(multiplier: float = 0.0) -> Any:
    rows = torch.randn(S, D, generator=generator()) * 3
    made = DictionaryLayer(_weights=nn.Parameter(rows), normalization=normalize_l2, _fused_dictionary=None)
    made.register_buffer("multiplier", torch.tensor(multiplier))
    return made


def unit(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(1, keepdim=True).sqrt()


def saved(path: Path, module: nn.Module) -> Path:
    with standing_in(**STAND_INS):
        torch.save(module, path)
    return path


def compare(path: Path, module: Any, rows: Tensor, codes: Tensor, D_: Tensor) -> None:
    assert FORMAT.recognises(saved(path, module))
    read = FORMAT.read(path)
    assert_computes(read, rows, codes.detach(), (codes @ D_).detach())
    assert read.origin == {"format": "overcomplete", "class": type(module).__name__}


@pytest.mark.parametrize("multiplier", [0.0, -0.7])
def test_the_dictionary_is_normalised_and_scaled(multiplier: float, tmp_path: Path) -> None:
    module = SAE(encoder=encoder(), dictionary=layer(multiplier))
    linear, rows = module.encoder.final_block[0], random_rows(D)
    codes = (rows @ linear.weight.T + linear.bias).relu()
    atoms = unit(module.dictionary._weights) * 2.718281828459045**multiplier
    compare(tmp_path / "x.pt", module, rows, codes, atoms)


def test_a_batch_norm_is_folded(tmp_path: Path) -> None:
    norm = nn.BatchNorm1d(S)
    norm.running_mean.copy_(torch.randn(S, generator=generator()))
    norm.running_var.copy_(torch.rand(S, generator=generator()) + 0.2)
    module = TopKSAE(encoder=encoder(norm), dictionary=layer(), top_k=K)
    linear, rows = module.encoder.final_block[0], random_rows(D)
    pre = rows @ linear.weight.T + linear.bias
    pre = (pre - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
    codes = pre.relu()
    codes = codes * (codes >= codes.sort(dim=-1, descending=True).values[:, K - 1 : K])
    compare(tmp_path / "x.pt", module, rows, codes, unit(module.dictionary._weights))


def test_batch_top_k_keeps_its_plain_attribute(tmp_path: Path) -> None:
    module = BatchTopKSAE(encoder=encoder(), dictionary=layer(), top_k=90, running_threshold=None)
    linear, rows = module.encoder.final_block[0], random_rows(D)
    codes = (rows @ linear.weight.T + linear.bias).relu().detach()
    module.running_threshold = codes[codes > 0].median()  # a value that occurs: from there on codes count
    codes = codes * (codes >= module.running_threshold)
    compare(tmp_path / "x.pt", module, rows, codes, unit(module.dictionary._weights))


def test_a_threshold_that_was_never_set(tmp_path: Path) -> None:
    module = BatchTopKSAE(encoder=encoder(), dictionary=layer(), top_k=90, running_threshold=None)
    with pytest.raises(InputError, match="never set"):
        FORMAT.read(saved(tmp_path / "x.pt", module))


def test_thresholds_are_kept_as_logarithms(tmp_path: Path) -> None:
    module = JumpSAE(encoder=encoder(), dictionary=layer(), thresholds=nn.Parameter(torch.linspace(-3, 1, S)))
    linear, rows = module.encoder.final_block[0], random_rows(D)
    codes = (rows @ linear.weight.T + linear.bias).relu()
    codes = codes * (codes >= module.thresholds.exp())
    compare(tmp_path / "x.pt", module, rows, codes, unit(module.dictionary._weights))


def test_archetypes_are_convex_and_relaxed(tmp_path: Path) -> None:
    points, shares = torch.randn(20, D, generator=generator()), torch.randn(S, 20, generator=generator())
    relaxed = torch.randn(S, D, generator=generator())
    made = RelaxedArchetypalDictionary(W=nn.Parameter(shares), Relax=nn.Parameter(relaxed), delta=0.5, training=True)
    made.register_buffer("C", points)
    made.register_buffer("multiplier", torch.tensor(0.3))
    module = RATopKSAE(encoder=encoder(), dictionary=made, top_k=S)
    convex = shares.clamp(min=0)
    convex = convex / convex.sum(1, keepdim=True)
    length = relaxed.square().sum(1, keepdim=True).sqrt()
    atoms = (convex @ points + relaxed * (0.5 / length).clamp(max=1)) * torch.tensor(0.3).exp()
    linear, rows = module.encoder.final_block[0], random_rows(D)
    compare(tmp_path / "x.pt", module, rows, (rows @ linear.weight.T + linear.bias).relu(), atoms)


@pytest.mark.parametrize("tied", [True, False])
def test_an_encoder_that_may_share_the_dictionary(tied: bool, tmp_path: Path) -> None:
    atoms, own = layer(), torch.randn(S, D, generator=generator()) * 2
    made = TieableEncoder(tied_to=atoms if tied else None, weight=None if tied else nn.Parameter(own), bias=None)
    module = SAE(encoder=made, dictionary=atoms)
    D_, rows = unit(atoms._weights), random_rows(D)
    compare(tmp_path / "x.pt", module, rows, (rows @ (D_ if tied else own).T).relu(), D_)


def test_what_was_fused_in_eval_is_the_dictionary(tmp_path: Path) -> None:
    module = SAE(encoder=encoder(), dictionary=layer()).eval()
    module.dictionary._fused_dictionary = torch.randn(S, D, generator=generator())
    linear, rows = module.encoder.final_block[0], random_rows(D)
    codes = (rows @ linear.weight.T + linear.bias).relu()
    compare(tmp_path / "x.pt", module, rows, codes, module.dictionary._fused_dictionary)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: QSAE(encoder=encoder(), dictionary=layer()), "QSAE"),
        (lambda: SAE(encoder=encoder(nn.LayerNorm(S)), dictionary=layer()), "LayerNorm"),
        (lambda: SAE(encoder=encoder(blocks=[nn.Linear(D, D)]), dictionary=layer()), "hidden layers"),
        (lambda: SAE(encoder=encoder(last=nn.GELU()), dictionary=layer()), "GELU"),
        (lambda: SAE(encoder=nn.Linear(D, S), dictionary=layer()), "Linear"),
        (lambda: SAE(encoder=encoder(nn.BatchNorm1d(S, track_running_stats=False)), dictionary=layer()), "BatchNorm1d"),
    ],
)
def test_other_parts_are_refused_by_name(make: Callable[[], Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        FORMAT.read(saved(tmp_path / "x.pt", make()))


def test_a_state_dict_says_too_little(tmp_path: Path) -> None:
    torch.save(SAE(encoder=encoder(), dictionary=layer()).state_dict(), tmp_path / "x.pt")
    assert FORMAT.recognises(tmp_path / "x.pt")
    with pytest.raises(InputError, match="does not say which"):
        FORMAT.read(tmp_path / "x.pt")


def test_a_module_of_the_users_own_is_refused_and_not_run(tmp_path: Path) -> None:
    class Own(Module): ...

    with standing_in(**STAND_INS, mine__Own=Own):
        torch.save(SAE(encoder=Own(), dictionary=layer()), tmp_path / "x.pt")
    for read in (FORMAT.read, load):
        with pytest.raises(InputError, match=r"mine\.Own.*safetensors"):
            read(tmp_path / "x.pt")
