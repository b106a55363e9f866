"""Configurations near an example, drawn over its options, so that what is proved holds for more than the defaults."""

import dataclasses
import random
import types
import typing
from typing import Any

from unweave.core.errors import InputError
from unweave.dictionaries.base import DictionaryConfig

_TRIES = 8


def variants(config: DictionaryConfig, count: int, *, seed: int = 0, **fixed: Any) -> list[DictionaryConfig]:
    """So many configurations of the same kind with other options.

    Switches and choices are drawn evenly, a fractional number is kept, halved, doubled or, from 0, set to 0.5. Whole
    numbers stay, as they are sizes. Combinations that the kind refuses are drawn again.

    Args:
        config: the example.
        count: configurations to draw; the first has all options as the example has them.
        seed: decides the draws.
        fixed: options that every one of them has.
    """
    generator = random.Random(f"{seed} {type(config).__name__}")  # noqa: S311 - draws options, guards nothing
    kept = {name: value for name, value in fixed.items() if name in _choices(config) or hasattr(config, name)}
    found = [dataclasses.replace(config, **kept)]
    while len(found) < count:
        found.append(_drawn(config, generator, kept))
    return found


def _drawn(config: DictionaryConfig, generator: random.Random, kept: dict[str, Any]) -> DictionaryConfig:
    for _ in range(_TRIES):
        options = {name: generator.choice(values) for name, values in _choices(config).items()}
        try:
            return dataclasses.replace(config, **{**options, **kept})
        except InputError:
            continue
    return dataclasses.replace(config, **kept)


def _choices(config: DictionaryConfig) -> dict[str, list[Any]]:
    """What each option may be drawn from."""
    hints = typing.get_type_hints(type(config))
    found = {}
    for field in dataclasses.fields(config):
        hint, value = hints[field.name], getattr(config, field.name)
        if typing.get_origin(hint) is typing.Literal:
            found[field.name] = list(typing.get_args(hint))
        elif hint is bool:
            found[field.name] = [False, True]
        elif hint is float:
            found[field.name] = [value, value / 2, value * 2] if value else [0.0, 0.5]
        elif typing.get_origin(hint) is types.UnionType and value is None and float in typing.get_args(hint):
            found[field.name] = [None, 0.5]
    return found
