"""Sources of rows, their moments, and rows in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.hashing import hash_tensor
from unweave.store.order import WindowedOrder


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
        order = self._order.permutation(0, self.n, seed=seed, epoch=epoch)[skip * batch_size :]
        for places in order.split(batch_size):
            if len(places):
                yield self._rows[places].float()
