"""One capture by several processes: each runs the model over its batches, and all write the same stores."""

from collections.abc import Callable, Mapping, Sequence

from unweave.capture.examples import Batch
from unweave.capture.passage import Passage
from unweave.core.distributed import Ranks
from unweave.core.progress import progress
from unweave.store.activations import RowBlock
from unweave.store.pieces import Piece
from unweave.store.shared_writer import Dealing, SharedWriter


def write_shared(
    passage: Passage,
    ranks: Ranks,
    writers: Mapping[str, SharedWriter],
    forward: Callable[[Batch], Mapping[str, RowBlock]],
    before: Sequence[Piece] = (),
) -> int:
    """Give each batch that is not there yet to the rank that it falls to; returns the number of examples.

    Every rank runs the first batch: its size says how many make a shard. Where examples can be had by their index, a
    rank reads only its own; of what comes once, it reads all and computes its own.

    Raises:
        InputError: the ranks were given other examples, or none, or others than those of the pieces from before.
    """
    of_first = forward(passage.first)
    sizes = [writers[name].batches_a_shard(*block.activations.shape) for name, block in of_first.items()]
    dealing = Dealing(max(sizes), ranks.size)
    done = set.intersection(*(writer.done for writer in writers.values()))

    def mine(number: int) -> bool:
        return number not in done and dealing.owner(number) == ranks.rank

    label = "Capturing" if ranks.size == 1 else f"Capturing (rank {ranks.rank} of {ranks.size})"
    total = passage.examples_of(mine)
    with progress(label, total=total, unit="examples") as bar:
        for number, batch in passage.numbered(mine, before):
            last = dealing.part(number + 1) != dealing.part(number)
            for name, block in (forward(batch) if number else of_first).items():
                writers[name].add(number, block, last_of_part=last)
            bar.advance(len(batch.example))
    ranks.same("the examples that they were given", (passage.examples, passage.checksum))
    return passage.examples
