"""Writing an activation store: whole batches gathered into shards, and the moments of their rows.

Where a shard ends depends on the batches alone: it takes the next one while it stays below its size. A shard's moments
are summed over its rows as they are stored, in blocks of one size, and those of all shards are combined in their order.
So the files do not depend on who wrote them, or when.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unweave.core.errors import InputError
from unweave.store.activations import DTYPES, RowBlock
from unweave.store.files import save_tensors
from unweave.store.pieces import Piece, ShardSums
from unweave.store.shards import MOMENTS, shard_name

SHARD_BYTES = 256 << 20


def save_moments(folder: Path, shards: Iterable[ShardSums]) -> None:
    """Write the mean and the variance of all rows, from those of the shards in their order.

    Sums of squares about two means are brought together as Chan, Golub & LeVeque (1979, "Updating formulae and a
    pairwise algorithm for computing sample variances") do.
    """
    n, total, spread = 0, torch.zeros((), dtype=torch.float64), 0.0
    for shard in shards:
        if n:
            apart = float((total / n - shard.sum / shard.n).square().sum())
            spread += apart * n * shard.n / (n + shard.n)
        n, total, spread = n + shard.n, total + shard.sum, spread + shard.spread
    variance = torch.tensor(max(spread / n, 0.0), dtype=torch.float64)
    save_tensors(folder / MOMENTS, {"mean": total / n, "variance": variance})


class ActivationWriter:
    """Writes batches of rows into the shards of one folder; memory stays below two shards and a batch.

    Args:
        folder: where the files go.
        dtype: precision of the stored rows.
        shard_bytes: size that a shard's rows stay below; a larger batch is a shard of its own.
        finished: called with each shard once it is whole on disk.
        before: shards that are there already, from the first on; batches begin where they end.
    """

    def __init__(
        self,
        folder: Path,
        *,
        dtype: str = "float32",
        shard_bytes: int = SHARD_BYTES,
        finished: Callable[[Piece], None] | None = None,
        before: Sequence[Piece] = (),
    ) -> None:
        self.folder = folder
        self._dtype = dtype
        self._shard_bytes = shard_bytes
        self._finished = finished
        self._pending: list[RowBlock] = []
        self._pending_rows = 0
        self._counts: list[int] = []
        self._shards = [piece.sums for piece in before if piece.sums is not None]
        assert len(self._shards) == len(before), "whole shards have sums"
        self._first = before[-1].stop if before else 0
        self._d_in = len(self._shards[0].sum) if before else None

    @property
    def batches(self) -> int:
        """How many batches were taken in, with those of the shards that were there before."""
        return self._first + len(self._counts)

    def add(self, block: RowBlock) -> None:
        """Append the rows of one batch.

        Raises:
            InputError: they are of another width than those before.
        """
        rows = block.activations.detach().to("cpu", DTYPES[self._dtype])
        self._d_in = rows.shape[1] if self._d_in is None else self._d_in
        if rows.shape[1] != self._d_in:
            raise InputError(f"rows of width {rows.shape[1]} follow rows of width {self._d_in}; a store has one width")
        if self._pending_rows + len(rows) > shard_rows(self._shard_bytes, self._d_in, self._dtype):
            self._write_shard()
        if len(rows):
            self._pending.append(RowBlock(rows, block.example, block.position, block.label))
            self._pending_rows += len(rows)
        self._counts.append(len(rows))

    def close(self) -> dict[str, Any]:
        """Write what is left and return the details for the manifest.

        Raises:
            InputError: nothing was added.
        """
        self._write_shard()
        if not self._shards:
            raise InputError("there is nothing to store: no row was captured")
        save_moments(self.folder, self._shards)
        return details(self._shards, self._dtype)

    def _write_shard(self) -> None:
        if not self._pending:
            return
        shard = joined(self._pending)
        self._pending, self._pending_rows = [], 0
        name = shard_name(len(self._shards))
        save_tensors(self.folder / name, shard)
        sums = ShardSums.of(shard["activations"])
        piece = Piece(name=name, first=self._first, rows=tuple(self._counts), sums=sums)
        self._shards.append(sums)
        self._first, self._counts = self.batches, []
        if self._finished is not None:
            self._finished(piece)


def in_order(pieces: Sequence[Piece]) -> list[Piece]:
    """Of pieces those that are shards and follow each other from the first batch on."""
    found: list[Piece] = []
    for piece in pieces:
        if piece.sums is None or (piece.name, piece.first) != (shard_name(len(found)), found[-1].stop if found else 0):
            break
        found.append(piece)
    return found


def shard_rows(shard_bytes: int, d_in: int, dtype: str) -> int:
    """Rows that a shard holds at most, where it holds more than one batch."""
    return max(1, shard_bytes // (d_in * DTYPES[dtype].itemsize))


def joined(blocks: list[RowBlock]) -> dict[str, Tensor]:
    """Blocks one after the other, as a shard holds them."""
    return {name: torch.cat([block.tensors()[name] for block in blocks]) for name in blocks[0].tensors()}


def details(shards: list[ShardSums], dtype: str) -> dict[str, Any]:
    """What a store's manifest says of its shards."""
    rows = [shard.n for shard in shards]
    return {"n": sum(rows), "d_in": len(shards[0].sum), "dtype": dtype, "shards": rows}
