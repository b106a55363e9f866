"""Faults that happen at a counted moment: the n-th time a process is about to change something below a folder."""

import errno
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename": (0, 1), "os.remove": (0,), "os.mkdir": (0,), "os.rmdir": (0,), "os.link": (0, 1)}
Fault = Callable[[str], None]


def killed(_: str) -> None:
    """What an out-of-memory killer or a cluster does."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupted(_: str) -> None:
    """Ctrl-C."""
    raise KeyboardInterrupt


class DiskFull:
    """From now on nothing that needs room can be done; what is there can be read and removed.

    Args:
        room: bytes that may still be written into a file that is open or opened; None refuses new files too.
    """

    def __init__(self, room: int | None) -> None:
        self._room = room

    def __repr__(self) -> str:
        return f"DiskFull({self._room})"

    def __call__(self, event: str) -> None:
        """Fill the disk, and refuse what asked for room."""
        limit = self._room or 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        if self._room is None and event in {"open", "os.mkdir"}:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Moments:
    """Counts the changes that a process makes below a folder, and lets a fault happen at one of them.

    Files that are opened for writing, renamed, linked, made and removed count, and the writers that are no Python:
    they open files unseen, so they count when they begin and when they end.
    """

    def __init__(self, folder: Path, at: int | None, fault: Fault, *, lasting: bool = False) -> None:
        self.seen = 0
        self._folder, self._at, self._fault, self._lasting = str(folder), at, fault, lasting
        self._lock = threading.Lock()

    def install(self) -> None:
        """For the rest of the process's life."""
        sys.addaudithook(self._audit)
        import pyarrow.csv
        import pyarrow.parquet
        import safetensors.torch

        for module, name, place in (
            (safetensors.torch, "save_file", 1),
            (pyarrow.parquet, "write_table", 1),
            (pyarrow.csv, "write_csv", 1),
        ):
            setattr(module, name, self._around(getattr(module, name), place))

    def _around(self, write: Callable[..., Any], place: int) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            self._change("open", [given[place]])
            result = write(*given, **named)
            self._change("close", [given[place]])
            return result

        return counted

    def _audit(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = given
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if mode is None else set(mode) & set("wxa+")
            if writes:
                self._change(event, [path])
        elif event in _CHANGES:
            self._change(event, [given[place] for place in _CHANGES[event]])

    def _change(self, event: str, paths: list[Any]) -> None:
        if not any(isinstance(path, (str, bytes, os.PathLike)) and self._below(path) for path in paths):
            return
        with self._lock:
            moment, self.seen = self.seen, self.seen + 1
        if self._at is not None and (moment == self._at or (self._lasting and moment > self._at)):
            self._fault(event)

    def _below(self, path: Any) -> bool:
        return str(Path(os.fsdecode(path)).absolute()).startswith(self._folder)
