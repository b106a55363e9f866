import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from jaxtyping import TypeCheckError

from unweave.core.codes import Codes

DENSE = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, -3.0]])
# Few values, so that many entries are zero.
matrices = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6),
    elements=st.sampled_from([0.0, 0.0, 0.5, -2.0]),
).map(torch.from_numpy)


def _assert_equal(first: Codes, second: Codes) -> None:
    assert first.d_sae == second.d_sae
    for name in ("offsets", "latent", "value"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), strict=True)


def test_codes_keep_the_active_entries_row_by_row() -> None:
    codes = Codes.from_dense(DENSE)
    assert codes.offsets.tolist() == [0, 1, 1, 3]
    assert codes.latent.tolist() == [1, 0, 2]
    assert codes.value.tolist() == [2.0, 1.0, -3.0]
    assert codes.row().tolist() == [0, 2, 2]
    assert (codes.n, codes.nnz, codes.d_sae) == (3, 3, 3)


@given(matrices)
def test_dense_codes_come_back(dense: torch.Tensor) -> None:
    assert torch.equal(Codes.from_dense(dense).dense(), dense)


@given(matrices, st.data())
def test_rows_can_be_coded_in_parts(dense: torch.Tensor, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(dense)))
    parts = [Codes.from_dense(dense[:cut]), Codes.from_dense(dense[cut:])]
    _assert_equal(Codes.concatenate(parts, dense.shape[1]), Codes.from_dense(dense))


def test_nothing_joined_is_no_rows() -> None:
    codes = Codes.concatenate([], 3)
    assert (codes.n, codes.nnz) == (0, 0)
    assert codes.dense().shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_values_are_kept_as_float32(dtype: torch.dtype) -> None:
    codes = Codes.from_dense(DENSE.to(dtype))
    assert codes.value.dtype == np.float32
    assert codes.value.tolist() == [2.0, 1.0, -3.0]


def test_what_is_zero_in_float32_is_not_active() -> None:
    assert Codes.from_dense(torch.tensor([[1e-60, 1.0]], dtype=torch.float64)).latent.tolist() == [1]


def test_shapes_and_types_are_checked_while_the_tests_run() -> None:
    with pytest.raises(TypeCheckError):
        Codes.from_dense(torch.zeros(3))
    with pytest.raises(TypeCheckError):
        Codes(np.zeros(1, np.int64), np.zeros(2, np.int32), np.zeros(3, np.float32), d_sae=4)
