"""Shuffled batches, made ready in the background.

One thread gets the next window of rows into reach while the rows of this one are used; others copy rows from where they
lie into the memory of the batches to come, some megabytes ahead of the consumer. Nothing is read for an order that is
taken up later than at its start, except from there on. No thread waits for the consumer, and all end with the iterator.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unweave.store.order import WindowedOrder

CHUNK_BYTES = 8 << 20
_CHUNKS_AHEAD = 3
_COPIERS = 2
_CONVERTED_BYTES = 256 << 10  # at a time, of rows that do not fill cache lines: what a core's own cache holds
_SPARE = 8
_READ_AT_ONCE = 16
_READ_BYTES = 64 << 20


@runtime_checkable
class Held(Protocol):
    """Rows within reach: they lie in memory, or in pages of a file that are mapped into it."""

    @property
    def starts(self) -> Sequence[int]:
        """Address of the first row of each piece of consecutive rows."""
        ...

    @property
    def lengths(self) -> Sequence[int]:
        """Rows of each piece."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


Ranges = Sequence[tuple[int, int]]
Share = Callable[[int], tuple[int, int]]
"""Which rows [start, stop) of a batch of so many are wanted."""
Hold = Callable[[Ranges], Held]


@dataclass(eq=False)
class _Window:
    """A window under way: how many of its rows are still to be copied, and, once it is open, where each lies."""

    unread: int
    skipped: int
    opened: "Future[np.ndarray] | None" = None
    held: Held | None = None
    done: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def copied(self, rows: int) -> None:
        """Count rows that are copied; with the last of them the window is closed."""
        with self.lock:
            self.unread -= rows
            last = self.unread == 0
        if last:
            self.close()

    def close(self) -> None:
        """Give the memory back, once."""
        with self.lock:
            held, self.held = self.held, None
        if held is not None:
            held.close()
        self.done.set()


class _Spare:
    """Memory for batches, used again as soon as nobody holds any of it: fresh memory is slow to get."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def take(self, rows: int, d_in: int) -> Float[Tensor, "rows d_in"]:
        size = rows * d_in
        fits = next((place for place, memory in enumerate(self._free) if len(memory) >= size), None)
        memory = torch.empty(size) if fits is None else self._free.pop(fits)
        view = memory.numpy()[:size]  # an object of its own, which lives as long as any view of the batches
        weakref.finalize(view, self._give_back, memory).atexit = False
        return torch.from_numpy(view).view(rows, d_in)

    def _give_back(self, memory: Tensor) -> None:
        if len(self._free) < _SPARE:
            self._free.append(memory)


class ShuffledReading:
    """Reads a store in a `WindowedOrder`.

    Args:
        order: the order.
        hold: brings the rows of ranges within reach; called in a thread, for one window while another is open at most.
        d_in: width of a row.
        dtype: precision of the rows that `hold` gives.
    """

    def __init__(self, order: WindowedOrder, hold: Hold, *, d_in: int, dtype: torch.dtype) -> None:
        self._order, self._hold, self._d_in, self._dtype = order, hold, d_in, dtype
        self._row_bytes = d_in * dtype.itemsize
        self._spare = _Spare()

    def batches(
        self, batch_size: int, *, seed: int, epoch: int, skip: int = 0, share: Share | None = None
    ) -> Iterator[Float[Tensor, "b d_in"]]:
        """One epoch of float32 batches, from batch `skip` on; the last may be smaller.

        With `share`, only the rows that it names of each; the others are not copied.
        """
        blocks = self._order.window_blocks(seed=seed, epoch=epoch)
        windows, to_skip = [], skip * batch_size
        for one in blocks:
            rows = self._order.rows_of(one)
            windows.append(_Window(unread=rows - min(rows, to_skip), skipped=min(rows, to_skip)))
            to_skip -= min(rows, to_skip)
        first = next((number for number, window in enumerate(windows) if window.unread), None)
        if first is None:
            return
        opener = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        copiers = ThreadPoolExecutor(_COPIERS, thread_name_prefix="copy-rows", initializer=_one_thread)

        def open_until(last: int) -> None:
            for number in range(first, min(last + 1, len(windows))):
                if windows[number].opened is None:
                    before = windows[number - 2] if number - 2 >= first else None
                    ranges = self._order.ranges(blocks[number])
                    windows[number].opened = opener.submit(
                        self._open, windows[number], before, ranges, number, seed, epoch
                    )

        ahead: deque[Future[Sequence[Tensor]]] = deque()
        chunk = batch_size * max(1, CHUNK_BYTES // (4 * self._d_in * batch_size))
        plan = _pieces(windows, chunk)
        try:
            while True:
                for pieces in islice(plan, _CHUNKS_AHEAD - len(ahead)):
                    open_until(pieces[-1][0] + 1)
                    rows = sum(stop - start for _, start, stop in pieces)
                    wanted = [
                        range(at + mine[0], at + mine[1])
                        for at in range(0, rows, batch_size)
                        for mine in [(share or _all)(min(batch_size, rows - at))]
                    ]
                    parts = [(windows[number], start, stop) for number, start, stop in pieces]
                    ahead.append(copiers.submit(self._copy, parts, wanted))
                if not ahead:
                    return
                yield from ahead.popleft().result()
        finally:
            for window in windows:
                window.done.set()
            ahead.clear()
            opener.shutdown(cancel_futures=True)
            copiers.shutdown(cancel_futures=True)
            for window in windows:
                window.close()

    def _open(
        self, window: _Window, before: _Window | None, ranges: Ranges, number: int, seed: int, epoch: int
    ) -> np.ndarray:
        """Bring a window within reach, once the last but one is closed; addresses of its rows in their order."""
        from unweave.store.gather import row_addresses  # noqa: PLC0415 - compiled code is loaded where it is needed

        if before is not None:
            before.done.wait()
        rows = sum(stop - start for start, stop in ranges)
        order = self._order.permutation(number, rows, seed=seed, epoch=epoch)[window.skipped :]
        held = self._hold(ranges)
        with window.lock:
            window.held = held
        starts, lengths = np.array(held.starts, np.int64), np.array(held.lengths, np.int64)
        found: np.ndarray = row_addresses(starts, lengths, self._row_bytes, order.numpy())
        return found

    def _copy(self, pieces: Sequence[tuple[_Window, int, int]], wanted: Sequence[range]) -> Sequence[Tensor]:
        """Some batches, brought together from one or more windows: of all their rows those that are wanted."""
        sizes = [len(batch) for batch in wanted]
        places = np.concatenate([np.arange(batch.start, batch.stop) for batch in wanted])
        rows = self._spare.take(sum(sizes), self._d_in)
        first = 0
        for window, start, stop in pieces:  # one by one: the next but one opens when this one is done
            assert window.opened is not None
            addresses = window.opened.result()[start:stop]
            here, end = np.searchsorted(places, (first, first + len(addresses)))
            self._copy_rows(rows[here:end], addresses[places[here:end] - first])
            first += len(addresses)
            window.copied(len(addresses))
        return torch.split(rows, sizes)

    def _copy_rows(self, rows: Tensor, addresses: np.ndarray) -> None:
        from unweave.store import gather  # noqa: PLC0415 - as above

        if rows.data_ptr() % gather.LINE == 0 and self._d_in * 4 % gather.LINE == 0:
            stored = getattr(gather, str(self._dtype).removeprefix("torch.").upper())
            gather.stream_rows(rows.data_ptr(), addresses, self._d_in, stored)
            return
        if self._dtype == torch.float32:
            gather.copy_rows(rows.data_ptr(), addresses, self._row_bytes)
            return
        some = max(1, _CONVERTED_BYTES // self._row_bytes)
        part = torch.empty(min(some, len(addresses)), self._d_in, dtype=self._dtype)
        for start in range(0, len(addresses), some):
            found = addresses[start : start + some]
            gather.copy_rows(part.data_ptr(), found, self._row_bytes)
            rows[start : start + len(found)].copy_(part[: len(found)])


def _all(rows: int) -> tuple[int, int]:
    return 0, rows


def _pieces(windows: Sequence[_Window], chunk: int) -> Iterator[list[tuple[int, int, int]]]:
    """Chunks of so many rows: the windows that each takes rows from, and which of those that are left in them."""
    found: list[tuple[int, int, int]] = []
    room = chunk
    for number, rows in enumerate([window.unread for window in windows]):
        at = 0
        while at < rows:
            take = min(room, rows - at)
            found.append((number, at, at + take))
            at, room = at + take, room - take
            if not room:
                yield found
                found, room = [], chunk
    if found:
        yield found


def _one_thread() -> None:
    torch.set_num_threads(1)  # of this thread alone: its pieces are too small to share


@dataclass(frozen=True)
class _Kept:
    """Rows that stay within reach when they are closed."""

    starts: Sequence[int]
    lengths: Sequence[int]

    def close(self) -> None:
        """Do nothing."""


class KeptWhole:
    """Brings all rows of a source within reach at the first use, for every epoch: a source of one window."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._held: Held | None = None
        self._lock = threading.Lock()

    def __call__(self, ranges: Ranges) -> Held:
        """All rows, whatever is asked for."""
        with self._lock:
            if self._held is None:
                self._held = self._hold(ranges)
        return _Kept(self._held.starts, self._held.lengths)


def read_ahead(
    read: Callable[[int, int], Tensor], ranges: Iterator[tuple[int, int]], bytes_a_range: int
) -> Iterator[Tensor]:
    """What `read` gives for ranges, in their order, some megabytes of them read at once in the background."""
    at_once = max(2, min(_READ_AT_ONCE, _READ_BYTES // max(1, bytes_a_range)))
    reader = ThreadPoolExecutor(at_once, thread_name_prefix="read-ahead")
    ahead: deque[Future[Tensor]] = deque()
    try:
        while True:
            ahead.extend(reader.submit(read, *one) for one in islice(ranges, at_once - len(ahead)))
            if not ahead:
                return
            yield ahead.popleft().result()
    finally:
        ahead.clear()
        reader.shutdown(cancel_futures=True)
