"""Configurations as JSON and back, and their fingerprint.

A configuration is a frozen dataclass of plain values, tuples and further configurations. A registered one (`Component`)
carries its `kind` in JSON, so that it comes back as what it was.
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from unweave.core.errors import InputError, did_you_mean
from unweave.core.registry import Component

T = TypeVar("T")
Json = dict[str, Any]


def to_json(value: Any) -> Any:
    """Plain JSON values of a configuration (nested dataclasses become objects, tuples lists, paths strings)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"kind": value.kind, **fields} if isinstance(value, Component) else fields
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.value if isinstance(value, Enum) else value


def from_json(cls: type[T], data: Any, *, where: str = "config") -> T:
    """Read a configuration back from `to_json`'s values.

    Raises:
        InputError: an unknown or missing field or a value of the wrong type, named with its path.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: expected an object with the fields of {cls.__name__}, got {data!r}")
    values = dict(data)
    if issubclass(cls, Component):
        kind = values.pop("kind", cls.kind)
        if not isinstance(kind, str) or not kind:
            what = f"the field 'kind' of {cls.__name__} is missing" if kind == "" else f"'kind' is no name: {kind!r}"
            raise InputError(f"{where}: {what}; choose from: {', '.join(cls.registry.members())}")
        member = cls.registry[kind]
        if not issubclass(member, cls):
            raise InputError(f"{where}: {kind!r} is no {cls.__name__}")
        cls = typing.cast("type[T]", member)
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise InputError(f"{where}: {cls.__name__} has no field {name!r}; {did_you_mean(name, fields)}")
    read = {name: _read_value(hints[name], value, f"{where}.{name}") for name, value in values.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in read:
            raise InputError(f"{where}: the field {name!r} of {cls.__name__} is missing")
    return cls(**read)


def _read_value(hint: Any, value: Any, where: str) -> Any:
    alternatives = _alternatives(hint)
    configs = [h for h in alternatives if isinstance(h, type) and dataclasses.is_dataclass(h)]
    plain = [h for h in alternatives if h not in configs and h is not types.NoneType]
    if configs and value is not None and (isinstance(value, Mapping) or not plain):
        return from_json(configs[0], value, where=where)
    for inner in plain:
        origin, arguments = typing.get_origin(inner), typing.get_args(inner)
        if origin is tuple and arguments[1:] == (...,) and isinstance(value, (list, tuple)):
            return tuple(_read_value(arguments[0], item, f"{where}.{i}") for i, item in enumerate(value))
        if origin is dict and isinstance(value, Mapping):
            return {str(key): _read_value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    try:
        return TypeAdapter(hint).validate_python(value, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError(f"{where}: {said} (got {first['input']!r})") from None


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is typing.Annotated:
        return _alternatives(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def fingerprint(*values: Any) -> str:
    """16 hexadecimal digits that change when any of the values (configurations, strings, numbers) does."""
    plain = [_same_number(to_json(value)) for value in values]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def refuse_not_finite(value: Any) -> None:
    """Refuse settings that hold NaN or Inf, which JSON cannot keep.

    Raises:
        InputError: a field is one of them.
    """
    found = list(_not_finite(to_json(value), "a setting"))
    if found:
        raise InputError(f"{', '.join(found)}: give a finite number")


def _not_finite(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _not_finite(item, name)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{name} is {value}"


def _same_number(value: Any) -> Any:
    """1.0 as 1: equal settings have equal fingerprints, whether they were typed in Python or read from a file."""
    if isinstance(value, dict):
        return {key: _same_number(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_same_number(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
