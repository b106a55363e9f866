"""Writing one activation store by several processes: each writes parts, and shards are put together of them.

A part is a run of batches of one process. Which batches make a shard follows from their sizes alone, so the shards are
those that one process would write. Parts are small at first, so that a small store keeps everyone busy, and grow; from
then on a part is a shard wherever batches are of one size, and is only renamed.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from unweave.core.distributed import Ranks
from unweave.core.errors import InputError
from unweave.store.activation_writer import ShardSums, details, joined, save_moments, shard_rows
from unweave.store.activations import RowBlock
from unweave.store.artifact import Draft, FileEntry, file_entry
from unweave.store.files import load_tensors, save_tensors
from unweave.store.shards import shard_name

PARTS = "parts"
_PARTS_OF_ONE_SIZE = 4  # a rank


@dataclass(frozen=True)
class Dealing:
    """Which rank computes which batch: parts go round, and grow from one batch to a whole shard.

    Attributes:
        batches: how many make a shard, by the first of them.
        size: number of ranks.
    """

    batches: int
    size: int

    def part(self, number: int) -> int:
        """Number of the part that a batch belongs to."""
        of_one_size = _PARTS_OF_ONE_SIZE * self.size
        last = (self.batches - 1).bit_length()  # doublings until a part is a shard
        level = (number // of_one_size + 1).bit_length() - 1
        if level < last:
            return of_one_size * level + (number - of_one_size * ((1 << level) - 1)) // (1 << level)
        grown = of_one_size * ((1 << last) - 1)
        shards_from = -(-grown // self.batches) * self.batches
        if number < shards_from:
            return of_one_size * last
        return of_one_size * last + (shards_from > grown) + (number - shards_from) // self.batches

    def owner(self, number: int) -> int:
        """The rank that computes a batch."""
        return self.part(number) % self.size


@dataclass(frozen=True)
class _Part:
    """Consecutive batches in one file: numbers of the batches and rows of each."""

    path: Path
    first: int
    rows: tuple[int, ...]


class SharedWriter:
    """One rank's hand in a store; every rank has one for the same folder.

    Args:
        folder: where the files go, the same for all.
        ranks: the processes.
        dtype: precision of the stored rows.
        shard_bytes: as of `ActivationWriter`.
        finished: called, by the rank that made it, with each shard once it is whole on disk.
    """

    def __init__(
        self,
        folder: Path,
        ranks: Ranks,
        *,
        dtype: str,
        shard_bytes: int,
        finished: Callable[[Path], None] | None = None,
    ) -> None:
        self.folder, self._ranks = folder, ranks
        self._dtype, self._shard_bytes, self._finished = dtype, shard_bytes, finished
        self._pending: list[tuple[int, RowBlock]] = []
        self._pending_rows = 0
        self._parts: list[_Part] = []

    def batches_a_shard(self, rows: int, d_in: int) -> int:
        """How many batches of so many rows make a shard."""
        return max(1, shard_rows(self._shard_bytes, d_in, self._dtype) // max(1, rows))

    def add(self, number: int, block: RowBlock, *, last_of_part: bool) -> None:
        """Take in the rows of a batch of this rank; batches come in their order."""
        rows, d_in = block.activations.shape
        if self._pending_rows + rows > shard_rows(self._shard_bytes, d_in, self._dtype):
            self.flush()
        self._pending.append((number, block))
        self._pending_rows += rows
        if last_of_part:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as a part."""
        if not self._pending:
            return
        first = self._pending[0][0]
        rows = tuple(len(block.activations) for _, block in self._pending)
        path = self.folder / PARTS / f"part-{first:09d}.safetensors"
        if self._pending_rows:
            save_tensors(path, joined([block for _, block in self._pending]))
        self._parts.append(_Part(path, first, rows))
        self._pending, self._pending_rows = [], 0

    def close(self, draft: Draft | None) -> None:
        """Put the shards together, each rank its own; the first writes the moments and fills in its draft.

        Raises:
            InputError: nothing was added by anyone, or rows of two widths.
        """
        self.flush()
        parts = sorted(itertools.chain(*self._ranks.gather(self._parts)), key=lambda part: part.first)
        filled = [part for part in parts if sum(part.rows)]
        if not filled:
            raise InputError("there is nothing to store: no row was captured")
        widths = {load_tensors(part.path)["activations"].shape[1] for part in filled if part in self._parts}
        widths = set().union(*self._ranks.gather(widths))
        if len(widths) > 1:
            raise InputError(f"rows of widths {sorted(widths)} were captured; a store has one width")
        plan = _plan(filled, shard_rows(self._shard_bytes, widths.pop(), self._dtype))
        made = {
            index: self._make(index, pieces)
            for index, pieces in enumerate(plan)
            if index % self._ranks.size == self._ranks.rank
        }
        everyone: dict[int, tuple[ShardSums, FileEntry]] = {}
        for others in self._ranks.gather(made):
            everyone.update(others)
        if draft is None:
            return
        for part in filled:
            part.path.unlink(missing_ok=True)
        (self.folder / PARTS).rmdir()
        shards = [everyone[index][0] for index in range(len(plan))]
        for index, (_, entry) in everyone.items():
            draft.take(self.folder / shard_name(index), entry)
        save_moments(self.folder, shards)
        draft.details.update(details(shards, self._dtype))

    def _make(self, index: int, pieces: list[tuple[_Part, int, int]]) -> tuple[ShardSums, FileEntry]:
        """Write a shard of rows [start, stop) of parts; one that is a whole part is that part's file."""
        path = self.folder / shard_name(index)
        part, start, stop = pieces[0]
        if len(pieces) == 1 and (start, stop) == (0, sum(part.rows)):
            part.path.rename(path)
            rows = load_tensors(path)["activations"]
        else:
            found = [(load_tensors(one.path), a, b) for one, a, b in pieces]
            shard = {name: torch.cat([tensors[name][a:b] for tensors, a, b in found]) for name in found[0][0]}
            save_tensors(path, shard)
            rows = shard["activations"]
        if self._finished is not None:
            entry = file_entry(path)
            self._finished(path)
            return ShardSums.of(rows), entry
        return ShardSums.of(rows), file_entry(path)


def _plan(parts: list[_Part], most: int) -> list[list[tuple[_Part, int, int]]]:
    """Which rows of which parts make each shard: whole batches, while they are at most so many rows."""
    plan: list[list[tuple[_Part, int, int]]] = []
    taken = most + 1
    for part in parts:
        start = 0
        for rows in part.rows:
            if taken + rows > most:
                plan.append([])
                taken = 0
            if plan[-1] and plan[-1][-1][0] is part:
                _, since, upto = plan[-1].pop()
                plan[-1].append((part, since, upto + rows))
            elif rows:
                plan[-1].append((part, start, start + rows))
            taken += rows
            start += rows
    return [pieces for pieces in plan if pieces]
