import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from unweave.core.errors import InputError
from unweave.core.registry import Component, Registry, register

MEMBER = """
from dataclasses import dataclass
from {package}.base import Base
from unweave.core.registry import register

@register("{kind}")
@dataclass(frozen=True)
class Member(Base):
    pass
"""
BASE = """
from unweave.core.registry import Component, Registry

class Base(Component):
    registry = Registry("toy", "{package}")
"""


@dataclass(frozen=True)
class Fruit(Component):
    registry: ClassVar[Registry[type[Component]]] = Registry("fruit", "unweave.core")


@register("pear")
@dataclass(frozen=True)
class Pear(Fruit):
    pass


@register("apple")
@dataclass(frozen=True)
class Apple(Fruit):
    pass


def test_members_are_found_by_name_and_listed_in_order() -> None:
    assert Fruit.registry["pear"] is Pear
    assert list(Fruit.registry.members()) == ["apple", "pear"]


def test_a_member_knows_its_name_and_the_family_has_none() -> None:
    assert (Pear.kind, Apple.kind, Fruit.kind) == ("pear", "apple", "")


def test_an_unknown_name_gives_the_closest() -> None:
    with pytest.raises(InputError, match="there is no fruit 'appel': did you mean 'apple'"):
        Fruit.registry["appel"]


def test_a_name_like_no_other_gives_all() -> None:
    with pytest.raises(InputError, match="there is no fruit 'zzz': choose from: apple, pear"):
        Fruit.registry["zzz"]


def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(AssertionError, match="fruit 'pear' is registered twice"):
        register("pear")(Apple)


def test_one_new_file_is_all_that_a_member_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "toy_family"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.py").write_text(BASE.format(package="toy_family"))
    for kind in ("ball", "doll"):
        (package / f"{kind}.py").write_text(MEMBER.format(package="toy_family", kind=kind))
    monkeypatch.syspath_prepend(tmp_path)

    from toy_family.base import Base

    assert "toy_family.ball" not in sys.modules
    assert list(Base.registry.members()) == ["ball", "doll"]
