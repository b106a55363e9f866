"""SAELens' folders, by hand: what is folded, what older versions called things, what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from unweave.core.errors import InputError, StoreError
from unweave.dictionaries.base import Dictionary
from unweave.formats import export, load
from unweave.formats.saelens import SAELens
from unweave.store.files import save_tensors

CFG: dict[str, Any] = {
    "architecture": "standard",
    "d_in": 2,
    "d_sae": 3,
    "dtype": "float32",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "metadata": {"sae_lens_version": "6.0.0", "hook_name": "blocks.2.hook_mlp_out", "model_name": "gpt2"},
}
W_ENC = [[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]]
W_DEC = [[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]
TENSORS: dict[str, Any] = {"W_enc": W_ENC, "b_enc": [0.0, 1.0, 2.0], "W_dec": W_DEC, "b_dec": [10.0, 20.0]}
ROW = [[11.0, 22.0]]  # (1, 2) from b_dec


def written(folder: Path, *, drop: tuple[str, ...] = (), name: str = "sae_weights.safetensors", **changes: Any) -> Path:
    """A folder with tensors and settings changed or left out; lists become tensors."""
    folder.mkdir(exist_ok=True)
    tensors, cfg = {**TENSORS}, {**CFG}
    for key, value in changes.items():
        (tensors if isinstance(value, list | torch.Tensor) else cfg)[key] = value
    kept = {key: torch.as_tensor(value) for key, value in tensors.items() if key not in drop}
    save_tensors(folder / name, kept)
    (folder / "cfg.json").write_text(json.dumps({key: value for key, value in cfg.items() if key not in drop}))
    return folder


def codes(dictionary: Dictionary) -> list[float]:
    return [round(value, 5) for value in dictionary.encode(torch.tensor(ROW))[0].tolist()]


def back(dictionary: Dictionary, *code: float) -> list[float]:
    return [round(value, 5) for value in dictionary.decode(torch.tensor([code]).float())[0].tolist()]


def test_standard(tmp_path: Path) -> None:
    found = load(written(tmp_path / "sae"))
    assert (found.config.kind, found.d_in, found.d_sae, found.hook_name) == ("relu", 2, 3, "blocks.2.hook_mlp_out")
    assert found.origin == {"format": "saelens", "architecture": "standard", "model_name": "gpt2"}
    assert codes(found) == [1, 3, 1]
    assert back(found, 1, 3, 1) == [10 + 3 + 1, 20 + 4 + 6]
    assert not any(parameter.requires_grad for parameter in found.parameters())


def test_rows_that_b_dec_is_not_subtracted_from(tmp_path: Path) -> None:
    found = load(written(tmp_path / "sae", apply_b_dec_to_input=False))
    assert codes(found) == [11, 23, 0]
    assert back(found, 0, 0, 0) == [10, 20]


def test_topk_by_the_norms_of_the_decoder(tmp_path: Path) -> None:
    found = load(written(tmp_path / "a", architecture="topk", k=1))
    assert (found.config.kind, codes(found)) == ("topk", [0, 3, 0])
    found = load(written(tmp_path / "b", architecture="topk", k=2, rescale_acts_by_decoder_norm=True))
    assert codes(found) == [5, 6, 0]  # times 5, 2, 1
    assert back(found, 5, 6, 0) == [10 + 3, 20 + 4 + 6]


def test_jumprelu_cuts_where_it_says(tmp_path: Path) -> None:
    found = load(written(tmp_path / "a", architecture="jumprelu", threshold=[1.0, 2.9, -7.0]))
    assert (found.config.kind, codes(found)) == ("jumprelu", [0, 3, 1])
    assert found.get_parameter("threshold").min() == 0
    logs = [math.log(1.5), math.log(2.5), -math.inf]
    assert codes(load(written(tmp_path / "b", architecture="jumprelu", log_threshold=logs))) == [0, 3, 1]


def test_gated_with_its_own_bias_of_the_magnitude(tmp_path: Path) -> None:
    parts: dict[str, Any] = {"b_gate": [-1.0, 1.0, 2.0], "r_mag": [0.0, math.log(2), 0.0], "b_mag": [0.5, 1.0, -5.0]}
    found = load(written(tmp_path / "a", architecture="gated", drop=("b_enc",), **parts))
    assert (found.config.kind, codes(found)) == ("gated", [0, 5, 0])  # gates 0, 3, 1; magnitudes 1.5, 2·2 + 1, −6
    found = load(written(tmp_path / "b", architecture="gated", drop=("b_enc",), apply_b_dec_to_input=False, **parts))
    assert codes(found) == [11.5, 45, 0]


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_batch_topk_in_training_has_one_threshold_by_norm(architecture: str, tmp_path: Path) -> None:
    found = load(written(tmp_path / "a", architecture=architecture, topk_threshold=torch.tensor(5.5)))
    assert (found.config.kind, codes(found)) == ("jumprelu", [0, 6, 0])
    free = {"rescale_acts_by_decoder_norm": False, "topk_threshold": torch.tensor(2.0, dtype=torch.float64)}
    assert codes(load(written(tmp_path / "b", architecture=architecture, **free))) == [0, 3, 0]


def test_matching_pursuit_of_so_many_steps(tmp_path: Path) -> None:
    steps = {"max_iterations": 1, "residual_threshold": 0.0, "stop_on_duplicate_support": False}
    rows = {"W_dec": [[0.6, 0.8], [0.0, 1.0], [1.0, 0.0]], "drop": ("W_enc", "b_enc")}
    found = load(written(tmp_path / "a", architecture="matching_pursuit", **steps, **rows))
    assert (found.config.kind, codes(found)) == ("matching-pursuit", [2.2, 0, 0])
    with pytest.raises(InputError, match="fixed number of steps"):
        load(written(tmp_path / "b", architecture="matching_pursuit", max_iterations=1, **rows))


def test_the_factor_of_the_rows_is_folded_where_it_is_known(tmp_path: Path) -> None:
    scaled = {"normalize_activations": "expected_average_only_in"}
    found = load(written(tmp_path / "a", norm_scaling_factor=0.5, **scaled))
    assert back(found, 1, 0, 0) == [2 * 13, 2 * 24]
    assert codes(found) == [0, 0, 2 + 0.5 * (11 - 20) - 0.5 * (22 - 40)]
    for folder, factor in (("b", {}), ("c", {"norm_scaling_factor": 0}), ("d", {"norm_scaling_factor": "1"})):
        with pytest.raises(InputError, match="norm_scaling_factor"):
            load(written(tmp_path / folder, **scaled, **factor))


def test_names_of_early_versions(tmp_path: Path) -> None:
    early = ("architecture", "metadata", "normalize_activations", "apply_b_dec_to_input", "dtype")
    told = {"hook_point": "blocks.2.hook_mlp_out", "model_name": "gpt2", "hook_point_head_index": None}
    found = load(written(tmp_path / "a", drop=early, **told))
    assert (found.hook_name, codes(found)) == ("blocks.2.hook_mlp_out", [1, 3, 1])
    found = load(written(tmp_path / "b", drop=early, activation_fn_str="topk", activation_fn_kwargs={"k": 2}, **told))
    assert (found.config.kind, codes(found)) == ("topk", [1, 3, 0])
    found = load(written(tmp_path / "c", drop=early, normalize_activations=False, **told))
    assert codes(found) == [1, 3, 1]


def test_a_finetuned_decoder_is_folded(tmp_path: Path) -> None:
    found = load(written(tmp_path / "a", finetuning_scaling_factor=True, scaling_factor=[2.0, 1.0, 1.0]))
    assert back(found, 1, 0, 0) == [10 + 6, 20 + 8]
    assert back(load(written(tmp_path / "b", scaling_factor=[1.0, 1.0, 1.0])), 1, 0, 0) == [13, 24]
    with pytest.raises(StoreError, match="not finetuned"):
        load(written(tmp_path / "c", scaling_factor=[2.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "transcoder"}, "'transcoder'"),
        ({"architecture": "temporal"}, "'temporal'"),
        ({"architecture": ["standard"]}, "architecture"),
        ({"architecture": "unweave-gelu"}, "whole folder"),
        ({"activation_fn_str": "tanh-relu"}, "'tanh-relu'"),
        ({"normalize_activations": "covariance_whitening"}, "'covariance_whitening'"),
        ({"normalize_activations": {"a": 1}}, "normalize_activations"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input"),
        ({"d_in": 5}, "says d_in 5"),
        ({"d_sae": 10**12}, "says d_sae"),
        ({"architecture": "topk"}, "k should be"),
        ({"architecture": "topk", "k": 0}, "k should be"),
        ({"architecture": "topk", "k": 4}, "k should be"),
        ({"architecture": "topk", "k": 1.5}, "k should be"),
        ({"architecture": "topk", "k": float("nan")}, "k should be"),
        ({"architecture": "jumprelu"}, "no tensor 'threshold'"),
        ({"b_enc": [0.0, 1.0]}, "b_enc has shape"),
        ({"b_enc": [0.0, 1.0, float("nan")]}, "b_enc holds NaN"),
        ({"W_dec": [1.0, 2.0]}, "W_dec should be a matrix"),
        ({"b_dec": [1, 2]}, "b_dec holds torch.int64"),
        ({"mystery": [1.0]}, "also holds mystery"),
        ({"drop": ("W_dec",)}, "no tensor 'W_dec'"),
    ],
)
def test_what_does_not_fit_is_one_error_that_names_it(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    if changes.get("architecture") == ["standard"]:
        folder = written(tmp_path / "sae")
        (folder / "cfg.json").write_text(json.dumps({**CFG, **changes}))
    else:
        folder = written(tmp_path / "sae", **changes)
    with pytest.raises(InputError, match=says):
        load(folder, format="saelens")


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    half = {name: torch.tensor(value, dtype=torch.bfloat16) for name, value in TENSORS.items()}
    found = load(written(tmp_path / "sae", dtype="bfloat16", **half))
    assert found.get_parameter("W_enc").dtype == torch.float32
    assert codes(found) == [1, 3, 1]


def test_it_is_recognised_by_names_and_keys_alone(tmp_path: Path) -> None:
    known = SAELens()
    folder = written(tmp_path / "a")
    assert known.recognises(folder)
    assert known.recognises(folder / "sae_weights.safetensors")
    assert known.recognises(written(tmp_path / "b", name="sae.safetensors"))
    sparsify = written(tmp_path / "c", name="sae.safetensors", drop=("d_sae", "metadata"))
    assert not known.recognises(sparsify)
    for text in ("", "[]", "nonsense", '{"d_in": 1}', "[" * 100_000):
        (folder / "cfg.json").write_text(text)
        assert not known.recognises(folder)
    (folder / "cfg.json").write_bytes(b"\xff\xfe{}")
    assert not known.recognises(folder)
    assert not known.recognises(tmp_path / "nothing")


def test_a_foreign_dictionary_becomes_one_of_ours(tmp_path: Path) -> None:
    found = load(written(tmp_path / "a", apply_b_dec_to_input=False))
    found.save(tmp_path / "own")
    again = load(tmp_path / "own")
    assert (again.hook_name, again.origin) == (found.hook_name, found.origin)
    assert torch.equal(again.get_parameter("b_enc"), found.get_parameter("b_enc"))
    cfg = json.loads((tmp_path / "own" / "cfg.json").read_text())
    assert cfg["apply_b_dec_to_input"] is True
    assert cfg["metadata"]["model_name"] == "gpt2"


@pytest.mark.parametrize(("mode", "scale"), [("layer_norm", 1.0), ("constant_norm_rescale", 5.0)])
def test_rows_that_are_normalised_one_by_one_by_hand(mode: str, scale: float, tmp_path: Path) -> None:
    found = load(written(tmp_path / "sae", normalize_activations=mode, b_dec=[1.0, -1.0]))
    # layer_norm: mean 6, deviation √2, so z = (−1, 1)/√2; the other: length 5√2, over √2 is 5, so z = (1, 7)/5
    row = torch.tensor([[5.0, 7.0]] if mode == "layer_norm" else [[1.0, 7.0]])
    z = torch.tensor([[-1.0, 1.0]]) / 2**0.5 if mode == "layer_norm" else row / 5
    x, y = (z - torch.tensor([[1.0, -1.0]]))[0].tolist()
    expected = [max(0.0, value) for value in (x, y + 1, x - y + 2)]
    torch.testing.assert_close(found.encode(row), torch.tensor([expected]), atol=2e-5, rtol=1e-5)
    mean, scale = (6.0, 2**0.5) if mode == "layer_norm" else (0.0, 5.0)
    one = torch.tensor([[1.0, 0.0, 0.0]])
    torch.testing.assert_close(found.reconstruct(one, row), torch.tensor([[mean + 4 * scale, mean + 3 * scale]]))
    export(found, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "cfg.json").read_text())["normalize_activations"] == mode
    assert torch.equal(load(tmp_path / "out")(row), found(row))


def test_what_saelens_has_no_word_for_is_not_exported(tmp_path: Path) -> None:
    from unweave.dictionaries.gelu import GELU

    with pytest.raises(InputError, match="no architecture for this 'gelu'"):
        export(GELU(d_sae=3).build(2), tmp_path / "out")
    assert not list(tmp_path.iterdir())
