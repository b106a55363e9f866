"""Several processes of one command: what each does at its start and end, and `unweave --ranks N`, which starts them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType

from rich.console import Console
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from unweave.core import distributed
from unweave.core.errors import InputError

_TOGETHER = ("capture", "train", "sweep")
_GRACE_SECONDS = 12.0
_LOOK_SECONDS = 0.05


@contextmanager
def begin(given: Sequence[str]) -> Iterator[None]:
    """Meet the other ranks, where there are some; only rank 0 prints results.

    Raises:
        InputError: the ranks were told different things, or a command that is one process's.
    """
    here = distributed.ranks()
    here.same("their command line", list(given))
    if here.size > 1:
        _check_shared(given)
    if here.first:
        yield
    else:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield
    here.close()


def silent() -> bool:
    """Whether another rank says what went wrong; from now on the others know that this one failed."""
    return not distributed.speaks()


def launch(given: Sequence[str], *, debug: bool = False) -> int:
    """Run a command as N processes of this machine; the exit code of the first that failed, else 0.

    Raises:
        InputError: N is no number, no command follows, or one that is one process's.
    """
    if len(given) < 2 or not given[0].isdecimal() or int(given[0]) < 1:
        raise InputError("--ranks wants a number and a command: unweave --ranks 2 train STORE --out FOLDER")
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise InputError("--ranks inside torchrun: one of the two starts the processes; leave --ranks out")
    _check_shared(given[1:])
    size, command = int(given[0]), [*given[1:], *(["--debug"] if debug else [])]
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is this process's, as it is torchrun's
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // size))),
    }
    started = [
        subprocess.Popen(  # noqa: S603 - this program, with the arguments that it was given
            [sys.executable, "-m", "unweave", *command],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(size)
    ]
    with _ended_with(started):
        return _wait(started, store)


def _check_shared(given: Sequence[str]) -> None:
    """Refuse what several processes would all do: the same work again, in the same place.

    Raises:
        InputError: so it is.
    """
    if given and given[0] not in (*_TOGETHER, "--help", "-h", "--version"):
        raise InputError(
            f"several processes share the work of {', '.join(_TOGETHER[:-1])} and {_TOGETHER[-1]} only; start "
            f"{given[0]!r} as one process, without --ranks or torchrun"
        )


@contextmanager
def _ended_with(started: Sequence["subprocess.Popen[bytes]"]) -> Iterator[None]:
    """Inside, a signal to end this process ends the others first."""

    def end(number: int, _: FrameType | None) -> None:
        for process in started:
            process.send_signal(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()


def _wait(started: Sequence["subprocess.Popen[bytes]"], store: Store) -> int:
    """Until all are at their end, or one failed and the others had time to say so."""
    failed: tuple[int, int] | None = None
    until = float("inf")
    while any(process.poll() is None for process in started) and time.monotonic() < until:
        if failed is None:
            failed = next(((rank, p.returncode) for rank, p in enumerate(started) if p.poll()), None)
            until = float("inf") if failed is None else time.monotonic() + _GRACE_SECONDS
        with suppress(KeyboardInterrupt):  # it went to the others as well, and they say so
            time.sleep(_LOOK_SECONDS)
    failed = failed or next(((rank, p.returncode) for rank, p in enumerate(started) if p.returncode), None)
    if failed is None:
        return 0
    rank, code = failed
    if code < 0 and PrefixStore("unweave", store).add("told", 1) == 1:
        errors = Console(stderr=True, highlight=False, soft_wrap=True)
        errors.print(f"error: rank {rank} was ended by {signal.Signals(-code).name}; {distributed.GO_ON}", markup=False)
    return code if code > 0 else 128 - code
