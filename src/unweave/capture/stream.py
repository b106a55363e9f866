"""Rows that are computed while they are read, and stored nowhere: a model and examples as a source of rows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unweave.capture.examples import Batch, Examples, ExampleStream
from unweave.capture.feed import Feed, Mixing, served, uneven
from unweave.capture.forward import Forward
from unweave.capture.stage import Capture, Precision
from unweave.core.config import fingerprint
from unweave.core.errors import InputError
from unweave.core.hashing import hash_module, hash_tensor
from unweave.core.progress import progress
from unweave.core.seeds import torch_generator
from unweave.models.hooks import Side
from unweave.models.places import Prefix
from unweave.models.rows import RowMeaning
from unweave.store.activations import DTYPES
from unweave.store.layout import Layout
from unweave.store.rows import Moments, TensorRows

_SLOTS = 3  # refills in memory: two that are mixed, and one that the model is at
_SAMPLED_EXAMPLES = 2048


class StreamedRows:
    """Rows [n, d_in] of one hook point, computed while they are read: a `RowSource` over a model and examples.

    Nothing is stored. Each pass runs the model over the examples in a new seeded order, in a background thread ahead
    of whoever reads, and mixes the rows in a buffer (see `unweave.capture.feed`). The order follows from the stream's
    seed and the epoch alone, whatever the seed of a dictionary: all that train on the stream share its passes.

    Before the first pass a sample of the rows is drawn. It stays in memory, and what a training has to know of all rows
    is taken from it: mean and variance, starting weights, the fits of classical methods.

    Attributes:
        hook_name: dotted name of the module.
        order_seed: decides the order of the rows.
        stream: what the hook points of one model share.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Examples,
        *,
        at: str,
        rows: RowMeaning = "flatten",
        side: Side = "output",
        dtype: Precision = "float32",
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        layout: Layout | None = None,
        prefix: Prefix = "keep",
        batch_size: int = 256,
        limit: int | None = None,
        seed: int = 0,
        buffer_bytes: int = 1 << 30,
        sample_rows: int = 65_536,
        examples_id: str | None = None,
    ) -> None:
        """Set up; nothing runs before the first question.

        Args:
            model: any module; it runs where its parameters lie, in evaluation mode, and is left as it was.
            examples: a tensor [n, …], a data set, a `DataLoader`, or any iterable of batches that can be gone through
                again. What has indices is seen in a new order at each pass; any other comes as it comes (a streaming
                data set with `set_epoch` shuffles itself), and its rows are mixed only as far as the buffer reaches.
            at: the module's dotted name.
            rows: what a row is, as for `capture`.
            side: what the module gives, or its first input.
            dtype: precision of the rows in the buffer.
            mean: subtracted from the inputs, one number or one a channel.
            std: the inputs are divided by it.
            layout: how positions lie in an example; found from the shapes by default.
            prefix: whether tokens before those of an image's patches give rows: keep or drop.
            batch_size: examples a forward pass, where `examples` does not come in batches.
            limit: use the first so many examples. A stream that does not say how many it has is gone through once
                without the model to count them, unless it is limited.
            seed: decides the sample and the order.
            buffer_bytes: memory for rows, where the model is, without those of the forward pass itself.
            sample_rows: rows that are kept as the sample, at most.
            examples_id: what identifies the examples, where they have no fingerprint of their own; by default the
                sample's rows do.

        Raises:
            InputError: the hook point is unknown, a setting makes no sense, or the examples come only once.
        """
        config = Capture(
            at=(at,), rows=rows, side=side, dtype=dtype, mean=tuple(mean), std=tuple(std), layout=layout, prefix=prefix
        )
        self.stream = Stream(
            model, examples, config, batch_size, limit, seed, buffer_bytes, sample_rows, examples_id=examples_id
        )
        if len(self.stream.names) > 1:
            raise InputError(f"{at!r} stands for {len(self.stream.names)} modules; stream_several takes them all")
        self._set(self.stream, self.stream.names[0])

    def _set(self, stream: "Stream", name: str) -> None:
        self.stream, self.hook_name, self.order_seed = stream, name, stream.seed

    @property
    def n(self) -> int:
        """Number of rows of a pass."""
        return self.stream.n(self.hook_name)

    @property
    def d_in(self) -> int:
        """Width of a row."""
        return self.sample().d_in

    @property
    def id(self) -> str:
        """Fingerprint of what decides the rows and their order."""
        return self.stream.id(self.hook_name)

    @property
    def buffer_bytes(self) -> int:
        """Memory for rows, those of other hook points of the stream included; the sample is not."""
        return self.stream.buffer_bytes

    @property
    def details(self) -> dict[str, Any]:
        """What an artifact's manifest says of the stream."""
        return {"stream": self.stream.details(self.hook_name)}

    def sample(self) -> TensorRows:
        """The sample, in memory: all rows in order where there are no more than `sample_rows`, else drawn from all."""
        return TensorRows(self.stream.sample().rows[self.hook_name], name=f"rows of {self.hook_name!r}")

    def moments(self) -> Moments:
        """Mean and variance of the sample."""
        return self.stream.moments(self.hook_name)

    def blocks(self, rows: int) -> Iterator[Float[Tensor, "b d_in"]]:
        """All rows in the order of the examples, float32, at most `rows` at a time: one pass."""
        for block in self.stream.chunks({self.hook_name: rows}, epoch=None, start={}):
            yield block[self.hook_name]

    def batches(
        self, batch_size: int, *, seed: int = 0, epoch: int, shuffle: bool = True, skip: int = 0
    ) -> Iterator[Float[Tensor, "b d_in"]]:
        """One epoch of float32 batches, from batch `skip` on; the last may be smaller.

        The order is that of the stream's own seed, and `seed` is not asked. Taking up an epoch at a batch runs the
        model over at most one refill's examples that lie before it.
        """
        start = {self.hook_name: skip * batch_size}
        for batch in self.stream.chunks({self.hook_name: batch_size}, epoch=epoch, start=start, shuffle=shuffle):
            yield batch[self.hook_name]

    def __repr__(self) -> str:
        return f"StreamedRows({self.hook_name!r}, {self.stream.what})"


def stream_several(
    model: nn.Module, examples: Examples, *, at: Sequence[str], **options: Any
) -> dict[str, StreamedRows]:
    """Streams of several hook points of one model, which share its forward passes.

    `train_several` and `sweep` read all of them in one pass; `train` reads each in passes of its own.

    Args:
        model: any module.
        examples: as for `StreamedRows`.
        at: names of modules, or globs.
        options: those of `StreamedRows`; the buffer is for all hook points together.

    Raises:
        InputError: as `StreamedRows`.
    """
    named = {"batch_size": 256, "limit": None, "seed": 0, "buffer_bytes": 1 << 30, "sample_rows": 65_536}
    chosen = {name: options.pop(name, value) for name, value in named.items()}
    examples_id = options.pop("examples_id", None)
    for name in ("mean", "std"):
        options[name] = tuple(options.get(name, ()))
    stream = Stream(model, examples, Capture(at=tuple(at), **options), examples_id=examples_id, **chosen)
    return {name: _of(stream, name) for name in stream.names}


def _of(stream: "Stream", name: str) -> StreamedRows:
    made = object.__new__(StreamedRows)
    made._set(stream, name)
    return made


@dataclass(frozen=True, eq=False)
class _Sample:
    """Rows of a sample by hook point, and what was seen of the examples while it was drawn."""

    rows: Mapping[str, Tensor]
    per_example: Mapping[str, int]  # 0 where examples differ
    examples: int


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
    ) -> None:
        _check(config, batch_size=batch_size, limit=limit, buffer_bytes=buffer_bytes, sample_rows=sample_rows)
        if isinstance(examples, Iterator):
            raise InputError(
                f"a {type(examples).__name__} gives its batches only once, and a stream of rows is read several times; "
                "give what makes it (a DataLoader, a data set, a list), or hand batches of rows to train() directly"
            )
        self.seed, self.buffer_bytes = seed, buffer_bytes
        self._config, self._batch_size, self._limit, self._sample_rows = config, batch_size, limit, sample_rows
        self._examples = ExampleStream(examples, None, batch_size, None)
        self._given_id = examples_id
        self._model = model
        self.forward = Forward(model, config)
        self.names = self.forward.names
        self._threads = torch.get_num_threads()
        self._sampled: _Sample | None = None
        self._counted: tuple[int, Tensor | None] | None = None
        self._moments: dict[str, Moments] = {}
        self._ids: dict[str, str] = {}

    @property
    def what(self) -> str:
        """In words."""
        total = self._total()
        return f"{type(self._model).__name__} over {'unknown' if total is None else format(total, ',')} examples"

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
        if name not in self._moments:
            self._moments[name] = TensorRows(self.sample().rows[name]).moments()
        return self._moments[name]

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
        batches, before = self._from(row, epoch, shuffle=shuffle)
        feed = Feed(
            self.forward,
            {name: mixing[name] for name in left},
            batches,
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
        an_example = sum(self.n(one) / total * rows.shape[1] * size for one, rows in self.sample().rows.items())
        share = min(1.0, max(1.0, self.buffer_bytes / _SLOTS / an_example) / total)
        n = self.n(name)
        permuted = self._examples.seekable and self.sample().per_example[name] == 1
        return Mixing(n, max(1, math.ceil(share * n)), mixes=shuffle and not permuted)

    def _from(
        self, row: Mapping[str, int], epoch: int | None, *, shuffle: bool
    ) -> tuple[Iterator[Batch], dict[str, int]]:
        """Batches of a pass from the one that holds the first of these rows on, and the rows before it."""
        examples = self._examples
        if epoch is not None and all(self.sample().per_example.values()):
            examples = examples.at_epoch(epoch)
        if not examples.seekable:
            return self._skipped(self._limited(iter(examples)), row)
        order = torch.arange(self._count()[0])
        if shuffle:
            order = torch.randperm(len(order), generator=torch_generator(self.seed, epoch or 0))
        places = range(0, len(order), self._batch_size)
        if all(self.sample().per_example.values()):
            before = {name: [self.sample().per_example[name] * place for place in places] for name in row}
        else:
            counts = self._count()[1]
            assert counts is not None
            sums = torch.cat([torch.zeros(1, dtype=torch.int64), counts[order].cumsum(0)])[:: self._batch_size].tolist()
            before = dict.fromkeys(row, sums[: len(places)])
        first = max(place for place in range(len(places)) if all(before[name][place] <= row[name] for name in row))
        parts = order[first * self._batch_size :].split(self._batch_size)
        return examples.ordered(parts), {name: before[name][first] for name in row}

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
        with progress("Sampling rows", total=None, unit="examples") as bar:
            for batch in self._sampled_examples(generator):
                found = self.forward.rows(batch)
                for name, rows in found.items():
                    per_example.setdefault(name, _per_example(batch, name, rows.per_example))
                densest = max(len(rows.values) / len(batch.example) for rows in found.values())
                if not seen:
                    wanted = self._examples_wanted(densest)
                for name, rows in found.items():
                    number = math.ceil(self._sample_rows * len(batch.example) / wanted)
                    kept[name].append(_some(rows.values, number, generator))
                seen += len(batch.example)
                bar.advance(len(batch.example))
                if seen >= wanted:
                    break
        if not seen:
            raise InputError("there are no examples to stream")
        return _Sample({name: torch.cat(parts)[: self._sample_rows] for name, parts in kept.items()}, per_example, seen)

    def _examples_wanted(self, rows_each: float) -> int:
        """Examples to draw: rows of one are alike, so that few of each tell more than all of a few."""
        wanted = max(math.ceil(self._sample_rows / max(rows_each, 1.0)), min(_SAMPLED_EXAMPLES, self._sample_rows))
        total = self._total()
        return wanted if total is None else min(wanted, total)

    def _sampled_examples(self, generator: torch.Generator) -> Iterator[Batch]:
        total = self._total()
        if not self._examples.seekable or total is None:
            yield from self._limited(iter(self._examples))
            return
        all_wanted = total <= min(self._sample_rows, _SAMPLED_EXAMPLES)
        order = torch.arange(total) if all_wanted else torch.randperm(total, generator=generator)
        yield from self._examples.ordered(order.split(self._batch_size))


def _some(rows: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """At most so many of the rows, in their order, in float32 on the CPU."""
    if len(rows) <= number:
        return rows.to("cpu", torch.float32, copy=True)
    chosen = torch.randperm(len(rows), generator=generator)[:number].sort().values
    return rows[chosen.to(rows.device)].to("cpu", torch.float32)


def _per_example(batch: Batch, name: str, per_example: int) -> int:
    """Rows that each example gives, 0 where a mask decides."""
    if batch.mask is not None and per_example != 1:
        return 0
    if not per_example:
        raise uneven(name, "examples of one batch differ in")
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


def _check(config: Capture, **least_one: int | None) -> None:
    for name, value in least_one.items():
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    if config.dtype not in DTYPES:
        raise InputError(f"dtype={config.dtype!r} is none of {', '.join(DTYPES)}")
    if config.side not in get_args(Side):
        raise InputError(f"side={config.side!r} is none of {', '.join(get_args(Side))}")
    if not all(config.std):
        raise InputError("std must not hold 0: the inputs are divided by it")
