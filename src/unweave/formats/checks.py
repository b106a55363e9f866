"""Single values of foreign files, checked before they are believed."""

from pathlib import Path
from typing import get_args

from torch import Tensor

from unweave.core.errors import StoreError
from unweave.dictionaries.base import RowNorm

_PLACES = 200


def whole_number(value: object, what: str, path: Path, *, most: int, least: int = 1) -> int:
    """A whole number, given as one, as a float without a fraction, or as a tensor with one entry.

    Args:
        value: what the file holds.
        what: its name, for the message.
        path: the file, for the message.
        most: the largest that makes sense.
        least: the smallest.

    Raises:
        StoreError: it is none, or out of bounds.
    """
    plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex() else value
    if (
        isinstance(plain, (int, float))
        and not isinstance(plain, bool)
        and least <= plain <= most
        and plain == plain // 1
    ):
        return int(plain)
    raise StoreError(f"{path}: {what} should be a whole number between {least} and {most}, it is {shown(value)}")


def switch(value: object, what: str, path: Path) -> bool:
    """True or false.

    Raises:
        StoreError: it is neither.
    """
    if not isinstance(value, bool):
        raise StoreError(f"{path}: {what} should be true or false, it is {shown(value)}")
    return value


def row_norm_of(value: object) -> RowNorm | None:
    """What a configuration says of rows that are normalised one by one, in SAELens' words; None: nothing of that."""
    return next((known for known in get_args(RowNorm) if isinstance(value, str) and known == value), None)


def shown(value: object) -> str:
    """A value in a message: short, whatever it is."""
    if isinstance(value, (str, int, float, bool)) or value is None:
        return repr(value[:_PLACES]) if isinstance(value, str) else str(value) if not _long(value) else "a huge number"
    return f"a {type(value).__name__}"


def _long(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() > _PLACES


def only_file(place: Path, *suffixes: str) -> Path | None:
    """A file with one of these endings: the place itself, or the only such file in a folder; None where there is none.

    It raises nothing, whatever lies there.
    """
    try:
        if place.is_dir():
            found = [path for path in sorted(place.iterdir()) if path.suffix in suffixes and path.is_file()]
            return found[0] if len(found) == 1 else None
        return place if place.suffix in suffixes and place.is_file() else None
    except OSError:
        return None
