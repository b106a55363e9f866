import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unweave.core.errors import InputError
from unweave.store.rows import MomentSums, RowSource, TensorRows, WindowedOrder

orders = st.builds(WindowedOrder, n=st.integers(1, 60), block=st.integers(1, 20), blocks_per_window=st.integers(1, 8))


class _Rows:
    """Row i holds i; keeps what was asked for."""

    def __init__(self, n: int) -> None:
        self.data = torch.arange(float(n))[:, None]
        self.asked: list[list[tuple[int, int]]] = []

    def __call__(self, ranges: list[tuple[int, int]]) -> Tensor:
        self.asked.append(ranges)
        return torch.cat([self.data[start:stop] for start, stop in ranges])


def _batches(order: WindowedOrder, batch_size: int, *, seed: int = 0, epoch: int = 0, skip: int = 0) -> list[list[int]]:
    batches = order.batches(_Rows(order.n), batch_size, seed=seed, epoch=epoch, skip=skip)
    return [batch.squeeze(1).int().tolist() for batch in batches]


@given(orders, st.integers(1, 70), st.integers(0, 3))
def test_an_epoch_holds_each_row_once_in_full_batches(order: WindowedOrder, batch_size: int, epoch: int) -> None:
    batches = _batches(order, batch_size, epoch=epoch)
    assert sorted(itertools.chain(*batches)) == list(range(order.n))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert len(batches) == math.ceil(order.n / batch_size)


@given(orders, st.integers(1, 25), st.integers(0, 70))
def test_skipping_is_dropping_batches(order: WindowedOrder, batch_size: int, skip: int) -> None:
    assert _batches(order, batch_size, skip=skip) == _batches(order, batch_size)[skip:]


@given(orders)
def test_windows_take_each_block_once_and_are_never_too_large_nor_far_smaller(order: WindowedOrder) -> None:
    windows = order.window_blocks(seed=1, epoch=2)
    blocks = math.ceil(order.n / order.block)
    assert sorted(torch.cat(windows).tolist()) == list(range(blocks))
    assert len(windows) == order.windows == math.ceil(blocks / order.blocks_per_window)
    sizes = [len(window) for window in windows]
    assert max(sizes) <= order.blocks_per_window
    assert max(sizes) - min(sizes) <= 1
    assert sum(order.rows_of(window) for window in windows) == order.n


@pytest.mark.parametrize("order", [WindowedOrder(500, 500, 1), WindowedOrder(500, 10, 20)], ids=["one", "windows"])
def test_seed_and_epoch_decide_the_order(order: WindowedOrder) -> None:
    first = _batches(order, 64, seed=1, epoch=0)
    assert _batches(order, 64, seed=1, epoch=0) == first
    assert _batches(order, 64, seed=1, epoch=1) != first
    assert _batches(order, 64, seed=2, epoch=0) != first


def test_windows_that_are_skipped_are_not_read() -> None:
    order = WindowedOrder(n=100, block=5, blocks_per_window=4)
    rows = _Rows(100)
    assert list(order.batches(rows, 10, seed=0, epoch=0, skip=10)) == []
    assert rows.asked == []
    list(order.batches(rows, 10, seed=0, epoch=0, skip=7))
    assert len(rows.asked) == 2


def test_only_one_window_is_read_ahead() -> None:
    order = WindowedOrder(n=100, block=5, blocks_per_window=4)
    rows = _Rows(100)
    batches = order.batches(rows, 10, seed=0, epoch=0)
    for number, _ in enumerate(batches, 1):
        assert len(rows.asked) <= math.ceil(number * 10 / 20) + 1
        assert all(sum(stop - start for start, stop in ranges) <= 20 for ranges in rows.asked)
    assert len(rows.asked) == 5


def test_reading_may_be_left_off_in_the_middle() -> None:
    rows = _Rows(100)
    batches = WindowedOrder(n=100, block=5, blocks_per_window=4).batches(rows, 10, seed=0, epoch=0)
    next(batches)
    batches.close()
    assert len(rows.asked) <= 2


def test_an_error_of_the_reader_arrives() -> None:
    def broken(_: list[tuple[int, int]]) -> Tensor:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(WindowedOrder(n=10, block=5, blocks_per_window=1).batches(broken, 2, seed=0, epoch=0))


@pytest.mark.parametrize(
    "order",
    [WindowedOrder(6000, 6000, 1), WindowedOrder(6000, 10, 100), WindowedOrder(6000, 10, 599)],
    ids=["one window", "six windows", "a block too many for one window"],
)
def test_rows_are_mixed_over_the_whole_source(order: WindowedOrder) -> None:
    """Against a random permutation: displacement n/3, label runs of 1/(1 − 1/10) rows, classes even in each batch."""
    seen = torch.tensor(list(itertools.chain(*_batches(order, 100))))
    displacement = (seen - torch.arange(order.n)).abs().double().mean()
    assert displacement == pytest.approx(order.n / 3, rel=0.05)
    labels = seen * 10 // order.n  # stored sorted by class, as image folders are
    runs = 1 + int((labels.diff() != 0).sum())
    assert order.n / runs == pytest.approx(1 / 0.9, rel=0.05)
    counts = torch.stack([torch.bincount(batch, minlength=10) for batch in labels.split(100)]).double()
    # A draw of 100 from ten even classes has a variance of 100·0.1·0.9 = 9. Windows of 100 blocks of one class each
    # add at most what drawing 100 blocks adds.
    assert 7 < counts.var(0).mean() < 20


def test_no_row_stays_near_its_neighbours() -> None:
    order = WindowedOrder(6000, 10, 100)
    place = torch.empty(6000)
    place[torch.tensor(list(itertools.chain(*_batches(order, 100))))] = torch.arange(6000.0)
    same_block = (place.view(600, 10).diff(dim=1).abs() == 1).double().mean()
    assert same_block < 0.01


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
