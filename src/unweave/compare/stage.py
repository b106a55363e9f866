"""The stage: aligned rows of two or more instances in, their similarity beside its nulls out."""

import itertools
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.csv
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from unweave.compare.alignment import Halves, Layout, Rows, check_aligned, gather, layout
from unweave.compare.comparison import DEVIATION, KIND, OBSERVED, TABLE, Comparison, P, read_comparison
from unweave.compare.measures import BY_ROW, MEASURES, Instance, Pair
from unweave.core.config import to_json
from unweave.core.errors import InputError
from unweave.core.progress import progress
from unweave.core.seeds import numpy_generator
from unweave.figures.files import write
from unweave.stats.permutation import permutation_p
from unweave.store.artifact import Identity, existing, write_json, writing
from unweave.store.files import save_table
from unweave.store.rows import TensorRows

_SMALL = 256  # units
Cells = dict[str, list[dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """How instances are compared."""

    permutations: int = 199
    "orders of one side's rows behind each p-value"
    neighbours: int = 10
    "nearest neighbours of a row that are looked up on both sides"
    neighbour_rows: int = 2000
    "rows among which they are looked up, drawn at random where there are more"

    def __post_init__(self) -> None:
        if self.permutations < 19:
            raise InputError(f"permutations must be at least 19: p cannot reach 0.05 with {self.permutations}")
        if self.neighbours < 1:
            raise InputError(f"neighbours must be at least 1, got {self.neighbours}")
        if self.neighbour_rows <= self.neighbours:
            raise InputError(f"neighbour_rows must exceed neighbours ({self.neighbours}), got {self.neighbour_rows}")


def compare(
    a: Rows,
    b: Rows,
    *,
    untrained: tuple[Rows, Rows] | None = None,
    names: tuple[str, str] = ("a", "b"),
    comparing: Comparing | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> Comparison:
    """Say how alike two sets of activations of the same examples are, beside what the measures give by themselves.

    Args:
        a: captured `Activations`, or a tensor [n, d].
        b: those of another network, layer or training, of the same examples; the width may differ.
        untrained: the same two of networks that were not trained: what the architecture alone gives.
        names: what the two are called.
        comparing: permutations and neighbours.
        seed: decides halves, permutations and noise.
        out: a folder for the result: table (Parquet, CSV), figure (PNG, SVG), numbers (JSON).
        overwrite: replace another artifact in `out`.

    Raises:
        InputError: the rows are not those of the same examples, or there are too few, or some hold NaN or Inf.
    """
    if names[0] == names[1]:
        raise InputError(f"two instances are both called {names[0]!r}")
    beside = None if untrained is None else dict(zip(names, untrained, strict=True))
    instances = dict(zip(names, (a, b), strict=True))
    return compare_all(instances, untrained=beside, comparing=comparing, seed=seed, out=out, overwrite=overwrite)


def compare_all(
    instances: Mapping[str, Rows],
    *,
    untrained: Mapping[str, Rows] | None = None,
    comparing: Comparing | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> Comparison:
    """Compare every pair of instances; see `compare`.

    Args:
        instances: rows of the same examples, by name.
        untrained: rows of an untrained network for each of them, by the same names.
        comparing: permutations and neighbours.
        seed: decides halves, permutations and noise.
        out: a folder for the result.
        overwrite: replace another artifact in `out`.

    Raises:
        InputError: there are fewer than two instances, the names differ, or the rows do not belong together.
    """
    comparing = comparing or Comparing()
    if len(instances) < 2:
        raise InputError(f"a comparison needs at least two instances, got {len(instances)}")
    if untrained is not None and list(untrained) != list(instances):
        raise InputError(f"untrained instances are called {list(untrained)}, the others {list(instances)}")
    sources = {**instances, **{f"untrained {name}": rows for name, rows in (untrained or {}).items()}}
    layouts = {name: layout(name, source) for name, source in sources.items()}
    check_aligned(layouts)
    inputs = {name: TensorRows(rows).id if isinstance(rows, Tensor) else rows.id for name, rows in sources.items()}
    identity = Identity(kind=KIND, config=comparing, inputs=inputs, seed=seed)
    if out is not None and existing(Path(out), identity, overwrite=overwrite):
        return read_comparison(out)
    found = _compare(list(instances), sources, layouts, comparing, seed)
    if out is None:
        return found
    with writing(Path(out), identity, overwrite=overwrite) as draft:
        save_table(draft.folder / TABLE, {name: found.table[name] for name in found.table.column_names})
        pyarrow.csv.write_csv(found.table, draft.folder / "table.csv")
        numbers = {"metrics": found.metrics(), "sentence": found.sentence, "pairs": to_json(list(found.pairs))}
        write_json(draft.folder / "numbers.json", numbers)
        write(found.figure(), draft.folder, "similarity")
        draft.details.update(n=found.n, permutations=found.permutations)
    return read_comparison(out)


def _compare(
    names: list[str], sources: Mapping[str, Rows], layouts: Mapping[str, Layout], comparing: Comparing, seed: int
) -> Comparison:
    shape = next(iter(layouts.values()))
    near = min(shape.examples, max(1, comparing.neighbour_rows // shape.each))
    halves, k = Halves(shape.examples, shape.each, near), comparing.neighbours
    order = numpy_generator(seed, "halves").permutation(shape.examples)
    made = {
        name: Instance.of(gather(name, source, layouts[name].row[order].ravel()), halves, k)
        for name, source in sources.items()
    }
    noise = {name: made[name].noise(halves, k, numpy_generator(seed, "noise", name)) for name in names}
    pairs = list(itertools.combinations(names, 2))
    cells: Cells = {}
    with _few_threads(made), progress("Comparing", total=len(pairs), unit="pairs") as bar:
        for a, b in pairs:
            generator = numpy_generator(seed, "orders", a, b)
            pair = Pair(made[a], made[b], halves)
            found = {OBSERVED: pair.measures(), "other_image": pair.measures(halves.other_example(generator))}
            found["noise"] = Pair(noise[a], noise[b], halves).measures()
            if f"untrained {a}" in made:
                found["untrained"] = Pair(made[f"untrained {a}"], made[f"untrained {b}"], halves).measures()
            null = [
                pair.measures(halves.shuffled(generator), generator.permutation(made[b].d))
                for _ in range(comparing.permutations)
            ]
            for name, numbers in {**found, **_against(found[OBSERVED], null)}.items():
                cells.setdefault(name, []).append(numbers)
            bar.advance()
    everywhere = [m for m in MEASURES if m not in BY_ROW or len({made[name].d for name in names}) == 1]
    values = {name: np.array([[row[m] for m in everywhere] for row in rows]) for name, rows in cells.items()}
    return Comparison(pairs, everywhere, values, shape.examples * shape.each, comparing.permutations)


def _few_threads(made: Mapping[str, Instance]) -> AbstractContextManager[object]:
    """One thread for small matrices: waiting for a second one takes longer than they do."""
    small = max(instance.d for instance in made.values()) <= _SMALL
    return threadpool_limits(1, user_api="blas") if small else nullcontext()


def _against(observed: Mapping[str, float], null: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and deviation of each measure under permutation, and p of what was observed."""
    drawn = {name: np.array([numbers[name] for numbers in null]) for name in observed}
    return {
        "shuffled": {name: float(values.mean()) for name, values in drawn.items()},
        DEVIATION: {name: float(values.std()) for name, values in drawn.items()},
        P: {name: permutation_p(observed[name], values) for name, values in drawn.items()},
    }
