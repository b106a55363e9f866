"""Many dictionaries from one pass: rows are read once, and given to every dictionary that sees them in that order.

Each dictionary takes its own steps, the very ones it would take alone, so its artifact has the same bits. Threads take
turns. A turn is one dictionary over a few megabytes of rows, so that its weights stay in the cache meanwhile, and
goes to the one that is furthest behind.

Of several processes each trains some of the dictionaries, whole. A store each reads for its own; a stream all read
together, so that its model runs once for all of them.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from unweave.core.distributed import ALONE, Ranks, ranks
from unweave.core.errors import InputError
from unweave.core.progress import progress
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.stored import load
from unweave.store.rows import RowSource, TensorRows
from unweave.train.batches import Batches, refuse_not_finite
from unweave.train.course import Course, Job, denormals_flushed
from unweave.train.dealing import Group, Outcome, Waiting, collected, deal
from unweave.train.passes import Follower, Part, Pass, batches_in

_AT_ONCE_BYTES = 4 << 30  # of weights, gradients, moments and rows read ahead
_WINDOW_BYTES = 1 << 30
_LOOK_EVERY_SECONDS = 0.1


@overload
def train_several(
    rows: RowSource | Tensor, jobs: Sequence[Job], *, overwrite: bool = ..., runtime: Runtime | None = ...
) -> list[Outcome]: ...
@overload
def train_several(
    rows: Mapping[str, RowSource],
    jobs: Mapping[str, Sequence[Job]],
    *,
    overwrite: bool = ...,
    runtime: Runtime | None = ...,
) -> dict[str, list[Outcome]]: ...
def train_several(
    rows: RowSource | Tensor | Mapping[str, RowSource],
    jobs: Sequence[Job] | Mapping[str, Sequence[Job]],
    *,
    overwrite: bool = False,
    runtime: Runtime | None = None,
) -> list[Outcome] | dict[str, list[Outcome]]:
    """Train dictionaries side by side; each comes out with the bits that `train` alone gives it.

    Jobs of the same seed (any seed, where rows are not shuffled or come from a stream) see the rows in the same order,
    which are read once for all of them, whatever the sizes of their batches. Finished artifacts are read back,
    unfinished ones go on from their checkpoints.

    Args:
        rows: captured `Activations`, a stream, or a tensor [n, d_in]; or several sources by name, for example those of
            `stream_several`, which share their passes.
        jobs: what to train; of several sources, by the same names.
        overwrite: replace other artifacts in the jobs' folders.
        runtime: device and the like; as many dictionaries train at a time as there are CPU threads.

    Returns:
        For each job its dictionary, or the error that ended its training: a learning rate that is too high for one
        dictionary does not cost the others.

    Raises:
        InputError: the rows are not [n, d_in], two jobs have one folder, or a folder holds something else.
    """
    if isinstance(rows, Mapping) or isinstance(jobs, Mapping):
        if not isinstance(rows, Mapping) or not isinstance(jobs, Mapping) or not set(jobs) <= set(rows):
            raise InputError("jobs by name need rows of the same names, and the other way round")
        flat = [(rows[name], job) for name, several in jobs.items() for job in several]
        made = iter(_train(flat, overwrite=overwrite, runtime=runtime))
        return {name: [next(made) for _ in several] for name, several in jobs.items()}
    source = TensorRows(rows) if isinstance(rows, Tensor) else rows
    return _train([(source, job) for job in jobs], overwrite=overwrite, runtime=runtime)


def _train(jobs: Sequence[tuple[RowSource, Job]], *, overwrite: bool, runtime: Runtime | None) -> list[Outcome]:
    runtime, here = runtime or Runtime(), ranks()
    places = [job.out.absolute() for _, job in jobs if job.out is not None]
    if len(set(places)) < len(places):
        raise InputError("two dictionaries are to be written into one folder")
    if here.size > 1 and runtime.split_latents:
        raise InputError("--split-latents is for one dictionary; of several, each is trained whole by one rank")
    for _, job in jobs if here.first else []:
        job.check_out(overwrite=overwrite)
    batches = [Batches(source, None, job.training, job.seed) for source, job in jobs]
    identities = [job.identity(read) for (_, job), read in zip(jobs, batches, strict=True)]
    here.same("the dictionaries to train, or the rows that they see", [identity.id for identity in identities])
    there: dict[int, Dictionary] = {}
    if here.first:
        found = (job.finished(one, overwrite=overwrite) for (_, job), one in zip(jobs, identities, strict=True))
        there = {number: one for number, one in enumerate(found) if one is not None}
    for number in here.from_first(list(there)):
        there[number] = (there[number] if here.first else load(str(jobs[number][1].out))).to(runtime.torch_device())
    outcomes: dict[int, Outcome] = dict(there)
    waiting = [
        Waiting.of(number, job, batches[number]) for number, (_, job) in enumerate(jobs) if number not in outcomes
    ]
    if waiting:
        for source in {id(one.batches.source): one.batches.source for one in waiting}.values():
            refuse_not_finite(source, "the rows")
        groups, owners = deal(waiting, here, at_once=_AT_ONCE_BYTES, window=_WINDOW_BYTES)
        with denormals_flushed():
            own = _Workshop(groups, runtime, overwrite=overwrite, of=len(waiting), here=here).run()
        outcomes |= collected(own, owners, waiting, runtime, here)
    return [outcomes[number] for number in range(len(jobs))]


@dataclass(frozen=True, eq=False)
class _Turn:
    """Work for one thread: to take a course over some batches, or, where there is no course, to read a pass on."""

    of: Pass
    threads: int = 1
    number: int = -1
    follower: Follower | None = None
    parts: Sequence[Part] = ()

    @property
    def share_done(self) -> float:
        course = None if self.follower is None else self.follower.course
        return 0.0 if course is None else course.step / (course.total or 1)


class _Workshop:
    """Courses, the passes they follow, and the threads that take their turns.

    Courses are made in the calling thread, with its CPU threads: the last bits of a start or a fit may depend on their
    number. Worker threads hold torch to one thread, except where a course would have more alone.
    """

    def __init__(
        self, groups: Sequence[Group], runtime: Runtime, *, overwrite: bool, of: int, here: Ranks = ALONE
    ) -> None:
        self._runtime, self._overwrite = runtime, overwrite
        self._waiting = deque(groups)
        self._jobs = sum(len(group.own) for group in groups)
        self._label = _label(self._jobs, of, here)
        self._device = runtime.torch_device()
        self._threads = (runtime.threads or torch.get_num_threads()) if self._device.type == "cpu" else 1
        self._free = self._threads
        self._changed = threading.Condition()
        self._passes: list[Pass] = []
        self._busy: set[int] = set()
        self._outcomes: dict[int, Outcome] = {}
        self._steps_behind = 0  # of courses that are at their end
        self._stop = False
        self._fault: BaseException | None = None

    def run(self) -> dict[int, Outcome]:
        """Train everything; outcomes by the jobs' numbers."""
        total = sum(one.steps for group in self._waiting for one in group.own)
        size = max(1, min(self._threads, self._jobs))  # one to read a stream together with others, at least
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(size)]
        before = torch.get_num_threads()
        try:
            for worker in workers:
                worker.start()
            with progress(self._label, total=total, unit="steps") as bar:
                going_on = True
                while going_on:
                    going_on = self._look_after()
                    bar.advance(self._steps_taken() - bar.done, finished=float(len(self._outcomes)))
        finally:
            with self._changed:
                self._stop = True
                self._changed.notify_all()
            for worker in workers:
                worker.join()
            for one in self._passes:
                one.close()
            torch.set_num_threads(before)  # for threads that will start later: workers have left a one there
        if self._fault is not None:
            raise self._fault
        return self._outcomes

    def _look_after(self) -> bool:
        """Open the passes that there is room for, and wait a moment; False at the end."""
        while self._waiting and self._has_room(self._waiting[0]):
            self._open(self._waiting.popleft())
        with self._changed:
            together = any(one.together for one in self._passes)
            if self._fault is not None or (len(self._outcomes) == self._jobs and not self._waiting and not together):
                return False
            self._changed.wait(_LOOK_EVERY_SECONDS)
        return True

    def _has_room(self, group: Group) -> bool:
        passes = list(self._passes)
        if group.ways and any(one.together for one in passes):
            return False  # two at once, and ranks could wait for each other in a circle
        return not passes or sum(one.bytes for one in passes) + group.bytes <= _AT_ONCE_BYTES

    def _open(self, group: Group) -> None:
        """Make the courses of a pass; what has no steps to take is finished by that."""
        workers, crowd = max(1, self._threads // max(1, self._jobs)), max(1.0, self._jobs / self._threads)
        courses: dict[int, Course] = {}
        for one in group.own:
            outcome: Outcome | None = None
            try:
                course = Course(one.job, one.batches, self._runtime, most_workers=workers, crowd=crowd)
                group.check(one, course.step)
                courses[one.number] = course
                outcome = course.finish(overwrite=self._overwrite) if course.done else None
            except InputError as error:
                outcome = error
            if outcome is not None:
                self._enter(one.number, outcome, courses.pop(one.number, None))
        followers = {
            one.number: Follower(courses[one.number], one.batches, one.rows[-1])
            for one in group.own
            if one.number in courses
        }
        if followers or group.ways:
            with self._changed:
                self._passes.append(Pass(followers, group.bytes, group.ways))
                self._changed.notify_all()

    def _enter(self, number: int, outcome: Outcome, course: Course | None) -> None:
        with self._changed:
            self._outcomes[number] = outcome
            self._steps_behind += 0 if course is None else course.step

    def _steps_taken(self) -> int:
        with self._changed:
            return self._steps_behind + sum(f.course.step for one in self._passes for f in one.followers.values())

    def _work(self) -> None:
        """What a worker thread does: turn after turn."""
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        try:
            while (turn := self._next_turn()) is not None:
                self._take(turn)
        except BaseException as fault:  # raised again in the calling thread
            with self._changed:
                self._fault = self._fault or fault
                self._stop = True
                self._changed.notify_all()

    def _next_turn(self) -> _Turn | None:
        """Wait for a turn; None at the end."""
        with self._changed:
            while not self._stop:
                turn = self._choose()
                if turn is not None and turn.threads <= self._free:
                    self._free -= turn.threads
                    turn.of.reading |= turn.follower is None
                    self._busy.add(turn.number)
                    return turn
                self._changed.wait()
        return None

    def _choose(self) -> _Turn | None:
        """A pass that wants reading; else the course furthest behind, of those whose batches are there."""
        for one in self._passes:
            if one.wants_reading():
                return _Turn(one)
        ready = [
            _Turn(one, min(follower.course.threads, self._threads), number, follower, parts)
            for one in self._passes
            for number, follower in one.followers.items()
            if number not in self._busy and (parts := one.parts_for(follower))
        ]
        return min(ready, key=lambda turn: turn.share_done, default=None)

    def _take(self, turn: _Turn) -> None:
        """Do a turn's work and enter what came of it."""
        read = None
        outcome: Outcome | None = None
        if turn.follower is None:
            read = turn.of.read(self._device)
        else:
            try:
                outcome = self._train(turn.follower, turn.parts)
            except InputError as error:
                outcome = error
        with self._changed:
            self._free += turn.threads
            self._busy.discard(turn.number)
            if read is not None:
                turn.of.hold(read)
            if outcome is not None:
                self._enter(turn.number, outcome, turn.of.followers.pop(turn.number).course)
            turn.of.drop_used()
            if ended := turn.of.ended:
                self._passes.remove(turn.of)
            self._changed.notify_all()
        if ended:
            turn.of.close()

    def _train(self, follower: Follower, parts: Sequence[Part]) -> Dictionary | None:
        """Take a course over the batches that are there; its dictionary, where that was the end."""
        course = follower.course
        with course.at_work():
            for batch in batches_in(follower, parts):
                if self._stop:
                    break
                course.take(batch)
        return course.finish(overwrite=self._overwrite) if course.done else None


def _label(jobs: int, of: int, here: Ranks) -> str:
    if here.size > 1:
        return f"Training {jobs} of {of} dictionaries (rank {here.rank} of {here.size})"
    return "Training one dictionary" if jobs == 1 else f"Training {jobs} dictionaries"
