"""One capture by several processes: each runs the model over its batches, and all write the same stores."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from unweave.capture.examples import Batch, ExampleStream
from unweave.core.distributed import Ranks
from unweave.core.progress import progress
from unweave.store.activations import RowBlock
from unweave.store.shared_writer import Dealing, SharedWriter


def write_shared(
    stream: ExampleStream,
    ranks: Ranks,
    writers: Mapping[str, SharedWriter],
    forward: Callable[[Batch], Mapping[str, RowBlock]],
) -> int:
    """Give each batch to the rank that it falls to; the number of examples.

    Every rank runs the first batch: its size says how many make a shard. Where examples can be had by their index, a
    rank reads its own; of what comes once, it reads all and computes its own.

    Raises:
        InputError: the ranks were given other examples.
    """
    order = ranks.from_first(stream.order()) if stream.seekable else None
    numbered = _by_index(stream, order) if order is not None else _as_it_comes(stream)
    first = next(numbered, None)
    if first is None:
        next(iter(stream))  # says what is wrong
        raise AssertionError("a stream without a batch says so")
    number, batch, _ = first
    blocks = forward(batch)
    a_shard = max(writers[name].batches_a_shard(*block.activations.shape) for name, block in blocks.items())
    dealing = Dealing(a_shard, ranks.size)
    examples, checksum = 0, 0
    with progress("Capturing", total=stream.total, unit="examples") as bar:
        while True:
            mine = dealing.owner(number) == ranks.rank
            if order is None:
                assert batch is not None
                examples += len(batch.example)
                checksum = _checksum(batch, checksum)
                bar.advance(len(batch.example))
            if mine:
                assert batch is not None
                last = dealing.part(number + 1) != dealing.part(number)
                for name, block in (blocks or forward(batch)).items():
                    writers[name].add(number, block, last_of_part=last)
                if order is not None:
                    bar.advance(min(ranks.size * len(batch.example), (stream.total or 0) - bar.done))
            blocks = {}
            following = numbered.send(dealing)
            if following is None:
                break
            number, batch, _ = following
    ranks.same("the examples that they were given", (examples, checksum))
    return sum(map(len, order)) if order is not None else examples


def _by_index(stream: ExampleStream, order: list[Tensor]) -> Iterator[Any]:
    raise NotImplementedError


def _as_it_comes(stream: ExampleStream) -> Iterator[Any]:
    raise NotImplementedError


def _checksum(batch: Batch, before: int) -> int:
    for value in (*batch.inputs, *batch.keywords.values(), batch.example, batch.label):
        if isinstance(value, Tensor):
            before = zlib.crc32(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), before)
    return before
