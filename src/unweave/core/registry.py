"""The registry: the only list of data sets, models, dictionaries and recipes.

A family (`DictionaryConfig`, say) is a base class that owns a `Registry`. A member is one file with a frozen dataclass
below that base and `@register("name")` on it. Nothing else has to be told: the registry imports the family's package
when it is first asked, and feeds the command line, the documentation and the conformance tests.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

from unweave.core.errors import InputError, did_you_mean

T = TypeVar("T")
C = TypeVar("C", bound="Component")


class Registry(Generic[T]):
    """Names of one family's members, found by importing every module of its package."""

    def __init__(self, family: str, package: str) -> None:
        self.family = family
        self.package = package
        self._members: dict[str, T] = {}
        self._discovered = False

    def add(self, name: str, member: T) -> None:
        """Enter a member; a name taken by something else is a programming error."""
        assert name not in self._members, f"{self.family} {name!r} is registered twice"
        self._members[name] = member

    def __getitem__(self, name: str) -> T:
        members = self.members()
        if name not in members:
            raise InputError(f"there is no {self.family} {name!r}: {did_you_mean(name, members)}")
        return members[name]

    def members(self) -> dict[str, T]:
        """All members by name, in alphabetical order."""
        if not self._discovered:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            self._discovered = True
        return dict(sorted(self._members.items()))


class Component:
    """Base of every registered configuration: a frozen dataclass that knows the name it is registered under."""

    registry: ClassVar[Registry[type["Component"]]]
    kind: ClassVar[str] = ""


def register(kind: str) -> Callable[[type[C]], type[C]]:
    """Class decorator: enter a configuration into the registry of its family under `kind`."""

    def enter(cls: type[C]) -> type[C]:
        cls.kind = kind
        cls.registry.add(kind, cls)
        return cls

    return enter
