"""The processes of one job, as `torchrun` (or any launcher that sets the same environment) starts them.

A process that was started alone is rank 0 of 1: nothing is set up, and every operation gives back what it was given.
Where a rank fails, the others end too, and one of all says why: through the job's store each rank says that it lives
and that it failed. `UNWEAVE_RANK_TIMEOUT` is how many seconds a rank may be silent before it counts as dead.
"""

import atexit
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from unweave.core.channel import Channel, ChannelEndedError
from unweave.core.errors import InputError

T = TypeVar("T")
_TIMEOUT = "UNWEAVE_RANK_TIMEOUT"
_DEFAULT_TIMEOUT = 300.0
_COLLECTIVE = timedelta(days=7)  # a rank may wait long for another that works: what is dead, the watch finds
_BEAT_SECONDS = 2.0
_GRACE_SECONDS = 10.0
_LOOK_SECONDS = 3.0
_PATIENCE_SECONDS = 60.0  # for a rank that hung up to say why, or to die
GO_ON = "the same command goes on from the last checkpoint"


class RankLostError(RuntimeError):
    """Another rank failed, so this one cannot go on; the message is empty where that rank says why itself."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """The processes of a job, and this one's place among them.

    Attributes:
        rank: number of this process.
        size: how many there are.
        local_rank: number of this process among those of its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    _store: Any = field(default=None, repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _naming: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _named: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the one that shows progress and writes what there is one of."""
        return self.rank == 0

    def bounds(self, n: int) -> tuple[int, int]:
        """The consecutive part of n things that is this rank's: from, up to."""
        return n * self.rank // self.size, n * (self.rank + 1) // self.size

    def sum(self, *tensors: Tensor) -> None:
        """Add contiguous tensors up over the ranks, in place; every rank gets the same bits."""
        if self.size > 1:
            with self._guarded():
                for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                    assert work is not None
                    work.wait()

    def smallest(self, tensor: Tensor) -> Tensor:
        """The smallest over the ranks, entry by entry."""
        if self.size == 1:
            return tensor
        least = tensor.detach().clone()
        with self._guarded():
            dist.all_reduce(least, op=dist.ReduceOp.MIN)
        return least

    def gather_rows(self, rows: Tensor) -> list[Tensor]:
        """The rows of each rank, on every one; their numbers may differ."""
        if self.size == 1:
            return [rows]
        counts = rows.new_zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(rows)
        self.sum(counts)
        lengths = counts.tolist()
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        parts = [torch.empty_like(padded) for _ in lengths]
        with self._guarded():
            dist.all_gather(parts, padded)
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    def gather(self, value: T) -> list[T]:
        """A small value of each rank, on every one."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._guarded():
            dist.all_gather_object(values, value)
        return values

    def from_first(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        return self.from_rank(0, value)

    def from_rank(self, rank: int, value: T) -> T:
        """One rank's value, on every rank; what the others give is not asked."""
        if self.size == 1:
            return value
        box: list[Any] = [value if rank == self.rank else None]
        with self._guarded():
            dist.broadcast_object_list(box, src=rank)
        given: T = box[0]
        return given

    def take_first(self, *tensors: Tensor) -> None:
        """Write rank 0's content into tensors of the same shape on every rank."""
        if self.size == 1:
            return
        with self._guarded():
            for tensor in tensors:
                dense = tensor.detach().contiguous()
                dist.broadcast(dense, src=0)
                tensor.detach().copy_(dense)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)

    def same(self, what: str, value: Any) -> None:
        """Make sure that all ranks have the same.

        Raises:
            InputError: they differ; on every rank.
        """
        values = self.gather(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                shown = f"{_short(values[0])} on rank 0, {_short(other)} on rank {rank}"
                raise InputError(f"the ranks differ in {what}: {shown}; all need the same files, versions and settings")

    def channel(self, name: str) -> Channel | None:
        """A way between the ranks for a thread of its own; none where there is one process.

        Ranks that ask several times under one name are brought together in the order in which each asked.
        """
        if self.size == 1:
            return None
        with self._naming:
            number = self._named[name] = self._named.get(name, 0) + 1
        return Channel(self.rank, self.size, self._store, f"channel/{name}/{number}", self._anybody_gone)

    def hung_up(self, error: ChannelEndedError) -> Exception:
        """What to raise where another rank has closed a channel that this one still needs."""
        lost = self._lost(_PATIENCE_SECONDS)
        if lost is not None:
            return RankLostError(lost)
        return InputError(
            f"another rank stopped reading the stream before this one did ({error}); all ranks have to call the same "
            "functions with the same arguments"
        )

    def in_turn(self, work: Callable[[], T]) -> T:
        """Work that leaves an artifact: rank 0 does it, and then the others, who find what it left."""
        if self.first:
            made = work()
            self.barrier()
            return made
        self.barrier()
        return work()

    def speaks(self) -> bool:
        """Say that this rank failed; whether it is the one that tells the user why."""
        if self.size == 1:
            return True
        self._stop.set()
        try:
            self._store.set("failed", str(self.rank))
            return bool(self._store.add("told", 1) == 1)
        except RuntimeError:
            return True

    def close(self) -> None:
        """End well, together with the others."""
        if self.size > 1 and dist.is_initialized():
            self.barrier()
            _leave(self)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            lost = self._lost()
            if lost is None:
                raise
            raise RankLostError(lost) from error

    def _lost(self, seconds: float = _LOOK_SECONDS) -> str | None:
        """What became of the rank that broke an operation; None where all live."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if self._store.check(["failed"]):
                    return ""
                for rank in range(self.size):
                    if rank != self.rank and (said := self._died(rank)) is not None:
                        return said
            except RuntimeError:
                return f"the machine of rank 0, or the launcher there, is gone; {GO_ON}"
            time.sleep(0.05)
        return None

    def _anybody_gone(self) -> bool:
        others = (rank for rank in range(self.size) if rank != self.rank)
        return bool(self._store.check(["failed"])) or any(self._died(rank) is not None for rank in others)

    def _died(self, rank: int) -> str | None:
        host, pid = self._store.get(f"process/{rank}").decode().rsplit(" ", 1)
        if host != socket.gethostname() or _alive(int(pid)):
            return None
        return f"rank {rank} (process {pid} on {host}) died; {GO_ON}"


ALONE = Ranks()
_joined: Ranks | None = None


def ranks() -> Ranks:
    """This process's place in its job; the first call meets the others, where the environment names some.

    Raises:
        InputError: the environment makes no sense, or the ranks have other versions of what matters.
    """
    global _joined  # noqa: PLW0603 - a process has one place
    if _joined is None:
        _joined = _join() if int(os.environ.get("WORLD_SIZE") or 1) > 1 and "MASTER_ADDR" in os.environ else ALONE
    return _joined


def speaks() -> bool:
    """Say that this process failed, if it is one of several; whether it is the one that tells the user why."""
    return (_joined or ALONE).speaks()


def rank_device() -> torch.device:
    """The CUDA device of this process, where there is one: that of its place on its machine."""
    return torch.device("cuda", ranks().local_rank % torch.cuda.device_count())


def _join() -> Ranks:
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local = int(os.environ.get("LOCAL_RANK", "0"))
        silent = float(os.environ.get(_TIMEOUT, _DEFAULT_TIMEOUT))
        _ = int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise InputError(
            f"the environment says that there are several processes, but not as torchrun does ({error}); start them "
            "with torchrun, or unset WORLD_SIZE"
        ) from None
    gpu = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
        if int(os.environ.get("LOCAL_WORLD_SIZE", size)) <= torch.cuda.device_count():
            gpu = "nccl"  # which takes one rank a device
    try:
        store, _, _ = next(rendezvous("env://", rank, size, timeout=timedelta(seconds=silent)))
        store.set_timeout(timedelta(seconds=silent))
        beats = PrefixStore("unweave", store.clone())
        beats.set(f"process/{rank}", f"{socket.gethostname()} {os.getpid()}")
        beats.wait([f"process/{other}" for other in range(size)], timedelta(seconds=silent))
        backend = f"cpu:gloo,cuda:{gpu}" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_COLLECTIVE)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"rank {rank} of {size} did not meet the others within {silent:g} s ({first})") from None
    here = Ranks(rank, size, local, beats)
    threading.Thread(target=_watch, args=(here, silent), daemon=True, name="ranks").start()
    atexit.register(_leave, here)
    versions = {name: version(name) for name in ("unweave", "torch", "numpy")}
    here.same("versions", {"python": platform.python_version(), **versions})
    return here


def _leave(here: Ranks) -> None:
    if here._stop.is_set():  # this rank failed, or has left: a group with dead members is not waited for
        return
    with suppress(RuntimeError):
        here._store.set(f"beat/{here.rank}", "done")
    here._stop.set()
    with suppress(RuntimeError):
        dist.destroy_process_group()


def _watch(here: Ranks, silent: float) -> None:
    """Say again and again that this rank lives; end it where another failed or has become silent."""
    neighbour, seen, since, number = (here.rank + 1) % here.size, b"", time.monotonic(), 0
    while not here._stop.wait(_BEAT_SECONDS):
        number += 1
        try:
            here._store.set(f"beat/{here.rank}", str(number))
            if here._store.check(["failed"]):
                break
            key = f"beat/{neighbour}"
            beat = here._store.get(key) if here._store.check([key]) else b""
        except RuntimeError:  # the store went with the machine, or the launcher, that held it
            break
        if beat != seen or beat == b"done":
            seen, since = beat, time.monotonic()
        elif time.monotonic() - since > silent:
            if here.speaks():
                print(f"error: rank {neighbour} has said nothing for {silent:g} s; {GO_ON}", file=sys.stderr)  # noqa: T201 - the main thread waits for that rank
            os._exit(1)
    if not here._stop.wait(_GRACE_SECONDS):  # the main thread may wait for the rank that failed: nothing else ends it
        os._exit(1)


def _alive(pid: int) -> bool:
    """Whether a process of this machine runs, and is not only waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not Path("/proc/self/stat").exists()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "..."
