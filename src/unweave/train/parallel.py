"""Training by several processes: each takes a part of every batch, and all end the step with the same weights."""

from collections import deque
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.distributed import Ranks
from unweave.dictionaries.base import Dictionary, Losses
from unweave.dictionaries.whole import WholeBatch
from unweave.train.batches import Batches


class Shares:
    """This process's rows of each batch, in the order of the batches; `whole` tells of the batches they are from.

    A batch of fewer rows than processes leaves some without one: they take a row that counts for nothing.
    """

    def __init__(self, batches: Batches, step: int, ranks: Ranks) -> None:
        self._batches, self._step, self._ranks = batches, step, ranks
        self._told: deque[WholeBatch] = deque()  # batches may be read ahead of the step that takes them

    def __iter__(self) -> Iterator[Float[Tensor, "b d_in"]]:
        if self._ranks.size == 1:
            for batch in self._batches.after(self._step):
                self._told.append(WholeBatch())
                yield batch
            return
        for rows, mine in self._batches.shares(self._step, self._taken):
            start, stop = self._ranks.bounds(rows)
            self._told.append(WholeBatch(rows, (stop - start) / rows, self._ranks))
            yield mine

    def _taken(self, rows: int) -> tuple[int, int]:
        start, stop = self._ranks.bounds(rows)
        return (start, stop) if stop > start else (0, 1)

    def whole(self) -> WholeBatch:
        """The batch that the next rows are from; to be asked once for each."""
        return self._told.popleft()


@torch.no_grad()
def combined(dictionary: Dictionary, losses: Losses, whole: WholeBatch) -> Losses:
    """The losses of the whole batch from those of this process's rows; gradients become those of the whole in place."""
    if whole.alone:
        return losses
    gradients = []
    for parameter in dictionary.parameters():
        if parameter.grad is not None:
            dense = _dense(parameter.grad.mul_(whole.part))
            if dense is None:
                parameter.grad = dense = parameter.grad.contiguous()
            gradients.append(dense)
    names = list(losses.parts)
    numbers = torch.stack([*(losses.parts[name].detach().float() for name in names), losses.error.float()]) * whole.part
    fired = losses.fired * int(whole.part > 0)
    whole.ranks.sum(*gradients, numbers, fired)
    rows = whole.rows_beside(losses.rows)
    return Losses(dict(zip(names, numbers[:-1], strict=True)), fired, numbers[-1], rows)


def first_said(message: str, batch: Float[Tensor, "b d_in"], whole: WholeBatch) -> str:
    """Of all processes' messages, that of the first whose own rows are not finite; else the first's."""
    said = whole.ranks.gather((bool(batch.isfinite().all()) or whole.part == 0, whole.ranks.rank, message))
    fine, rank, text = min(said)
    return text if fine or whole.alone else f"{text}; they are counted from the first row of rank {rank}"


def _dense(gradient: Tensor) -> Tensor | None:
    """The gradient as contiguous memory, transposed where it lies so."""
    return gradient if gradient.is_contiguous() else gradient.T if gradient.T.is_contiguous() else None
