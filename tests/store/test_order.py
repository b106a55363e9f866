import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unweave.core.seeds import torch_generator
from unweave.store.order import BLOCK_BYTES, WINDOW_BYTES, WindowedOrder

orders = st.builds(WindowedOrder, n=st.integers(1, 60), block=st.integers(1, 20), blocks_per_window=st.integers(1, 8))


def _numbers(order: WindowedOrder, *, seed: int = 0, epoch: int = 0) -> Tensor:
    return torch.cat(list(order.numbers(seed=seed, epoch=epoch)))


@given(orders, st.integers(0, 3))
def test_an_epoch_holds_each_row_once(order: WindowedOrder, epoch: int) -> None:
    assert _numbers(order, epoch=epoch).sort().values.tolist() == list(range(order.n))


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


@given(orders)
def test_ranges_are_those_of_the_blocks_and_never_touch(order: WindowedOrder) -> None:
    for window in order.window_blocks(seed=3, epoch=0):
        ranges = order.ranges(window)
        assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))
        rows = [row for start, stop in ranges for row in range(start, stop)]
        assert len(rows) == order.rows_of(window)
        assert {row // order.block for row in rows} == set(window.tolist())


@pytest.mark.parametrize("order", [WindowedOrder(500, 500, 1), WindowedOrder(500, 10, 20)], ids=["one", "windows"])
def test_seed_and_epoch_decide_the_order(order: WindowedOrder) -> None:
    first = _numbers(order, seed=1, epoch=0)
    assert torch.equal(_numbers(order, seed=1, epoch=0), first)
    assert not torch.equal(_numbers(order, seed=1, epoch=1), first)
    assert not torch.equal(_numbers(order, seed=2, epoch=0), first)


def test_one_window_is_a_plain_permutation() -> None:
    """The bits of every store that fits a window hang on this."""
    plain = torch.randperm(777, generator=torch_generator(5, "rows", 3, 0))
    assert torch.equal(_numbers(WindowedOrder.of(777, 64), seed=5, epoch=3), plain)


@given(st.integers(1, 10**9), st.integers(1, 1 << 22), st.integers(BLOCK_BYTES, 1 << 31))
def test_a_window_stays_below_its_bytes(n: int, row_bytes: int, window: int) -> None:
    order = WindowedOrder.of(n, row_bytes, max(window, row_bytes))
    held = min(n, order.block * order.blocks_per_window)
    assert 0 < held * row_bytes <= max(window, row_bytes)
    assert order.windows == 1 or order.block * row_bytes <= max(BLOCK_BYTES, row_bytes)
    assert held <= 1 << 25


@pytest.mark.parametrize(
    "order",
    [WindowedOrder(6000, 6000, 1), WindowedOrder(6000, 10, 100), WindowedOrder(6000, 10, 599)],
    ids=["one window", "six windows", "a block too many for one window"],
)
def test_rows_are_mixed_over_the_whole_source(order: WindowedOrder) -> None:
    """Against a random permutation: displacement n/3, label runs of 1/(1 − 1/10) rows, classes even in each batch."""
    seen = _numbers(order)
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
    place = torch.empty(6000)
    place[_numbers(WindowedOrder(6000, 10, 100))] = torch.arange(6000.0)
    same_block = (place.view(600, 10).diff(dim=1).abs() == 1).double().mean()
    assert same_block < 0.01


def test_neighbours_meet_in_a_batch_as_often_as_a_window_is_large() -> None:
    """Rows of one image of 200 places, at the sizes of a real store: 8 windows of 1 GiB of rows of 4096 float32."""
    order = WindowedOrder.of(8 * WINDOW_BYTES // 16384, 16384)
    assert order.windows == 8
    batch, rows = 512, WINDOW_BYTES // 16384
    numbers = _numbers(order)
    where = torch.empty_like(numbers)
    where[numbers] = torch.arange(order.n)
    together = (where[1:] // batch == where[:-1] // batch).double().mean()
    inside_blocks = 1 - 1 / order.block  # of neighbours, those in one block; others share a window by chance
    expected = batch / rows * (inside_blocks + (1 - inside_blocks) / order.windows)
    assert together == pytest.approx(expected, rel=0.1)
    assert together < 0.01
    of_images = numbers.split(batch)[100] // 200  # of 2622 in the store, a random batch holds 465
    assert of_images.unique().numel() > 0.9 * 465
