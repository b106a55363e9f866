"""One order of rows, read once for all the dictionaries that train on it, each in batches of its own size."""

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unweave.train.batches import Batches, Streamed, aligned, closing_all
from unweave.train.course import Course

_CHUNK_BYTES = 8 << 20
_CHUNK_STEPS = 64
_CHUNKS_HELD = 3


@dataclass(frozen=True, eq=False)
class Follower:
    """A course on its way through a pass: `source` is the name of the rows that it takes."""

    course: Course
    batches: Batches
    source: str = ""

    @property
    def next_row(self) -> int:
        """The first row of its next batch, counted through all epochs."""
        return self.batches.span(self.course.step)[0]

    @property
    def last_row(self) -> int:
        """The row after its last."""
        return self.batches.span((self.course.total or 1) - 1)[1]


@dataclass(frozen=True, eq=False)
class Way:
    """The rows that a job has before it, whichever process trains it: `first` up to `last`, through all epochs."""

    source: str
    batches: Batches
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Part:
    """Consecutive rows of one source, the first of them counted through all epochs."""

    first: int
    rows: Tensor

    @property
    def end(self) -> int:
        """The row after the last."""
        return self.first + len(self.rows)


Chunk = Mapping[str, Part]


@dataclass(eq=False)
class Pass:
    """An order of rows under way, and the courses that follow it, each at its own pace.

    It holds three chunks of a few megabytes: a course that is two chunks ahead waits for the last one. Where several
    sources share a stream, a chunk has a part of each, so that none gets far ahead of the others.

    Attributes:
        followers: those that are not at their end, by the number of their job.
        bytes: memory that it takes, about, with all of its courses.
        together: of a pass that several processes read together, the ways of all their jobs. Each process reads it
            from the first row that any of them needs to the last, whatever becomes of its own courses.
        chunks: what was read and is still needed.
        next_row: of each source, the first row that is not yet read.
        reading: whether a thread is reading the next chunk.
    """

    followers: dict[int, Follower]
    bytes: int
    together: Sequence[Way] = ()
    chunks: deque[Chunk] = field(default_factory=deque)
    next_row: dict[str, int] = field(default_factory=dict)
    reading: bool = False

    def __post_init__(self) -> None:
        ways = self.together or [Way(f.source, f.batches, f.next_row, f.last_row) for f in self.followers.values()]
        batches = {way.source: way.batches for way in ways}
        self.next_row = {name: min(way.first for way in ways if way.source == name) for name in batches}
        self._unread = _read(batches, dict(self.next_row), _sizes(ways))

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        return not self.followers and not self.reading and not self._rows_left()

    def wants_reading(self) -> bool:
        """Whether there is room for another chunk, and use for it."""
        return not self.reading and len(self.chunks) < _CHUNKS_HELD and self._rows_left()

    def _rows_left(self) -> bool:
        if self.together:
            return any(self.next_row[way.source] < way.last for way in self.together)
        return any(self.next_row[one.source] < one.last_row for one in self.followers.values())

    def read(self, device: torch.device) -> Chunk:
        """The next chunk; nobody else may read meanwhile."""
        chunk = next(self._unread)
        return {name: Part(part.first, part.rows.to(device, non_blocking=True)) for name, part in chunk.items()}

    def hold(self, chunk: Chunk) -> None:
        """Offer a chunk that was read to the courses."""
        self.chunks.append(chunk)
        self.next_row.update({name: part.end for name, part in chunk.items()})
        self.reading = False

    def parts_for(self, follower: Follower) -> list[Part]:
        """Parts with the next batch of a course, from the one where it begins on; none where it is not all there."""
        first, stop = follower.batches.span(follower.course.step)
        parts = [chunk[follower.source] for chunk in self.chunks if follower.source in chunk]
        parts = [part for part in parts if part.end > first]
        return parts if parts and parts[0].first <= first and stop <= parts[-1].end else []

    def drop_used(self) -> None:
        """Forget chunks that every course has behind it."""
        needed: dict[str, int] = {}
        for one in self.followers.values():
            row = one.next_row
            needed[one.source] = min(needed.get(one.source, row), row)
        while self.chunks and all(part.end <= needed[name] for name, part in self.chunks[0].items() if name in needed):
            self.chunks.popleft()

    def close(self) -> None:
        """Stop reading ahead; not while a thread reads."""
        with closing_all(self._unread):
            self.chunks.clear()


def batches_in(follower: Follower, parts: Sequence[Part]) -> Iterator[Tensor]:
    """The batches that a course takes in one turn: those that begin in the first part, as far as they are there."""
    for step in range(follower.course.step, follower.course.total or 0):
        first, stop = follower.batches.span(step)
        if first >= parts[0].end or stop > parts[-1].end:
            return
        found = [part.rows[max(first, part.first) - part.first : max(0, stop - part.first)] for part in parts]
        found = [rows for rows in found if len(rows)]
        yield aligned(found[0]) if len(found) == 1 else torch.cat(found)


def _sizes(ways: Sequence[Way]) -> dict[str, int]:
    """Rows of a chunk by source: of several, those that come from about the same examples."""
    sizes: dict[str, int] = {}
    for one in ways:
        source = one.batches.source
        others = [way.batches.batch_size for way in ways if way.source == one.source]
        largest = max(others)
        some = min(_CHUNK_BYTES // (4 * source.d_in), _CHUNK_STEPS * min(others))
        sizes[one.source] = max(1, some // largest) * largest
    rows = {one.source: one.batches.source.n for one in ways}
    chunks = max(1, min(rows[name] // size for name, size in sizes.items()))
    return sizes if len(sizes) == 1 else {name: max(size, -(-rows[name] // chunks)) for name, size in sizes.items()}


def _read(batches: Mapping[str, Batches], start: Mapping[str, int], sizes: Mapping[str, int]) -> Iterator[Chunk]:
    """Chunks from these rows on, epoch after epoch, without end."""
    rows = {name: one.source.n for name, one in batches.items()}
    one = next(iter(batches.values()))
    for epoch in itertools.count(min(start[name] // rows[name] for name in rows)):
        ahead = {name: min(max(0, start[name] - epoch * rows[name]), rows[name]) for name in rows}
        if isinstance(one.source, Streamed):
            chunks = one.source.stream.chunks(sizes, epoch=epoch, start=ahead, shuffle=one.shuffle)
        else:
            chunks = _of_one(one, epoch, ahead, sizes)
        at = {name: epoch * rows[name] + skipped for name, skipped in ahead.items()}
        with closing_all(chunks):
            for chunk in chunks:
                yield {name: Part(at[name], tensor) for name, tensor in chunk.items()}
                at = {name: row + (len(chunk[name]) if name in chunk else 0) for name, row in at.items()}


def _of_one(
    batches: Batches, epoch: int, ahead: Mapping[str, int], sizes: Mapping[str, int]
) -> Iterator[Mapping[str, Tensor]]:
    ((name, size),) = sizes.items()
    skip, dropped = divmod(ahead[name], size)
    read = batches.source.batches(size, seed=batches.seed, epoch=epoch, shuffle=batches.shuffle, skip=skip)
    with closing_all(read):
        for tensor in read:
            yield {name: tensor[dropped:]}
            dropped = 0
