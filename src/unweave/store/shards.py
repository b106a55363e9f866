"""Where the shards of an activation store lie: in a folder here, or, with `unweave.store.remote`, at a URL."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import StoreError
from unweave.store.files import load_tensors
from unweave.store.header import LENGTH_BYTES, Span, header_bytes, spans
from unweave.store.mapped import RowFile, RowFiles
from unweave.store.reading import Held

ROWS = "activations"
MOMENTS = "moments.safetensors"
INSIDE = "inside"
FOLDER = "[0-9a-f]{16}/"
SHORT_NAMES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def shard_name(index: int) -> str:
    """File name of a shard."""
    return f"shard-{index:05d}.safetensors"


def inside(details: Mapping[str, Any], where: str) -> str:
    """What comes before the names of a store's files: one that replaced another at a URL has a folder for them.

    Raises:
        StoreError: the details of its manifest say something else.
    """
    said = details.get(INSIDE, "")
    if not isinstance(said, str) or not re.fullmatch(f"({FOLDER})?", said):
        raise StoreError(f"{where}: its manifest names a folder for its files that none of ours is called: {said!r}")
    return said


@runtime_checkable
class Shards(Protocol):
    """The shards of one store, as `Activations` reads them."""

    def rows(self, shard: int, start: int, stop: int) -> Float[Tensor, "n d_in"]:
        """Rows [start, stop) of a shard in the stored precision."""
        ...

    def column(self, name: str) -> Tensor | None:
        """What belongs to each row, over all shards; None where it was not captured."""
        ...

    def hold(self, ranges: Sequence[tuple[int, int]]) -> Held:
        """Bring rows [start, stop) of the whole store within reach."""
        ...

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A small file of the store."""
        ...


class LocalShards:
    """Shards in a folder, mapped into memory.

    Args:
        folder: the store.
        rows: rows of each shard.
        d_in: width of a row.
        dtype: precision of the rows.

    Raises:
        StoreError: a shard is not what it should be.
    """

    def __init__(self, folder: Path, rows: Sequence[int], d_in: int, dtype: torch.dtype) -> None:
        self._paths = [folder / shard_name(index) for index in range(len(rows))]
        self._rows, self._row_bytes = rows, d_in * dtype.itemsize
        self._mapped = [load_tensors(path) for path in self._paths]
        self._folder = folder
        for path, tensors, n in zip(self._paths, self._mapped, rows, strict=True):
            found = tensors.get(ROWS)
            if found is None or tuple(found.shape) != (n, d_in) or found.dtype != dtype:
                refuse_shard(str(path), None if found is None else (tuple(found.shape), found.dtype), (n, d_in), dtype)

    def rows(self, shard: int, start: int, stop: int) -> Float[Tensor, "n d_in"]:
        """Rows [start, stop) of a shard: a view of the mapped file."""
        return self._mapped[shard][ROWS][start:stop]

    def column(self, name: str) -> Tensor | None:
        """What belongs to each row, over all shards."""
        if name not in self._mapped[0]:
            return None
        return torch.cat([shard[name] for shard in self._mapped])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A small file of the store."""
        return load_tensors(self._folder / name)

    def hold(self, ranges: Sequence[tuple[int, int]]) -> Held:
        """Map ranges of rows, apart from the maps above."""
        return self._files.hold(ranges)

    @cached_property
    def _files(self) -> RowFiles:
        files = [
            RowFile(path, _header(path)[ROWS].start, n, path.stat().st_size)
            for path, n in zip(self._paths, self._rows, strict=True)
        ]
        return RowFiles(files, self._row_bytes)


def refuse_shard(
    where: str, found: tuple[tuple[int, ...], torch.dtype | None] | None, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    """Say that a shard does not hold what the manifest says.

    Raises:
        StoreError: always.
    """
    shown = "None" if found is None else f"{list(found[0])} {found[1]}"
    wanted = f"{list(shape)} {str(dtype).removeprefix('torch.')}"
    raise StoreError(f"{where} holds activations {shown}, its manifest says {wanted}")


def _header(path: Path) -> dict[str, Span]:
    try:
        with path.open("rb") as file:
            length = header_bytes(file.read(LENGTH_BYTES), str(path))
            return dict(spans(file.read(length), str(path)))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
