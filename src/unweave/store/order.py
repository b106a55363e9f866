"""The seeded order in which training sees the rows of a store.

The order is made of windows. An epoch permutes blocks of consecutive rows over the whole store, takes as many at a time
as a window holds, and permutes the rows inside the window. A store that fits one window gets a plain permutation of all
its rows. The order is a function of seed and epoch alone, so it can be taken up at any batch without reading what came
before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.seeds import torch_generator

BLOCK_BYTES = 256 << 10
WINDOW_BYTES = 1 << 30
_WINDOW_ROWS = 1 << 25  # of narrow rows: a permutation takes 16 bytes a row


@dataclass(frozen=True)
class WindowedOrder:
    """The order of one store of `n` rows, in blocks of `block` rows; see the module's text."""

    n: int
    block: int
    blocks_per_window: int

    @staticmethod
    def of(n: int, row_bytes: int, window_bytes: int = WINDOW_BYTES) -> "WindowedOrder":
        """The order of `n` rows of so many bytes, in windows of about `window_bytes`.

        Raises:
            InputError: a window is smaller than a block and a row.
        """
        if window_bytes < max(BLOCK_BYTES, row_bytes):
            least = max(BLOCK_BYTES, row_bytes)
            raise InputError(f"window_bytes={window_bytes:,} is too small to mix rows: give {least:,} or more")
        rows = min(max(1, window_bytes // row_bytes), _WINDOW_ROWS)
        if n <= rows:
            return WindowedOrder(n, n, 1)
        block = min(max(1, BLOCK_BYTES // row_bytes), rows)
        return WindowedOrder(n, block, rows // block)

    @property
    def windows(self) -> int:
        """Number of windows in an epoch."""
        return -(-self._blocks // self.blocks_per_window)

    @property
    def _blocks(self) -> int:
        return -(-self.n // self.block)

    def window_blocks(self, *, seed: int, epoch: int) -> list[Int64[Tensor, " blocks"]]:
        """The blocks of each window of an epoch, ascending inside a window."""
        if self.windows == 1:
            return [torch.arange(self._blocks)]
        order = torch.randperm(self._blocks, generator=torch_generator(seed, "blocks", epoch))
        parts = order.tensor_split(self.windows)  # of one size, so that none is too small to mix its rows
        return [part.sort().values for part in parts]

    def rows_of(self, blocks: Int64[Tensor, " blocks"]) -> int:
        """Number of rows in a window."""
        last_is_here = bool((blocks == self._blocks - 1).any())
        return len(blocks) * self.block - (self._blocks * self.block - self.n if last_is_here else 0)

    def ranges(self, blocks: Int64[Tensor, " blocks"]) -> list[tuple[int, int]]:
        """The rows [start, stop) of a window, ascending; blocks that follow each other make one range."""
        found: list[tuple[int, int]] = []
        for number in blocks.tolist():
            start, stop = number * self.block, min((number + 1) * self.block, self.n)
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], stop)
            else:
                found.append((start, stop))
        return found

    def permutation(self, index: int, rows: int, *, seed: int, epoch: int) -> Int64[Tensor, " rows"]:
        """The order of window `index`: places in the sequence of the rows of its ranges."""
        return torch.randperm(rows, generator=torch_generator(seed, "rows", epoch, index))

    def numbers(self, *, seed: int, epoch: int) -> Iterator[Int64[Tensor, " rows"]]:
        """The whole order, window by window: numbers of the store's rows as they come."""
        for index, blocks in enumerate(self.window_blocks(seed=seed, epoch=epoch)):
            rows = torch.cat([torch.arange(start, stop) for start, stop in self.ranges(blocks)])
            yield rows[self.permutation(index, len(rows), seed=seed, epoch=epoch)]
