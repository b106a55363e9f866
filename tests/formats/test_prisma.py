"""ViT-Prisma's files: the configuration beside the weights or pickled with them, each activation, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import assert_computes, random_rows, random_tensors, standing_in
from torch import Tensor

from unweave.core.errors import InputError
from unweave.dictionaries.topk import TopK
from unweave.formats.prisma import Prisma

D, S, K = 6, 12, 4
FORMAT = Prisma()
CFG: dict[str, Any] = {
    "architecture": "standard",
    "model_name": "wkcn/TinyCLIP",
    "hook_point_layer": 9,
    "layer_subtype": "hook_mlp_out",
    "d_in": D,
    "expansion_factor": 2,
    "d_sae": S,
    "activation_fn_str": "relu",
    "activation_fn_kwargs": {},
    "normalize_activations": "none",
    "vit_model_cfg": None,
}
TYPED = {
    "device": {"__type__": "torch.device", "value": "cuda"},
    "dtype": {"__type__": "torch.dtype", "value": "torch.float32"},
}


class RunnerConfig:
    """Stands for Prisma's configuration, whose class is not there when the file is read."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def state() -> dict[str, Tensor]:
    return random_tensors(0, W_enc=(D, S), b_enc=(S,), W_dec=(S, D), b_dec=(D,))


def repository(folder: Path, **cfg: Any) -> Path:
    torch.save(state(), folder / "weights.pt")
    (folder / "config.json").write_text(json.dumps({**CFG, **TYPED, **cfg}))
    return folder


def pickled(path: Path, tensors: dict[str, Tensor] | None = None, legacy: bool = False, **cfg: Any) -> Path:
    with standing_in(vit_prisma__sae__config__VisionModelSAERunnerConfig=RunnerConfig):
        config = RunnerConfig(**{**CFG, "device": torch.device("cuda"), "dtype": torch.float32, **cfg})
        old = {"config": config, "autoencoder": {"state_dict": tensors or state()}}
        torch.save(old if legacy else {"cfg": config, "state_dict": tensors or state()}, path)
    return path


def expected(rows: Tensor) -> tuple[Tensor, Tensor]:
    tensors = state()
    codes = ((rows - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]).relu()
    return codes, codes @ tensors["W_dec"] + tensors["b_dec"]


def test_a_repository(tmp_path: Path) -> None:
    rows = random_rows(D)
    assert FORMAT.recognises(repository(tmp_path))
    read = FORMAT.read(tmp_path)
    assert_computes(read, rows, *expected(rows))
    assert (read.hook_name, read.origin["model_name"]) == ("blocks.9.hook_mlp_out", "wkcn/TinyCLIP")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_configuration_that_was_pickled_with_the_weights(legacy: bool, tmp_path: Path) -> None:
    rows = random_rows(D)
    place = pickled(tmp_path / "n_images_2600058.pt", legacy=legacy, hook_point="blocks.3.hook_resid_post")
    assert FORMAT.recognises(place)
    read = FORMAT.read(place)
    assert_computes(read, rows, *expected(rows))
    assert read.hook_name == "blocks.3.hook_resid_post"


@pytest.mark.parametrize("after", [None, torch.nn.ReLU(), torch.nn.Identity()])
def test_top_k(after: Any, tmp_path: Path) -> None:
    options = {"k": K} if after is None else {"k": K, "postact_fn": after}
    place = pickled(tmp_path / "sae.pt", activation_fn_str="topk", activation_fn_kwargs=options)
    read = FORMAT.read(place)
    signed = isinstance(after, torch.nn.Identity)
    assert read.config == TopK(d_sae=S, k=K, signed=signed, decoder_norm="free")
    rows, tensors = random_rows(D), state()
    pre = (rows - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]
    codes = pre * (pre >= pre.sort(dim=-1, descending=True).values[:, K - 1 : K])
    codes = codes if signed else codes.relu()
    assert_computes(read, rows, codes, codes @ tensors["W_dec"] + tensors["b_dec"])


def test_gated(tmp_path: Path) -> None:
    tensors = {**state(), **random_tensors(1, b_gate=(S,), r_mag=(S,), b_mag=(S,))}
    rows = random_rows(D)
    pre = (rows - tensors["b_dec"]) @ tensors["W_enc"]
    codes = (pre + tensors["b_gate"] > 0) * (pre * tensors["r_mag"].exp() + tensors["b_mag"]).relu()
    read = FORMAT.read(pickled(tmp_path / "sae.pt", tensors, architecture="gated"))
    assert_computes(read, rows, codes, codes @ tensors["W_dec"] + tensors["b_dec"])


@pytest.mark.parametrize("mode", ["layer_norm", "constant_norm_rescale"])
def test_rows_that_are_normalised_one_by_one(mode: Any, tmp_path: Path) -> None:
    read, rows, tensors = FORMAT.read(repository(tmp_path, normalize_activations=mode)), random_rows(D), state()
    assert read.row_norm == mode
    if mode == "layer_norm":
        mean, scale = rows.mean(-1, keepdim=True), rows.std(-1, keepdim=True)
        z = (rows - mean) / (scale + 1e-5)
    else:
        mean, scale = torch.zeros(1), rows.norm(dim=-1, keepdim=True) / D**0.5
        z = rows / scale
    codes = ((z - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]).relu()
    assert_computes(read, rows, codes, (codes @ tensors["W_dec"] + tensors["b_dec"]) * scale + mean)


@pytest.mark.parametrize(
    "cfg",
    [
        {"normalize_activations": "expected_average_only_in"},
        {"normalize_activations": True},
        {"activation_fn_str": "tanh-relu"},
        {"architecture": "jumprelu"},
        {"is_transcoder": True},
        {"d_sae": 13},
        {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 99}},
    ],
    ids=str,
)
def test_what_is_not_known_is_named(cfg: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        FORMAT.read(repository(tmp_path, **cfg))
    named = "transcoder" if "is_transcoder" in cfg else "k" if "99" in str(cfg) else str(next(iter(cfg.values())))
    assert named in str(raised.value)
