"""Which dictionaries share a pass over their rows, and of several processes, which one trains each of them."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from unweave.core.distributed import Ranks
from unweave.core.errors import InputError, StoreError
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.stored import load
from unweave.train.batches import Batches, Streamed
from unweave.train.checkpoint import Checkpoint
from unweave.train.course import Job
from unweave.train.passes import Way

_COPIES = 4  # of a dictionary's weights: themselves, gradients, two moments

Outcome = Dictionary | InputError


@dataclass(frozen=True)
class Waiting:
    """A job that is not under way: its number, the steps it will take, and the memory it will need, about."""

    number: int
    job: Job
    batches: Batches
    steps: int
    bytes: int

    @staticmethod
    def of(number: int, job: Job, batches: Batches) -> "Waiting":
        """A job by its number."""
        empty = job.dictionary.build(batches.source.d_in)
        steps = (batches.total or 0) if empty.trained_by_gradient else 0
        size = sum(weight.numel() * weight.element_size() for weight in empty.state_dict().values())
        return Waiting(number, job, batches, steps, _COPIES * size)

    @property
    def rows(self) -> tuple[int, int | None, str]:
        """What it reads: the rows, their order, and which of a stream's."""
        source = self.batches.source
        stream = source.stream if isinstance(source, Streamed) else source
        return id(stream), self.batches.order, source.hook_name if isinstance(source, Streamed) else ""

    @property
    def work(self) -> int:
        """Operations of its training, about; of a fit, by its weights."""
        return max(1, self.steps) * self.bytes * (self.job.training.batch_size if self.steps else 1)

    def way(self, step: int) -> Way | None:
        """What it has to read from a step on."""
        if step >= self.steps:
            return None
        return Way(self.rows[-1], self.batches, self.batches.span(step)[0], self.batches.span(self.steps - 1)[1])


@dataclass(frozen=True, eq=False)
class Group:
    """Jobs that share a pass.

    Attributes:
        own: those that this process trains.
        bytes: memory that they take here, about, with the rows read ahead.
        ways: of a stream that several processes read together, what all of them have before them.
        steps: of such a pass, from which step each job goes on.
    """

    own: Sequence[Waiting]
    bytes: int
    ways: Sequence[Way] = ()
    steps: Mapping[int, int] | None = None

    def check(self, one: Waiting, step: int) -> None:
        """Make sure that a job begins at the step that the ranks agreed upon.

        Raises:
            StoreError: it does not.
        """
        if self.steps is not None and step < self.steps[one.number]:
            raise StoreError(
                f"rank 0 found a checkpoint of {one.job.out} at step {self.steps[one.number]}, this rank one at step "
                f"{step}; all ranks need the same files"
            )


def deal(waiting: Sequence[Waiting], here: Ranks, *, at_once: int, window: int) -> tuple[list[Group], dict[int, int]]:
    """The passes that this process takes part in, and the rank that trains each job.

    Each job goes whole to the rank that has the least to do, the longest first. Jobs over a store are dealt out once,
    and a rank reads for its own. Of a stream every rank reads every pass, and has its share of each.

    Args:
        waiting: the jobs; the same on every rank.
        here: the processes.
        at_once: bytes that a pass may take on a process.
        window: bytes of rows from which on a store's are read ahead.
    """
    if here.size == 1:
        return [Group(group, _bytes(group, window)) for group in _passes(waiting, at_once, window)], {}
    stored = [one for one in waiting if not isinstance(one.batches.source, Streamed)]
    owners = _dealt(stored, here.size)
    own = [one for one in stored if owners[one.number] == here.rank]
    groups = [Group(group, _bytes(group, window)) for group in _passes(own, at_once, window)]
    streamed = [one for one in waiting if isinstance(one.batches.source, Streamed)]
    steps = here.from_first({one.number: _step(one) if here.first else 0 for one in streamed})
    for group in _passes(streamed, at_once * here.size, window):
        owners |= (dealt := _dealt(group, here.size))
        own = [one for one in group if dealt[one.number] == here.rank]
        ways = [way for one in group if (way := one.way(steps[one.number])) is not None]
        size = sum(one.bytes for one in own) + _window_bytes(group[0], window)
        groups.append(Group(own, size, ways, steps))
    return groups, owners


def collected(
    own: Mapping[int, Outcome],
    owners: Mapping[int, int],
    waiting: Sequence[Waiting],
    runtime: Runtime,
    here: Ranks,
) -> dict[int, Outcome]:
    """What came of all jobs, those that other ranks trained too: read from their folders, or handed over."""
    if here.size == 1:
        return dict(own)
    failed: dict[int, str] = {}
    for errors in here.gather({number: str(one) for number, one in own.items() if isinstance(one, InputError)}):
        failed |= errors
    outcomes = dict(own)
    for one in waiting:
        number, mine = one.number, own.get(one.number)
        if number in failed:
            outcomes.setdefault(number, InputError(failed[number]))
        elif one.job.out is not None:
            outcomes[number] = load(one.job.out).to(runtime.torch_device()) if mine is None else mine
        else:
            handed = copy.deepcopy(mine).cpu() if isinstance(mine, Dictionary) else None
            given = here.from_rank(owners[number], handed)
            assert given is not None
            outcomes[number] = given.to(runtime.torch_device()) if mine is None else mine
    return outcomes


def _step(one: Waiting) -> int:
    """The step that its checkpoint is at."""
    return 0 if one.job.out is None else Checkpoint(one.job.out, one.job.identity(one.batches).id).step()


def _dealt(waiting: Sequence[Waiting], size: int) -> dict[int, int]:
    """The rank of each job: the longest jobs first, each to the rank that has least to do."""
    load_of, owners = [0] * size, {}
    for one in sorted(waiting, key=lambda one: (-one.work, one.number)):
        rank = min(range(size), key=lambda rank: load_of[rank])
        load_of[rank] += one.work
        owners[one.number] = rank
    return owners


def _passes(waiting: Iterable[Waiting], at_once: int, window: int) -> list[list[Waiting]]:
    """Jobs by the order of their rows; those of one order in several passes where memory asks for it."""
    groups: dict[tuple[int, int | None], list[list[Waiting]]] = {}
    for one in waiting:
        passes = groups.setdefault(one.rows[:2], [[]])
        if passes[-1] and _bytes([*passes[-1], one], window) > at_once:
            passes.append([])
        passes[-1].append(one)
    return [group for passes in groups.values() for group in passes]


def _bytes(group: Sequence[Waiting], window: int) -> int:
    """Memory of a pass, about: of its dictionaries and of the rows read ahead for them."""
    return sum(one.bytes for one in group) + (_window_bytes(group[0], window) if group else 0)


def _window_bytes(one: Waiting, window: int) -> int:
    """What a pass holds of rows read ahead; rows that fit one window are held once, whatever the passes."""
    source = one.batches.source
    if isinstance(source, Streamed):
        return source.stream.buffer_bytes
    return 2 * window if 4 * source.n * source.d_in > window else 0
