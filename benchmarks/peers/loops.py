"""Steps of a training loop that is one function.

Overcomplete, sparsify and Unweave itself offer a loop over batches, not a step. The loop runs here unchanged, in a
coroutine of the same thread: where it asks for the next batch it is put aside until there is one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor

_State = tuple[int, bool, str]


class SteppedLoop:
    """Runs `loop(next_batch)` up to its next call of `next_batch` at every step.

    What a loop sets for the whole process while it runs (threads, gradients, precision of products) is put back where
    it is put aside; `around` brings it back.
    """

    def __init__(self, loop: Callable[[Callable[[], Tensor]], Any]) -> None:
        outside = _state()
        self._caller = getcurrent()
        self._loop = greenlet(loop)
        self.result: Any = None
        try:
            self._loop.switch(self._next_batch)
        finally:
            self._inside = _state()
            _set(outside)

    @contextmanager
    def around(self) -> Iterator[None]:
        """What the loop set, inside the block."""
        outside = _state()
        _set(self._inside)
        try:
            yield
        finally:
            self._inside = _state()
            _set(outside)

    def step(self, x: Tensor) -> None:
        """Hand the loop a batch and let it work until it asks for another, or ends and leaves its `result`."""
        if self._loop.dead:
            raise RuntimeError("the training loop has ended: it was set up for fewer steps")
        self._caller = getcurrent()
        given = self._loop.switch(x)
        if self._loop.dead:
            self.result = given

    def close(self) -> None:
        """End the loop where it stands."""
        if not self._loop.dead:
            with self.around():
                self._loop.throw(GreenletExit)

    def _next_batch(self) -> Tensor:
        return self._caller.switch()


def forever(next_batch: Callable[[], Tensor]) -> Iterator[Tensor]:
    """A data loader that never ends."""
    while True:
        yield next_batch()


def _state() -> _State:
    return torch.get_num_threads(), torch.is_grad_enabled(), torch.get_float32_matmul_precision()


def _set(state: _State) -> None:
    threads, gradients, precision = state
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    torch.set_grad_enabled(gradients)
    torch.set_float32_matmul_precision(precision)
