import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unweave.core.hashing import crc32_of_file, hash_module, hash_tensor

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_hash_follows_the_bytes_of_every_type(dtype: torch.dtype) -> None:
    tensor = torch.tensor([0, 1, 1], dtype=dtype)
    other = torch.tensor([0, 1, 0], dtype=dtype)
    assert hash_tensor(tensor) == hash_tensor(tensor.clone())
    assert hash_tensor(tensor) != hash_tensor(other)


def test_a_hash_follows_the_type() -> None:
    assert len({hash_tensor(torch.zeros(2, dtype=dtype)) for dtype in DTYPES}) == len(DTYPES)


@pytest.mark.parametrize("other", [torch.zeros(3, 2), torch.zeros(6), torch.zeros(1, 2, 3)])
def test_a_hash_follows_the_shape(other: Tensor) -> None:
    assert hash_tensor(torch.zeros(2, 3)) != hash_tensor(other)


def test_a_number_is_not_a_vector_of_one() -> None:
    assert hash_tensor(torch.tensor(1.0)) == hash_tensor(torch.tensor(1.0))
    assert hash_tensor(torch.tensor(1.0)) != hash_tensor(torch.tensor(2.0))
    assert hash_tensor(torch.tensor(1.0)) != hash_tensor(torch.tensor([1.0]))


def test_empty_tensors_have_hashes() -> None:
    assert len({hash_tensor(), hash_tensor(torch.zeros(0)), hash_tensor(torch.zeros(0, 3))}) == 3


def test_a_hash_does_not_know_the_layout_in_memory() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    assert hash_tensor(tensor.T) == hash_tensor(tensor.T.contiguous())


def test_a_hash_does_not_know_gradients() -> None:
    assert hash_tensor(torch.ones(2, requires_grad=True)) == hash_tensor(torch.ones(2))


def test_a_hash_knows_where_one_tensor_ends() -> None:
    assert hash_tensor(torch.ones(2), torch.ones(1)) != hash_tensor(torch.ones(1), torch.ones(2))


def _linear() -> nn.Linear:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(0.5)
    return layer


def test_modules_with_the_same_weights_hash_alike() -> None:
    assert hash_module(_linear()) == hash_module(_linear())


def test_a_module_hash_follows_every_weight() -> None:
    changed = _linear()
    with torch.no_grad():
        changed.bias[1] = 0.25
    assert hash_module(changed) != hash_module(_linear())


def test_a_module_hash_follows_the_structure() -> None:
    assert hash_module(nn.Sequential(_linear(), nn.ReLU())) != hash_module(nn.Sequential(_linear(), nn.GELU()))


@pytest.mark.parametrize("persistent", [True, False])
def test_a_module_hash_follows_every_buffer(persistent: bool) -> None:
    def with_buffer(value: float) -> nn.Module:
        module = nn.Module()
        module.register_buffer("scale", torch.tensor(value), persistent=persistent)
        return module

    assert hash_module(with_buffer(1.0)) == hash_module(with_buffer(1.0))
    assert hash_module(with_buffer(1.0)) != hash_module(with_buffer(2.0))


def test_the_checksum_of_a_file_is_the_crc_of_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one read
    path = tmp_path / "bytes"
    path.write_bytes(content)
    assert crc32_of_file(path) == zlib.crc32(content)
    path.write_bytes(b"")
    assert crc32_of_file(path) == 0
