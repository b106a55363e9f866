"""`unweave bench`: comparisons of all dictionaries of the registry, as a table on the terminal and a page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from unweave.cli.run import run_recipe
from unweave.core.errors import InputError, did_you_mean
from unweave.recipes.base import RECIPES, Run
from unweave.recipes.recovery.page import HEADINGS, cells
from unweave.recipes.recovery.scores import load_scores, summaries

_WIDE = 130
_FEWER = ("", "MCC", "recall", "explained", "L0")
console = Console(highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True)
class Bench:
    """A recipe that compares kinds of dictionaries, and the tables that the terminal shows of it."""

    recipe: str
    tables: Callable[[Run], list[Table]]


def bench_command(given: list[str], program: str) -> None:
    """Compare every kind of dictionary on the same data."""
    if not given or given[0] in ("-h", "--help"):
        _list(program)
        return
    name = given.pop(0)
    if name not in BENCHES:
        raise InputError(f"there is no bench {name!r}: {did_you_mean(name, BENCHES)}")
    bench = BENCHES[name]

    def show(run: Run) -> None:
        for table in bench.tables(run):
            Console(highlight=False).print(table)

    run_recipe(RECIPES[bench.recipe], given, f"{program} {name}", show=show)


def _list(program: str) -> None:
    console.print(f"usage: {program} NAME [--preset NAME] [FLAGS]\n\n{bench_command.__doc__}\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("bench", "presets", "what it asks"):
        table.add_column(heading)
    for name, bench in BENCHES.items():
        recipe = RECIPES[bench.recipe]
        table.add_row(name, ", ".join(recipe.presets), recipe.summary)
    console.print(table)
    console.print(f"\n{program} NAME --help lists its flags; `unweave run NAME` is the same without the table.")


def _recovery_tables(run: Run) -> list[Table]:
    """Kinds by falling MCC, one table for each sort of rows; those without a dictionary are among the findings."""
    folders: list[Path] = [path for role, path in run.artifacts.items() if role.startswith("scores@")]
    found = [one for one in summaries([s for folder in folders for s in load_scores(folder)]) if one.spreads]
    shown = range(len(HEADINGS)) if console.width >= _WIDE else [HEADINGS.index(name) for name in _FEWER]
    tables = []
    for rows in dict.fromkeys(one.rows for one in found):
        table = Table(title=f"{rows} rows", title_justify="left", box=None, pad_edge=False, header_style="bold")
        for column in shown:
            table.add_column(HEADINGS[column], justify="right" if column else "left", no_wrap=True)
        for one in found:
            if one.rows == rows:
                line = cells(one)
                table.add_row(*(line[column] for column in shown))
        tables.append(table)
    if tables:
        tables[-1].caption = f"±: half of the 95 % t-interval over {len(folders)} seeds; the page explains every column"
        tables[-1].caption_justify = "left"
    return tables


BENCHES: Mapping[str, Bench] = {"recovery": Bench("recovery", _recovery_tables)}
