"""`unweave compare`: do instances share anything that the measures do not give by themselves?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from unweave.cli.parsing import parse, unfilled
from unweave.compare import Comparing, Comparison, compare_all
from unweave.core.errors import InputError, did_you_mean
from unweave.figures.comparison import WORDS
from unweave.recipes.base import RUN
from unweave.store.activations import Activations
from unweave.store.artifact import MANIFEST, read_json

_ROLE = "activations@test"
_HEADINGS = {"observed": "as measured", "untrained": "untrained", "other_image": "other example"}
console = Console(highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True, kw_only=True)
class CompareArguments:
    """Flags of `unweave compare`."""

    instances: tyro.conf.Positional[tuple[Path, ...]]
    "folders of runs, or of activation stores, of the same examples: two or more"
    untrained: tuple[Path, ...] = ()
    "the same of untrained networks, one for each instance, in the same order"
    role: str | None = None
    "which of a run's activations; by default activations@test, or the only ones"
    out: Path | None = None
    "folder for table (Parquet, CSV), figure (PNG, SVG) and numbers (JSON)"
    overwrite: bool = False
    "replace another artifact in --out"
    seed: int = 0
    "decides halves, permutations and noise"
    comparing: Annotated[Comparing, tyro.conf.arg(name="")] = field(default_factory=Comparing)


def compare_command(given: list[str], program: str) -> None:
    """Compare runs or activation stores of the same examples, beside what each measure gives by itself."""
    text = compare_command.__doc__ or ""
    read = parse(CompareArguments, unfilled(CompareArguments), given, program=program, description=text)
    if len(read.instances) < 2:
        raise InputError(f"a comparison needs at least two runs or stores, got {len(read.instances)} (see {program})")
    if read.untrained and len(read.untrained) != len(read.instances):
        counts = f"{len(read.untrained)} for {len(read.instances)} instances"
        raise InputError(f"--untrained needs one run or store for each instance, got {counts}")
    names = _names(read.instances)
    found = compare_all(
        {name: _activations(path, read.role) for name, path in zip(names, read.instances, strict=True)},
        untrained={name: _activations(path, read.role) for name, path in zip(names, read.untrained, strict=True)}
        if read.untrained
        else None,
        comparing=read.comparing,
        seed=read.seed,
        out=read.out,
        overwrite=read.overwrite,
    )
    Console(highlight=False).print(_table(found))
    console.print(found.sentence)
    if found.folder is not None:
        console.print(f"Comparison: {found.folder}")


def _names(paths: tuple[Path, ...]) -> list[str]:
    """The folders' own names where they differ, else their paths.

    Raises:
        InputError: a folder is given twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("a folder is given twice; compare different runs or stores")
    short = [path.resolve().name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _activations(path: Path, role: str | None) -> Activations:
    """The store itself, or that of a run.

    Raises:
        InputError: there is neither, or the run has several and none was chosen.
    """
    if (path / MANIFEST).is_file():
        return Activations(path)
    if not (path / RUN).is_file():
        raise InputError(f"{path} is neither a run nor an activation store")
    run = read_json(path / RUN)
    stores = {name: where for name, where in run.get("artifacts", {}).items() if name.startswith("activations")}
    if not stores:
        raise InputError(f"{path} holds no activations, or its run has not ended")
    wanted = role or (_ROLE if _ROLE in stores or len(stores) > 1 else next(iter(stores)))
    if wanted not in stores:
        hint = did_you_mean(wanted, stores)
        raise InputError(f"{path} has no activations {wanted!r}: {hint} Choose with --role")
    return Activations(path / stores[wanted])


def _table(found: Comparison) -> Table:
    """Every measure with its nulls, means over pairs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("measure")
    for condition in found.conditions:
        table.add_column(_HEADINGS.get(condition, condition), justify="right")
    table.add_column("p", justify="right")
    for measure in found.measures:
        cells = [f"{round(found.mean(measure, condition), 3) + 0.0:.3f}" for condition in found.conditions]
        table.add_row(WORDS[measure], *cells, f"{found.of(measure, 'p').max():.3g}")
    many = f"means over {len(found.pairs)} pairs, largest p" if len(found.pairs) > 1 else "one pair"
    table.caption = f"{many}; {found.n:,} rows, {found.permutations} permutations"
    table.caption_justify = "left"
    return table
