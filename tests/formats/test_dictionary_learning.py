"""dictionary_learning's files: each class by its formula, what is told beside it, and the way back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import assert_computes, random_rows, random_tensors
from torch import Tensor

from unweave.core.errors import InputError, StoreError
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.gated import Gated
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.matching_pursuit import MatchingPursuit
from unweave.dictionaries.matryoshka import Matryoshka
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.formats.dictionary_learning import DictionaryLearning

D, S = 6, 10
FORMAT = DictionaryLearning()


def written(folder: Path, state: dict[str, Any], dict_class: str | None = None, **trainer: Any) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "ae.pt")
    if dict_class is not None:
        (folder / "config.json").write_text(
            json.dumps({"trainer": {"dict_class": dict_class, **trainer}, "buffer": {}})
        )
    return folder


def linear(bias: str, seed: int = 1) -> dict[str, Tensor]:
    return random_tensors(seed, encoder__weight=(S, D), encoder__bias=(S,), decoder__weight=(D, S), **{bias: (D,)})


def largest(values: Tensor, k: int) -> Tensor:
    least = values.sort(dim=-1, descending=True).values[:, k - 1 : k]
    return values * (values >= least)


def test_auto_encoder_subtracts_its_bias(tmp_path: Path) -> None:
    state = linear("bias")
    rows = random_rows(D)
    codes = ((rows - state["bias"]) @ state["encoder.weight"].T + state["encoder.bias"]).relu()
    place = written(tmp_path, state, "AutoEncoder", lm_name="org/model", layer=4, submodule_name="resid_post_layer_4")
    read = FORMAT.read(place)
    assert_computes(read, rows, codes, codes @ state["decoder.weight"].T + state["bias"])
    assert read.origin == {
        "format": "dictionary-learning",
        "class": "AutoEncoder",
        "model_name": "org/model",
        "layer": 4,
        "submodule_name": "resid_post_layer_4",
    }


def test_auto_encoder_new_does_not(tmp_path: Path) -> None:
    state = linear("decoder__bias")
    rows = random_rows(D)
    codes = (rows @ state["encoder.weight"].T + state["encoder.bias"]).relu()
    read = FORMAT.read(written(tmp_path, state))  # its tensors alone say which class it is
    assert_computes(read, rows, codes, codes @ state["decoder.weight"].T + state["decoder.bias"])


def test_top_k(tmp_path: Path) -> None:
    state = {**linear("b_dec"), "k": torch.tensor(3, dtype=torch.int32), "threshold": torch.tensor(-1.0)}
    rows = random_rows(D)
    codes = largest(((rows - state["b_dec"]) @ state["encoder.weight"].T + state["encoder.bias"]).relu(), 3)
    read = FORMAT.read(written(tmp_path, state, "AutoEncoderTopK", k=3))
    assert read.config == TopK(d_sae=S, k=3, decoder_norm="free")
    assert_computes(read, rows, codes, codes @ state["decoder.weight"].T + state["b_dec"])


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1.5])
def test_batch_top_k_and_a_threshold_that_was_never_set(threshold: float, tmp_path: Path) -> None:
    state = {**linear("b_dec"), "k": torch.tensor(3, dtype=torch.int32), "threshold": torch.tensor(threshold)}
    rows = random_rows(D)
    codes = ((rows - state["b_dec"]) @ state["encoder.weight"].T + state["encoder.bias"]).relu()
    codes = codes * (codes > threshold)
    read = FORMAT.read(written(tmp_path, state, "BatchTopKSAE", k=3))
    assert_computes(read, rows, codes, codes @ state["decoder.weight"].T + state["b_dec"])


def test_matryoshka(tmp_path: Path) -> None:
    state = random_tensors(2, W_enc=(D, S), b_enc=(S,), W_dec=(S, D), b_dec=(D,))
    state |= {"k": torch.tensor(3), "threshold": torch.tensor(0.7), "group_sizes": torch.tensor([1, 3, 6])}
    rows = random_rows(D)
    codes = ((rows - state["b_dec"]) @ state["W_enc"] + state["b_enc"]).relu()
    codes = codes * (codes > 0.7)
    read = FORMAT.read(written(tmp_path, state, "MatryoshkaBatchTopKSAE", k=3))
    assert isinstance(read.config, Matryoshka)
    assert read.config.sizes() == [1, 4, 10]
    assert_computes(read, rows, codes, codes @ state["W_dec"] + state["b_dec"])


def test_gated(tmp_path: Path) -> None:
    state = random_tensors(3, encoder__weight=(S, D), decoder__weight=(D, S), decoder_bias=(D,))
    state |= random_tensors(4, r_mag=(S,), gate_bias=(S,), mag_bias=(S,))
    rows = random_rows(D)
    pre = (rows - state["decoder_bias"]) @ state["encoder.weight"].T
    codes = (pre + state["gate_bias"] > 0) * (state["r_mag"].exp() * pre + state["mag_bias"]).relu()
    read = FORMAT.read(written(tmp_path, state, "GatedAutoEncoder"))
    assert_computes(read, rows, codes, codes @ state["decoder.weight"].T + state["decoder_bias"])


def test_jump_relu_does_not_subtract_its_bias(tmp_path: Path) -> None:
    state = random_tensors(5, W_enc=(D, S), b_enc=(S,), W_dec=(S, D), b_dec=(D,), threshold=(S,))
    rows = random_rows(D)
    pre = rows @ state["W_enc"] + state["b_enc"]
    codes = (pre * (pre > state["threshold"])).relu()
    read = FORMAT.read(written(tmp_path, state, "JumpReluAutoEncoder"))
    assert_computes(read, rows, codes, codes @ state["W_dec"] + state["b_dec"])


def test_a_checkpoint_finds_the_configuration_of_its_run(tmp_path: Path) -> None:
    state = {**linear("b_dec"), "k": torch.tensor(3), "threshold": torch.tensor(0.5)}
    written(tmp_path, {}, "BatchTopKSAE", k=3)
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / "ae_100.pt")
    place = tmp_path / "checkpoints" / "ae_100.pt"
    assert FORMAT.recognises(place)
    assert FORMAT.read(place).config.kind == "batch-topk"


def test_two_classes_that_look_the_same_need_the_configuration(tmp_path: Path) -> None:
    state = {**linear("b_dec"), "k": torch.tensor(3), "threshold": torch.tensor(0.5)}
    assert FORMAT.recognises(written(tmp_path, state))
    with pytest.raises(InputError, match=r"look the same.*config\.json"):
        FORMAT.read(tmp_path)


def test_a_class_that_is_not_known_is_named(tmp_path: Path) -> None:
    place = written(tmp_path, linear("bias"), "CrossCoder")
    assert FORMAT.recognises(place)
    with pytest.raises(InputError, match="CrossCoder"):
        FORMAT.read(place)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder.weight": torch.zeros(S, D + 1)}, "decoder.weight"),
        ({"encoder.bias": torch.full((S,), torch.nan)}, "NaN"),
        ({"bias": torch.zeros(D, dtype=torch.int64)}, "int64"),
        ({"more": torch.zeros(2)}, "more"),
    ],
)
def test_what_does_not_fit_is_said(change: dict[str, Tensor], said: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=said):
        FORMAT.read(written(tmp_path, {**linear("bias"), **change}, "AutoEncoder"))


@pytest.mark.parametrize("sizes", [torch.tensor([5, 6]), torch.tensor(10), torch.tensor([0, 10]), torch.zeros(0)])
def test_groups_that_do_not_add_up(sizes: Tensor, tmp_path: Path) -> None:
    state = random_tensors(2, W_enc=(D, S), b_enc=(S,), W_dec=(S, D), b_dec=(D,))
    state |= {"k": torch.tensor(3), "threshold": torch.tensor(0.7), "group_sizes": sizes}
    with pytest.raises(StoreError, match="group"):
        FORMAT.read(written(tmp_path, state, "MatryoshkaBatchTopKSAE"))


@pytest.mark.parametrize(
    "config",
    [
        ReLU(d_sae=S),
        TopK(d_sae=S, k=3),
        Gated(d_sae=S),
        JumpReLU(d_sae=S, target=3),
        Matryoshka(d_sae=S, k=3, prefixes=(0.5, 1.0)),
    ],
    ids=lambda config: config.kind,
)
def test_what_is_written_is_read_again(config: Any, tmp_path: Path) -> None:
    own: Dictionary = config.build(D)
    generator = torch.Generator().manual_seed(6)
    for tensor in own.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator))
    own.origin = {"model_name": "org/model", "layer": 2}
    FORMAT.write(own, tmp_path)
    assert FORMAT.recognises(tmp_path)
    rows = random_rows(D)
    with torch.no_grad():
        codes = own.encode(rows)
        assert_computes(FORMAT.read(tmp_path), rows, codes, own.decode(codes))


def test_what_has_no_class_there_is_refused(tmp_path: Path) -> None:
    for config in (MatchingPursuit(d_sae=S, k=3), TopK(d_sae=S, k=3, signed=True)):
        with pytest.raises(InputError, match=config.kind):
            FORMAT.write(config.build(D), tmp_path)
