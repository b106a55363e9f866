import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unweave.core.codes import Codes
from unweave.core.errors import StoreError
from unweave.core.hashing import hash_tensor
from unweave.store.artifact import read_json
from unweave.store.codes import load_codes, save_codes
from unweave.store.files import load_table, load_tensors, save_table, save_tensors

# Many zeros, and the values that are easily lost.
values = st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.0, 1e-40, np.inf])


def test_tensors_come_back_with_the_same_bits(tmp_path: Path) -> None:
    tensors = {
        "f": torch.tensor([[1.0, float("nan")], [-0.0, 1e-45]]),
        "h": torch.tensor([1.5]).half(),
        "b": torch.tensor([1.5]).bfloat16(),
        "i": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "strided": torch.arange(6.0).view(2, 3).T,
    }
    save_tensors(tmp_path / "x.safetensors", tensors)
    found = load_tensors(tmp_path / "x.safetensors")
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert hash_tensor(found[name]) == hash_tensor(tensor)


def test_tensors_that_require_gradients_can_be_written(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", {"w": torch.ones(2, requires_grad=True)})
    assert load_tensors(tmp_path / "x.safetensors")["w"].tolist() == [1, 1]


def test_a_shortened_tensor_file_is_named_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"w": torch.ones(4)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError, match=r"x\.safetensors is no whole safetensors file"):
            load_tensors(path)


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\xff" * 64, b"PK\x03\x04" * 20])
def test_files_of_another_kind_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="x is no whole safetensors file"):
        load_tensors(path)
    with pytest.raises(StoreError, match="x is no readable Parquet table"):
        load_table(path)


@pytest.mark.parametrize("read", [load_tensors, load_table, load_codes])
def test_a_missing_file_is_named(tmp_path: Path, read: object) -> None:
    with pytest.raises(StoreError, match="gone does not exist"):
        read(tmp_path / "gone")  # type: ignore[operator]


@pytest.mark.parametrize("read", [load_tensors, load_table])
def test_a_folder_is_no_file(tmp_path: Path, read: object) -> None:
    (tmp_path / "file.txt").write_text("text")
    with pytest.raises(StoreError, match=str(tmp_path)):
        read(tmp_path)  # type: ignore[operator]


@pytest.mark.parametrize("read", [load_tensors, load_table, read_json])
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: object) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="pipe is no regular file"):
        read(tmp_path / "pipe")  # type: ignore[operator]


def test_tables_come_back(tmp_path: Path) -> None:
    columns = {"i": np.array([1, 2]), "f": [0.1, float("inf")], "s": ["a", "ü"], "n": [None, 1]}
    save_table(tmp_path / "x.parquet", columns)
    assert load_table(tmp_path / "x.parquet").to_pydict() == {**columns, "i": [1, 2]}
    assert load_table(tmp_path / "x.parquet", ["s", "i"]).column_names == ["s", "i"]
    assert load_table(tmp_path / "x.parquet", []).num_columns == 0


def test_the_name_of_a_folder_adds_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "seed=3" / "kind=topk"
    folder.mkdir(parents=True)
    save_table(folder / "x.parquet", {"a": [1]})
    assert load_table(folder / "x.parquet").column_names == ["a"]


def test_a_missing_column_is_one_line_that_names_it(tmp_path: Path) -> None:
    save_table(tmp_path / "x.parquet", {"a": [1]})
    with pytest.raises(StoreError, match=r"x\.parquet.*nope") as caught:
        load_table(tmp_path / "x.parquet", ["nope"])
    assert "\n" not in str(caught.value)


def test_a_shortened_table_is_named_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    save_table(path, {"a": list(range(50))})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError, match=r"x\.parquet is no readable Parquet table"):
            load_table(path)


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6), elements=values))
def test_codes_come_back(tmp_path_factory: pytest.TempPathFactory, dense: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("codes") / "x.safetensors"
    codes = Codes.from_dense(torch.from_numpy(dense))
    save_codes(path, codes)
    found = load_codes(path)
    assert found.d_sae == codes.d_sae
    for name in ("offsets", "latent", "value"):
        np.testing.assert_array_equal(getattr(found, name), getattr(codes, name), strict=True)
    np.testing.assert_array_equal(found.dense().numpy(), dense)


def test_codes_cost_what_is_active(tmp_path: Path) -> None:
    dense = torch.zeros(1000, 1000)
    dense[:, 7] = 1
    save_codes(tmp_path / "x", Codes.from_dense(dense))
    assert (tmp_path / "x").stat().st_size < 20_000


def test_a_tensor_file_of_something_else_holds_no_codes(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x", {"W": torch.ones(2)})
    with pytest.raises(StoreError, match=r"x holds \['W'\], not sparse codes"):
        load_codes(tmp_path / "x")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read as Linux tells it")
def test_a_tensor_file_is_not_read_before_it_is_touched(tmp_path: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    save_tensors(tmp_path / "x", {"big": torch.ones(1 << 26, dtype=torch.uint8), "small": torch.ones(4)})
    before = resident()
    tensors = load_tensors(tmp_path / "x")
    assert tensors["small"].sum() + tensors["big"].numpy()[:4].sum() == 8
    assert resident() - before < 1 << 24
    tensors["small"][0] = 7
    assert load_tensors(tmp_path / "x")["small"][0] == 1
