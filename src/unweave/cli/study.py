"""`unweave study`: blind rating studies, from the drawing of latents to the ratings; scoring is in `study_score`."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from unweave.cli.parsing import parse, unfilled
from unweave.core.errors import InputError, did_you_mean
from unweave.core.optional import needs
from unweave.recipes.rating import study_of_run
from unweave.study import Rating, Study, Studying

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
console = Console(highlight=False, soft_wrap=True, markup=False)


def _names(texts: list[str]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in texts[0].split(","))
    if not all(names):
        raise ValueError(f"conditions are names such as sae,neurons,pca, got {texts[0]!r}")
    return names


Names = Annotated[
    tuple[str, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME,NAME,...",
        instance_from_str=_names,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(value)],
    ),
]


@dataclass(frozen=True, kw_only=True)
class NewArguments:
    """Flags of `unweave study new`."""

    run: tyro.conf.Positional[Path]
    "a run's folder"
    conditions: Names = ("sae", "neurons")
    "what is compared: sae is the run's dictionary, any other name a control of the run; the first with each other"
    seed: int = 0
    "decides which latents are drawn, and every order"
    out: Path | None = None
    "folder of the study; by default RUN/studies/rating-FINGERPRINT, so that the same command finds it again"
    studying: Annotated[Studying, tyro.conf.arg(name="")] = field(default_factory=Studying)


@dataclass(frozen=True, kw_only=True)
class ServeArguments:
    """Flags of `unweave study serve`."""

    study: tyro.conf.Positional[Path]
    "a study's folder"
    port: int = 8090
    "where to listen; 0 takes a free port"
    host: str = "127.0.0.1"
    "address to listen on; 0.0.0.0 lets other machines in, who still need a rater's link"
    database: str | None = None
    "URL of the ratings' database, such as postgresql://USER@HOST/NAME; by default ratings.sqlite in the study"


@dataclass(frozen=True, kw_only=True)
class StatusArguments:
    """Flags of `unweave study status`."""

    study: tyro.conf.Positional[Path]
    "a study's folder"
    database: str | None = None
    "URL of the ratings' database; by default ratings.sqlite in the study"


def study_command(given: list[str], program: str) -> None:
    """Have people rate latents blind: draw and seal, serve the pages, score, simulate."""
    if not given or given[0] in ("-h", "--help"):
        _list(program)
        if given:
            return
        raise InputError(f"which command? One of: {', '.join(COMMANDS)}")
    name = given.pop(0)
    if name not in COMMANDS:
        raise InputError(f"there is no command {name!r}: {did_you_mean(name, COMMANDS)}")
    COMMANDS[name](given, f"{program} {name}")


def _list(program: str) -> None:
    console.print(f"usage: {program} COMMAND [FLAGS]\n\n{study_command.__doc__}\n")
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, command in COMMANDS.items():
        table.add_row(f"  {name}", command.__doc__ or "")
    console.print(table)
    console.print(f"\n{program} COMMAND --help lists a command's flags.")


def new_command(given: list[str], program: str) -> None:
    """Draw latents of a run, make their grids, and seal which is which."""
    default = unfilled(NewArguments)
    read = parse(NewArguments, default, given, program=program, description=new_command.__doc__ or "")
    study = study_of_run(read.run, read.conditions, read.studying, seed=read.seed, out=read.out)
    plan = study.plan
    console.print(
        f"{len(plan.items)} grids: {plan.latents} latents of each of {', '.join(plan.conditions)}; "
        f"{len(plan.raters)} raters see {plan.showings} each, {plan.repeats} of them a second time."
    )
    for match in plan.matches:
        console.print(
            f"{match.condition}: drawn from {match.eligible:,} latents; its firing frequencies differ from "
            f"{plan.conditions[0]}'s by a factor of {match.median_ratio:.3g} (median), {match.largest_ratio:.3g} (most)"
        )
    for warning in plan.warnings:
        console.print(f"warning: {warning}")
    console.print(f"Sealed key: {plan.commitment} (keep this number: it shows that the key was not changed)")
    console.print(f"Study: {study.folder}\nNext: unweave study serve {study.folder}")


def serve_command(given: list[str], program: str) -> None:
    """Serve the raters' pages, one secret link each."""
    default = unfilled(ServeArguments)
    read = parse(ServeArguments, default, given, program=program, description=serve_command.__doc__ or "")
    needs("nicegui", extra="study", what="the raters' page")
    study = Study(read.study, read.database)
    where = study.database.shown
    from unweave.rating.server import serve  # noqa: PLC0415 - comes with an extra

    def announce(address: str, links: Mapping[str, str]) -> None:
        for rater, link in links.items():
            console.print(f"{rater}: {link}")
        console.print(f"Ratings: {where}")
        if read.host not in _LOOPBACK:
            console.print(
                f"Listening on {address} for other machines. Every page needs its rater's link; the connection itself "
                "is not encrypted, so beyond a network that you trust put a proxy with HTTPS in front."
            )
        console.print("Ctrl-C stops the server; the same command goes on with the same links.")

    with contextlib.suppress(KeyboardInterrupt):  # the way to end it
        serve(study, host=read.host, port=read.port, announce=announce)
    console.print(_counted(study, study.ratings()))


def status_command(given: list[str], program: str) -> None:
    """Say how far the raters are, and whether the key was opened; no rating is shown."""
    default = unfilled(StatusArguments)
    read = parse(StatusArguments, default, given, program=program, description=status_command.__doc__ or "")
    study = Study(read.study, read.database)
    ratings = study.ratings()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("rater", "rated", "of", "last"):
        table.add_column(heading, justify="left" if heading in {"rater", "last"} else "right")
    for rater in study.plan.raters:
        own = [rating for rating in ratings if rating.rater == rater]
        last = _moment(max(rating.rated_at for rating in own)) if own else ""
        table.add_row(rater, str(len(own)), str(study.plan.showings), last)
    console.print(table)
    console.print(_counted(study, ratings))
    for opening in study.unsealings():
        early = ", early" if opening.early else ""
        console.print(f"The key was opened {_moment(opening.at)} at {opening.present} of {opening.planned}{early}.")


def _counted(study: Study, ratings: list[Rating]) -> str:
    plan = study.plan
    ready = "the key may be opened" if len(ratings) >= plan.enough else f"the key opens at {plan.enough}"
    return f"{len(ratings)} of {plan.planned} ratings are in; {ready}."


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def score_command(given: list[str], program: str) -> None:
    """Open the key and say what the ratings show, and what not."""
    from unweave.cli import study_score  # noqa: PLC0415 - its statistics take a second to load

    study_score.score_command(given, program)


def simulate_command(given: list[str], program: str) -> None:
    """Rate by simulated people of known taste, to see what the tests make of it."""
    from unweave.cli import study_score  # noqa: PLC0415 - its statistics take a second to load

    study_score.simulate_command(given, program)


COMMANDS: dict[str, Callable[[list[str], str], None]] = {
    "new": new_command,
    "serve": serve_command,
    "status": status_command,
    "score": score_command,
    "simulate": simulate_command,
}
