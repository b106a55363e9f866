"""`unweave run`: recipes by name, their flags, and what is said at the end."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from unweave.cli.parsing import parse, taken
from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.recipes.base import RECIPES, Recipe, Run, execute
from unweave.report import build_report

C = TypeVar("C")
Flat = tyro.conf.arg(name="")
console = Console(highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True, kw_only=True)
class RunArguments(Generic[C]):
    """Flags of `unweave run RECIPE`."""

    config: Annotated[C, Flat]
    seed: int = 0
    "every random choice comes from it"
    data_dir: Annotated[Path | None, tyro.conf.arg(aliases=("--images",))] = None
    "where the data lie, for data sets made of files"
    out: Path | None = None
    "folder of the run; by default runs/RECIPE-FINGERPRINT, so that the same command finds its run again"
    runtime: Annotated[Runtime, Flat] = field(default_factory=Runtime)


def run_command(given: list[str], program: str) -> None:
    """Run a recipe: data, model, dictionary, controls and report in one go."""
    if not given or given[0] in ("-h", "--help"):
        console.print(f"usage: {program} RECIPE [--preset NAME] [FLAGS]\n\n{run_command.__doc__}\n")
        recipes_command([], program)
        console.print(f"\n{program} RECIPE --help lists the recipe's flags.")
        if given:
            return
        raise InputError(f"which recipe? One of: {', '.join(RECIPES.members())}")
    recipe = RECIPES[given.pop(0)]
    run_recipe(recipe, given, f"{program} {recipe.name}")


def run_recipe(
    recipe: Recipe[Any], given: list[str], program: str, *, show: Callable[[Run], None] = lambda _: None
) -> None:
    """Run a recipe as its flags say, and tell what came of it.

    Args:
        recipe: which.
        given: the flags.
        program: what the command is called in its help.
        show: prints more of the run, before its findings.
    """
    preset = taken(given, "--preset") or "default"
    read = parse(
        RunArguments[recipe.config],  # type: ignore[name-defined]
        RunArguments(config=recipe.preset(preset)),
        given,
        program=program,
        description=f"{recipe.summary} Presets (--preset): {', '.join(recipe.presets)}; values below: {preset}.",
    )
    read.runtime.apply()
    run = execute(recipe.name, read.config, seed=read.seed, out=read.out, data_dir=read.data_dir, runtime=read.runtime)
    page = build_report(run.folder)
    show(run)
    for sentence in run.findings:
        console.print(f"• {sentence}")
    console.print(f"Report: {page.resolve()}")
    console.print(f"App: unweave serve {run.folder}")


def recipes_command(given: list[str], program: str) -> None:
    """List the recipes and their presets."""
    if given and given[0] not in ("-h", "--help"):
        raise InputError(f"{program} takes no arguments, got {' '.join(given)}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("recipe", "presets", "what it asks"):
        table.add_column(heading)
    for name, recipe in RECIPES.members().items():
        table.add_row(name, ", ".join(recipe.presets), recipe.summary)
    console.print(table)
