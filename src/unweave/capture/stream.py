"""Rows that are computed while they are read, and stored nowhere: a model and examples as a source of rows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from unweave.capture.config import Capture, Precision
from unweave.capture.examples import Examples
from unweave.capture.shared_passes import Stream
from unweave.core.errors import InputError
from unweave.models.hooks import Side
from unweave.models.places import Prefix
from unweave.models.rows import RowMeaning
from unweave.store.layout import Layout
from unweave.store.rows import Moments, TensorRows


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
        source: Mapping[str, Any] | None = None,
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
            source: what is to be told in manifests of where examples and model come from.

        Raises:
            InputError: the hook point is unknown, a setting makes no sense, or the examples come only once.
        """
        config = Capture(
            at=(at,), rows=rows, side=side, dtype=dtype, mean=tuple(mean), std=tuple(std), layout=layout, prefix=prefix
        )
        self.stream = Stream(
            model,
            examples,
            config,
            batch_size,
            limit,
            seed,
            buffer_bytes,
            sample_rows,
            examples_id=examples_id,
            source=source,
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
        return {"stream": self.stream.details(self.hook_name), **self.stream.source}

    def sample(self) -> TensorRows:
        """The sample, in memory: all rows in order where there are no more than `sample_rows`, else drawn from all."""
        return self.stream.sampled(self.hook_name)

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
    told = {name: options.pop(name, None) for name in ("examples_id", "source")}
    for name in ("mean", "std"):
        options[name] = tuple(options.get(name, ()))
    stream = Stream(model, examples, Capture(at=tuple(at), **options), **told, **chosen)
    return {name: _of(stream, name) for name in stream.names}


def _of(stream: "Stream", name: str) -> StreamedRows:
    made = object.__new__(StreamedRows)
    made._set(stream, name)
    return made
