"""Gemma Scope's files, by the formula of its paper."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from foreign_files import assert_computes, random_rows, random_tensors
from foreign_seeds import gemma_scope

from unweave.core.errors import InputError, StoreError
from unweave.formats import load
from unweave.formats.base import named

TENSORS = {**random_tensors(1, W_enc=(3, 5), b_enc=(5,), W_dec=(5, 3), b_dec=(3,)), "threshold": torch.arange(5) / 4}


def first(folder: Path, **changed: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **{name: np.asarray(value) for name, value in {**TENSORS, **changed}.items()})
    return folder


def second(folder: Path, said: dict[str, Any], **more: torch.Tensor) -> Path:
    folder.mkdir(parents=True)
    tensors = {name.lower(): tensor for name, tensor in TENSORS.items()}
    safetensors.torch.save_file({**tensors, **more}, folder / "params.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "jump_relu", **said}))
    return folder


def expected(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    before = rows @ TENSORS["W_enc"] + TENSORS["b_enc"]  # b_dec is not subtracted
    codes = torch.where(before > TENSORS["threshold"], before.relu(), 0.0)
    return codes, codes @ TENSORS["W_dec"] + TENSORS["b_dec"]


def test_the_first(tmp_path: Path) -> None:
    rows, folder = random_rows(3), first(tmp_path / "layer_20/width_16k/average_l0_71")
    for place in (folder, folder / "params.npz"):
        assert_computes(load(place), rows, *expected(rows))
    assert load(folder).origin == {"format": "gemma-scope"}


def test_the_second_names_its_module(tmp_path: Path) -> None:
    said = {"hf_hook_point_in": "model.layers.9.output", "model_name": "gemma-v3-1b-pt", "width": 5}
    found = load(second(tmp_path / "layer_9", said))
    assert_computes(found, random_rows(3), *expected(random_rows(3)))
    assert found.hook_name == "model.layers.9"
    assert found.origin["model_name"] == "gemma-v3-1b-pt"


def test_an_input_of_a_module_is_not_its_output(tmp_path: Path) -> None:
    assert load(second(tmp_path / "a", {"hf_hook_point_in": "model.layers.9.self_attn.o_proj.input"})).hook_name == ""


def test_transcoders_are_refused(tmp_path: Path) -> None:
    leaves = {"hf_hook_point_in": "model.layers.9.mlp.input", "hf_hook_point_out": "model.layers.9.mlp.output"}
    linear = second(tmp_path / "b", {}, affine_skip_connection=torch.eye(3))
    for place in (first(tmp_path / "gemma-scope-2b-pt-transcoders/layer_1"), second(tmp_path / "a", leaves), linear):
        with pytest.raises(InputError, match="is a transcoder"):
            load(place)


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    for number, (changed, said) in enumerate(
        (
            ({"b_enc": np.zeros(4, np.float32)}, "b_enc has shape"),
            ({"threshold": np.full(5, np.nan, np.float32)}, "NaN"),
            ({"b_dec": np.zeros(3, np.int64)}, "not numbers with a point"),
            ({"more": np.zeros(3, np.float32)}, "also holds more"),
            ({"b_dec": np.array(["a", "b", "c"])}, "no whole file of numpy.savez"),
        )
    ):
        with pytest.raises(StoreError, match=said):
            load(first(tmp_path / str(number), **changed))


def test_sizes_are_checked_before_memory_is_asked_for(tmp_path: Path) -> None:
    (files, _) = gemma_scope()
    with zipfile.ZipFile(io.BytesIO(files["params.npz"])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["W_enc.npy"] = members["W_enc.npy"].replace(b"(3, 5), ", b"(9999999999999, 5), ")
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(StoreError, match="no whole file"):
        load(tmp_path)
    np.savez_compressed(tmp_path / "params.npz", **{name: tensor.numpy() for name, tensor in TENSORS.items()})
    with pytest.raises(StoreError, match="is compressed"):
        load(tmp_path)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    place = first(tmp_path / "a")
    np.savez(place / "params.npz", allow_pickle=True, **{**{n: t.numpy() for n, t in TENSORS.items()}, "b_dec": [{}]})
    with pytest.raises(StoreError, match="no whole file"):
        named("gemma-scope").read(place)
