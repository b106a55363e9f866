"""`unweave sweep`: a recipe's model once, and many dictionaries of it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from unweave.capture import Capture
from unweave.cli.network import refuse_empty
from unweave.cli.parsing import carried_over, component, parse, taken, unfilled
from unweave.cli.streaming import FLAG, Streaming, asked_to_stream, refuse_store
from unweave.core.distributed import ranks
from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.datasets.base import Split
from unweave.dictionaries.base import DictionaryConfig
from unweave.dictionaries.topk import TopK
from unweave.recipes.base import RECIPES, Run
from unweave.recipes.classifier import ClassifierStudy
from unweave.recipes.grid import Axis, Variant, grid
from unweave.recipes.sweep_recipe import sweep_recipe
from unweave.recipes.sweep_result import DEAD, EXPLAINED, L0, LIVE, Setting, Sweep
from unweave.recipes.sweep_stream import sweep_stream
from unweave.report import build_report
from unweave.train import Training

C = TypeVar("C")
Flat = tyro.conf.arg(name="")
_SECTIONS = ("sae", "training")
_LIST_OF_NUMBERS = re.compile(r"-?[\d.][\d.e+-]*(,-?[\d.][\d.e+-]*)+")
console = Console(highlight=False, soft_wrap=True, markup=False)


def _seeds(texts: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(text) for text in texts[0].split(","))
    except ValueError:
        raise ValueError(f"seeds are whole numbers such as 0,1,2, got {texts[0]!r}") from None


Seeds = Annotated[
    tuple[int, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT,INT,...",
        instance_from_str=_seeds,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    ),
]


@dataclass(frozen=True, kw_only=True)
class SweepArguments(Generic[C]):
    """Flags of `unweave sweep RECIPE`."""

    config: Annotated[C, Flat]
    seeds: Seeds = (0,)
    "seeds of the dictionaries: each setting is trained once for each"
    seed: int = 0
    "of the model and everything else"
    data_dir: Path | None = None
    "where the data lie, for data sets made of files"
    out: Path | None = None
    "folder of the sweep; by default runs/sweep-RECIPE-FINGERPRINT, where further values join those that are there"
    runtime: Annotated[Runtime, Flat] = field(default_factory=Runtime)


def sweep_command(given: list[str], program: str) -> None:
    """Train many dictionaries of a recipe's layer at once: a comma-separated list makes any option of theirs a grid."""
    if asked_to_stream(given):
        _sweep_stream(given, program)
        return
    fit = [name for name, recipe in RECIPES.members().items() if issubclass(recipe.config, ClassifierStudy)]
    if not given or given[0] in ("-h", "--help"):
        console.print(
            f"usage: {program} RECIPE [--preset NAME] [FLAGS]\n\n{sweep_command.__doc__}\n\n"
            f"  {program} {fit[0]} --sae.k 4,8,16,32 --seeds 0,1,2\n"
            f"  {program} {fit[0]} --sae topk,relu --sae.k 4,8,16 --sae.l1 0.3,1,3\n"
            f"  {program} {fit[0]} --sae.d-sae 128,512 --training.learning-rate 1e-3,3e-3\n"
            f"  {program} {FLAG} --model trained --model.folder FOLDER --data mnist --at fc2 --sae.k 4,8,16\n\n"
            f"Recipes: {', '.join(fit)}. {program} RECIPE --help lists the recipe's flags.\n"
            f"{FLAG} in the place of a recipe sweeps over any model and data while the model runs, and stores no "
            f"activations: {program} {FLAG} --help."
        )
        if given:
            return
        raise InputError(f"which recipe? One of: {', '.join(fit)}; or {FLAG}")
    recipe = RECIPES[given.pop(0)]
    preset = taken(given, "--preset") or "default"
    start = recipe.preset(preset)
    if not isinstance(start, ClassifierStudy):
        raise InputError(f"the recipe {recipe.name!r} has no single dictionary to sweep; choose from: {', '.join(fit)}")
    kinds, axes = take_lists(given)
    read = parse(
        SweepArguments[recipe.config],  # type: ignore[name-defined]
        SweepArguments(config=start),
        given,
        program=f"{program} {recipe.name}",
        description=(
            f"Sweep: {recipe.summary} Options of --sae and --training take lists: --sae.k 4,8,16. Presets (--preset): "
            f"{', '.join(recipe.presets)}; values below: {preset}."
        ),
    )
    variants = chosen_grid(read.config, kinds, axes)
    _refuse_one(variants, read.seeds, program)
    read.runtime.apply()
    run, found = sweep_recipe(
        recipe.name,
        read.config,
        variants,
        seeds=read.seeds,
        seed=read.seed,
        out=read.out,
        data_dir=read.data_dir,
        runtime=read.runtime,
    )
    _tell(run, found)


def _tell(run: Run, found: Sweep) -> None:
    if not ranks().first:
        return
    page = build_report(run.folder)
    Console(highlight=False).print(settings_table(found))
    for sentence in run.findings:
        console.print(f"• {sentence}")
    console.print(f"Report: {page.resolve()}")


@dataclass(frozen=True, kw_only=True)
class StreamSweepArguments:
    """Flags of `unweave sweep --stream`."""

    stream: Annotated[Streaming, Flat]
    test_split: Split = "test"
    "the part of the data whose rows are judged on; they go through the model once"
    sae: DictionaryConfig = field(default_factory=TopK)
    "the dictionary; its options take lists"
    training: Training = field(default_factory=Training)
    seeds: Seeds = (0,)
    "seeds of the dictionaries: each setting is trained once for each, on rows in the stream's order"
    seed: int = 0
    "of the stream, of the model where it has no weights of its own, and of the controls"
    out: Path | None = None
    "folder of the sweep; by default runs/sweep-stream-FINGERPRINT, where further values join those that are there"
    runtime: Annotated[Runtime, Flat] = field(default_factory=Runtime)


def _sweep_stream(given: list[str], program: str) -> None:
    """Train many dictionaries while one model runs once for all of them; a comma-separated list makes a grid."""
    refuse_store(given, program)
    kinds, axes = take_lists(given)
    if not kinds:  # the values that stand where the lists go must fit the others; no list's own default need
        first = {axis.flag: axis.values[0] for axis in axes if axis.section == "sae"}
        given += [word for pair in first.items() if pair[1].lower() != "none" for word in pair]
    default = unfilled(StreamSweepArguments, stream=unfilled(Streaming, capture=unfilled(Capture)))
    read = parse(
        StreamSweepArguments, default, given, program=f"{program} {FLAG}", description=_sweep_stream.__doc__ or ""
    )
    refuse_empty(read.stream.capture.at, f"{program} {FLAG}")
    variants = chosen_grid(read, kinds, axes)
    _refuse_one(variants, read.seeds, program)
    read.runtime.apply()
    opened = read.stream.open(read.seed, read.runtime)
    rows = opened.rows()
    if len(rows) > 1:
        raise InputError(f"a sweep is about one hook point; --at stands for {', '.join(rows)}")
    (name,) = rows
    run, found = sweep_stream(
        rows[name],
        opened.rows_of(read.test_split)[name],
        variants,
        config={**read.stream.as_json(), "test_split": read.test_split},
        seeds=read.seeds,
        seed=read.seed,
        out=read.out,
        data_dir=read.stream.data_dir,
        runtime=read.runtime,
    )
    _tell(run, found)


def _refuse_one(variants: list[Variant], seeds: tuple[int, ...], program: str) -> None:
    if len(variants) * len(seeds) < 2:
        raise InputError(f"there is nothing to sweep: give an option several values, as in --sae.k 4,8 (see {program})")


def take_lists(given: list[str]) -> tuple[list[str], list[Axis]]:
    """Take what is swept out of the arguments: the dictionary's kinds, where there are several, and lists of values.

    Where there are several kinds, every option of the dictionary is taken: it may belong to only one of them.

    Raises:
        InputError: a list has an empty value or stands twice, or belongs to what cannot be swept.
    """
    words = list(_words(given))
    kinds: list[str] = next((_values(*word[:2]) for word in words if word[0] == "--sae" and "," in word[1]), [])
    axes: list[Axis] = []
    rest: list[str] = []
    for flag, value, tokens in words:
        section, _, option = flag.removeprefix("--").partition(".")
        has_value = "=" in tokens[0] or len(tokens) == 2
        a_list = "," in value or not value or (bool(kinds) and section == "sae")
        if section in _SECTIONS and option and has_value and a_list:
            axes.append(Axis(section, option.replace("-", "_"), tuple(_values(flag, value))))
        elif flag != "--seeds" and _LIST_OF_NUMBERS.fullmatch(value):
            raise InputError(f"{flag} {value}: only options of the dictionary and its training take lists of values")
        elif not (flag == "--sae" and kinds):
            rest += tokens
    flags = [flag.replace("_", "-") for flag, _, _ in words]
    for axis in axes:
        if flags.count(axis.flag) > 1:
            raise InputError(f"{axis.flag} stands twice; write all of its values in one list")
    given[:] = rest
    return kinds, axes


def _words(given: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    """The flags with the value of each ("" where there is none, or several), and the arguments that both came from."""
    groups: list[list[str]] = []
    for argument in given:
        if argument.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(argument)
    for tokens in groups:
        flag, _, value = tokens[0].partition("=")
        yield flag, value or (tokens[1] if len(tokens) == 2 else ""), tokens


def _values(flag: str, text: str) -> list[str]:
    values = [value.strip() for value in text.split(",")]
    if not all(values):
        raise InputError(f"{flag} {text!r}: there is no value, or an empty one among them; write {flag} A,B,C")
    return values


def chosen_grid(config: ClassifierStudy | StreamSweepArguments, kinds: list[str], axes: list[Axis]) -> list[Variant]:
    """Every combination; of several kinds each has the recipe's options where it shares them.

    Raises:
        InputError: an unknown kind or option, or a value that cannot be.
    """
    dictionaries: list[Any] = [config.sae]
    if kinds:
        dictionaries = [carried_over(config.sae, component(DictionaryConfig, kind)) for kind in dict.fromkeys(kinds)]
    return grid(dictionaries, config.training, axes)


def settings_table(found: Sweep) -> Table:
    """Settings with their means over seeds, and the controls at the same L0."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    conditions = list(dict.fromkeys(control.condition for control in found.controls))
    headings = ["setting", "L0", "explained", "live", "dead", *conditions]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "setting" else "right", no_wrap=heading != "setting")
    for setting in found.settings:
        if not setting.points:
            table.add_row(setting.label, *["failed"], *[""] * (len(headings) - 2))
            continue
        beside = [f"{100 * setting.beside[c]:.1f} %" if c in setting.beside else "" for c in conditions]
        table.add_row(
            setting.label,
            f"{setting.mean(L0):.1f}",
            _with_deviation(setting),
            f"{setting.mean(LIVE):.0f}",
            f"{setting.mean(DEAD):.0f}",
            *beside,
        )
    table.caption = f"explained: share of the variance of {found.judged_on}; ±: standard deviation over seeds"
    table.caption_justify = "left"
    return table


def _with_deviation(setting: Setting) -> str:
    deviation = setting.deviation(EXPLAINED)
    return f"{100 * setting.mean(EXPLAINED):.2f}" + (f" ± {100 * deviation:.2f} %" if deviation is not None else " %")
