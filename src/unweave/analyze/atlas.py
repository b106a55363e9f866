"""The atlas: an artifact with everything that was found out about each latent."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import UInt8
from matplotlib.figure import Figure

from unweave.analyze.thumbnails import Thumbnails
from unweave.core.codes import Codes
from unweave.core.config import from_json
from unweave.core.errors import InputError
from unweave.figures.latents import LatentCard, latent_card
from unweave.store.artifact import read_manifest
from unweave.store.codes import load_codes
from unweave.store.files import load_table, load_tensors
from unweave.store.scratch import Scratch

KIND = "atlas"
CODES = "codes.safetensors"
LATENTS = "latents.parquet"
EXAMPLES = "examples.parquet"
LABELS = "labels.parquet"
SELECTIVE = "selective.parquet"
HISTOGRAMS = "histograms.safetensors"
THUMBNAILS = "thumbnails.safetensors"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What an atlas holds, and how its latents are named."""

    top: int = 16
    "strongest examples kept of each latent"
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


class Atlas:
    """Everything about a dictionary's latents on some rows; tables are read when they are first asked for.

    Attributes:
        metrics: flat mapping from name to number; NaN where there is none.
        class_names: names of the classes, or None where the rows have no labels.

    Raises:
        StoreError: the folder is no whole atlas.
    """

    def __init__(self, folder: str | Path, scratch: Scratch | None = None) -> None:
        self.folder = Path(folder)
        self._scratch = scratch
        self.manifest = read_manifest(self.folder, KIND, verify=True)
        numbers = self.manifest.details["metrics"].items()
        self.metrics = {name: float("nan") if value is None else value for name, value in numbers}
        self.class_names: list[str] | None = self.manifest.details["class_names"]
        self.hook_name = str(self.manifest.details["hook_name"])
        self.d_sae = int(self.manifest.details["d_sae"])

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
        """Each latent's strongest examples, by their strongest row: `order`, latent, rank, row, example, position."""
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
        """The sparse codes of all rows."""
        return load_codes(self.folder / CODES)

    @cached_property
    def thumbnails(self) -> Thumbnails | None:
        """Pictures of the examples in the tables, where images were given."""
        path = self.folder / THUMBNAILS
        return Thumbnails.load(path) if THUMBNAILS in self.manifest.files else None

    @cached_property
    def _histograms(self) -> tuple[np.ndarray, np.ndarray]:
        tensors = load_tensors(self.folder / HISTOGRAMS)
        return tensors["counts"].numpy(), tensors["largest"].numpy()

    @cached_property
    def _label_counts(self) -> np.ndarray | None:
        if self.labels is None or self.class_names is None:
            return None
        return np.asarray(self.labels["count"]).reshape(self.d_sae, len(self.class_names))

    @property
    def class_totals(self) -> np.ndarray | None:
        """Number of examples of each class."""
        totals = self.manifest.details["class_totals"]
        return None if totals is None else np.asarray(totals)

    def column(self, name: str) -> np.ndarray:
        """A column of `latents` as an array, latent by latent."""
        return np.asarray(self.latents[name])

    def top_images(self, latent: int, order: str = "value") -> UInt8[np.ndarray, "k c h w"] | None:
        """The latent's strongest examples as pictures, strongest first; None without images."""
        if self.thumbnails is None:
            return None
        table = self.examples
        chosen = pc.and_(pc.equal(table["latent"], latent), pc.equal(table["order"], order))
        return self.thumbnails.of(table.filter(chosen)["example"].to_numpy())

    def card(self, latent: int) -> LatentCard:
        """What a picture of one latent shows.

        Raises:
            InputError: there is no such latent.
        """
        if not 0 <= latent < self.d_sae:
            raise InputError(f"there is no latent {latent}: the dictionary has {self.d_sae}, counted from 0")
        counts, largest = self._histograms
        row = {name: self.latents[name][latent].as_py() for name in self.latents.column_names}
        by_class = self._label_counts
        return LatentCard(
            latent=latent,
            numbers=row,
            images=self.top_images(latent),
            histogram=counts[latent],
            largest=float(largest[latent]),
            class_names=self.class_names,
            class_counts=None if by_class is None else by_class[latent],
            class_totals=self.class_totals,
        )

    def show(self, latent: int) -> Figure:
        """One latent at a glance: strongest examples, activation histogram, classes against their prior."""
        return latent_card(self.card(latent))

    def __repr__(self) -> str:
        return f"Atlas({self.hook_name!r}, d_sae={self.d_sae}, {str(self.folder)!r})"
