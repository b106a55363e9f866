"""sparsify's files: the formula, sizes that are told and not told, what is refused, and the way back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import assert_computes, random_rows, random_tensors
from safetensors.torch import save_file
from torch import Tensor

from unweave.core.errors import InputError, StoreError
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.formats.sparsify import Sparsify

D, S, K = 6, 12, 4
FORMAT = Sparsify()
CFG = {
    "activation": "topk",
    "expansion_factor": 32,
    "normalize_decoder": True,
    "num_latents": S,
    "k": K,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": False,
    "d_in": D,
}


def state() -> dict[str, Tensor]:
    return random_tensors(0, encoder__weight=(S, D), encoder__bias=(S,), W_dec=(S, D), b_dec=(D,))


def written(folder: Path, tensors: dict[str, Tensor] | None = None, **cfg: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    save_file(tensors or state(), folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({**CFG, **cfg}))
    return folder


@pytest.mark.parametrize("cfg", [{}, {"num_latents": 0, "expansion_factor": 2}])
def test_its_formula(cfg: dict[str, int], tmp_path: Path) -> None:
    tensors, rows = state(), random_rows(D)
    pre = ((rows - tensors["b_dec"]) @ tensors["encoder.weight"].T + tensors["encoder.bias"]).relu()
    codes = pre * (pre >= pre.sort(dim=-1, descending=True).values[:, K - 1 : K])
    place = written(tmp_path, **cfg)
    assert FORMAT.recognises(place)
    assert FORMAT.recognises(place / "sae.safetensors")
    assert_computes(FORMAT.read(place), rows, codes, codes @ tensors["W_dec"] + tensors["b_dec"])


def test_the_hook_point_is_the_folders_name_where_the_run_says_so(tmp_path: Path) -> None:
    written(tmp_path / "layers.3.mlp")
    assert FORMAT.read(tmp_path / "layers.3.mlp").hook_name == ""
    (tmp_path / "config.json").write_text(json.dumps({"hookpoints": ["layers.3.mlp"]}))
    assert FORMAT.read(tmp_path / "layers.3.mlp").hook_name == "layers.3.mlp"


@pytest.mark.parametrize(
    "cfg", [{"transcode": True}, {"skip_connection": True}, {"signed": True}, {"activation": "groupmax"}]
)
def test_what_computes_something_else_is_refused_by_name(cfg: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(next(iter(cfg)))):
        FORMAT.read(written(tmp_path, **cfg))


@pytest.mark.parametrize(
    "cfg",
    [{"d_in": 7}, {"d_in": True}, {"num_latents": 13}, {"num_latents": 0}, {"k": 0}, {"k": 13}, {"k": "4"}, {"k": 1.5}],
)
def test_sizes_that_do_not_fit_are_said(cfg: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cfg\.json"):
        FORMAT.read(written(tmp_path, **cfg))


def test_a_skip_matrix_is_not_overlooked(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="W_skip"):
        FORMAT.read(written(tmp_path, {**state(), "W_skip": torch.ones(D, D)}))


def test_what_is_written(tmp_path: Path) -> None:
    own = TopK(d_sae=9, k=2).build(4)
    with torch.no_grad():
        for tensor in own.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(1)))
        FORMAT.write(own, tmp_path)
        cfg = json.loads((tmp_path / "cfg.json").read_text())
        assert (cfg["num_latents"], cfg["k"], cfg["d_in"]) == (9, 2, 4)
        rows = random_rows(4)
        codes = own.encode(rows)
        assert_computes(FORMAT.read(tmp_path), rows, codes, own.decode(codes))
    with pytest.raises(InputError, match="relu"):
        FORMAT.write(ReLU(d_sae=9).build(4), tmp_path)
