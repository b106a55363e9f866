"""Command lines from configurations: every field a flag, every registered component chosen by name.

`tyro` makes the flags. A field that holds a registered component (`sae`, `data`, `model`) also takes the name of
another one: `--sae relu --sae.l1 0.01`. Fields of the same name and type carry over from the one it replaces.
"""

import contextlib
import dataclasses
import io
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeVar

import tyro
from pydantic import TypeAdapter, ValidationError

from unweave.core.errors import InputError, did_you_mean
from unweave.core.registry import Component
from unweave.models.trained import Trained

T = TypeVar("T")
_WIDTH = 110
_LARGEST = 2**63 - 1


def parse(form: Any, default: T, arguments: Sequence[str], *, program: str, description: str) -> T:
    """Read flags into a copy of a configuration.

    Args:
        form: the configuration's type, parametrised where it is generic.
        default: values where no flag is given; `tyro.MISSING` marks what must be.
        arguments: the flags.
        program: what the command is called in its help.
        description: first paragraph of the help.

    Raises:
        InputError: an unknown flag, a missing or wrong value, an unknown component.
        SystemExit: help was asked for and printed.
    """
    chosen, rest = _choose_components(default, list(arguments))
    for argument in rest:
        if re.fullmatch(r"[+-]?\d{19,}", argument) and abs(int(argument)) > _LARGEST:
            raise InputError(f"{argument} is too large a number; the largest is {_LARGEST} (see {program} --help)")
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            read: T = tyro.cli(
                form,
                prog=program,
                description=description + _choices(chosen),
                args=rest,
                default=chosen,
                config=(tyro.conf.AvoidSubcommands,),
            )
            return read
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise InputError(f"{_one_line(errors.getvalue())} (see {program} --help)") from None


def _one_line(box: str) -> str:
    """The message of tyro's error box, which has no frame where the terminal has no letters for one."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip(" │╭╮╰╯─") for line in plain.splitlines()]
    kept: list[str] = []
    for line in lines[1:]:
        if re.fullmatch(r"-*", line):
            if kept:
                break
        else:
            kept.append(line)
    similar = re.findall(r"(?:Perhaps you meant|Arguments similar to [^\n]*):[ │]*\n[ │]*(--[\w.-]+)", plain)
    meant = f"; did you mean {' or '.join(sorted(similar))}?" if similar else ""
    return (" ".join(kept) or "the command line cannot be read") + meant


def _components(config: Any) -> dict[str, type[Component]]:
    """Fields that hold registered components, nested ones too: the family of each, by name.

    A component inside another has the other's name before its own: `data.of`.
    """
    found: dict[str, type[Component]] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if isinstance(value, Component):
            found[item.name] = next(base for base in type(value).__mro__ if "registry" in vars(base))
            found.update({f"{item.name}.{name}": family for name, family in _components(value).items()})
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            found.update(_components(value))
    return found


def _choose_components(config: T, arguments: list[str]) -> tuple[T, list[str]]:
    looked_for: set[str] = set()
    while left := [one for one in _components(config).items() if one[0] not in looked_for]:
        name, family = left[0]  # one at a time: what is chosen may hold further components
        looked_for.add(name)
        if (value := taken(arguments, f"--{name}")) is not None:
            config = _replaced(config, name, component(family, value))
    return config, arguments


def component(family: type[Component], name: str) -> Component:
    """A component by name, with `tyro.MISSING` where it has no default; a folder with a trained model is one too."""
    if issubclass(Trained, family) and name not in family.registry.members():
        if Path(name).is_dir():
            return Trained(folder=Path(name))
        known = did_you_mean(name, family.registry.members())
        raise InputError(f"there is no {family.registry.family} {name!r}, and no folder of that name: {known}")
    return unfilled(family.registry[name])


def unfilled(kind: type[T], /, **values: Any) -> T:
    """A configuration with `tyro.MISSING` in fields that have no default and are not given.

    It is not made by `__init__`, which would find those values wrong: the command line has yet to fill them.
    """
    made: T = object.__new__(kind)
    for field in dataclasses.fields(typing.cast("Any", kind)):
        if field.name in values:
            value = values[field.name]
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = tyro.MISSING if field.default is dataclasses.MISSING else field.default
        object.__setattr__(made, field.name, value)
    return made


def _replaced(config: Any, name: str, new: Component) -> Any:
    """The configuration with another component, wherever in it the field is; fields of the same name carry over."""
    field, _, rest = name.partition(".")
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.name == field:
            return _with(config, **{field: _replaced(value, rest, new) if rest else carried_over(value, new)})
        if dataclasses.is_dataclass(value) and not isinstance(value, (type, Component)):
            inner = _replaced(value, name, new)
            if inner is not value:
                return _with(config, **{item.name: inner})
    return config


def carried_over(old: Any, new: Any) -> Any:
    """A component with what it shares with the one it replaces; its own defaults yield only to another's choice.

    The kind that is there already stays as it is. What is of another type there (`mean` of the pixels, one number or
    one a channel) does not carry over.
    """
    if not dataclasses.is_dataclass(old):
        return new
    if type(old) is type(new):
        return old
    chosen = {f.name for f in dataclasses.fields(old) if getattr(old, f.name) != f.default}
    fields = {f.name for f in dataclasses.fields(old)}
    shared = {f.name for f in dataclasses.fields(new) if f.name in chosen or (f.name in fields and f.default is None)}
    hints = typing.get_type_hints(type(new))
    return _with(new, **{name: value for name in shared if _is_a(value := getattr(old, name), hints[name])})


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value can stand in a field of that type: a name may mean one number here and several there."""
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _with(config: Any, /, **changes: Any) -> Any:
    """A copy with other values, which are checked only when the command line has filled it."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return unfilled(type(config), **values | changes)


def _choices(config: Any) -> str:
    lines = [
        f"--{name} NAME chooses another: {', '.join(family.registry.members())}."
        for name, family in _components(config).items()
    ]
    # Paragraphs of their own, for tyro joins lines again.
    parts = [part for line in lines for part in wrap(line, _WIDTH, break_on_hyphens=False)]
    return "".join(f"\n\n{part}" for part in parts)


def taken(arguments: list[str], flag: str) -> str | None:
    """Take `flag VALUE` or `flag=VALUE` out of the arguments and give the value, if it is there.

    Raises:
        InputError: the flag has no value.
    """
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == flag:
            del arguments[place]
            if not equals:
                if place >= len(arguments):
                    raise InputError(f"{flag} needs a value")
                value = arguments.pop(place)
            return value
    return None
