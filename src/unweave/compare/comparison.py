"""What comparing instances found: every measure of every pair, beside its nulls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from matplotlib.figure import Figure

from unweave.compare.wording import sentence
from unweave.core.errors import StoreError
from unweave.figures.comparison import similarity
from unweave.store.artifact import read_manifest
from unweave.store.files import load_table

KIND = "comparison"
TABLE = "table.parquet"
OBSERVED = "observed"
NULLS = ("untrained", "other_image", "noise", "shuffled")
DEVIATION, P = "shuffled_sd", "p"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Similarity of instances, pair by pair, and what the same measures give where there is nothing to find.

    Attributes:
        pairs: names of the two instances of each pair.
        measures: names of the measures; those row by row are left out where widths differ.
        values: [pairs, measures] by condition. `observed`; `other_image`, each row beside that of another example;
            `noise`, independent draws over the range of each unit; `shuffled`, mean over the permutations of one side's
            rows (of its units, for the raw measures), with `shuffled_sd`; `p` = (b + 1) / (m + 1) of the observed value
            among these; `untrained`, where untrained instances were given.
        n: rows compared.
        permutations: m.
        folder: where it lies, if it was written.
    """

    pairs: Sequence[tuple[str, str]]
    measures: Sequence[str]
    values: Mapping[str, Float[np.ndarray, "pairs measures"]] = field(repr=False)
    n: int
    permutations: int
    folder: Path | None = None

    @property
    def conditions(self) -> list[str]:
        """`observed`, and the nulls that there are."""
        return [name for name in (OBSERVED, *NULLS) if name in self.values]

    def of(self, measure: str, condition: str = OBSERVED) -> Float[np.ndarray, " pairs"]:
        """A measure of every pair."""
        return self.values[condition][:, list(self.measures).index(measure)]

    def mean(self, measure: str, condition: str = OBSERVED) -> float:
        """Mean of a measure over the pairs."""
        return float(self.of(measure, condition).mean())

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """Mean over pairs of every measure as `name` and `name@null`, its deviation over pairs, and its largest p."""
        found: dict[str, float] = {}
        for measure in self.measures:
            for condition in self.conditions:
                suffix = "" if condition == OBSERVED else f"@{condition}"
                found[f"{prefix}{measure}{suffix}"] = self.mean(measure, condition)
            found[f"{prefix}{measure}_sd"] = float(self.of(measure).std())
            found[f"{prefix}{measure}_p"] = float(self.of(measure, P).max())
        return found

    @property
    def table(self) -> pa.Table:
        """A row for each pair and measure, a column for each condition."""
        m = len(self.measures)
        columns: dict[str, Any] = {
            "first": [a for a, _ in self.pairs for _ in range(m)],
            "second": [b for _, b in self.pairs for _ in range(m)],
            "measure": list(self.measures) * len(self.pairs),
        }
        kept = (*self.conditions, DEVIATION, P)
        return pa.table({**columns, **{name: self.values[name].ravel() for name in kept}})

    @property
    def sentence(self) -> str:
        """What the numbers allow to say, and of which measures they say nothing."""
        return sentence(
            {measure: {name: self.of(measure, name) for name in self.conditions} for measure in self.measures},
            {measure: self.of(measure, P) for measure in self.measures},
            pairs=len(self.pairs),
        )

    def figure(self, title: str = "") -> Figure:
        """Every measure with its nulls beside it, a dot for each pair."""
        return similarity(self.measures, {name: self.values[name] for name in self.conditions}, title=title)

    def __str__(self) -> str:
        lines = [f"{'':20}" + "".join(f"{name.replace('_', ' '):>13}" for name in (*self.conditions, "p"))]
        for measure in self.measures:
            numbers = "".join(f"{self.mean(measure, name):13.3f}" for name in self.conditions)
            lines.append(f"{measure:20}{numbers}{self.of(measure, P).max():13.3g}")
        what = "one pair" if len(self.pairs) == 1 else f"means over {len(self.pairs)} pairs, largest p"
        return "\n".join([*lines, f"({what}; {self.n:,} rows, {self.permutations} permutations)"])


def read_comparison(folder: str | Path) -> Comparison:
    """Read a comparison that `compare` wrote.

    Raises:
        StoreError: the folder is no comparison, or a file in it is missing or damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, KIND, verify=True)
    table = load_table(folder / TABLE)
    measures = list(dict.fromkeys(table["measure"].to_pylist()))
    if table.num_rows % len(measures):
        raise StoreError(f"{folder / TABLE} has {table.num_rows} rows for {len(measures)} measures; make it again")
    names = zip(table["first"].to_pylist(), table["second"].to_pylist(), strict=True)
    kept = [name for name in table.column_names if name not in ("first", "second", "measure")]
    values = {name: table[name].to_numpy().reshape(-1, len(measures)) for name in kept}
    n, permutations = int(manifest.details["n"]), int(manifest.details["permutations"])
    return Comparison(list(names)[:: len(measures)], measures, values, n, permutations, folder)
