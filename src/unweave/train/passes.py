"""One order of batches, read once for all the dictionaries that train on it."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unweave.train.course import Course

_CHUNK_BYTES = 8 << 20
_CHUNK_STEPS = 64
_CHUNKS_HELD = 3


@dataclass(eq=False)
class Chunk:
    """Consecutive batches of a pass, from step `first` on."""

    first: int
    batches: list[Tensor]

    @property
    def end(self) -> int:
        """The step after its last."""
        return self.first + len(self.batches)


@dataclass(eq=False)
class Pass:
    """An order of batches under way, and the courses that follow it, each at its own pace.

    It holds three chunks of a few megabytes: a course that is two chunks ahead waits for the last one.

    Attributes:
        courses: those that are not at their end, by the number of their job.
        unread: batches from step `next_step` on.
        next_step: see `unread`.
        bytes: memory that it takes, about, with all of its courses.
        chunks: what was read and is still needed.
        reading: whether a thread is reading the next chunk.
    """

    courses: dict[int, Course]
    unread: Iterator[Tensor]
    next_step: int
    bytes: int
    chunks: deque[Chunk] = field(default_factory=deque)
    reading: bool = False

    def wants_reading(self) -> bool:
        """Whether there is room for another chunk, and use for it."""
        last = max((course.total or 0 for course in self.courses.values()), default=0)
        return self.next_step < last and not self.reading and len(self.chunks) < _CHUNKS_HELD

    def read(self, device: torch.device) -> Chunk:
        """The next chunk; nobody else may read meanwhile."""
        chunk, size = Chunk(self.next_step, []), 0
        while size < _CHUNK_BYTES and len(chunk.batches) < _CHUNK_STEPS:
            batch = next(self.unread, None)
            if batch is None:
                break
            chunk.batches.append(batch.to(device, non_blocking=True))
            size += batch.numel() * batch.element_size()
        return chunk

    def hold(self, chunk: Chunk) -> None:
        """Offer a chunk that was read to the courses."""
        self.chunks.append(chunk)
        self.next_step = chunk.end
        self.reading = False

    def chunk_for(self, course: Course) -> Chunk | None:
        """The chunk with the batch that a course needs next, if it is held."""
        return next((chunk for chunk in self.chunks if chunk.first <= course.step < chunk.end), None)

    def drop_used(self) -> None:
        """Forget chunks that every course has behind it."""
        last = min((course.step for course in self.courses.values()), default=self.next_step)
        while self.chunks and self.chunks[0].end <= last:
            self.chunks.popleft()
