"""One pass of a model over examples, refill by refill, ahead of whoever reads its rows.

The rows of a pass come in the order of its examples. Consecutive ones, as many as a third of the buffer holds, make a
*refill*. Each refill is permuted; its first half is given out together with the second half of the refill before it,
in an order drawn anew. So a *serving* mixes the rows of two refills, every row is served once, and to begin at any
serving takes only the refill before it: what lies further back need not go through the model.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unweave.capture.forward import Forward
from unweave.capture.rounds import Dealt, Round
from unweave.core.channel import ChannelEndedError
from unweave.core.distributed import Ranks
from unweave.core.errors import InputError
from unweave.core.seeds import torch_generator


@dataclass(frozen=True)
class Mixing:
    """The refills and servings of one hook point: `n` rows, `size` of them a refill (the last may be smaller).

    Where rows are not mixed (each example gives one, and the examples themselves are permuted; or nothing is to be
    shuffled), a serving is a refill as it comes.
    """

    n: int
    size: int
    mixes: bool

    @property
    def refills(self) -> int:
        """Number of refills, and of servings."""
        return -(-self.n // self.size)

    def rows(self, index: int) -> int:
        """Rows of a refill."""
        return min(self.size, self.n - index * self.size)

    def early(self, index: int) -> int:
        """How many of a refill's rows are served at once; the others one serving later."""
        return self.rows(index) if not self.mixes or index == self.refills - 1 else self.rows(index) // 2

    def start(self, index: int) -> int:
        """Rows that were served before a serving."""
        return 0 if index == 0 else (index - 1) * self.size + self.early(index - 1)

    def serving_of(self, row: int) -> int:
        """The serving in which the row of this number is given out."""
        first = min(row // self.size, self.refills - 1)
        return first + 1 if first + 1 < self.refills and self.start(first + 1) <= row else first

    def picks(self, index: int, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Which rows of the refill before a serving, and of its own, come in it."""
        early = self._order(index, seed, epoch)[: self.early(index)]
        if index == 0:
            return early[:0], early
        return self._order(index - 1, seed, epoch)[self.early(index - 1) :], early

    def _order(self, index: int, seed: int, epoch: int) -> Tensor:
        return torch.randperm(self.rows(index), generator=torch_generator(seed, "refill", epoch, index))


class Feed:
    """Runs a model over one pass in a background thread, one refill ahead of the newest that was asked for.

    Of several processes each has one, runs the model over its part of the batches, and holds the rows of all.

    Args:
        forward: the model.
        mixing: of each hook point that is read, by name.
        rounds: the examples, from the batch on that gives the first row needed.
        ranks: the processes that read the pass.
        name: of the pass; the same on every rank.
        before: of each hook point, how many rows the batches that are left out would have given.
        first: the first refill that is needed.
        threads: CPU threads for the model.
    """

    def __init__(
        self,
        forward: Forward,
        mixing: Mapping[str, Mixing],
        rounds: Iterator[Round],
        *,
        ranks: Ranks,
        name: str,
        before: Mapping[str, int],
        first: int,
        threads: int,
    ) -> None:
        self._forward, self._rounds, self._ranks, self._threads = forward, rounds, ranks, threads
        self._dealt = Dealt(ranks, name, lambda batch: forward.rows(batch, list(mixing)))
        self._fillings = {name: _Filling(name, one, first, before[name]) for name, one in mixing.items()}
        self._changed = threading.Condition()
        self._ready: dict[tuple[str, int], _Ready] = {}
        self._wanted = first + 1
        self._ended = self._stop = False
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="stream", daemon=True)
        self._thread.start()

    def take(self, name: str, index: int) -> Tensor:
        """A refill of one hook point; from now on the one after it is computed. It is kept until `done`.

        Raises:
            InputError: what ended the pass too early.
            RankLostError: another rank failed.
        """
        with self._changed:
            self._wanted = max(self._wanted, index + 1)
            self._changed.notify_all()
            while (name, index) not in self._ready:
                if isinstance(self._fault, ChannelEndedError):
                    raise self._ranks.hung_up(self._fault) from self._fault
                if self._fault is not None:
                    raise self._fault
                if self._ended:
                    raise InputError("the pass was ended")
                self._changed.wait()
            found = self._ready[name, index]
        if found.event is not None:  # what reads it here must wait for the stream that the model runs in
            stream = torch.cuda.current_stream(found.rows.device)
            stream.wait_event(found.event)
            found.rows.record_stream(stream)
        return found.rows

    def done(self, name: str, index: int) -> None:
        """A refill of one hook point is no longer needed."""
        with self._changed:
            self._ready.pop((name, index), None)

    def close(self) -> None:
        """End the thread, after the forward batch that it is at."""
        with self._changed:
            self._stop = True
            self._ready.clear()
            self._changed.notify_all()
        self._dealt.close()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _work(self) -> None:
        try:
            torch.set_num_threads(self._threads)
            device = self._forward.device
            with torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext():
                self._run()
        except BaseException as fault:  # raised again where the rows are asked for
            self._fault = fault
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _run(self) -> None:
        while self._may_go_on():
            one = next(self._rounds, None)
            if one is None:
                break
            for found in self._dealt.of(one):
                for name, values in found.values.items():
                    for index, full in self._fillings[name].add(values.to(self._forward.device)):
                        self._give(name, index, full)
        if not self._stop and not all(filling.full for filling in self._fillings.values()):
            name = next(name for name, filling in self._fillings.items() if not filling.full)
            raise uneven(name, "the examples ended before")

    def _may_go_on(self) -> bool:
        """Wait until a row is wanted that is not there; False at the end."""
        with self._changed:
            while not self._stop:
                if all(filling.full for filling in self._fillings.values()):
                    return False
                if min(filling.index for filling in self._fillings.values() if not filling.full) <= self._wanted:
                    return True
                self._changed.wait()
        return False

    def _give(self, name: str, index: int, rows: Tensor) -> None:
        event = None
        if rows.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
        with self._changed:
            if not self._stop:
                self._ready[name, index] = _Ready(rows, event)
                self._changed.notify_all()


@dataclass(frozen=True, eq=False)
class _Ready:
    """A whole refill, and on a GPU what tells that it is there."""

    rows: Tensor
    event: Any


class _Filling:
    """The refill of one hook point that is being filled: `index`; `full` once the last one is."""

    def __init__(self, name: str, mixing: Mixing, first: int, before: int) -> None:
        self._name, self._mixing = name, mixing
        self.index = first
        self.full = first >= mixing.refills
        self._to_drop = first * mixing.size - before
        self._rows: Tensor | None = None
        self._filled = 0

    def add(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Take rows in; gives the refills that they complete."""
        dropped = min(self._to_drop, len(rows))
        self._to_drop -= dropped
        rows = rows[dropped:]
        if len(rows) > self._mixing.n - self.index * self._mixing.size - self._filled:
            raise uneven(self._name, "the examples give more than")
        while len(rows):
            if self._rows is None:
                self._rows = rows.new_empty(self._mixing.rows(self.index), rows.shape[1])
            if rows.shape[1] != self._rows.shape[1]:
                raise uneven(self._name, f"a width of {rows.shape[1]} came after {self._rows.shape[1]} in")
            taken = rows[: len(self._rows) - self._filled]
            self._rows[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            rows = rows[len(taken) :]
            if self._filled == len(self._rows):
                yield self.index, self._rows
                self._rows, self._filled, self.index = None, 0, self.index + 1
                self.full = self.index >= self._mixing.refills


def uneven(name: str, how: str) -> InputError:
    """What to say where the rows of a pass are not those that were counted."""
    return InputError(
        f"{name!r}: {how} the rows that were counted; a stream needs the same number of rows, of one width, at each "
        "pass: give inputs of one size, use rows='pool' or 'cls', or capture the rows first"
    )


def served(
    feed: Feed, name: str, mixing: Mixing, batch_size: int, *, seed: int, epoch: int, start: int
) -> Iterator[Tensor]:
    """Batches of one hook point's rows in float32, from row `start` of the pass on; the last may be smaller."""
    carried: list[Tensor] = []
    missing = batch_size
    for serving in _servings(feed, name, mixing, seed, epoch, start):
        first = 0
        while first < len(serving):
            carried.append(serving.rows(first, first + missing))
            first += len(carried[-1])
            missing -= len(carried[-1])
            if not missing:
                yield _joined(carried)
                carried, missing = [], batch_size
    if carried:
        yield _joined(carried)


def _servings(feed: Feed, name: str, mixing: Mixing, seed: int, epoch: int, start: int) -> Iterator["_Serving"]:
    first = mixing.serving_of(start)
    older = feed.take(name, first - 1) if first and mixing.mixes else None
    for index in range(first, mixing.refills):
        newer = feed.take(name, index)
        dropped = max(0, start - mixing.start(index))
        if mixing.mixes:
            late, early = mixing.picks(index, seed, epoch)
            pool = torch.cat([late, early + (0 if older is None else len(older))])
            pool = pool[torch.randperm(len(pool), generator=torch_generator(seed, "serving", epoch, index))]
            yield _Serving([newer] if older is None else [older, newer], pool[dropped:])
            if older is not None:
                feed.done(name, index - 1)
            older = newer
        else:
            yield _Serving([newer[dropped:]], None)
            feed.done(name, index)


@dataclass(frozen=True, eq=False)
class _Serving:
    """Rows of refills, numbered through: those of `order`, or all as they lie."""

    parts: Sequence[Tensor]
    order: Tensor | None

    def __len__(self) -> int:
        return len(self.parts[0]) if self.order is None else len(self.order)

    def rows(self, start: int, stop: int) -> Tensor:
        """Some of them, in float32."""
        if self.order is None:
            return self.parts[0][start:stop].float()
        return _rows(self.parts, self.order[start:stop])


def _rows(parts: Sequence[Tensor], index: Tensor) -> Tensor:
    """Rows of two tensors, numbered through, in float32."""
    if len(parts) == 1:
        return parts[0][index.to(parts[0].device)].float()
    older, newer = parts
    of_newer = index >= len(older)
    made = older.new_empty(len(index), older.shape[1], dtype=torch.float32)
    for part, chosen, offset in ((older, ~of_newer, 0), (newer, of_newer, len(older))):
        places = chosen.nonzero().flatten()
        made[places.to(made.device)] = part[(index[places] - offset).to(part.device)].float()
    return made


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]
