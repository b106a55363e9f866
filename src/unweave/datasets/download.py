"""Downloads that are checked, can be taken up again, and go on at the next mirror where one fails."""

import re
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from unweave.core.errors import InputError
from unweave.core.progress import progress

_CHUNK_BYTES = 1 << 16
_ATTEMPTS_PER_MIRROR = 3
_NO_SUCH_RANGE = 416


def download(urls: Sequence[str], target: Path, check: Callable[[Path], object], *, timeout: float = 20.0) -> None:
    """Fetch a file from the first of its addresses that gives the right bytes.

    What has arrived lies beside the target as `.part`; a later attempt, mirror or call asks for the rest only. The
    target itself is there only when it is whole and checked.

    Args:
        urls: addresses of the same file, the preferred one first.
        target: where to put it.
        check: raises an InputError where the file at a path has the wrong content.
        timeout: seconds without an answer after which a mirror counts as failed.

    Raises:
        InputError: no address gave the file; says why for each.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {target.parent} cannot be made: {error.strerror or error}") from None
    part = target.with_name(target.name + ".part")
    failures = []
    for url in urls:
        try:
            _fetch_whole(url, part, check, timeout)
            part.replace(target)
            return
        except (OSError, HTTPException, InputError) as error:
            if target.exists():  # another process that wanted the same file was first
                return
            failures.append(f"{url}: {str(error) or type(error).__name__}")
    raise InputError(f"{target.name} could not be downloaded ({'; '.join(failures)})")


def _fetch_whole(url: str, part: Path, check: Callable[[Path], object], timeout: float) -> None:
    """Bring `part` to the whole and right file from one mirror, in a few attempts as long as they get anywhere."""
    for attempt in range(1, _ATTEMPTS_PER_MIRROR + 1):
        had = _size(part)
        try:
            _fetch(url, part, timeout)
            check(part)
            return
        except InputError:
            part.unlink(missing_ok=True)
            # What was begun elsewhere may be right from its start; what came whole from here is wrong here.
            if not had or attempt == _ATTEMPTS_PER_MIRROR:
                raise
        except (OSError, HTTPException):
            if _size(part) <= had or attempt == _ATTEMPTS_PER_MIRROR:
                raise


def _fetch(url: str, part: Path, timeout: float) -> None:
    """Append to `part` what is missing of the file at `url`.

    Bytes are written at their own place in the file, not at its end, so that two processes that download the same file
    at the same time write the same bytes to the same places.
    """
    have = _size(part)
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 - addresses are constants
    try:
        response = urlopen(request, timeout=timeout)  # noqa: S310
    except HTTPError as error:
        error.close()
        if have and error.code == _NO_SUCH_RANGE:
            return  # nothing comes after what is there; whether that is the file, the check will say
        raise
    with response:
        start, total = _extent(response, have)
        name = part.name.removesuffix(".part")
        with (
            part.open("r+b" if start else "wb") as file,
            progress(f"download {name}", total=total, unit="bytes") as bar,
        ):
            file.seek(start)
            bar.advance(start)
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                bar.advance(len(chunk))
    if total is not None and _size(part) < total:
        raise ConnectionError(f"the connection was cut after {_size(part):,} of {total:,} bytes")


def _extent(response: HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where in the file the answer begins, and the size of the whole file where the server says it."""
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != have:
            raise ConnectionError("the server answered with another range of bytes than it was asked for")
        return have, None if found[2] == "*" else int(found[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
