"""Errors that a user can act on."""

from collections.abc import Iterable
from difflib import get_close_matches

_LISTED = 20


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, where, and what to do.

    The command line turns it into one line and exit code 2; everything else is a bug and says so.
    """


class StoreError(InputError):
    """A file or folder on disk is not what it should be (missing, truncated, foreign, of another version)."""


def did_you_mean(name: str, choices: Iterable[str], *, most: int = 3) -> str:
    """End of an error message: the names closest to a wrong one, or all choices where none is close."""
    known = sorted(choices)
    if not known:
        return "there are none"
    close = get_close_matches(name, known, n=most, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    shown = ", ".join(known[:_LISTED])
    return f"choose from: {shown}" + (f" and {len(known) - _LISTED} more" if len(known) > _LISTED else "")
