"""OpenAI's files: the formula, TopK's own normalisation of rows, and the way back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import assert_computes, random_rows, random_tensors
from torch import Tensor

from unweave.core.errors import InputError, StoreError
from unweave.dictionaries.normalised import NormalisedRows
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.formats.openai import OpenAI

D, S = 6, 12
FORMAT = OpenAI()


def state(**more: Any) -> dict[str, Any]:
    tensors = random_tensors(0, pre_bias=(D,), latent_bias=(S,), encoder__weight=(S, D), decoder__weight=(D, S))
    statistics = {"stats_last_nonzero": torch.zeros(S, dtype=torch.int64), "latents_mean_square": torch.zeros(S)}
    return {**tensors, **statistics, "latents_activation_frequency": torch.ones(S), **more}


def written(path: Path, contents: dict[str, Any]) -> Path:
    torch.save(contents, path)
    return path


@pytest.mark.parametrize("more", [{}, {"activation": "ReLU", "activation_state_dict": {}}], ids=["early", "named"])
def test_its_formula(more: dict[str, Any], tmp_path: Path) -> None:
    tensors, rows = state(), random_rows(D)
    codes = ((rows - tensors["pre_bias"]) @ tensors["encoder.weight"].T + tensors["latent_bias"]).relu()
    place = written(tmp_path / "0.pt", state(**more))
    assert FORMAT.recognises(place)
    assert FORMAT.recognises(tmp_path)
    assert_computes(FORMAT.read(place), rows, codes, codes @ tensors["decoder.weight"].T + tensors["pre_bias"])


def test_a_tied_decoder(tmp_path: Path) -> None:
    tensors, rows = state(), random_rows(D)
    del tensors["decoder.weight"]
    tensors["decoder.linear.weight"] = tensors["encoder.weight"]
    codes = ((rows - tensors["pre_bias"]) @ tensors["encoder.weight"].T + tensors["latent_bias"]).relu()
    read = FORMAT.read(written(tmp_path / "0.pt", tensors))
    assert_computes(read, rows, codes, codes @ tensors["encoder.weight"] + tensors["pre_bias"])


def normalised(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As the library does it: z, mean and standard deviation of each row."""
    mean = rows.mean(-1, keepdim=True)
    deviation = ((rows - mean).square().sum(-1, keepdim=True) / (rows.shape[-1] - 1)).sqrt()
    return (rows - mean) / (deviation + 1e-5), mean, deviation


@pytest.mark.parametrize("after", ["ReLU", "Identity"])
def test_top_k_normalises_each_row(after: str, tmp_path: Path) -> None:
    tensors, rows = state(), random_rows(D)
    place = written(tmp_path / "0.pt", state(activation="TopK", activation_state_dict={"k": 4, "postact_fn": after}))
    assert FORMAT.recognises(place)
    read = FORMAT.read(place)
    assert (read.config, read.row_norm) == (
        TopK(d_sae=S, k=4, signed=after == "Identity", decoder_norm="free"),
        "layer_norm",
    )
    z, mean, deviation = normalised(rows)
    pre = (z - tensors["pre_bias"]) @ tensors["encoder.weight"].T + tensors["latent_bias"]
    codes = pre * (pre >= pre.sort(dim=-1, descending=True).values[:, 3:4])
    codes = codes.relu() if after == "ReLU" else codes
    back = (codes @ tensors["decoder.weight"].T + tensors["pre_bias"]) * deviation + mean
    assert_computes(read, rows, codes, back)
    with pytest.raises(InputError, match="reconstruct"):
        read.decode(codes)


@pytest.mark.parametrize(
    "settings",
    [{}, {"k": 99}, {"k": "4"}, {"k": 4, "postact_fn": "Tanh"}, {"k": 4, "postact_fn": [1]}, 3, None],
    ids=str,
)
def test_top_k_whose_settings_make_no_sense(settings: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        FORMAT.read(written(tmp_path / "0.pt", state(activation="TopK", activation_state_dict=settings)))


def test_top_k_of_normalised_rows_is_written(tmp_path: Path) -> None:
    path = written(tmp_path / "0.pt", state(activation="TopK", activation_state_dict={"k": 4, "postact_fn": "ReLU"}))
    read, rows = FORMAT.read(path), random_rows(D)
    (tmp_path / "out").mkdir()
    FORMAT.write(read, tmp_path / "out")
    contents = torch.load(tmp_path / "out" / "autoencoder.pt", weights_only=True)
    assert contents["activation_state_dict"] == {"k": 4, "postact_fn": "ReLU"}
    assert_computes(FORMAT.read(tmp_path / "out"), rows, read.encode(rows), read(rows))


def test_relu_of_normalised_rows_is_not_written(tmp_path: Path) -> None:
    own = NormalisedRows(ReLU(d_sae=9).build(4), "layer_norm")
    with pytest.raises(InputError, match="rows normalised by layer_norm"):
        FORMAT.write(own, tmp_path)


@pytest.mark.parametrize("activation", ["Identity", 3, None, torch.zeros(2)])
def test_other_activations_are_refused(activation: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="activation"):
        FORMAT.read(written(tmp_path / "0.pt", state(activation=activation)))


def test_a_tensor_that_is_missing(tmp_path: Path) -> None:
    contents = state()
    del contents["decoder.weight"]
    with pytest.raises(StoreError, match=r"decoder\.weight"):
        FORMAT.read(written(tmp_path / "0.pt", contents))


def test_what_is_written(tmp_path: Path) -> None:
    own = ReLU(d_sae=9).build(4)
    generator = torch.Generator().manual_seed(1)
    for tensor in own.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator))
    FORMAT.write(own, tmp_path)
    contents = torch.load(tmp_path / "autoencoder.pt", weights_only=True)
    rows = random_rows(4)
    codes = ((rows - contents["pre_bias"]) @ contents["encoder.weight"].T + contents["latent_bias"]).relu()
    assert contents["activation"] == "ReLU"
    assert_computes(own, rows, codes, codes @ contents["decoder.weight"].T + contents["pre_bias"])
    assert_computes(FORMAT.read(tmp_path), rows, codes, own.decode(codes))
    with pytest.raises(InputError, match="topk"):
        FORMAT.write(TopK(d_sae=9, k=2).build(4), tmp_path)
