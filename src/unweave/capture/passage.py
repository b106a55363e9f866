"""One pass over examples, batch by batch, that can begin where an earlier one was cut short."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from unweave.capture.examples import Batch, ExampleStream
from unweave.core.config import Json
from unweave.core.distributed import Ranks
from unweave.core.errors import InputError
from unweave.core.hashing import hash_tensor
from unweave.store.pieces import Piece

_DRAWN, _ORDER, _FIRST, _LAST, _ALL = "drawn", "order", "first", "last", "all"


class Passage:
    """Batches by number; those that were done before are not read, or, where they come only once, drawn and left out.

    What has no fingerprint of its own (a loader, a generator) is known by checksums of what came: of the order and of
    some batches where examples can be had by their index, else of everything.

    Args:
        stream: the examples.
        ranks: the processes that share them.

    Attributes:
        order: indices of each batch's examples, where they can be had by their index.
        examples: how many were given or left out so far; at the end all.
    """

    def __init__(self, stream: ExampleStream, ranks: Ranks) -> None:
        self._stream = stream
        self._known = stream.id is not None and stream.seekable
        self.order: list[Int64[Tensor, " _"]] | None = stream.order() if stream.seekable else None
        if not self._known:  # a loader that shuffles draws its order anew
            self.order = ranks.from_first(self.order)
        self.examples = 0
        self.checksum = 0
        self._each: dict[int, int] = {}
        self._up_to: list[int] = []
        self._come: Iterator[Batch] | None = None
        self._first: Batch | None = None

    @property
    def first(self) -> Batch:
        """The first batch; it is given again with the others."""
        if self._first is None:
            self._come = iter(self._stream) if not self.order else self._stream.ordered(self.order[:1])
            self._first = next(self._come)
            if not self._known:
                self._each[0] = self._first.checksum()
        return self._first

    def examples_of(self, wanted: Callable[[int], bool]) -> int | None:
        """How many examples the wanted batches have, where that is known beforehand."""
        if self.order is None:
            return None
        return sum(len(batch) for number, batch in enumerate(self.order) if wanted(number))

    def same(self, piece: Piece) -> bool:
        """Whether a piece is of these examples, as far as that can be told before they come."""
        if self._known:
            return self.order is not None and piece.stop <= len(self.order)
        drawn = piece.facts.get(_DRAWN)
        if not isinstance(drawn, dict):
            return False
        _ = self.first
        if (drawn.get(_ORDER), drawn.get(_FIRST)) != (self._order_id, self._each[0]):
            return False
        if self.order is None:
            return isinstance(drawn.get(_ALL), int)
        if _LAST not in drawn:
            return True
        last = next(self._stream.ordered(self.order[piece.stop - 1 : piece.stop]))
        return bool(last.checksum() == drawn[_LAST])

    def numbered(self, wanted: Callable[[int], bool], before: Sequence[Piece] = ()) -> Iterator[tuple[int, Batch]]:
        """The wanted batches with their numbers.

        Raises:
            InputError: there are none at all, or others than those that pieces were made of before.
        """
        if self.order:
            numbers = [number for number in range(len(self.order)) if wanted(number)]
            for number, batch in zip(numbers, self._stream.ordered(self.order[n] for n in numbers), strict=True):
                if not self._known:
                    self._each[number] = batch.checksum()
                yield number, batch
            self.examples = sum(map(len, self.order))
            return
        _ = self.first
        assert self._first is not None
        assert self._come is not None
        said, number = _said(before), -1
        for number, batch in enumerate(itertools.chain([self._first], self._come)):
            self.examples += len(batch.example)
            self.checksum = batch.checksum(self.checksum)
            self._up_to.append(self.checksum)
            if said.get(number + 1, self.checksum) != self.checksum:
                raise OtherExamplesError(number)
            if wanted(number):
                yield number, batch
        if said and max(said) > number + 1:
            raise OtherExamplesError(number + 1)

    def facts(self, stop: int) -> Json:
        """What is to be noted with a piece that ends before a batch."""
        if self._known:
            return {}
        said: Json = {_ORDER: self._order_id, _FIRST: self._each.get(0)}
        if self.order is None:
            said[_ALL] = self._up_to[stop - 1]
        elif stop - 1 in self._each:
            said[_LAST] = self._each[stop - 1]
        return {_DRAWN: said}

    @property
    def _order_id(self) -> str | None:
        if self.order is None:
            return None
        lengths = torch.tensor([len(batch) for batch in self.order])
        return hash_tensor(lengths, *self.order)


class OtherExamplesError(InputError):
    """Up to a batch, examples are others than those that an earlier pass was given.

    Attributes:
        batch: its number.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        super().__init__(
            f"up to batch {batch:,} the examples are not those of the capture that was cut short; what it made from "
            "there on is removed: start again, and give the same examples each time"
        )


def _said(pieces: Sequence[Piece]) -> dict[int, int]:
    """Checksums of everything up to the ends of pieces."""
    return {piece.stop: piece.facts[_DRAWN][_ALL] for piece in pieces}
