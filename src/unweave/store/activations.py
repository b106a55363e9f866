"""The activation store: shards of rows with the example, position and label of each beside it.

A shard is one safetensors file with `activations` [n, d_in], `example` [n], `position` [n] and, where labels were
given, `label` [n]: what belongs to a row is written in the same file by the same call. `moments.safetensors` holds the
exact mean and variance of all rows. Shards are mapped into memory, so a store may be many times larger.
"""

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unweave.core.errors import StoreError
from unweave.store.artifact import MANIFEST, Manifest, read_manifest
from unweave.store.files import load_tensors
from unweave.store.layout import Layout, from_details
from unweave.store.rows import Moments, WindowedOrder
from unweave.store.scratch import Scratch

KIND = "activations"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MOMENTS = "moments.safetensors"
_BLOCK_BYTES = 1 << 20
_WINDOW_BYTES = 1 << 30


@dataclass(frozen=True)
class RowBlock:
    """Rows and what belongs to them, index by index."""

    activations: Float[Tensor, "n d_in"]
    example: Int64[Tensor, " n"]
    position: Int64[Tensor, " n"]
    label: Int64[Tensor, " n"] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors, as a shard holds them."""
        named = {"activations": self.activations, "example": self.example, "position": self.position}
        return named if self.label is None else {**named, "label": self.label}


def shard_name(index: int) -> str:
    """File name of a shard."""
    return f"shard-{index:05d}.safetensors"


class Activations:
    """Captured rows [n, d_in] of one hook point: a `RowSource` over a folder.

    Args:
        folder: the store.
        verify: whether checksums are compared, of stores under 256 MiB; sizes always are.

    Raises:
        StoreError: `folder` holds no whole activation store.
    """

    def __init__(self, folder: str | Path, *, verify: bool = True) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder, KIND, verify=verify)
        details = self.manifest.details
        try:
            self._n, self._d_in, self.dtype = int(details["n"]), int(details["d_in"]), str(details["dtype"])
            shards = [int(rows) for rows in details["shards"]]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{self.folder / MANIFEST} does not say what the shards hold: {error}") from None
        if sum(shards) != self._n or self.dtype not in DTYPES:
            raise StoreError(f"{self.folder / MANIFEST}: shards of {shards} rows do not make {self._n} of {self.dtype}")
        self._starts = [0, *itertools.accumulate(shards)]
        self._shards = [self._map(index, rows) for index, rows in enumerate(shards)]
        self._whole: Tensor | None = None
        self._scratch: Scratch | None = None

    def _map(self, index: int, rows: int) -> dict[str, Tensor]:
        path = self.folder / shard_name(index)
        tensors = load_tensors(path)
        found = tensors.get("activations")
        if found is None or tuple(found.shape) != (rows, self._d_in) or found.dtype != DTYPES[self.dtype]:
            shape = None if found is None else f"{list(found.shape)} {found.dtype}"
            raise StoreError(f"{path} holds activations {shape}, its manifest says {[rows, self._d_in]} {self.dtype}")
        return tensors

    def keep(self, scratch: Scratch) -> "Activations":
        """Tie a temporary folder's life to this object."""
        self._scratch = scratch
        return self

    @property
    def n(self) -> int:
        """Number of rows."""
        return self._n

    @property
    def d_in(self) -> int:
        """Width of a row."""
        return self._d_in

    @property
    def id(self) -> str:
        """Fingerprint of what was captured."""
        return self.manifest.id

    @property
    def hook_name(self) -> str:
        """Dotted name of the module whose output (or input) the rows are."""
        return str(self.manifest.details.get("hook_name", ""))

    @property
    def layout(self) -> Layout | None:
        """How positions lie in an example; None in a store of an earlier version."""
        return from_details(self.manifest.details.get("layout"))

    @property
    def example(self) -> Int64[Tensor, " n"]:
        """Index of the example that each row comes from."""
        return torch.cat([shard["example"] for shard in self._shards])

    @property
    def position(self) -> Int64[Tensor, " n"]:
        """Place or token of each row inside its example; 0 where a row is a whole example."""
        return torch.cat([shard["position"] for shard in self._shards])

    @property
    def label(self) -> Int64[Tensor, " n"] | None:
        """Class of each row's example, or None where no labels were captured."""
        if "label" not in self._shards[0]:
            return None
        return torch.cat([shard["label"] for shard in self._shards])

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, where they are known."""
        names = self.manifest.details.get("class_names")
        return list(names) if names else None

    def moments(self) -> Moments:
        """Mean and variance of all rows, as summed at capture."""
        stored = load_tensors(self.folder / MOMENTS)
        return Moments(stored["mean"], float(stored["variance"]))

    def rows(self, start: int, stop: int) -> Float[Tensor, "n d_in"]:
        """Rows [start, stop) in the stored precision; a view of the mapped file where they lie in one shard."""
        parts = []
        shard = bisect.bisect_right(self._starts, start) - 1
        while start < stop:
            end = min(stop, self._starts[shard + 1])
            offset = self._starts[shard]
            parts.append(self._shards[shard]["activations"][start - offset : end - offset])
            start, shard = end, shard + 1
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def blocks(self, rows: int) -> Iterator[Float[Tensor, "b d_in"]]:
        """All rows in order, float32, at most `rows` at a time."""
        for start in range(0, self.n, rows):
            yield self.rows(start, min(start + rows, self.n)).float()

    def batches(
        self, batch_size: int, *, seed: int, epoch: int, shuffle: bool = True, skip: int = 0
    ) -> Iterator[Float[Tensor, "b d_in"]]:
        """One epoch of float32 batches, from batch `skip` on; the last may be smaller.

        Shuffled over the whole store (see `unweave.store.rows`), with at most two windows of 1 GiB in memory.
        """
        if not shuffle:
            for start in range(skip * batch_size, self.n, batch_size):
                yield self.rows(start, min(start + batch_size, self.n)).float()
            return
        row_bytes = self.d_in * DTYPES[self.dtype].itemsize
        block = max(1, _BLOCK_BYTES // row_bytes)
        order = WindowedOrder(self.n, block, max(1, _WINDOW_BYTES // (block * row_bytes)))
        yield from order.batches(self._read, batch_size, seed=seed, epoch=epoch, skip=skip)

    def _read(self, ranges: list[tuple[int, int]]) -> Tensor:
        if sum(stop - start for start, stop in ranges) < self.n:
            return torch.cat([self.rows(start, stop) for start, stop in ranges])
        if self._whole is None:  # the store fits one window: read once, kept for every epoch
            self._whole = self.rows(0, self.n).clone()
        return self._whole

    def __repr__(self) -> str:
        return f"Activations({self.hook_name!r}, n={self.n:,}, d_in={self.d_in}, {self.dtype}, {str(self.folder)!r})"
