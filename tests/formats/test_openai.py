"""OpenAI's files: the formula, TopK's refusal, and the way back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import assert_computes, random_rows, random_tensors

from unweave.core.errors import InputError, StoreError
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


def test_top_k_is_refused_with_its_reason(tmp_path: Path) -> None:
    contents = state(activation="TopK", activation_state_dict={"k": 4, "postact_fn": "ReLU"})
    place = written(tmp_path / "0.pt", contents)
    assert FORMAT.recognises(place)
    with pytest.raises(InputError, match="normalises each row"):
        FORMAT.read(place)


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
