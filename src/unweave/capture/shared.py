"""One capture by several processes: each runs the model over its batches, and all write the same stores."""

import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Int64
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
    """Give each batch to the rank that it falls to; returns the number of examples.

    Every rank runs the first batch: its size says how many make a shard. Where examples can be had by their index, a
    rank reads only its own; of what comes once, it reads all and computes its own.

    Raises:
        InputError: the ranks were given other examples, or none.
    """
    order = ranks.from_first(stream.order()) if stream.seekable else None
    come = iter(stream) if not order else stream.ordered(order[:1])
    first = next(come)
    sizes = [writers[name].batches_a_shard(*block.activations.shape) for name, block in forward(first).items()]
    dealing = Dealing(max(sizes), ranks.size)
    once = _Once(itertools.chain([first], come))
    numbered = _own(stream, order, dealing, ranks.rank) if order else enumerate(once)
    label, total = f"Capturing (rank {ranks.rank} of {ranks.size})", _examples_of(order, dealing, ranks.rank)
    with progress(label, total=total, unit="examples") as bar:
        for number, batch in numbered:
            if dealing.owner(number) == ranks.rank:
                last = dealing.part(number + 1) != dealing.part(number)
                for name, block in forward(batch).items():
                    writers[name].add(number, block, last_of_part=last)
                bar.advance(len(batch.example))
    ranks.same("the examples that they were given", (once.examples, once.checksum))
    return sum(map(len, order)) if order else once.examples


class _Once:
    """Batches that come once, as every rank reads them; whether all were given the same is seen at the end."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.examples = self.checksum = 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            self.examples += len(batch.example)
            for value in (*batch.inputs, *batch.keywords.values(), batch.example, batch.label):
                if isinstance(value, Tensor):
                    content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
                    self.checksum = zlib.crc32(content.data, self.checksum)
            yield batch


def _own(
    stream: ExampleStream, order: list[Int64[Tensor, " b"]], dealing: Dealing, rank: int
) -> Iterator[tuple[int, Batch]]:
    numbers = [number for number in range(len(order)) if dealing.owner(number) == rank]
    return zip(numbers, stream.ordered([order[number] for number in numbers]), strict=True)


def _examples_of(order: list[Int64[Tensor, " b"]] | None, dealing: Dealing, rank: int) -> int | None:
    if order is None:
        return None
    return sum(len(batch) for number, batch in enumerate(order) if dealing.owner(number) == rank)
