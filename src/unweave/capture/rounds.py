"""The forward passes of a stream, dealt out: in each round every rank runs the model over one batch of its own.

Afterwards all have the rows of all, in the order of the batches. So the rows that a rank sees, and their order, do not
depend on the number of ranks; one process has rounds of one batch, and nobody to exchange with.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unweave.capture.examples import Batch, ExampleStream
from unweave.core.channel import Channel, ChannelEndedError
from unweave.core.distributed import RankLostError, Ranks
from unweave.core.errors import InputError
from unweave.models.rows import Rows


@dataclass(frozen=True, eq=False)
class Round:
    """Consecutive batches, one for each rank, fewer at the end.

    Attributes:
        own: the batch of this rank, if it has one.
        read: of examples that come once, what tells whether all ranks read the same.
    """

    own: Batch | None
    read: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Found:
    """What the model gave for one batch.

    Attributes:
        examples: in the batch.
        masked: whether a mask decides how many rows an example has.
        values: rows of each hook point, those of other ranks on the CPU.
        per_example: rows of each example by hook point, 0 where they differ.
    """

    examples: int
    masked: bool
    values: Mapping[str, Tensor]
    per_example: Mapping[str, int]


def by_index(examples: ExampleStream, parts: Sequence[Tensor], ranks: Ranks) -> Iterator[Round]:
    """Rounds over batches of the examples with these indices; a rank reads only its own."""
    own = examples.ordered(parts[ranks.rank :: ranks.size])
    for first in range(0, len(parts), ranks.size):
        yield Round(next(own) if first + ranks.rank < len(parts) else None)


def as_they_come(batches: Iterable[Batch], ranks: Ranks) -> Iterator[Round]:
    """Rounds over batches that come in one order, and cannot be had in another: every rank reads all of them."""
    come, examples, checksum = iter(batches), 0, 0
    while here := list(itertools.islice(come, ranks.size)):
        for batch in here if ranks.size > 1 else ():
            examples, checksum = examples + len(batch.example), batch.checksum(checksum)
        yield Round(here[ranks.rank] if ranks.rank < len(here) else None, (examples, checksum))


class Dealt:
    """Runs the model over this rank's batches, and gives what it said of all.

    Args:
        ranks: the processes.
        name: of what is read; the same on every rank.
        rows: runs the model.
    """

    def __init__(self, ranks: Ranks, name: str, rows: Callable[[Batch], Mapping[str, Rows]]) -> None:
        self._ranks, self._rows = ranks, rows
        self._channel: Channel | None = ranks.channel(name)

    def of(self, one: Round) -> list[Found]:
        """What the model gives for the batches of a round, in their order.

        Raises:
            InputError: what the model or the examples did on any rank, or the ranks read other examples.
            RankLostError: another rank failed.
            ChannelEndedError: another rank stopped.
        """
        if self._channel is None:
            assert one.own is not None
            return [_found(one.own, self._rows(one.own))]
        try:
            own = None if one.own is None else _found(one.own, self._rows(one.own))
        except Exception as error:
            kind = None if isinstance(error, InputError) else type(error).__name__
            with suppress(ChannelEndedError):
                self._channel.all({"fault": [kind, str(error)]})  # the others wait for rows that will not come
            raise
        return _in_order(self._channel.all(*_told(own, one.read)), own)

    def each(self, rounds: Iterable[Round]) -> Iterator[Found]:
        """The same of all rounds, where nobody else would find out why another rank stopped.

        Raises:
            InputError: as `of`, or another rank stopped though this one has not.
            RankLostError: another rank failed, or died.
        """
        try:
            for one in rounds:
                yield from self.of(one)
        except ChannelEndedError as error:
            raise self._ranks.hung_up(error) from error

    def close(self) -> None:
        """Leave the other ranks; from any thread."""
        if self._channel is not None:
            self._channel.close()


def _found(batch: Batch, rows: Mapping[str, Rows]) -> Found:
    return Found(
        len(batch.example),
        batch.mask is not None,
        {name: one.values for name, one in rows.items()},
        {name: one.per_example for name, one in rows.items()},
    )


def _told(own: Found | None, read: tuple[int, int]) -> tuple[dict[str, Any], list[Tensor]]:
    """What the other ranks have to know of a batch."""
    if own is None:
        return {"read": list(read)}, []
    said = {"examples": own.examples, "masked": own.masked, "per_example": dict(own.per_example)}
    return {"read": list(read), "found": said}, [values.cpu() for values in own.values.values()]


def _in_order(said: Sequence[tuple[dict[str, Any], list[Tensor]]], own: Found | None) -> list[Found]:
    """What came of each batch of a round, by rank."""
    for rank, (told, _) in enumerate(said):
        if "fault" in told:
            kind, text = told["fault"]
            raise InputError(text) if kind is None else RankLostError(f"rank {rank} failed: {kind}: {text}")
    for rank, (told, _) in enumerate(said):
        if told["read"] != said[0][0]["read"]:
            raise InputError(
                f"rank {rank} reads other examples than rank 0: a stream without indices has to give every rank the "
                "same examples, in the same order; give it a seed, or a data set with indices"
            )
    batches = []
    for told, tensors in said:
        if (found := told.get("found")) is not None:
            values = dict(zip(found["per_example"], tensors, strict=True))
            batches.append(Found(found["examples"], found["masked"], values, found["per_example"]))
    return batches


def until(batches: Iterable[Batch], examples: int) -> Iterator[Batch]:
    """Batches until there are so many examples."""
    come = iter(batches)
    while examples > 0 and (batch := next(come, None)) is not None:
        yield batch
        examples -= len(batch.example)


def parts_until(parts: Sequence[Tensor], examples: int) -> Sequence[Tensor]:
    """The first of these parts that hold so many examples."""
    before = itertools.accumulate((len(part) for part in parts), initial=0)
    return [part for part, seen in zip(parts, before, strict=False) if seen < examples]
