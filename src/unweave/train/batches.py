"""Where batches come from: rows that can be read again in a seeded order, or a stream that comes once."""

import itertools
import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.seeds import derive_seed
from unweave.store.activations import Activations
from unweave.store.reading import Share
from unweave.store.rows import RowSource, TensorRows
from unweave.train.training import Training

PEEKED_BATCHES = 16
_LINE = 64  # bytes


@runtime_checkable
class Streamed(Protocol):
    """A source whose rows are computed at every pass, so that it has what saves passes: a sample, and one order."""

    @property
    def stream(self) -> "SharedStream":
        """What computes them, for this source and others."""
        ...

    @property
    def hook_name(self) -> str:
        """Which of the stream's rows these are."""
        ...

    @property
    def details(self) -> dict[str, Any]:
        """What an artifact's manifest says of the stream."""
        ...

    def sample(self) -> TensorRows:
        """Rows in memory that stand for all of them."""
        ...


@runtime_checkable
class SharedStream(Protocol):
    """Rows of several sources from one pass."""

    seed: int
    buffer_bytes: int

    def chunks(
        self, rows: Mapping[str, int], *, epoch: int | None, start: Mapping[str, int], shuffle: bool = True
    ) -> Iterator[Mapping[str, Tensor]]:
        """One pass, in parts of so many rows of each source, from row `start` of each on."""
        ...


class Batches:
    """The batches of a run: epochs over a source, or a stream as it comes.

    Attributes:
        source: the rows.
        start: rows that the start, or a fit in closed form, is taken from: the source, or its sample.
        per_epoch: steps of an epoch, where there are epochs.
        total: steps of the run, where they are known.
        order: what decides the order of the rows, where they can be had again: two runs with the same one over the
            same rows see them in the same order for as long as both last.
    """

    def __init__(self, source: RowSource, stream: Iterator[Tensor] | None, training: Training, seed: int) -> None:
        self.source, self._stream, self._training = source, stream, training
        self.start: RowSource = source.sample() if isinstance(source, Streamed) else source
        # A stream has one order for all that train on it: a seed of one's own would cost passes of one's own.
        self.seed = source.stream.seed if isinstance(source, Streamed) else derive_seed(seed, "order")
        self.per_epoch = None if stream is not None else -(-source.n // training.batch_size)
        self.total = training.steps or (None if self.per_epoch is None else training.epochs * self.per_epoch)
        self.order = self.seed if training.shuffle else None

    @property
    def batch_size(self) -> int:
        """Rows of a batch; the last of an epoch may have fewer."""
        return self._training.batch_size

    @property
    def shuffle(self) -> bool:
        """Whether epochs have orders of their own."""
        return self._training.shuffle

    @property
    def details(self) -> dict[str, Any]:
        """What the artifact's manifest says of where the rows came from."""
        return self.source.details if isinstance(self.source, Streamed) else {}

    def span(self, step: int) -> tuple[int, int]:
        """Rows [first, stop) of a step's batch, counted through all epochs."""
        assert self.per_epoch is not None
        epoch, number = divmod(step, self.per_epoch)
        first = epoch * self.source.n + number * self.batch_size
        return first, min(first + self.batch_size, (epoch + 1) * self.source.n)

    def after(self, step: int) -> Iterator[Tensor]:
        """What is left of the run after `step` batches."""
        batches = self._stream if self._stream is not None else self._epochs(step)
        return itertools.islice(batches, None if self.total is None else self.total - step)

    def shares(self, step: int, share: Share) -> Iterator[tuple[int, Tensor]]:
        """What is left of the run, of each batch only the rows that `share` names, and how many the whole has."""
        if isinstance(self.source, Activations):  # it reads no others
            assert self.total is not None
            for number, mine in zip(range(step, self.total), self._epochs(step, share=share), strict=False):
                first, stop = self.span(number)
                yield stop - first, mine
            return
        for batch in self.after(step):
            start, stop = share(len(batch))
            yield len(batch), batch[start:stop]

    def _epochs(self, step: int, **share: Share) -> Iterator[Tensor]:
        assert self.per_epoch is not None
        first, skip = divmod(step, self.per_epoch)
        for epoch in itertools.count(first):
            batches = self.source.batches(
                self.batch_size, seed=self.seed, epoch=epoch, shuffle=self.shuffle, skip=skip, **share
            )
            with closing_all(batches):
                yield from map(aligned, batches)
            skip = 0


@contextmanager
def closing_all(batches: Iterator[Any]) -> Iterator[None]:
    """End a generator with the block, and with it whatever reads ahead for it."""
    try:
        yield
    finally:
        if isinstance(batches, Generator):
            batches.close()


def aligned(batch: Tensor) -> Tensor:
    """The batch as memory that begins where vectors do: the last bits of a product may depend on it."""
    return batch if batch.device.type != "cpu" or batch.data_ptr() % _LINE == 0 else batch.clone()


def source_and_stream(rows: RowSource | Tensor | Iterable[Tensor]) -> tuple[RowSource, Iterator[Tensor] | None]:
    """Rows to set the start from, and the stream of batches where the rows are one.

    Raises:
        InputError: the rows are not [n, d_in], or a stream gives nothing.
    """
    if isinstance(rows, Tensor):
        return TensorRows(rows), None
    if isinstance(rows, RowSource):
        return rows, None
    stream = _checked(rows)
    peeked = list(itertools.islice(stream, PEEKED_BATCHES))
    if not peeked:
        raise InputError("the iterator of batches gave none")
    return TensorRows(torch.cat(peeked)), itertools.chain(peeked, stream)


def refuse_not_finite(source: RowSource, name: str) -> None:
    """Stop where a row holds NaN or Inf, and say which.

    Raises:
        InputError: there is such a row.
    """
    if math.isfinite(source.moments().variance):
        return
    bad, seen = [], 0
    for block in source.blocks(8192):
        bad += [seen + row for row in (~block.isfinite().all(1)).nonzero().flatten().tolist()]
        seen += len(block)
    if not bad:
        raise InputError(f"{name} are too large: the sum of their squares is no longer finite; scale them down")
    some = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
    raise InputError(
        f"{len(bad)} of {seen} rows hold NaN or Inf ({name}: {some}); look at what the model gives for their examples, "
        "or leave them out"
    )


def _checked(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Batches of a stream in float32; an error names the first that is not as the others."""
    d_in = None
    for number, batch in enumerate(batches):
        if not isinstance(batch, Tensor):
            raise InputError(f"batch {number} must be a tensor [n, d_in], got {type(batch).__name__}")
        rows = TensorRows(batch, name=f"batch {number}")
        d_in = rows.d_in if d_in is None else d_in
        if rows.d_in != d_in:
            raise InputError(f"batch {number} has rows of width {rows.d_in}, those before it {d_in}")
        yield batch.detach().float()
