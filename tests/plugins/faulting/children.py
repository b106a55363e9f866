"""Processes in which stages run: forks of one that has everything loaded, and has done it all once."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import Any, Literal, NoReturn

Ending = Literal["right", "error", "killed", "interrupted", "crash", "hang"]
Work = Callable[..., Any]
_PATIENCE_SECONDS = 120.0
_READY = "ready"


@dataclass(frozen=True)
class Ended:
    """How a process ended: with a result, with one clear error, killed, or as nothing should."""

    how: Ending
    text: str = ""
    value: Any = None


class Child:
    """Work under way in a process of its own.

    Attributes:
        pid: its number.
    """

    def __init__(self, pipe: Connection, pid: int) -> None:
        self.pid, self._pipe, self._said = pid, pipe, Ended("crash", "it said nothing")

    def end(self) -> Ended:
        """Wait for it."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            if not self._pipe.poll(max(0.0, until - time.monotonic())):
                self.kill()
                return Ended("hang", f"still at it after {_PATIENCE_SECONDS:g} s")
            said = self._pipe.recv()
            if isinstance(said, int):
                self._pipe.close()
                if said == -signal.SIGKILL:
                    return Ended("killed")
                return self._said if said == 0 else Ended("crash", f"exit code {said}")
            self._said = said

    def kill(self, sent: int = signal.SIGKILL) -> None:
        """Kill it, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, sent)


class Nursery:
    """Where processes come from. Use as a context.

    Args:
        prepare: done once in the process that others are forks of.
        given: its arguments.
    """

    def __init__(self, prepare: Work, *given: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="unweave-nursery-")
        self._address = f"{self._folder.name}/socket"
        paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "faulting.children", self._address, pickle.dumps((prepare, given)).hex()]
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def __enter__(self) -> "Nursery":
        assert self._process.stdout is not None
        said = self._process.stdout.readline().decode().strip()
        assert said == _READY, f"the nursery did not start: {said}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input is the end of it
        self._folder.cleanup()

    def start(self, work: Work, *given: Any) -> Child:
        """Begin some work in a process of its own."""
        pipe = Client(self._address)
        pipe.send((work, given))
        return Child(pipe, pipe.recv())

    def run(self, work: Work, *given: Any) -> Ended:
        """Do some work in a process of its own and wait for it."""
        return self.start(work, *given).end()


def _serve(address: str, prepare: Work, given: tuple[Any, ...]) -> None:
    """What the nursery does: fork for everyone who connects, until its input ends."""
    import torch

    from unweave.core.progress import silenced

    torch.set_num_threads(1)
    with silenced(), Listener(address, backlog=64) as listener:
        prepare(*given)
        print(_READY, flush=True)
        sockets = {listener._listener._socket: True, sys.stdin: False}  # type: ignore[attr-defined]
        while all(sockets[one] for one in wait(list(sockets))):
            pipe = listener.accept()
            if os.fork() == 0:
                _keep(pipe)
            pipe.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _keep(pipe: Connection) -> NoReturn:
    """What stands between: it forks the process, and tells how that ended even where it was killed."""
    work, given = pipe.recv()
    pid = os.fork()
    if pid == 0:
        _do(pipe, work, given)
    with _no_error_leaves():
        pipe.send(pid)
        pipe.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _do(pipe: Connection, work: Work, given: tuple[Any, ...]) -> NoReturn:
    from unweave.core.errors import InputError

    said = Ended("crash")
    os.setpgrp()
    try:
        said = Ended("right", value=work(*given))
    except InputError as error:
        said = Ended("error", str(error))
    except KeyboardInterrupt:
        said = Ended("interrupted")
    except BaseException:
        said = Ended("crash", traceback.format_exc())
    with _no_error_leaves():
        pipe.send(said)
    os._exit(0)


@contextmanager
def _no_error_leaves() -> Iterator[None]:
    with suppress(OSError):  # nobody waits any more
        yield


if __name__ == "__main__":
    from faulting.children import _serve as serve

    serve(sys.argv[1], *pickle.loads(bytes.fromhex(sys.argv[2])))
    os._exit(0)  # to take all apart that was loaded takes seconds
