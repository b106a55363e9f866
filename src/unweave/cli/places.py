"""How places are written on a command line: the grid of a hook point, places of it, and tokens of a text."""

import re
from typing import Any

import tyro

from unweave.store.layout import Layout, read_grid

_PLACE = re.compile(r"(\d+):(\d+)")


def _written(layout: Layout | None) -> str:
    if layout is None:
        return "found"
    prefix = f"+{layout.prefix}" if layout.prefix else ""
    return f"{layout.height}x{layout.width}{prefix}{':last' if layout.channels_last else ''}"


def one_argument(metavar: str, read: Any, written: Any, kind: type) -> Any:
    """A value that is written as one argument."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: read(texts[0]),
        is_instance=lambda value: isinstance(value, kind),
        str_from_instance=lambda value: [written(value)],
    )


Grid = one_argument("HEIGHTxWIDTH[+TOKENS]", read_grid, _written, Layout)


def read_places(text: str) -> tuple[tuple[int, int], ...]:
    """`3:5,4:6` are the places in row 3 and column 5, and in row 4 and column 6.

    Raises:
        ValueError: they are none.
    """
    found = [_PLACE.fullmatch(one) for one in text.split(",")]
    if None in found:
        raise ValueError(f"places are ROW:COLUMN, 3:5,4:6 for example, got {text!r}")
    return tuple((int(one[1]), int(one[2])) for one in found if one is not None)


Places = one_argument(
    "ROW:COLUMN,...", read_places, lambda value: ",".join(f"{row}:{column}" for row, column in value or ()), tuple
)
