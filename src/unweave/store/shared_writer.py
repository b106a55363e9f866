"""Writing one activation store by several processes: each writes parts, and shards are put together of them.

A part is a run of batches of one process. Which batches make a shard follows from their sizes alone, so the shards are
those that one process would write. Parts are small at first, so that a small store keeps everyone busy, and grow; from
then on a part is a shard wherever batches are of one size, and is only renamed.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from unweave.core.config import Json
from unweave.core.distributed import Ranks
from unweave.core.errors import InputError
from unweave.store.activation_writer import details, joined, save_moments, shard_rows
from unweave.store.activations import RowBlock
from unweave.store.artifact import Draft, FileEntry, file_entry
from unweave.store.drafts import remove
from unweave.store.files import load_tensors, save_tensors
from unweave.store.pieces import Piece, ShardSums
from unweave.store.shards import shard_name
from unweave.store.unfinished import note_of

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


@dataclass(frozen=True, eq=False)
class _Part:
    """Consecutive batches in one file, or in the middle of one: rows of each, and rows of the file before them."""

    path: Path
    first: int
    rows: tuple[int, ...]
    before: int = 0
    whole: bool = True
    entry: FileEntry | None = None
    sums: ShardSums | None = None

    @property
    def stop(self) -> int:
        return self.first + len(self.rows)


class SharedWriter:
    """One rank's hand in a store; every rank has one for the same folder.

    Args:
        folder: where the files go, the same for all.
        ranks: the processes.
        dtype: precision of the stored rows.
        shard_bytes: as of `ActivationWriter`.
        before: what is there already, the same for all.
        facts: what is to be noted with a piece that ends before a batch; without it nothing is noted, and a capture
            that is cut short cannot be gone on with.

    Attributes:
        done: numbers of the batches that are there already.
    """

    def __init__(
        self,
        folder: Path,
        ranks: Ranks,
        *,
        dtype: str,
        shard_bytes: int,
        before: Sequence[Piece] = (),
        facts: Callable[[int], Json] | None = None,
    ) -> None:
        self.folder, self._ranks = folder, ranks
        self._dtype, self._shard_bytes, self._facts = dtype, shard_bytes, facts
        self._pending: list[tuple[int, RowBlock]] = []
        self._pending_rows = 0
        found = _apart(folder, before)
        self.done = {number for part in found for number in range(part.first, part.stop)}
        self._parts = found if ranks.first else []

    def batches_a_shard(self, rows: int, d_in: int) -> int:
        """How many batches of so many rows make a shard."""
        return max(1, shard_rows(self._shard_bytes, d_in, self._dtype) // max(1, rows))

    def add(self, number: int, block: RowBlock, *, last_of_part: bool) -> None:
        """Take in the rows of a batch of this rank; they come in their order; those that are done are left out."""
        if number in self.done:
            return
        rows, d_in = block.activations.shape
        follows = not self._pending or number == self._pending[-1][0] + 1
        if not follows or self._pending_rows + rows > shard_rows(self._shard_bytes, d_in, self._dtype):
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
        name = f"{PARTS}/part-{first:09d}.safetensors"
        if self._pending_rows:
            save_tensors(self.folder / name, joined([block for _, block in self._pending]))
        entry = self._note(Piece(name=name, first=first, rows=rows))
        self._parts.append(_Part(self.folder / name, first, rows, entry=entry))
        self._pending, self._pending_rows = [], 0

    def close(self, draft: Draft | None) -> None:
        """Put the shards together, each rank its own; the first writes the moments and fills in its draft.

        Raises:
            InputError: nothing was added by anyone, or rows of two widths.
        """
        self.flush()
        parts = sorted(itertools.chain(*self._ranks.gather(self._parts)), key=lambda part: part.first)
        if not any(sum(part.rows) for part in parts):
            raise InputError("there is nothing to store: no row was captured")
        widths = {load_tensors(part.path)["activations"].shape[1] for part in self._parts if sum(part.rows)}
        widths = set().union(*self._ranks.gather(widths))
        if len(widths) > 1:
            raise InputError(f"rows of widths {sorted(widths)} were captured; a store has one width")
        plan = _plan(parts, shard_rows(self._shard_bytes, widths.pop(), self._dtype))
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
        remove(self.folder / PARTS)
        shards = [everyone[index][0] for index in range(len(plan))]
        for index, (_, entry) in everyone.items():
            draft.take(self.folder / shard_name(index), entry)
        save_moments(self.folder, shards)
        draft.details.update(details(shards, self._dtype))

    def _make(self, index: int, pieces: "list[_Slice]") -> tuple[ShardSums, FileEntry]:
        """Write a shard of batches of parts; one that is a whole part is that part's file."""
        name = shard_name(index)
        path = self.folder / name
        filled = [one for one in pieces if sum(one[0].rows[one[1] : one[2]])]
        part, first, stop = filled[0]
        entry = None
        if len(filled) == 1 and part.whole and sum(part.rows[first:stop]) == sum(part.rows):
            if part.path != path:
                part.path.replace(path)
            entry, sums = part.entry, part.sums or ShardSums.of(load_tensors(path)["activations"])
        else:
            found = [(load_tensors(one[0].path), *_rows_of(one)) for one in filled]
            shard = {key: torch.cat([tensors[key][a:b] for tensors, a, b in found]) for key in found[0][0]}
            beside = path.with_suffix(".new")
            save_tensors(beside, shard)
            beside.replace(path)  # what it is made of may be called so
            sums = ShardSums.of(shard["activations"])
        batches = tuple(itertools.chain(*(one.rows[first:stop] for one, first, stop in pieces)))
        piece = Piece(name=name, first=pieces[0][0].first + pieces[0][1], rows=batches, sums=sums)
        return sums, self._note(piece, entry) or file_entry(path)

    def _note(self, piece: Piece, entry: FileEntry | None = None) -> FileEntry | None:
        if self._facts is None:
            return entry
        return note_of(self.folder, replace(piece, facts=self._facts(piece.stop)), entry)


_Slice = tuple[_Part, int, int]
"""Batches [first, stop) of a part, counted from its own first."""


def _rows_of(batches: _Slice) -> tuple[int, int]:
    """Rows of a part's file that some of its batches are: from, up to."""
    part, first, stop = batches
    start = part.before + sum(part.rows[:first])
    return start, start + sum(part.rows[first:stop])


def _apart(folder: Path, pieces: Sequence[Piece]) -> list[_Part]:
    """Pieces as parts of which no two hold the same batch: of what is no shard only the batches that no shard has."""
    parts: list[_Part] = []
    taken: set[int] = set()
    for piece in sorted(pieces, key=lambda piece: (piece.sums is None, piece.first)):
        free = [number for number in range(piece.first, piece.stop) if number not in taken]
        taken.update(free)
        for _, run in itertools.groupby(enumerate(free), key=lambda pair: pair[1] - pair[0]):
            numbers = [number for _, number in run]
            first, stop = numbers[0] - piece.first, numbers[-1] + 1 - piece.first
            whole = (first, stop) == (0, len(piece.rows))
            rows = piece.rows[first:stop]
            path = folder / piece.name
            sums = piece.sums if whole else None
            parts.append(_Part(path, numbers[0], rows, sum(piece.rows[:first]), whole, piece.file, sums))
    return parts


def _plan(parts: list[_Part], most: int) -> list[list[_Slice]]:
    """Which batches of which parts make each shard: whole ones, while they are at most so many rows."""
    plan: list[list[_Slice]] = []
    taken = most + 1
    for part in parts:
        for number, rows in enumerate(part.rows):
            if taken + rows > most:
                plan.append([])
                taken = 0
            if plan[-1] and plan[-1][-1][0] is part:
                _, first, _ = plan[-1].pop()
                plan[-1].append((part, first, number + 1))
            else:
                plan[-1].append((part, number, number + 1))
            taken += rows
    return [pieces for pieces in plan if any(sum(one.rows[first:stop]) for one, first, stop in pieces)]
