"""What the hook points of one stream share: the model, the examples and their order, the buffer, and a sample."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from unweave.capture.config import Capture
from unweave.capture.examples import Batch, Examples, ExampleStream
from unweave.capture.feed import Feed, Mixing, served, uneven
from unweave.capture.forward import Forward
from unweave.capture.rounds import Dealt, Found, Round, as_they_come, by_index, parts_until, until
from unweave.core.config import fingerprint
from unweave.core.distributed import ranks
from unweave.core.errors import InputError
from unweave.core.hashing import hash_module, hash_tensor
from unweave.core.progress import progress
from unweave.core.seeds import torch_generator
from unweave.store.activations import DTYPES
from unweave.store.rows import Moments, TensorRows

_SLOTS = 3  # refills in memory: two that are mixed, and one that the model is at
_SAMPLED_EXAMPLES = 2048


@dataclass(frozen=True, eq=False)
class _Sample:
    """Rows of a sample by hook point, and what was seen of the examples while it was drawn."""

    rows: Mapping[str, Tensor]
    per_example: Mapping[str, int]  # 0 where examples differ
    examples: int


class _Kept(TensorRows):
    """Rows whose moments many ask for."""

    @cached_property
    def _summed(self) -> Moments:
        return super().moments()

    def moments(self) -> Moments:
        """Mean and variance of all rows."""
        return self._summed


class Stream:
    """What the hook points of one stream share: model, examples, order, buffer and sample."""

    def __init__(
        self,
        model: nn.Module,
        examples: Examples,
        config: Capture,
        batch_size: int,
        limit: int | None,
        seed: int,
        buffer_bytes: int,
        sample_rows: int,
        *,
        examples_id: str | None,
        source: Mapping[str, Any] | None,
    ) -> None:
        config.check()
        _check(batch_size=batch_size, limit=limit, buffer_bytes=buffer_bytes, sample_rows=sample_rows)
        if isinstance(examples, Iterator):
            raise InputError(
                f"a {type(examples).__name__} gives its batches only once, and a stream of rows is read several times; "
                "give what makes it (a DataLoader, a data set, a list), or hand batches of rows to train() directly"
            )
        self.seed, self.buffer_bytes = seed, buffer_bytes
        self.source = {} if source is None else {"source": dict(source)}
        self._config, self._batch_size, self._limit, self._sample_rows = config, batch_size, limit, sample_rows
        self._examples = ExampleStream(examples, None, batch_size, None, tokenize=getattr(model, "tokenize", None))
        self._given_id = examples_id
        self._model = model
        self.forward = Forward(model, config)
        self.names = self.forward.names
        self._threads = torch.get_num_threads()
        self._sampled: _Sample | None = None
        self._counted: tuple[int, Tensor | None] | None = None
        self._kept: dict[str, TensorRows] = {}
        self._ids: dict[str, str] = {}

    @property
    def what(self) -> str:
        """In words."""
        total = self._total()
        return f"{type(self._model).__name__} over {'unknown' if total is None else format(total, ',')} examples"

    @property
    def _key(self) -> str:
        """What the ranks of a job call it: all make the same streams in the same order."""
        return f"stream/{','.join(self.names)}/{self.seed}/{self._total()}/{self._batch_size}"

    def _total(self) -> int | None:
        """Examples of a pass, where they are known without counting."""
        known = self._examples.total
        return self._limit if known is None else min(known, self._limit or known)

    def sample(self) -> _Sample:
        """Rows that stand for all of them."""
        if self._sampled is None:
            self._sampled = self._draw()
        return self._sampled

    def moments(self, name: str) -> Moments:
        """Mean and variance of the sample."""
        return self.sampled(name).moments()

    def sampled(self, name: str) -> TensorRows:
        """The sample's rows of one hook point."""
        if name not in self._kept:
            self._kept[name] = _Kept(self.sample().rows[name], name=f"rows of {name!r}")
        return self._kept[name]

    def n(self, name: str) -> int:
        """Rows of a pass."""
        per_example = self.sample().per_example[name]
        total, counts = self._count()
        return per_example * total if per_example else int(counts.sum()) if counts is not None else 0

    def id(self, name: str) -> str:
        """Fingerprint of one hook point's rows and their order."""
        if name not in self._ids:
            known = self._given_id or self._examples.id
            if known is None:
                known = hash_tensor(*self.sample().rows.values())
            config = {k: getattr(self._config, k) for k in ("rows", "side", "dtype", "mean", "std", "layout", "prefix")}
            order = [self.seed, self._batch_size, self._limit, self._sample_rows, self._mixing(name, shuffle=True).size]
            self._ids[name] = fingerprint("streamed rows", hash_module(self._model), known, name, config, order)
        return self._ids[name]

    def details(self, name: str) -> dict[str, Any]:
        """What a manifest says."""
        return {
            "examples": self._count()[0],
            "rows": self.n(name),
            "sample_rows": len(self.sample().rows[name]),
            "rows_mixed": min(2 * self._mixing(name, shuffle=True).size, self.n(name)),
            "buffer_bytes": self.buffer_bytes,
            "seed": self.seed,
        }

    def chunks(
        self, rows: Mapping[str, int], *, epoch: int | None, start: Mapping[str, int], shuffle: bool = True
    ) -> Iterator[Mapping[str, Tensor]]:
        """One pass, in parts of so many rows of each hook point; a hook point that is at its end is left out.

        Args:
            rows: of a part, by hook point.
            epoch: which pass; None for the examples as they are outside training, in their own order.
            start: rows of each hook point to leave out.
            shuffle: in the order of the epoch; else as the examples come.
        """
        shuffle = shuffle and epoch is not None
        mixing = {name: self._mixing(name, shuffle=shuffle) for name in rows}
        start = {name: start.get(name, 0) for name in rows}
        left = [name for name in rows if start[name] < mixing[name].n]
        if not left:
            return
        servings = {name: mixing[name].serving_of(start[name]) for name in left}
        first = min(max(0, serving - mixing[name].mixes) for name, serving in servings.items())
        row = {name: first * mixing[name].size for name in left}
        rounds, before = self._from(row, epoch, shuffle=shuffle)
        feed = Feed(
            self.forward,
            {name: mixing[name] for name in left},
            rounds,
            ranks=ranks(),
            name=f"{self._key}/{epoch}/{shuffle}/{sorted(row.items())}",
            before=before,
            first=first,
            threads=self._threads,
        )
        try:
            readers = {
                name: served(feed, name, mixing[name], rows[name], seed=self.seed, epoch=epoch or 0, start=start[name])
                for name in left
            }
            while readers:
                read = {name: next(reader, None) for name, reader in readers.items()}
                part = {name: tensor for name, tensor in read.items() if tensor is not None}
                readers = {name: readers[name] for name in part}
                if part:
                    yield part
        finally:
            feed.close()

    def _mixing(self, name: str, *, shuffle: bool) -> Mixing:
        """Refills of a third of the buffer, shared out so that those of all hook points come from the same examples."""
        total, size = self._count()[0], DTYPES[self._config.dtype].itemsize
        a_pass = sum(self.n(one) * rows.shape[1] * size for one, rows in self.sample().rows.items())
        examples = min(total, max(1, self.buffer_bytes * total // (_SLOTS * a_pass)))
        permuted = self._examples.seekable and self.sample().per_example[name] == 1
        return Mixing(self.n(name), -(-self.n(name) * examples // total), mixes=shuffle and not permuted)

    def _from(
        self, row: Mapping[str, int], epoch: int | None, *, shuffle: bool
    ) -> tuple[Iterator[Round], dict[str, int]]:
        """Rounds of a pass from the batch that holds the first of these rows on, and the rows before it."""
        examples, same = self._examples, all(self.sample().per_example.values())
        if epoch is not None and (same or (not examples.seekable and self._limit is None)):
            examples = examples.at_epoch(epoch)  # not where other examples than those counted would have other rows
        if not examples.seekable:
            batches, skipped = self._skipped(self._limited(iter(examples)), row)
            return as_they_come(batches, ranks()), skipped
        order = torch.arange(self._count()[0])
        if shuffle:
            order = torch.randperm(len(order), generator=torch_generator(self.seed, epoch or 0))
        places = range(0, len(order), self._batch_size)
        if same:
            before = {name: [self.sample().per_example[name] * place for place in places] for name in row}
        else:
            counts = self._count()[1]
            assert counts is not None
            sums = torch.cat([torch.zeros(1, dtype=torch.int64), counts[order].cumsum(0)])[:: self._batch_size].tolist()
            before = dict.fromkeys(row, sums[: len(places)])
        first = max(place for place in range(len(places)) if all(before[name][place] <= row[name] for name in row))
        parts = order[first * self._batch_size :].split(self._batch_size)
        return by_index(examples, parts, ranks()), {name: before[name][first] for name in row}

    def _skipped(self, batches: Iterator[Batch], row: Mapping[str, int]) -> tuple[Iterator[Batch], dict[str, int]]:
        """Leave out batches that give none of the rows that are wanted: they are read, but the model does not run."""
        before = dict.fromkeys(row, 0)
        for batch in batches:
            here = {name: before[name] + int(self._rows_of(batch, name).sum()) for name in row}
            if any(here[name] > row[name] for name in row):
                return _chained(batch, batches), before
            before = here
        return iter(()), before

    def _limited(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The first `limit` examples, and no more."""
        left = self._limit
        for batch in batches:
            if left is None:
                yield batch
                continue
            yield batch if len(batch.example) <= left else _cut(batch, left)
            left -= min(left, len(batch.example))
            if not left:
                return

    def _rows_of(self, batch: Batch, name: str) -> Tensor:
        """How many rows each example of a batch will give, before the model has seen it."""
        per_example = self.sample().per_example[name]
        if per_example:
            return torch.full((len(batch.example),), per_example)
        assert batch.mask is not None
        return (batch.mask != 0).sum(1).cpu()

    def _count(self) -> tuple[int, Tensor | None]:
        """Examples of a pass, and the rows of each where they differ; read once, without the model, where unknown."""
        if self._counted is None:
            same, total = all(self.sample().per_example.values()), self._total()
            if same and total is not None:
                self._counted = total, None
            else:
                self._counted = self._count_by_reading(total, same=same)
        return self._counted

    def _count_by_reading(self, total: int | None, *, same: bool) -> tuple[int, Tensor | None]:
        seen, counts = 0, []
        parts = torch.arange(total or 0).split(self._batch_size)
        batches = self._examples.ordered(parts) if self._examples.seekable else self._limited(iter(self._examples))
        with progress("Counting examples", total=total, unit="examples") as bar:
            for batch in batches:
                seen += len(batch.example)
                if not same:
                    counts.append(self._rows_of(batch, self.names[0]))
                bar.advance(len(batch.example))
        return seen, torch.cat(counts) if counts else None

    def _draw(self) -> _Sample:
        """Run the model over some of the examples, and keep some rows of each."""
        generator = torch_generator(self.seed, "sample")
        kept: dict[str, list[Tensor]] = {name: [] for name in self.names}
        per_example: dict[str, int] = {}
        seen, wanted = 0, 1
        dealt = Dealt(ranks(), f"{self._key}/sample", self.forward.rows)
        with closing(dealt), progress("Sampling rows", total=None, unit="examples") as bar:
            rounds = self._sampled_rounds(generator, lambda: wanted - seen)
            for found in dealt.each(rounds):
                for name in found.values:
                    here = _per_example(found, name)
                    if per_example.setdefault(name, here) != here:
                        raise uneven(name, f"examples that give {here} rows each come after those that gave")
                if not seen:
                    densest = max(len(values) / found.examples for values in found.values.values())
                    wanted = self._examples_wanted(densest)
                for name, values in found.values.items():
                    number = math.ceil(self._sample_rows * found.examples / wanted)
                    kept[name].append(_some(values, number, generator))
                seen += found.examples
                bar.advance(found.examples)
        if not seen:
            raise InputError("there are no examples to stream")
        return _Sample({name: torch.cat(parts)[: self._sample_rows] for name, parts in kept.items()}, per_example, seen)

    def _examples_wanted(self, rows_each: float) -> int:
        """Examples to draw: rows of one are alike, so that few of each tell more than all of a few."""
        wanted = max(math.ceil(self._sample_rows / max(rows_each, 1.0)), min(_SAMPLED_EXAMPLES, self._sample_rows))
        total = self._total()
        return wanted if total is None else min(wanted, total)

    def _sampled_rounds(self, generator: torch.Generator, missing: Callable[[], int]) -> Iterator[Round]:
        """One batch, after which it is known how many examples are missing, and then those."""
        total, here = self._total(), ranks()
        if not self._examples.seekable or total is None:
            batches = self._limited(iter(self._examples))
            yield from as_they_come(itertools.islice(batches, 1), here)
            yield from as_they_come(until(batches, missing()), here)
            return
        all_wanted = total <= min(self._sample_rows, _SAMPLED_EXAMPLES)
        order = torch.arange(total) if all_wanted else torch.randperm(total, generator=generator)
        parts = order.split(self._batch_size)
        yield from by_index(self._examples, parts[:1], here)
        yield from by_index(self._examples, parts_until(parts[1:], missing()), here)


def _some(rows: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """At most so many of the rows, in their order, in float32 on the CPU."""
    if len(rows) <= number:
        return rows.to("cpu", torch.float32, copy=True)
    chosen = torch.randperm(len(rows), generator=generator)[:number].sort().values
    return rows[chosen.to(rows.device)].to("cpu", torch.float32)


def _per_example(found: Found, name: str) -> int:
    """Rows that each example gives, 0 where a mask decides."""
    per_example = found.per_example[name]
    if found.masked and per_example != 1:
        return 0
    if not per_example:
        raise uneven(name, "the examples of one batch differ in")
    return per_example


def _chained(first: Batch, rest: Iterator[Batch]) -> Iterator[Batch]:
    yield first
    yield from rest


def _cut(batch: Batch, size: int) -> Batch:
    """The first examples of a batch."""

    def cut(value: Any) -> Any:
        return value[:size] if isinstance(value, Tensor) and value.ndim and len(value) == len(batch.example) else value

    keywords = {name: cut(value) for name, value in batch.keywords.items()}
    label = None if batch.label is None else batch.label[:size]
    return Batch(tuple(map(cut, batch.inputs)), keywords, batch.example[:size], label, cut(batch.mask))


def _check(**least_one: int | None) -> None:
    for name, value in least_one.items():
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
