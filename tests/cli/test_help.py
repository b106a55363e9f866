"""Help: every flag is there with what it means."""

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from unweave.cli import commands
from unweave.cli.commands import COMMANDS
from unweave.datasets.base import DatasetConfig
from unweave.dictionaries.base import DictionaryConfig
from unweave.models.base import ModelConfig
from unweave.recipes.base import RECIPES

FORMS: dict[str, Any] = {
    "capture": commands.CaptureArguments,
    "train": commands.TrainArguments,
    "analyze": commands.AnalyzeArguments,
    "report": commands.ReportArguments,
}


def words(text: str) -> str:
    """Text without frames and line breaks, so that wrapped sentences can be found."""
    return re.sub(r"[\s│╭╮╰╯─]+", "", text)


def helps(config: Any) -> Iterator[str]:
    """The strings below the fields of a configuration, nested ones too."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from helps(value)
        else:
            yield _below(type(config), field.name)


def _below(cls: type, name: str) -> str:
    owner = next(c for c in cls.__mro__ if name in vars(c).get("__annotations__", {}))
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(definition, ast.ClassDef)
    for field, below in itertools.pairwise(definition.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=found)), ast.Expr(value=ast.Constant(value=str(text))):
                if found == name:
                    return text
    raise AssertionError(f"no text below {owner.__name__}.{name}")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_commands_are_listed(cli: Callable, flag: str) -> None:
    ended = cli(flag)
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} ", ended.out, re.MULTILINE)
        assert words(command.__doc__ or "") in words(ended.out)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(cli: Callable, name: str) -> None:
    ended = cli(f"{name} --help")
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out
    assert max(map(len, ended.out.splitlines())) < 200
    for field in dataclasses.fields(FORMS[name]) if name in FORMS else ():
        if field.name not in {"capture", "runtime", "data", "model", "sae", "training", "analysis"}:
            assert words(_below(FORMS[name], field.name)) in words(ended.out), field.name


@pytest.mark.parametrize("preset", [(n, p) for n, r in RECIPES.members().items() for p in r.presets], ids="-".join)
def test_a_recipes_help_explains_every_field_and_shows_the_presets_values(
    cli: Callable, preset: tuple[str, str]
) -> None:
    recipe, name = preset
    ended = cli(f"run {recipe} --preset {name} --help")
    assert (ended.code, ended.err) == (0, "")
    config = RECIPES[recipe].preset(name)
    explained = list(helps(config))
    assert len(explained) > 20
    for text in explained:
        assert words(text) in words(ended.out), text
    if hasattr(config, "sae"):
        shown = re.sub(r"numberoflatents", "", words(ended.out))
        assert f"--sae.d-sae INT (default: {config.sae.d_sae})".replace(" ", "") in shown
    assert words(f"Presets (--preset): {', '.join(RECIPES[recipe].presets)}") in words(ended.out)
    for flag in ("--seed", "--data-dir", "--out", "--device", "--threads"):
        assert flag in ended.out


@pytest.mark.parametrize(
    ("line", "family"),
    [
        ("run digits", DictionaryConfig),
        ("run digits", ModelConfig),
        ("run digits", DatasetConfig),
        ("capture", ModelConfig),
        ("capture", DatasetConfig),
        ("train", DictionaryConfig),
        ("analyze", DatasetConfig),
        ("analyze --data digits", DatasetConfig),
    ],
)
def test_every_choice_is_named(cli: Callable, line: str, family: Any) -> None:
    flag = {DictionaryConfig: "--sae", ModelConfig: "--model", DatasetConfig: "--data"}[family]
    said = " ".join(cli(f"{line} --help").out.split())
    assert re.search(rf"{flag} NAME [^:]*: {', '.join(family.registry.members())}\.", said)


@pytest.mark.parametrize("name", list(DictionaryConfig.registry.members()))
def test_a_chosen_dictionarys_own_flags_are_shown(cli: Callable, name: str) -> None:
    said = cli(f"train --sae {name} --help").out
    for field in dataclasses.fields(DictionaryConfig.registry[name]):
        assert re.search(rf"--sae\.{field.name.replace('_', '-')}[ ,]", said)
