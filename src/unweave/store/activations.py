"""The activation store: shards of rows with the example, position and label of each beside it.

A shard is one safetensors file with `activations` [n, d_in], `example` [n], `position` [n] and, where labels were
given, `label` [n]: what belongs to a row is written in the same file by the same call. `moments.safetensors` holds the
exact mean and variance of all rows. A store may be many times larger than memory.
"""

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unweave.core.errors import InputError, StoreError
from unweave.store.artifact import MANIFEST, Manifest, read_manifest
from unweave.store.layout import Layout, from_details
from unweave.store.order import WINDOW_BYTES, WindowedOrder
from unweave.store.reading import KeptWhole, Share, ShuffledReading, read_ahead
from unweave.store.remote import RemoteFolder, RemoteShards, as_place, as_url
from unweave.store.rows import Moments
from unweave.store.scratch import Scratch
from unweave.store.shards import MOMENTS, LocalShards, Shards, inside

KIND = "activations"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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


class Activations:
    """Captured rows [n, d_in] of one hook point: a `RowSource` over a folder or a URL.

    Args:
        folder: the store; a URL (s3://, gs://, memory://, file://) needs the extra `remote`.
        verify: whether checksums are compared, of stores under 256 MiB in a folder; sizes always are.
        window_bytes: stored bytes of the rows that are mixed at a time, where the store is larger: a window is used
            while the next one is read. The order of the batches depends on it.

    Raises:
        StoreError: `folder` holds no whole activation store.
        InputError: `window_bytes` is too small.
    """

    def __init__(self, folder: str | Path, *, verify: bool = True, window_bytes: int = WINDOW_BYTES) -> None:
        url = as_url(folder)
        self.place = url or str(as_place(folder))
        self._folder = None if url else Path(self.place)
        remote = RemoteFolder(url) if url else None
        self.manifest: Manifest = (
            remote.manifest(KIND) if remote is not None else read_manifest(Path(self.place), KIND, verify=verify)
        )
        details = self.manifest.details
        where = f"{self.place}/{MANIFEST}"
        try:
            self._n, self._d_in, self.dtype = int(details["n"]), int(details["d_in"]), str(details["dtype"])
            shards = [int(rows) for rows in details["shards"]]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{where} does not say what the shards hold: {error}") from None
        if sum(shards) != self._n or self.dtype not in DTYPES:
            raise StoreError(f"{where}: shards of {shards} rows do not make {self._n} of {self.dtype}")
        self._starts = [0, *itertools.accumulate(shards)]
        kind = DTYPES[self.dtype]
        self._shards: Shards = (
            LocalShards(Path(self.place) / inside(details, where), shards, self._d_in, kind)
            if remote is None
            else RemoteShards(remote, self.manifest, shards, self._d_in, kind)
        )
        self._order = WindowedOrder.of(self._n, self._d_in * kind.itemsize, window_bytes)
        hold = self._shards.hold if self._order.windows > 1 else KeptWhole(self._shards.hold)
        self._reading = ShuffledReading(self._order, hold, d_in=self._d_in, dtype=kind)
        self._scratch: Scratch | None = None

    def keep(self, scratch: Scratch) -> "Activations":
        """Tie a temporary folder's life to this object."""
        self._scratch = scratch
        return self

    @property
    def folder(self) -> Path:
        """The store's folder.

        Raises:
            InputError: it lies at a URL.
        """
        if self._folder is None:
            raise InputError(f"{self.place} is no folder on this machine; copy the store into one")
        return self._folder

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
    def order_id(self) -> str | None:
        """What the order of the batches depends on beside seed and epoch; None where that is as it is by default."""
        default = WindowedOrder.of(self._n, self._row_bytes)
        return None if self._order == default else f"windows of {self._order.blocks_per_window} blocks"

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
        return self._column("example")

    @property
    def position(self) -> Int64[Tensor, " n"]:
        """Place or token of each row inside its example; 0 where a row is a whole example."""
        return self._column("position")

    @property
    def label(self) -> Int64[Tensor, " n"] | None:
        """Class of each row's example, or None where no labels were captured."""
        return self._shards.column("label")

    def _column(self, name: str) -> Tensor:
        column = self._shards.column(name)
        if column is None:
            raise StoreError(f"{self.place}: its shards have no {name!r}; make the store again")
        return column

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, where they are known."""
        names = self.manifest.details.get("class_names")
        return list(names) if names else None

    def moments(self) -> Moments:
        """Mean and variance of all rows, as summed at capture."""
        stored = self._shards.tensors(MOMENTS)
        return Moments(stored["mean"], float(stored["variance"]))

    def rows(self, start: int, stop: int) -> Float[Tensor, "n d_in"]:
        """Rows [start, stop) in the stored precision; in a folder a view of the mapped file where they lie in one."""
        parts = []
        shard = bisect.bisect_right(self._starts, start) - 1
        while start < stop:
            end = min(stop, self._starts[shard + 1])
            offset = self._starts[shard]
            parts.append(self._shards.rows(shard, start - offset, end - offset))
            start, shard = end, shard + 1
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def blocks(self, rows: int) -> Iterator[Float[Tensor, "b d_in"]]:
        """All rows in order, float32, at most `rows` at a time."""
        yield from self._in_order(rows, 0)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        shuffle: bool = True,
        skip: int = 0,
        share: Share | None = None,
    ) -> Iterator[Float[Tensor, "b d_in"]]:
        """One epoch of float32 batches, from batch `skip` on; the last may be smaller.

        Shuffled over the whole store (see `unweave.store.order`), read ahead in the background. Of each batch only
        the rows [start, stop) that `share` names for a batch of so many: what one of several processes takes.
        """
        if shuffle:
            yield from self._reading.batches(batch_size, seed=seed, epoch=epoch, skip=skip, share=share)
        else:
            yield from self._in_order(batch_size, skip * batch_size, share)

    def _in_order(self, rows: int, first: int, share: Share | None = None) -> Iterator[Tensor]:
        ranges = ((start, min(start + rows, self.n)) for start in range(first, self.n, rows))
        if share is not None:
            ranges = ((start + mine[0], start + mine[1]) for start, stop in ranges for mine in [share(stop - start)])
        if self._folder is not None:  # the system reads ahead by itself
            yield from (self.rows(*one).float() for one in ranges)
        else:
            yield from (part.float() for part in read_ahead(self.rows, ranges, rows * self._row_bytes))

    @property
    def _row_bytes(self) -> int:
        return self._d_in * DTYPES[self.dtype].itemsize

    def __repr__(self) -> str:
        return f"Activations({self.hook_name!r}, n={self.n:,}, d_in={self.d_in}, {self.dtype}, {self.place!r})"
