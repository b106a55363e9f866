"""Sources of rows, and the seeded order in which training sees them.

The order is made of windows. An epoch permutes blocks of consecutive rows over the whole source, takes as many at a
time as a window holds, and permutes the rows inside the window. A source that fits one window gets a plain permutation
of all its rows. The order is a function of seed and epoch alone, so it can be taken up at any batch without reading
what came before it.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.hashing import hash_tensor
from unweave.core.seeds import torch_generator


@dataclass(frozen=True)
class Moments:
    """Moments of rows: `mean` [d_in], and `variance`, the mean squared distance to it summed over dimensions."""

    mean: Float64[Tensor, " d_in"]
    variance: float

    @property
    def mean_square_norm(self) -> float:
        """Mean squared length of a row."""
        return self.variance + float(self.mean.square().sum())


class MomentSums:
    """Accumulates moments over blocks of rows, in float64.

    Squares are summed about the first row: about zero, a variance small beside the mean would drown in rounding.
    """

    def __init__(self, d_in: int) -> None:
        self.n = 0
        self._sum = torch.zeros(d_in, dtype=torch.float64)
        self._pivot: Tensor | None = None
        self._shifted = torch.zeros(d_in, dtype=torch.float64)
        self._square = 0.0

    def add(self, rows: Float[Tensor, "b d_in"]) -> None:
        """Take in a block of rows."""
        exact = rows.detach().cpu().double()
        if not len(exact):
            return
        if self._pivot is None:
            self._pivot = exact[0].clone()
        self.n += len(exact)
        self._sum += exact.sum(0)
        exact = exact - self._pivot
        self._shifted += exact.sum(0)
        self._square += float(exact.square().sum())

    def moments(self) -> Moments:
        """Moments of everything taken in so far (at least one row)."""
        variance = self._square / self.n - float((self._shifted / self.n).square().sum())
        return Moments(self._sum / self.n, max(variance, 0.0))


@runtime_checkable
class RowSource(Protocol):
    """Rows [n, d_in] that can be read in order, or in a seeded order that can be taken up again."""

    @property
    def n(self) -> int:
        """Number of rows."""
        ...

    @property
    def d_in(self) -> int:
        """Width of a row."""
        ...

    @property
    def id(self) -> str:
        """Fingerprint of the content."""
        ...

    def moments(self) -> Moments:
        """Mean and variance of all rows."""
        ...

    def blocks(self, rows: int) -> Iterator[Float[Tensor, "b d_in"]]:
        """All rows in order, float32, at most `rows` at a time."""
        ...

    def batches(
        self, batch_size: int, *, seed: int, epoch: int, shuffle: bool = True, skip: int = 0
    ) -> Iterator[Float[Tensor, "b d_in"]]:
        """One epoch of float32 batches, from batch `skip` on; the last may be smaller."""
        ...


@dataclass(frozen=True)
class WindowedOrder:
    """The seeded order of one source; see the module's text."""

    n: int
    block: int
    blocks_per_window: int

    @property
    def windows(self) -> int:
        """Number of windows in an epoch."""
        return -(-self._blocks // self.blocks_per_window)

    @property
    def _blocks(self) -> int:
        return -(-self.n // self.block)

    def window_blocks(self, *, seed: int, epoch: int) -> list[Int64[Tensor, " blocks"]]:
        """The blocks of each window of an epoch; one window alone takes them in order."""
        if self.windows == 1:
            return [torch.arange(self._blocks)]
        order = torch.randperm(self._blocks, generator=torch_generator(seed, "blocks", epoch))
        return list(order.tensor_split(self.windows))  # of one size, so that none is too small to mix its rows

    def rows_of(self, blocks: Int64[Tensor, " blocks"]) -> int:
        """Number of rows in a window."""
        last_is_here = bool((blocks == self._blocks - 1).any())
        return len(blocks) * self.block - (self._blocks * self.block - self.n if last_is_here else 0)

    def batches(
        self,
        read: Callable[[list[tuple[int, int]]], Float[Tensor, "rows d_in"]],
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        skip: int = 0,
    ) -> Iterator[Float[Tensor, "b d_in"]]:
        """One epoch of shuffled batches.

        Args:
            read: gives the rows of a list of [start, stop) ranges; called in a background thread, one window ahead.
            batch_size: rows a batch; the last batch of the epoch may be smaller.
            seed: with `epoch`, decides the order.
            epoch: number of the epoch.
            skip: batches to leave out at the start, without reading windows that lie wholly in them.
        """
        windows = self.window_blocks(seed=seed, epoch=epoch)
        to_skip = skip * batch_size
        first = 0
        while first < len(windows) and to_skip >= self.rows_of(windows[first]):
            to_skip -= self.rows_of(windows[first])
            first += 1
        carried: list[Tensor] = []
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            ahead = reader.submit(read, self._ranges(windows[first])) if first < len(windows) else None
            for index in range(first, len(windows)):
                assert ahead is not None
                rows = ahead.result()
                if index + 1 < len(windows):
                    ahead = reader.submit(read, self._ranges(windows[index + 1]))
                order = torch.randperm(len(rows), generator=torch_generator(seed, "rows", epoch, index))[to_skip:]
                to_skip = 0
                while len(order):
                    take = batch_size - sum(len(part) for part in carried)
                    carried.append(rows[order[:take]].float())
                    order = order[take:]
                    if sum(len(part) for part in carried) == batch_size:
                        yield torch.cat(carried) if len(carried) > 1 else carried[0]
                        carried = []
        if carried:
            yield torch.cat(carried) if len(carried) > 1 else carried[0]

    def _ranges(self, blocks: Int64[Tensor, " blocks"]) -> list[tuple[int, int]]:
        return [(b * self.block, min((b + 1) * self.block, self.n)) for b in blocks.tolist()]


class TensorRows:
    """A tensor [n, d_in] as a source of rows.

    Raises:
        InputError: it is not of that shape, not floating-point, or empty.
    """

    def __init__(self, rows: Tensor, *, name: str = "activations") -> None:
        if rows.ndim != 2 or not rows.is_floating_point():
            shape = list(rows.shape)
            raise InputError(f"{name} must be a floating-point tensor [n, d_in], got {rows.dtype} {shape}")
        if not len(rows):
            raise InputError(f"{name} has no rows")
        self._rows = rows.detach()
        self._order = WindowedOrder(len(rows), block=len(rows), blocks_per_window=1)
        self._id: str | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return self._rows.shape[0]

    @property
    def d_in(self) -> int:
        """Width of a row."""
        return self._rows.shape[1]

    @property
    def id(self) -> str:
        """Fingerprint of the content."""
        if self._id is None:
            self._id = hash_tensor(self._rows)
        return self._id

    def moments(self) -> Moments:
        """Mean and variance of all rows."""
        sums = MomentSums(self.d_in)
        for block in self._rows.split(65_536):
            sums.add(block)
        return sums.moments()

    def blocks(self, rows: int) -> Iterator[Float[Tensor, "b d_in"]]:
        """All rows in order, float32, at most `rows` at a time."""
        for block in self._rows.split(rows):
            yield block.float()

    def batches(
        self, batch_size: int, *, seed: int, epoch: int, shuffle: bool = True, skip: int = 0
    ) -> Iterator[Float[Tensor, "b d_in"]]:
        """One epoch of float32 batches, from batch `skip` on; the last may be smaller."""
        if not shuffle:
            for start in range(skip * batch_size, self.n, batch_size):
                yield self._rows[start : start + batch_size].float()
            return
        yield from self._order.batches(lambda _: self._rows, batch_size, seed=seed, epoch=epoch, skip=skip)
