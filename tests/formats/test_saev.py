"""saev's files: each schema by the formula of the code that wrote it, and what Unweave writes."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import assert_computes, random_rows, random_tensors
from torch import Tensor

from unweave.core.errors import InputError, StoreError
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.formats.saev import Saev

D, S, K = 6, 12, 4
FORMAT = Saev()
OLD = {"d_vit": D, "exp_factor": 2, "n_reinit_samples": 10, "seed": 0}
NEW = {"d_model": D, "d_sae": S, "normalize_w_dec": True}


def state() -> dict[str, Tensor]:
    return random_tensors(0, W_enc=(D, S), b_enc=(S,), W_dec=(S, D), b_dec=(D,))


def written(path: Path, header: dict[str, Any], **more: Tensor) -> Path:
    """One line of JSON, then what torch.save writes."""
    buffer = io.BytesIO()
    torch.save({**state(), **more}, buffer)
    path.write_bytes(json.dumps(header).encode() + b"\n" + buffer.getvalue())
    return path


def largest(pre: Tensor) -> Tensor:
    return pre * (pre >= pre.sort(dim=-1, descending=True).values[:, K - 1 : K])


def compare(place: Path, rows: Tensor, codes: Tensor) -> None:
    assert FORMAT.recognises(place)
    tensors = state()
    assert_computes(FORMAT.read(place), rows, codes, codes @ tensors["W_dec"] + tensors["b_dec"])


def test_the_first_files_subtract_b_dec(tmp_path: Path) -> None:
    rows, tensors = random_rows(D), state()
    codes = ((rows - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]).relu()
    compare(written(tmp_path / "sae.pt", {**OLD, "sparsity_coeff": 4e-4, "ghost_grads": False}), rows, codes)


@pytest.mark.parametrize(
    "header",
    [
        {"schema": 1, "cfg": OLD, "cls": "Relu", "commit": "x", "lib": "0.2"},
        {"schema": 1, "cfg": {**OLD, "activation": {"cls": "Relu", "params": {}}}, "cls": "SparseAutoencoderConfig"},
        {"schema": 2, "cfg": {**OLD, "activation": {"cls": "Relu", "params": {}}}},
        {"schema": 4, "cfg": {**NEW, "activation": {"cls": "Relu", "params": {"sparsity": {"coeff": 4e-4}}}}},
        {"schema": 5, "cfg": {**NEW, "activation": {"cls": "Relu", "params": {"key": "relu"}}}},
    ],
    ids=["1a", "1b", "2", "4", "5"],
)
def test_from_schema_1_on_b_dec_is_not_subtracted(header: dict[str, Any], tmp_path: Path) -> None:
    rows, tensors = random_rows(D), state()
    compare(written(tmp_path / "sae.pt", header), rows, (rows @ tensors["W_enc"] + tensors["b_enc"]).relu())


@pytest.mark.parametrize(
    "header",
    [
        {"schema": 1, "cfg": {**OLD, "top_k": K}, "cls": "TopK"},
        {"schema": 2, "cfg": {**OLD, "activation": {"cls": "TopK", "params": {"top_k": K}}}},
        {"schema": 2, "cfg": {**OLD, "activation": {"cls": "BatchTopK", "params": {"top_k": K}}}},
        {"schema": 5, "cfg": {**NEW, "activation": {"cls": "TopK", "params": {"key": "top-k", "top_k": K}}}},
    ],
)
def test_top_k_keeps_negative_ones_too(header: dict[str, Any], tmp_path: Path) -> None:
    rows, tensors = random_rows(D) - 3, state()
    codes = largest(rows @ tensors["W_enc"] + tensors["b_enc"] - 0.0)
    place = written(tmp_path / "sae.pt", header)
    compare(place, rows, codes)
    assert FORMAT.read(place).config == TopK(d_sae=S, k=K, signed=True, decoder_norm="free")


def test_top_k_with_few_positive_pre_activations(tmp_path: Path) -> None:
    header = {"schema": 5, "cfg": {**NEW, "activation": {"cls": "TopK", "params": {"top_k": K}}}}
    bias = state()["b_enc"] - 20.0
    place = written(tmp_path / "sae.pt", header, b_enc=bias)
    rows, tensors = random_rows(D), state()
    codes = largest(rows @ tensors["W_enc"] + bias)
    assert float((codes < 0).float().mean()) > 0.2
    compare(place, rows, codes)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1.2])
def test_batch_top_k_with_a_threshold(threshold: float, tmp_path: Path) -> None:
    header = {"schema": 5, "cfg": {**NEW, "activation": {"cls": "BatchTopK", "params": {"top_k": K}}}}
    rows, tensors = random_rows(D), state()
    codes = (rows @ tensors["W_enc"] + tensors["b_enc"]).relu()
    codes = codes * (codes > threshold)
    key = "activation.threshold"
    compare(written(tmp_path / "sae.pt", header, **{key: torch.tensor(threshold)}), rows, codes)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"schema": 1, "cfg": OLD, "cls": "BatchTopK"}, "BatchTopK"),
        ({"schema": 5, "cfg": {**NEW, "activation": {"cls": "Tanh", "params": {}}}}, "Tanh"),
        ({"schema": 5, "cfg": NEW}, "activation"),
        ({"schema": 6, "cfg": NEW}, "schema"),
        ({"schema": True, "cfg": NEW}, "schema"),
        ({"schema": 5, "cfg": {**NEW, "d_sae": 13, "activation": {"cls": "Relu"}}}, "13"),
        ({**OLD, "exp_factor": 3}, "18"),
    ],
)
def test_what_is_not_known_or_does_not_fit(header: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        FORMAT.read(written(tmp_path / "sae.pt", header))


@pytest.mark.parametrize("config", [ReLU(d_sae=S), BatchTopK(d_sae=S, k=3)], ids=lambda config: config.kind)
def test_what_is_written_computes_the_same_by_their_formula(config: Any, tmp_path: Path) -> None:
    own = config.build(D)
    generator = torch.Generator().manual_seed(6)
    for tensor in own.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator))
    FORMAT.write(own, tmp_path)
    header, archive = (tmp_path / "sae.pt").read_bytes().split(b"\n", 1)
    assert json.loads(header)["schema"] == 5
    tensors = torch.load(io.BytesIO(archive), weights_only=True)
    rows = random_rows(D)
    codes = (rows @ tensors["W_enc"] + tensors["b_enc"]).relu()
    codes = codes * (codes > tensors.get("activation.threshold", torch.zeros(())))
    decoded = codes @ tensors["W_dec"] + tensors["b_dec"]
    assert_computes(own, rows, codes, decoded)
    assert_computes(FORMAT.read(tmp_path), rows, codes, decoded)


def test_what_saev_cannot_say_is_refused(tmp_path: Path) -> None:
    uneven = JumpReLU(d_sae=S, target=3).build(D)
    uneven.state_dict()["threshold"].copy_(torch.arange(float(S)))
    for dictionary in (TopK(d_sae=S, k=3).build(D), uneven):
        with pytest.raises(InputError, match="saev"):
            FORMAT.write(dictionary, tmp_path)


def test_a_file_without_header(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "sae.pt")
    assert not FORMAT.recognises(tmp_path / "sae.pt")
    with pytest.raises(StoreError, match="line of JSON"):
        FORMAT.read(tmp_path / "sae.pt")
