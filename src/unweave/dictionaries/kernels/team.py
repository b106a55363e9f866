"""A few threads that share one step's work."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")


class Team:
    """Threads that take pieces of work in turn, the calling one among them.

    They wait without spinning, so that another process on the same cores costs its share and no more. While a team
    lives, torch uses one thread for each of its own operations.
    """

    def __init__(self, size: int) -> None:
        self.size = max(1, size)
        self._pool: ThreadPoolExecutor | None = None
        self._before = 1

    def start(self) -> None:
        """Take torch's threads."""
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)
        if self.size > 1:
            self._pool = ThreadPoolExecutor(self.size - 1, thread_name_prefix="unweave")

    def stop(self) -> None:
        """Give them back."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        torch.set_num_threads(self._before)

    def each(self, pieces: int, work: Callable[[int, int], T]) -> list[T]:
        """Results of work(piece, worker) for all pieces, in their order; which worker takes which is left to chance."""
        if self._pool is None or pieces < 2:
            return [work(piece, 0) for piece in range(pieces)]
        results: list[T | None] = [None] * pieces
        turn = itertools.count()

        def take(worker: int) -> None:
            while (piece := next(turn)) < pieces:
                results[piece] = work(piece, worker)

        waiting = [self._pool.submit(take, worker) for worker in range(1, min(self.size, pieces))]
        try:
            take(0)
        finally:
            wait(waiting)  # for all of them, whichever fails
        for other in waiting:
            other.result()
        return results  # type: ignore[return-value]  # every piece was taken
