import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unweave.core.errors import InputError
from unweave.store.rows import MomentSums, RowSource, TensorRows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_tensor_is_a_source_of_rows(dtype: torch.dtype) -> None:
    data = torch.randn(23, 3, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    rows = TensorRows(data)
    assert isinstance(rows, RowSource)
    assert (rows.n, rows.d_in) == (23, 3)
    assert torch.equal(torch.cat(list(rows.blocks(5))), data.detach().float())
    plain = list(rows.batches(5, seed=0, epoch=0, shuffle=False, skip=2))
    assert torch.equal(torch.cat(plain), data.detach().float()[10:])
    for batch in [*rows.blocks(5), *plain, *rows.batches(5, seed=0, epoch=0)]:
        assert batch.dtype == torch.float32
        assert not batch.requires_grad


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 6), st.booleans())
def test_a_tensor_gives_each_row_once_and_skips_whole_batches(n: int, batch: int, skip: int, shuffle: bool) -> None:
    rows = TensorRows(torch.arange(float(n))[:, None])
    whole = list(rows.batches(batch, seed=3, epoch=1, shuffle=shuffle))
    assert sorted(torch.cat(whole).squeeze(1).tolist()) == list(range(n))
    left = list(rows.batches(batch, seed=3, epoch=1, shuffle=shuffle, skip=skip))
    assert [part.tolist() for part in left] == [part.tolist() for part in whole[skip:]]


def test_the_id_of_a_tensor_is_its_content() -> None:
    data = torch.arange(6.0).view(3, 2)
    assert TensorRows(data).id == TensorRows(data.clone()).id
    others = [data.view(2, 3), data + 1, data.double(), data.flip(0)]
    assert len({TensorRows(other).id for other in [data, *others]}) == 5


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(2, 2, 2), torch.zeros(2, 2, dtype=torch.int64)])
def test_what_is_no_table_of_rows_is_refused_by_name(wrong: Tensor) -> None:
    with pytest.raises(InputError, match="latents must be a floating-point tensor"):
        TensorRows(wrong, name="latents")


def test_no_rows_are_refused() -> None:
    with pytest.raises(InputError, match="has no rows"):
        TensorRows(torch.zeros(0, 3))


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 30), st.integers(0, 10**6))
def test_moments_do_not_depend_on_the_blocks(n: int, d_in: int, block: int, seed: int) -> None:
    rows = torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed)) * 3 + 5
    sums = MomentSums(d_in)
    for part in rows.split(block):
        sums.add(part)
    moments, exact = sums.moments(), rows.double()
    assert sums.n == n
    torch.testing.assert_close(moments.mean, exact.mean(0), rtol=1e-13, atol=1e-13)
    assert moments.mean_square_norm == pytest.approx(exact.square().sum(1).mean().item(), rel=1e-12)
    assert moments.variance == pytest.approx((exact - exact.mean(0)).square().sum(1).mean().item(), rel=1e-10)


def test_a_small_variance_beside_a_large_mean_is_exact() -> None:
    rows = TensorRows(torch.tensor([[1e6 - 1], [1e6 + 1]], dtype=torch.float64) + 1e-3)
    assert rows.moments().variance == pytest.approx(1.0, rel=1e-9)
    assert TensorRows(torch.tensor([[1e9], [1e9 + 1]], dtype=torch.float64)).moments().variance == 0.25


@settings(max_examples=20)
@given(st.floats(-1e3, 1e3, width=32), st.integers(1, 50))
def test_rows_that_are_all_the_same_have_no_variance(value: float, n: int) -> None:
    assert TensorRows(torch.full((n, 7), value)).moments().variance == 0.0
