"""`unweave study score` and `unweave study simulate`: ratings become a result, and its tests are tried."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from unweave.cli.parsing import parse, unfilled
from unweave.core.errors import InputError
from unweave.figures.files import write
from unweave.figures.study import SimulatedRate, simulated_tests
from unweave.study.folder import Study
from unweave.study.prose import paragraph
from unweave.study.score_files import write_score
from unweave.study.score_tables import TextTable, tables
from unweave.study.scoring import score_study
from unweave.study.simulation import Population, Simulation, simulate

console = Console(highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True, kw_only=True)
class ScoreArguments:
    """Flags of `unweave study score`."""

    study: tyro.conf.Positional[Path]
    "folder of the study"
    database: str | None = None
    "URL of the database with the ratings, where they are not in the folder"
    early: bool = False
    "open the key though ratings are missing; it is recorded, and every later score says so"
    all_pairs: bool = False
    "compare each two conditions, not only the first with every other"
    out: Path | None = None
    "folder for the result; by default STUDY/score"
    seed: int = 0
    "of the bootstrap's draws"


def score_command(given: list[str], program: str) -> None:
    """Open a study's key, which is recorded, and say what its ratings show."""
    text = score_command.__doc__ or ""
    read = parse(ScoreArguments, unfilled(ScoreArguments), given, program=program, description=text)
    study = Study(read.study, read.database)
    found = score_study(study, early=read.early, all_pairs=read.all_pairs, seed=read.seed)
    folder = write_score(found, read.out or study.folder / "score", study=study.plan.study)
    wide = Console(highlight=False)
    for table in tables(found):
        wide.print(_drawn(table))
    console.print(paragraph(found))
    console.print(f"\nScore: {folder.resolve()}")


def _drawn(table: TextTable) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="bold", title=table.title, title_justify="left")
    drawn.title_style = "bold"
    for place, name in enumerate(table.columns):
        drawn.add_column(name, justify="right" if place else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*row)
    drawn.caption, drawn.caption_justify = f"{table.note}\n", "left"
    return drawn


@dataclass(frozen=True, kw_only=True)
class SimulateArguments:
    """Flags of `unweave study simulate`."""

    latents: int = 16
    "of each condition"
    raters: int = 3
    "in each study"
    conditions: int = 2
    "in each study; with more than two, the comparisons are tested as a family too"
    studies: int = 1000
    "simulated with the difference, and as many without"
    mixed_studies: int = 300
    "how many of them the mixed model is fitted to"
    seed: int = 0
    "of everything drawn"
    out: Path | None = None
    "folder for the figure (PNG, SVG)"
    population: Annotated[Population, tyro.conf.arg(name="")] = field(default_factory=Population)


def simulate_command(given: list[str], program: str) -> None:
    """Simulate raters whose preferences are known: how often the tests are wrong, and what they would find."""
    text = simulate_command.__doc__ or ""
    read = parse(SimulateArguments, SimulateArguments(), given, program=program, description=text)
    if read.out is not None and read.out.exists() and not read.out.is_dir():
        raise InputError(f"{read.out} is no folder")
    found = simulate(
        read.population,
        latents=read.latents,
        raters=read.raters,
        conditions=read.conditions,
        studies=read.studies,
        mixed_studies=min(read.mixed_studies, read.studies),
        seed=read.seed,
    )
    Console(highlight=False).print(_simulated(found))
    if over := [rate.test for rate in found.rates if rate.right and not rate.honest]:
        why = (
            "they speak of the raters who rated, and here each has a taste of their own that others do not share"
            if read.population.taste
            else "trust the others for a study like this"
        )
        console.print(f"More false alarms than promised from: {'; '.join(over)}. Why: {why}.")
    if read.out is not None:
        write(_figure(found), read.out, "simulation")
        console.print(f"Figure: {(read.out / 'simulation.png').resolve()}")


def _simulated(found: Simulation) -> Table:
    effect = found.population.effect
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("test at p ≤ 0.05")
    table.add_column("false alarms", justify="right")
    table.add_column(f"finds {effect:g}", justify="right")
    table.add_column("studies", justify="right")
    table.add_column("")
    for one in found.rates:
        said = ("as promised" if one.honest else "too many") if one.right else "for contrast"
        alarms = f"{100 * one.false_positives:.1f} % ({100 * one.low:.1f} to {100 * one.high:.1f})"
        table.add_row(one.test, alarms, f"{100 * one.power:.0f} %", f"{one.studies:,}", said)
    table.caption = (
        f"{found.latents} latents of each of {found.conditions} conditions, {found.raters} raters; latents’ means "
        f"have a standard deviation of {found.std:.2f}. False alarms: share of studies without a difference in which "
        f"the test calls one, with its 95 % interval. Finds: share of studies with a difference of {effect:g} points."
    )
    table.caption_justify = "left"
    return table


def _figure(found: Simulation) -> Figure:
    rates = [
        SimulatedRate(
            name=one.test,
            right=one.right,
            share=one.false_positives,
            ends=(one.low, one.high),
            power=one.power,
            studies=one.studies,
        )
        for one in found.rates
    ]
    return simulated_tests(
        rates, found.curve_effects, found.curves, latents=found.latents, effect=found.population.effect
    )
