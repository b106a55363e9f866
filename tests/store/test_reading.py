import gc
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unweave.core.errors import StoreError
from unweave.store import reading
from unweave.store.order import WindowedOrder
from unweave.store.reading import Held, KeptWhole, ShuffledReading, read_ahead


@dataclass
class _Held:
    starts: Sequence[int]
    lengths: Sequence[int]
    of: "_Rows"

    def close(self) -> None:
        self.of.open -= 1


class _Rows:
    """Row i holds i; counts what is open at a time."""

    def __init__(self, n: int, dtype: torch.dtype = torch.float32, d_in: int = 3) -> None:
        self.data = torch.arange(n)[:, None].expand(n, d_in).to(dtype).contiguous()
        self.open = self.most = self.opened = 0

    def __call__(self, ranges: Sequence[tuple[int, int]]) -> Held:
        self.open += 1
        self.opened += 1
        self.most = max(self.most, self.open)
        row = self.data.stride(0) * self.data.element_size()
        starts = [self.data.data_ptr() + start * row for start, _ in ranges]
        return _Held(starts, [stop - start for start, stop in ranges], self)

    def reading(self, order: WindowedOrder) -> ShuffledReading:
        return ShuffledReading(order, self, d_in=self.data.shape[1], dtype=self.data.dtype)


def _threads() -> int:
    return sum(thread.name.startswith(("read-ahead", "copy-rows")) for thread in threading.enumerate())


@settings(max_examples=60)
@given(
    st.builds(WindowedOrder, n=st.integers(1, 60), block=st.integers(1, 20), blocks_per_window=st.integers(1, 8)),
    st.integers(1, 70),
    st.integers(0, 12),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.integers(1, 4),
)
def test_batches_are_the_order_from_any_batch_on(
    order: WindowedOrder, batch_size: int, skip: int, dtype: torch.dtype, chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "CHUNK_BYTES", chunk * 4 * 3 * batch_size)
        rows = _Rows(order.n, dtype)
        numbers = torch.cat(list(order.numbers(seed=1, epoch=2)))
        batches = list(rows.reading(order).batches(batch_size, seed=1, epoch=2, skip=skip))
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert len(batches) == max(0, math.ceil(order.n / batch_size) - skip)
        found = torch.cat([torch.empty(0, 3), *batches])
        assert torch.equal(found, numbers[skip * batch_size :, None].expand(-1, 3).to(dtype).float())
        assert rows.open == 0
        assert rows.most <= 2


def test_windows_that_are_skipped_are_not_read() -> None:
    rows = _Rows(100)
    read = rows.reading(WindowedOrder(n=100, block=5, blocks_per_window=4))
    assert list(read.batches(10, seed=0, epoch=0, skip=10)) == []
    assert rows.opened == 0
    list(read.batches(10, seed=0, epoch=0, skip=7))
    assert rows.opened == 2


def test_a_consumer_that_stops_leaves_nothing() -> None:
    rows = _Rows(10_000)
    read = rows.reading(WindowedOrder(n=10_000, block=5, blocks_per_window=4))
    batches = read.batches(10, seed=0, epoch=0)
    next(batches)
    batches.close()
    assert (_threads(), rows.open) == (0, 0)
    batches = read.batches(10, seed=0, epoch=0)
    next(batches)
    del batches
    gc.collect()
    assert (_threads(), rows.open) == (0, 0)


def test_an_error_of_the_reader_arrives_and_leaves_nothing() -> None:
    rows = _Rows(100)

    def breaks(ranges: Sequence[tuple[int, int]]) -> Held:
        if rows.opened == 2:
            raise StoreError("the disk is gone")
        return rows(ranges)

    order = WindowedOrder(n=100, block=5, blocks_per_window=4)
    with pytest.raises(StoreError, match="the disk is gone"):
        list(ShuffledReading(order, breaks, d_in=3, dtype=torch.float32).batches(10, seed=0, epoch=0))
    assert (_threads(), rows.open) == (0, 0)


def test_what_a_consumer_keeps_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", 64)
    order = WindowedOrder(n=1000, block=10, blocks_per_window=20)
    rows = _Rows(1000)
    read = rows.reading(order)
    kept = [batch for epoch in range(2) for batch in read.batches(7, seed=0, epoch=epoch)]
    numbers = torch.cat([torch.cat(list(order.numbers(seed=0, epoch=epoch))) for epoch in range(2)])
    assert torch.equal(torch.cat(kept)[:, 0], numbers.float())
    kept[0].fill_(-1)
    assert rows.data.min() == 0


def test_memory_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", 1 << 12)
    read = _Rows(20_000).reading(WindowedOrder(n=20_000, block=10, blocks_per_window=200))
    places = set()
    for epoch in range(3):
        for batch in read.batches(64, seed=0, epoch=epoch):
            places.add(batch.untyped_storage().data_ptr())
            del batch
    assert len(places) <= 16  # of some two hundred chunks


def test_a_source_of_one_window_is_read_once() -> None:
    rows = _Rows(50)
    read = ShuffledReading(WindowedOrder(50, 50, 1), KeptWhole(rows), d_in=3, dtype=torch.float32)
    for epoch in range(3):
        assert torch.cat(list(read.batches(8, seed=0, epoch=epoch)))[:, 0].sort().values.tolist() == list(range(50))
    assert (rows.opened, rows.open) == (1, 1)


@pytest.mark.parametrize("d_in", [1, 3, 16, 33, 128])
def test_rows_are_copied_from_wherever_they_begin(d_in: int) -> None:
    from unweave.store.gather import copy_rows, row_addresses

    data = np.arange(50 * d_in + 1, dtype=np.float32)[1:].reshape(50, d_in)  # begins where no line begins
    order = np.array([3, 0, 49, 7, 7, 20])
    addresses = row_addresses(np.array([data.ctypes.data, data[10:].ctypes.data]), np.array([10, 40]), 4 * d_in, order)
    out = torch.full((len(order), d_in), -1.0)
    copy_rows(out.data_ptr(), addresses, 4 * d_in)
    assert np.array_equal(out.numpy(), data[order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_becomes_the_float32_that_it_is(dtype: torch.dtype) -> None:
    from unweave.store import gather

    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    stored = torch.cat([torch.zeros(1, dtype=torch.int16), bits])[1:].view(dtype).view(-1, 64)  # no line begins there
    order = np.random.default_rng(0).permutation(len(stored))
    out = torch.empty(len(stored), 64)
    assert out.data_ptr() % gather.LINE == 0
    kind = gather.FLOAT16 if dtype == torch.float16 else gather.BFLOAT16
    gather.stream_rows(out.data_ptr(), stored.data_ptr() + order * 128, 64, kind)
    wanted = stored[torch.from_numpy(order)].float()
    assert torch.equal(out.view(torch.int32), wanted.view(torch.int32))  # NaN with its payload too


def test_reading_ahead_keeps_the_order_and_raises_what_is_raised() -> None:
    def read(start: int, stop: int) -> torch.Tensor:
        if start == 30:
            raise StoreError("gone")
        return torch.arange(start, stop)

    ahead = read_ahead(read, ((start, start + 3) for start in range(0, 60, 3)), 12)
    assert torch.cat([next(ahead) for _ in range(10)]).tolist() == list(range(30))
    with pytest.raises(StoreError, match="gone"):
        next(ahead)
    assert _threads() == 0
