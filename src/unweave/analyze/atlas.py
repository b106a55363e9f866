"""The atlas: an artifact with everything that was found out about each latent."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64, UInt8
from matplotlib.figure import Figure

from unweave.analyze.places import Placed, RowsOfExamples, placed
from unweave.analyze.thumbnails import Thumbnails
from unweave.core.codes import Codes
from unweave.core.config import from_json
from unweave.core.errors import InputError, did_you_mean
from unweave.figures.contexts import Context, TopToken, around
from unweave.figures.latents import LatentCard, latent_card
from unweave.figures.places import PlacedImage
from unweave.metrics.entries import Entries, by_latent
from unweave.store.artifact import read_manifest
from unweave.store.codes import load_codes
from unweave.store.files import load_table, load_tensors
from unweave.store.keyed import KeyedTable
from unweave.store.layout import Layout, from_details
from unweave.store.scratch import Scratch

KIND = "atlas"
CODES = "codes.safetensors"
BY_LATENT = "by_latent.safetensors"
ROWS = "rows.safetensors"
LATENTS = "latents.parquet"
EXAMPLES = "examples.parquet"
LABELS = "labels.parquet"
SELECTIVE = "selective.parquet"
HISTOGRAMS = "histograms.safetensors"
THUMBNAILS = "thumbnails.safetensors"
TOKENS = "tokens.parquet"
TOP_TOKENS = "top_tokens.parquet"
ORDERS = ("value", "relative", "quantile", "random")
_PLACES_ON_A_CARD = 8


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What an atlas holds, and how its latents are named."""

    top: int = 16
    "examples kept of each latent in each order"
    bins: int = 32
    "bins of a latent's activation histogram"
    permutations: int = 999
    "label permutations behind each p-value"
    live_share: float = 1e-3
    "a latent is live when it fires on more than this share of the rows"
    dense_share: float = 0.1
    "a live latent is called dense above this share"
    selective: int = 20
    "latents kept as the most selective of each class"

    def __post_init__(self) -> None:
        for name in ("top", "bins", "permutations", "selective"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, eq=False)
class RowPlaces:
    """Where each row comes from: its example, its place or token there, and where there are labels its class."""

    example: Int64[np.ndarray, " n"]
    position: Int64[np.ndarray, " n"]
    label: Int64[np.ndarray, " n"] | None


class Atlas:
    """Everything about a dictionary's latents on some rows.

    Nothing is read before it is asked for, and of what belongs to one latent only that latent's part: opening costs a
    manifest, a latent a few milliseconds, however many latents and rows there are.

    Args:
        folder: the artifact.
        scratch: a temporary folder that lives as long as this object.
        verify: compare checksums, where the atlas is under 256 MiB; without it sizes only.

    Attributes:
        metrics: flat mapping from name to number; NaN where there is none.
        class_names: names of the classes, or None where the rows have no labels.
        hook_name: dotted name of the module that the rows come from.
        d_sae: number of latents.
        layout: how the positions of rows lie in an example; None in an atlas of an earlier version.

    Raises:
        StoreError: the folder is no whole atlas.
    """

    def __init__(self, folder: str | Path, scratch: Scratch | None = None, *, verify: bool = True) -> None:
        self.folder = Path(folder)
        self._scratch = scratch
        self.manifest = read_manifest(self.folder, KIND, verify=verify)
        numbers = self.manifest.details["metrics"].items()
        self.metrics = {name: float("nan") if value is None else value for name, value in numbers}
        self.class_names: list[str] | None = self.manifest.details["class_names"]
        self.hook_name = str(self.manifest.details["hook_name"])
        self.d_sae = int(self.manifest.details["d_sae"])
        self.layout: Layout | None = from_details(self.manifest.details.get("layout"))

    @property
    def analysis(self) -> Analysis:
        """The settings it was made with."""
        return from_json(Analysis, self.manifest.config, where=f"{self.folder}: config")

    @cached_property
    def latents(self) -> pa.Table:
        """One row for each latent: status, count, rate, mean, max and, with labels, what firing says of the class."""
        return load_table(self.folder / LATENTS)

    @cached_property
    def examples(self) -> pa.Table:
        """Examples of all latents, by their strongest row: `order`, latent, rank, row, example, position, value."""
        return load_table(self.folder / EXAMPLES)

    @cached_property
    def labels(self) -> pa.Table | None:
        """Firing examples of each latent and class, counted and weighted by value."""
        return load_table(self.folder / LABELS) if LABELS in self.manifest.files else None

    @cached_property
    def selective(self) -> pa.Table | None:
        """The latents of highest average precision for each class."""
        return load_table(self.folder / SELECTIVE) if SELECTIVE in self.manifest.files else None

    @cached_property
    def codes(self) -> Codes:
        """The sparse codes of all rows, mapped into memory."""
        return load_codes(self.folder / CODES)

    @cached_property
    def entries(self) -> Entries:
        """The same codes latent by latent, mapped into memory; `entries.of(latent)` gives one latent's rows."""
        if BY_LATENT not in self.manifest.files:  # an atlas of an earlier version
            return by_latent(self.codes)
        arrays = {name: tensor.numpy() for name, tensor in load_tensors(self.folder / BY_LATENT).items()}
        return Entries(**arrays, n=self.codes.n)

    @cached_property
    def rows(self) -> RowPlaces | None:
        """Where each row comes from; None in an atlas of an earlier version."""
        if ROWS not in self.manifest.files:
            return None
        arrays = {name: tensor.numpy() for name, tensor in load_tensors(self.folder / ROWS).items()}
        return RowPlaces(arrays["example"], arrays["position"], arrays.get("label"))

    @cached_property
    def thumbnails(self) -> Thumbnails | None:
        """Pictures of the examples in the tables, where images were given."""
        path = self.folder / THUMBNAILS
        return Thumbnails.load(path) if THUMBNAILS in self.manifest.files else None

    @cached_property
    def _rows_of_examples(self) -> RowsOfExamples | None:
        return None if self.rows is None else RowsOfExamples.of(self.rows.example)

    @cached_property
    def _tokens(self) -> KeyedTable | None:
        return KeyedTable(self.folder / TOKENS, "example") if TOKENS in self.manifest.files else None

    @cached_property
    def _top_tokens(self) -> KeyedTable | None:
        return KeyedTable(self.folder / TOP_TOKENS, "latent") if TOP_TOKENS in self.manifest.files else None

    @cached_property
    def _histograms(self) -> tuple[np.ndarray, np.ndarray]:
        tensors = load_tensors(self.folder / HISTOGRAMS)
        return tensors["counts"].numpy(), tensors["largest"].numpy()

    @cached_property
    def _examples_by_latent(self) -> KeyedTable:
        return KeyedTable(self.folder / EXAMPLES, "latent")

    @cached_property
    def _labels_by_latent(self) -> KeyedTable | None:
        return KeyedTable(self.folder / LABELS, "latent") if LABELS in self.manifest.files else None

    @property
    def class_totals(self) -> np.ndarray | None:
        """Number of examples of each class."""
        totals = self.manifest.details["class_totals"]
        return None if totals is None else np.asarray(totals)

    def column(self, name: str) -> np.ndarray:
        """A column of `latents` as an array, latent by latent."""
        return np.asarray(self.latents[name])

    def numbers_of(self, latent: int) -> dict[str, Any]:
        """One latent's row of `latents`.

        Raises:
            InputError: there is no such latent.
        """
        self.check(latent)
        return {name: self.latents[name][latent].as_py() for name in self.latents.column_names}

    def examples_of(self, latent: int, order: str | None = None) -> pa.Table:
        """One latent's rows of `examples`, read without the others; of one order or of all.

        Args:
            latent: its index.
            order: `value` (strongest first), `relative` (the same by its share in the row's length), `quantile` (from
                the strongest to the weakest at equal steps of rank), `random` (drawn from all it fires on).

        Raises:
            InputError: there is no such latent or order.
        """
        self.check(latent)
        if order is not None and order not in ORDERS:
            raise InputError(f"there is no order {order!r} of examples: {did_you_mean(order, ORDERS)}")
        table = self._examples_by_latent.rows(latent)
        return table if order is None else table.filter(pc.equal(table["order"], order))

    def labels_of(self, latent: int) -> pa.Table | None:
        """One latent's rows of `labels`, a row for each class; None without labels.

        Raises:
            InputError: there is no such latent.
        """
        self.check(latent)
        return None if self._labels_by_latent is None else self._labels_by_latent.rows(latent)

    def histogram_of(self, latent: int) -> tuple[Int64[np.ndarray, " bins"], float]:
        """Counts of one latent's values over equal parts of [0, its largest value], and that value.

        Raises:
            InputError: there is no such latent.
        """
        self.check(latent)
        counts, largest = self._histograms
        return counts[latent], float(largest[latent])

    def top_images(self, latent: int, order: str = "value") -> UInt8[np.ndarray, "k c h w"] | None:
        """The latent's examples in one of the `ORDERS` as pictures; None without images.

        Raises:
            InputError: there is no such latent or order.
        """
        examples = self.examples_of(latent, order)["example"].to_numpy()
        return None if self.thumbnails is None else self.thumbnails.of(examples)

    def places_of(self, latent: int, order: str = "value", most: int | None = None) -> list[Placed]:
        """The latent's examples in one of the `ORDERS`, each with its values at all positions of that example.

        None are given where rows are whole examples, or by an atlas of an earlier version.

        Raises:
            InputError: there is no such latent or order.
        """
        return self.placed_at(latent, self.examples_of(latent, order)["example"].to_pylist()[:most])

    def placed_at(self, latent: int, examples: Sequence[int]) -> list[Placed]:
        """The same of any examples.

        Raises:
            InputError: there is no such latent, or an example was not captured.
        """
        self.check(latent)
        rows = self._rows_of_examples
        if self.layout is None or self.layout.kind == "whole" or self.rows is None or rows is None:
            return []
        return placed(self.entries, rows, self.rows.position, latent, examples)

    def placed_images(self, latent: int, order: str = "value", most: int | None = None) -> list[PlacedImage]:
        """The same as pictures, where the rows are places of images and there are pictures of them.

        Raises:
            InputError: there is no such latent or order.
        """
        layout, thumbnails = self.layout, self.thumbnails
        if layout is None or layout.kind != "grid" or thumbnails is None:
            return []
        found = self.places_of(latent, order, most)
        pictures = thumbnails.of(np.array([one.example for one in found], np.int64))
        return [
            PlacedImage(image=picture, value=one.value, box=one.box(layout), heat=one.heat(layout), area=layout.area)
            for one, picture in zip(found, pictures, strict=True)
        ]

    def contexts_of(
        self, latent: int, order: str = "value", most: int | None = None, *, reach: int = 12
    ) -> list[Context]:
        """The same as tokens around the strongest one, where the rows are tokens and the atlas knows them.

        Raises:
            InputError: there is no such latent or order.
        """
        if self._tokens is None:
            return []
        found = []
        for one in self.places_of(latent, order, most):
            tokens = self._tokens.rows(one.example)["tokens"][0].as_py()
            values = np.full(len(tokens), np.nan)
            values[one.positions] = one.values
            found.append(around(tokens, values, one.position, reach=reach))
        return found

    def top_tokens_of(self, latent: int) -> list[TopToken]:
        """The tokens that it fires on beyond their frequency, most of all first; none where no tokens were given.

        Raises:
            InputError: there is no such latent.
        """
        self.check(latent)
        if self._top_tokens is None:
            return []
        table = self._top_tokens.rows(latent).select(["token", "count", "share", "expected"])
        return [TopToken(**row) for row in table.to_pylist()]

    def card(self, latent: int) -> LatentCard:
        """What a picture of one latent shows.

        Raises:
            InputError: there is no such latent.
        """
        counts, largest = self.histogram_of(latent)
        labels = self.labels_of(latent)
        return LatentCard(
            latent=latent,
            numbers=self.numbers_of(latent),
            images=self.top_images(latent),
            histogram=counts,
            largest=largest,
            class_names=self.class_names,
            class_counts=None if labels is None else np.asarray(labels["count"]),
            class_totals=self.class_totals,
            places=self.placed_images(latent, most=_PLACES_ON_A_CARD),
            contexts=self.contexts_of(latent, most=_PLACES_ON_A_CARD),
            tokens=self.top_tokens_of(latent),
        )

    def show(self, latent: int) -> Figure:
        """One latent at a glance: strongest examples, activation histogram, classes against their prior."""
        return latent_card(self.card(latent))

    def check(self, latent: int) -> None:
        """Check that there is such a latent.

        Raises:
            InputError: there is not.
        """
        if not 0 <= latent < self.d_sae:
            raise InputError(f"there is no latent {latent}: the dictionary has {self.d_sae}, counted from 0")

    def __repr__(self) -> str:
        return f"Atlas({self.hook_name!r}, d_sae={self.d_sae}, {str(self.folder)!r})"
