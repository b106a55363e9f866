"""From a stream of examples into stores: by one process or several, from the start or from where it was cut short."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from unweave.capture.examples import Batch, ExampleStream
from unweave.capture.forward import Forward
from unweave.capture.passage import OtherExamplesError, Passage
from unweave.capture.shared import write_shared
from unweave.core.config import Json
from unweave.core.distributed import Ranks
from unweave.core.errors import InputError
from unweave.core.progress import progress, say
from unweave.core.waits import Waits
from unweave.store.activation_writer import ActivationWriter, in_order
from unweave.store.activations import RowBlock
from unweave.store.drafts import remove
from unweave.store.layout import as_details, from_details
from unweave.store.pieces import Piece
from unweave.store.shared_writer import PARTS, SharedWriter
from unweave.store.unfinished import UnfinishedDraft
from unweave.store.uploads import CaptureDraft

_LAYOUT = "layout"


def write_stores(
    stream: ExampleStream,
    forward: Forward,
    names: Sequence[str],
    drafts: Mapping[str, CaptureDraft],
    here: Ranks,
    shard_bytes: int,
) -> int:
    """Write the rows of hook points into their drafts, which only the first rank has; returns the number of examples.

    Raises:
        InputError: there are no examples, or they are others than those of what was found in the drafts.
    """
    passage = Passage(stream, here)
    for draft in drafts.values():
        draft.reduce_to([piece for piece in draft.pieces if passage.same(piece)])
    before = here.from_first({name: drafts[name].pieces for name in names} if here.first else {})
    for name, pieces in before.items():
        known = [from_details(piece.facts.get(_LAYOUT)) for piece in pieces]
        forward.layouts.restore(name, [layout for layout in known if layout is not None])
    work = _Work(passage, forward, names, shard_bytes)
    try:
        if here.size == 1 and all(_goes_on_alone(stream, draft) for draft in drafts.values()):
            return _write_alone(work, drafts, before)
        return _write_together(work, drafts, before, here)
    except OtherExamplesError as error:
        for draft in drafts.values():
            draft.reduce_to([piece for piece in draft.pieces if piece.stop <= error.batch])
        raise


class _Work:
    """What is captured, and how the rows of a batch come about."""

    def __init__(self, passage: Passage, forward: Forward, names: Sequence[str], shard_bytes: int) -> None:
        self.passage, self.forward, self.names, self.shard_bytes = passage, forward, names, shard_bytes

    def blocks(self, batch: Batch, names: Sequence[str]) -> dict[str, RowBlock]:
        """The rows of a batch as a store takes them."""
        blocks = {}
        for name, rows in self.forward.rows(batch, names).items():
            # A copy: a view keeps all tokens of a batch in memory for its first, and changes with a loader's buffer.
            values = rows.values.to("cpu", copy=True)
            label = None if batch.label is None else batch.label[rows.example]
            blocks[name] = RowBlock(values, batch.example[rows.example], rows.position, label)
        return blocks

    def facts(self, name: str, stop: int) -> Json:
        """What is noted with a piece that ends before a batch."""
        return {**self.passage.facts(stop), _LAYOUT: as_details(self.forward.layouts.known(name))}


def _goes_on_alone(stream: ExampleStream, draft: CaptureDraft) -> bool:
    """Whether one process can write shard after shard where a draft ends; else it puts shards together of parts."""
    if not isinstance(draft, UnfinishedDraft) or not draft.pieces:
        return True  # what is at a URL is shard after shard
    return stream.seekable and len(in_order(draft.pieces)) == len(draft.pieces)


def _write_alone(work: _Work, drafts: Mapping[str, CaptureDraft], before: Mapping[str, Sequence[Piece]]) -> int:
    for draft in drafts.values():
        remove(draft.folder / PARTS)  # of several processes that were cut short
    writers = {
        name: ActivationWriter(
            draft.folder,
            dtype=work.forward.config.dtype,
            shard_bytes=work.shard_bytes,
            finished=_keeper(work, name, draft),
            before=before[name],
        )
        for name, draft in drafts.items()
    }
    starts = {name: writer.batches for name, writer in writers.items()}

    def wanted(number: int) -> bool:
        return number >= min(starts.values())

    _announce(work.passage, drafts, range(min(starts.values())))
    with progress("Capturing", total=work.passage.examples_of(wanted), unit="examples") as bar:
        waits = Waits(work.passage.numbered(wanted, _all(before)))
        for number, batch in waits:
            names = [name for name, start in starts.items() if number >= start]
            for name, block in work.blocks(batch, names).items():
                writers[name].add(block)
            bar.advance(len(batch.example))
    if said := waits.said(bar.done):
        say(said)
    for name, draft in drafts.items():
        draft.details.update(writers[name].close())
    return work.passage.examples


def _keeper(work: _Work, name: str, draft: CaptureDraft) -> Callable[[Piece], None]:
    return lambda piece: draft.keep(replace(piece, facts=work.facts(name, piece.stop)))


def _write_together(
    work: _Work, drafts: Mapping[str, CaptureDraft], before: Mapping[str, Sequence[Piece]], here: Ranks
) -> int:
    """The same by several processes, in the draft folders of the first; only it has drafts."""
    for draft in drafts.values():
        (draft.folder / PARTS).mkdir(exist_ok=True)
    folders = here.from_first([drafts[name].folder for name in work.names] if here.first else [])
    noted = here.from_first(all(isinstance(draft, UnfinishedDraft) for draft in drafts.values()))
    writers = {
        name: SharedWriter(
            folder,
            here,
            dtype=work.forward.config.dtype,
            shard_bytes=work.shard_bytes,
            before=before[name],
            facts=partial(work.facts, name) if noted else None,
        )
        for name, folder in zip(work.names, folders, strict=True)
    }
    if not all((folder / PARTS).is_dir() for folder in folders):
        raise InputError(f"rank {here.rank} does not see {folders[0]}: all ranks need one file system for the store")
    _announce(work.passage, drafts, set.intersection(*(writer.done for writer in writers.values())))
    examples = write_shared(work.passage, here, writers, lambda batch: work.blocks(batch, work.names), _all(before))
    for name in work.names:
        writers[name].close(drafts.get(name))
    work.forward.layouts.settle(here)
    return examples


def _all(before: Mapping[str, Sequence[Piece]]) -> list[Piece]:
    return [piece for pieces in before.values() for piece in pieces]


def _announce(passage: Passage, drafts: Mapping[str, CaptureDraft], done: Collection[int]) -> None:
    """Say what of a capture that was cut short is of use."""
    whole = sum(len(draft.pieces) for draft in drafts.values())
    damaged = sum(draft.damaged for draft in drafts.values())
    if not (whole and done) and not damaged:
        return
    have, total = passage.examples_of(lambda number: number in done), passage.examples_of(lambda _: True)
    where = f"batch {len(done):,}" if have is None else f"example {have:,} of {total:,}"
    files = f"{whole:,} {'file was' if whole == 1 else 'files were'} whole"
    say(f"Going on from {where}: {files}" + (f", {damaged:,} damaged and made again" if damaged else ""))
