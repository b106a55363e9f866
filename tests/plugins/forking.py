"""Python programs as forks of one process that has torch and Unweave loaded, where a start would cost seconds."""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LOADED = ["unweave.cli.main", "unweave.rating.server"]


def fork(work: Any, *given: Any) -> BaseProcess:
    """Start a function in a fork of the process that has everything loaded and has done nothing yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    process = context.Process(target=work, args=given)
    process.start()
    return process


class Program:
    """`python ARGUMENTS ...`, as `subprocess.Popen` has it, with its output in files.

    Args:
        arguments: `-m MODULE ...` or `FILE ...`.
        environment: the whole of it.
        folder: where its output is kept.
        name: of the files.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, name: str) -> None:
        self._said = [folder / f"{name}.{stream}" for stream in ("out", "err")]
        self._process = fork(_run, list(arguments), dict(environment), list(map(str, self._said)))

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for the signal that killed it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, sent: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            assert self._process.pid is not None
            os.kill(self._process.pid, sent)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it wrote to standard output and error."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._said[0].stem, timeout or 0.0)
        out, err = (path.read_text() if path.exists() else "" for path in self._said)
        return out, err


def _run(arguments: list[str], environment: dict[str, str], said: list[str]) -> None:
    """What a fork does: it becomes the program, and ends as a process of its own would."""
    import torch

    for number, path in enumerate(said, start=1):
        file = Path(path).open("w", buffering=1)  # noqa: SIM115 - the process ends with it
        os.dup2(file.fileno(), number)
        setattr(sys, ("stdout", "stderr")[number - 1], file)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).parent))
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a fork of multiprocessing leaves them out
