"""What is being written: beside its place, under a name that says whose it is, and renamed into it whole.

A draft is called `.NAME.writing-HOST-BOOT-SPACE-PID-NUMBER`. Host, boot and process space (a container's) say where the
process number means something. What a dead process of this machine left is swept by the next one that writes `NAME`; a
draft from elsewhere counts as left behind when nothing in it changed for a day.

A draft with a folder `unfinished` (`unweave.store.unfinished`) holds work that can be gone on with. Its process touches
it every few seconds, so that one from elsewhere counts as left behind after two minutes; one that failed but lives lets
it go at once. It is not swept, but kept a week for whoever goes on with it.
"""

import errno
import functools
import glob
import hashlib
import itertools
import os
import platform
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import safetensors

from unweave.core.errors import StoreError

OLD = "-old"
UNFINISHED = "unfinished"
BEAT_SECONDS = 10.0
_MARK = ".writing-"
_LEFT = "left"
_LEFT_AFTER_SECONDS = 86_400.0
SILENT_SECONDS = 12 * BEAT_SECONDS
_KEPT_SECONDS = 7 * 86_400.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DISK = (*_NO_ROOM, errno.EIO, errno.EROFS, errno.ESTALE)
_NUMBERS = itertools.count()
_OWN: set[str] = set()
_LOCK = threading.Lock()


def new_draft(path: Path) -> Path:
    """A name beside `path` that no other process or thread uses; `forget` it when it is gone."""
    draft = path.parent / f".{path.name}{_MARK}{'-'.join(_here())}-{os.getpid()}-{next(_NUMBERS)}"
    with _LOCK:
        _OWN.add(str(draft))
    return draft


def forget(draft: Path) -> None:
    """Remove what is left of a draft of this process."""
    remove(draft)
    with _LOCK:
        _OWN.discard(str(draft))


def let_go(draft: Path) -> None:
    """Leave a draft of this process to whoever goes on with it."""
    where = "-".join((*_here(), _LEFT, f"{os.getpid()}x{next(_NUMBERS)}"))
    try:
        with suppress(OSError):  # it stays under its own name until this process ends
            draft.rename(draft.with_name(f"{draft.name.rpartition(_MARK)[0]}{_MARK}{where}"))
    finally:
        with _LOCK:
            _OWN.discard(str(draft))


@contextmanager
def replacing(path: Path, *, swept_with: Path | None = None, new: bool = False) -> Iterator[Path]:
    """Write a file so that it is the old one or the new one, and on the disk when the block ends.

    Args:
        path: the file.
        swept_with: the artifact whose next writer removes what a killed process left; by default the file's own.
        new: the file must not be there.

    Raises:
        FileExistsError: it is `new`, but another process has written it meanwhile.
        StoreError: there is no room, or the place cannot be written to.
    """
    beside = path if swept_with is None else swept_with
    for left in left_beside(beside):
        remove(left)
    draft = new_draft(beside)
    try:
        with disk_errors(path):
            yield draft
            to_disk(draft)
            _first(draft, path) if new else draft.replace(path)
    finally:
        forget(draft)


def _first(draft: Path, path: Path) -> None:
    try:
        path.hardlink_to(draft)  # unlike a rename, this fails where something is
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        draft.replace(path)


def is_draft(path: Path, *, of: str = "") -> bool:
    """Whether a path is a draft, of what is called `of` where that is given."""
    return path.name.startswith(f".{of}{_MARK}" if of else ".") and _MARK in path.name


def to_disk(path: Path) -> None:
    """Wait until a file's content would survive a loss of power."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say in words why a place cannot be looked at.

    Raises:
        StoreError: no permission, a name that is too long, a disk that is gone.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read: {error.strerror or error}; see to its folder and permissions"
        ) from error


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say in words what a disk or its permissions refuse while `path` is written.

    Raises:
        StoreError: in place of an OSError or safetensors' own that comes from writing.
    """
    try:
        yield
    except safetensors.SafetensorError as error:
        if "os error" not in str(error):
            raise
        raise StoreError(
            _refused(path, str(error).partition("(os error")[0].rpartition(":")[2].strip(), None)
        ) from error
    except FileExistsError:
        raise
    except OSError as error:
        if not (error.errno in _DISK or _about(error, path)):
            raise
        raise StoreError(_refused(path, error.strerror or str(error), error.errno)) from error


def _about(error: OSError, path: Path) -> bool:
    """Whether an error is of a file at, beside or below a place."""
    if not isinstance(error.filename, (str, bytes)):
        return False
    return Path(os.fsdecode(error.filename)).absolute().is_relative_to(path.absolute().parent)


def _refused(path: Path, why: str, number: int | None = None) -> str:
    full = number in _NO_ROOM or "space left" in why or "too large" in why
    advice = "make room" if full else "see to its folder and permissions"
    return f"{path} cannot be written: {why}; {advice} and start again (what was finished is kept)"


def remove(path: Path) -> None:
    """Remove a file or folder, if it can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def asides(path: Path) -> list[Path]:
    """What stood in `path` before a swap that did not end."""
    return [left for left in _drafts(path) if left.name.endswith(OLD)]


def left_beside(path: Path) -> list[Path]:
    """Drafts of `path` that nobody works on any more, nor will."""
    left = [draft for draft in _drafts(path) if _is_left(draft)]
    return [draft for draft in left if not is_unfinished(draft) or _unchanged_for(draft) > _KEPT_SECONDS]


def unfinished_beside(path: Path) -> list[Path]:
    """Drafts of `path` that nobody works on any more, and that somebody may go on with."""
    return [draft for draft in _drafts(path) if is_unfinished(draft) and _is_left(draft)]


def perhaps_unfinished(path: Path) -> list[Path]:
    """Drafts of `path` from elsewhere that count as left behind only if they stay silent for some time longer."""
    others = [draft for draft in _drafts(path) if is_unfinished(draft) and not _is_left(draft)]
    return [draft for draft in others if tuple(_writer(draft)[:3]) != _here()]


def is_unfinished(draft: Path) -> bool:
    """Whether a draft holds work that can be gone on with."""
    return not draft.name.endswith(OLD) and (draft / UNFINISHED).is_dir()


def _drafts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f".{glob.escape(path.name)}{_MARK}*"))


def _is_left(draft: Path) -> bool:
    *where, pid, _ = _writer(draft)
    here = _here()
    if pid == _LEFT:
        return True
    if tuple(where) == here and pid.isdigit():
        if int(pid) == os.getpid():
            with _LOCK:
                return str(draft).removesuffix(OLD) not in _OWN
        return not _alive(int(pid))
    if where[0] == here[0] and where[1] != here[1]:
        return True  # this machine was started again since
    return _unchanged_for(draft) > (SILENT_SECONDS if is_unfinished(draft) else _LEFT_AFTER_SECONDS)


def _writer(draft: Path) -> list[str]:
    """Host, boot, space, process and number, as the name of a draft says them."""
    return ["", "", "", "", *draft.name.removesuffix(OLD).rpartition(_MARK)[2].split("-")][-5:]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _unchanged_for(draft: Path) -> float:
    """Seconds since the newest change in a draft, by the clock of the file system; 0 where that cannot be told."""
    probe = new_draft(draft)
    try:
        probe.touch()
        now = probe.stat().st_mtime
        return now - max(path.lstat().st_mtime for path in (draft, *draft.rglob("*")))
    except OSError:
        return 0.0
    finally:
        forget(probe)


@functools.cache
def _here() -> tuple[str, str, str]:
    """Host, boot and process space, in which a process's number means something."""
    host = platform.node() + _content("/etc/machine-id")
    boot = _content("/proc/sys/kernel/random/boot_id")
    with suppress(OSError):
        return _short(host), _short(boot), _short(str(Path("/proc/self/ns/pid").readlink()))
    return _short(host), _short(boot), _short("")


def _content(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text()
    return ""


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
