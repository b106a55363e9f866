"""The header of a safetensors file: where each tensor's bytes lie, read without the rest of the file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unweave.core.errors import StoreError

LENGTH_BYTES = 8
MOST_BYTES = 100 << 20  # what the format allows


@dataclass(frozen=True)
class Span:
    """One tensor of a file: its type as the format names it, its shape, and its bytes [start, stop) in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def header_bytes(first: bytes, where: str) -> int:
    """Length of the header, from the first eight bytes of a file.

    Raises:
        StoreError: no such file has it.
    """
    length = int.from_bytes(first, "little")
    if len(first) != LENGTH_BYTES or not 2 <= length <= MOST_BYTES:
        raise StoreError(f"{where} is no whole safetensors file: its header's length is wrong")
    return length


def spans(text: bytes, where: str) -> Mapping[str, Span]:
    """The tensors that a header names.

    Raises:
        StoreError: it is no header.
    """
    try:
        data: dict[str, Any] = json.loads(text)
        start = LENGTH_BYTES + len(text)
        return {
            name: Span(
                str(entry["dtype"]),
                tuple(int(size) for size in entry["shape"]),
                start + int(entry["data_offsets"][0]),
                start + int(entry["data_offsets"][1]),
            )
            for name, entry in data.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise StoreError(f"{where} is no whole safetensors file: its header is damaged ({error})") from None
