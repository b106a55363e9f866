import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unweave.core.config import fingerprint, from_json, to_json
from unweave.core.errors import InputError
from unweave.core.registry import Component, Registry, register


class Unit(Enum):
    CM = "cm"
    INCH = "in"


@dataclass(frozen=True, kw_only=True)
class Shape(Component):
    registry: ClassVar[Registry[type[Component]]] = Registry("shape", "unweave.core")


@register("circle")
@dataclass(frozen=True, kw_only=True)
class Circle(Shape):
    radius: float = 1.0
    fill: Literal["Red", "Blue"] = "Red"


@register("square")
@dataclass(frozen=True, kw_only=True)
class Square(Shape):
    side: int


@dataclass(frozen=True, kw_only=True)
class Frame:
    width: int = 1


@dataclass(frozen=True, kw_only=True)
class Picture:
    shape: Shape = Circle()
    frame: Frame = Frame()
    second: Shape | None = None
    sizes: tuple[int, ...] = ()
    names: dict[str, float] = field(default_factory=dict)
    path: Path | None = None
    unit: Unit = Unit.CM


@dataclass(frozen=True, kw_only=True)
class Album:
    shapes: tuple[Shape, ...] = ()
    cover: Annotated[Shape, "shown first"] = Circle()
    count: int = field(init=False, default=0)


FULL = Picture(
    shape=Square(side=3),
    frame=Frame(width=2),
    second=Circle(radius=0.5, fill="Blue"),
    sizes=(1, 2),
    names={"a": 0.5},
    path=Path("here/there"),
    unit=Unit.INCH,
)


def test_json_names_the_kind_of_registered_configurations_only() -> None:
    assert to_json(Picture(sizes=(1, 2), path=Path("a/b"))) == {
        "shape": {"kind": "circle", "radius": 1.0, "fill": "Red"},
        "frame": {"width": 1},
        "second": None,
        "sizes": [1, 2],
        "names": {},
        "path": "a/b",
        "unit": "cm",
    }


@pytest.mark.parametrize("value", [Picture(), FULL])
def test_a_configuration_comes_back_as_what_it_was(value: Picture) -> None:
    assert from_json(Picture, to_json(value)) == value


def test_registered_configurations_come_back_out_of_a_tuple() -> None:
    album = Album(shapes=(Square(side=2), Circle(radius=0.5)))
    assert from_json(Album, {"shapes": to_json(album)["shapes"]}) == album


def test_registered_configurations_come_back_where_the_field_is_annotated() -> None:
    assert from_json(Album, {"cover": {"kind": "square", "side": 2}}).cover == Square(side=2)


def test_fields_that_are_not_given_to_the_constructor_do_not_break_the_round_trip() -> None:
    assert from_json(Album, to_json(Album())) == Album()


def test_fields_left_out_take_their_defaults() -> None:
    assert from_json(Picture, {"sizes": [4]}) == Picture(sizes=(4,))


@given(st.builds(Circle, radius=st.floats(allow_nan=False), fill=st.sampled_from(["Red", "Blue"])))
def test_every_circle_comes_back(circle: Circle) -> None:
    assert from_json(Shape, to_json(circle)) == circle


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"shpe": {}}, "config: Picture has no field 'shpe'; did you mean 'shape'?"),
        (
            {"shape": {"kind": "circle", "radus": 1}},
            "config.shape: Circle has no field 'radus'; did you mean 'radius'?",
        ),
        ({"shape": {"kind": "square"}}, "config.shape: the field 'side' of Square is missing"),
        ({"shape": {"kind": "squre"}}, "there is no shape 'squre': did you mean 'square'?"),
        ({"shape": 3}, "config.shape: expected an object with the fields of Shape, got 3"),
        ({"frame": {"width": "wide"}}, "config.frame.width: input should be a valid integer"),
        ({"frame": {"width": "wide"}}, "(got 'wide')"),
        ({"sizes": [1, "x"]}, "config.sizes"),
        ({"unit": "mile"}, "config.unit: input should be 'cm' or 'in' (got 'mile')"),
    ],
)
def test_an_error_names_the_field_and_what_is_wrong(data: object, message: str) -> None:
    with pytest.raises(InputError) as error:
        from_json(Picture, data)
    assert message in str(error.value)


def test_choices_in_an_error_are_spelled_as_they_must_be_given() -> None:
    with pytest.raises(InputError, match="'Red' or 'Blue'"):
        from_json(Circle, {"fill": "red"})


def test_an_error_inside_a_tuple_names_the_place() -> None:
    with pytest.raises(InputError, match=r"config\.sizes\.1"):
        from_json(Picture, {"sizes": [1, "x"]})


def test_something_else_than_an_object_is_refused() -> None:
    with pytest.raises(InputError, match=r"run\.json: expected an object with the fields of Frame, got \[1\]"):
        from_json(Frame, [1], where="run.json")


def test_a_member_of_the_family_is_refused_where_another_is_asked_for() -> None:
    with pytest.raises(InputError, match="config: 'square' is no Circle"):
        from_json(Circle, {"kind": "square", "side": 1})


def test_a_kind_that_is_missing_is_called_missing() -> None:
    with pytest.raises(InputError, match=r"config: .*'kind'.* missing"):
        from_json(Shape, {"radius": 1.0})


@pytest.mark.parametrize("kind", [3, None, ["circle"]])
def test_a_kind_that_is_no_name_is_an_error_of_the_user(kind: object) -> None:
    with pytest.raises(InputError):
        from_json(Shape, {"kind": kind})


def test_a_fingerprint_stays_what_it_was() -> None:
    # Artifacts on disk are found by it: a change here orphans every one of them.
    assert fingerprint("a", 1, Frame()) == "cdd3f661a130b50b"
    assert len(fingerprint()) == 16


@pytest.mark.parametrize(
    "change",
    [{"shape": Circle(radius=2.0)}, {"frame": Frame(width=3)}, {"second": None}, {"sizes": (2, 1)}, {"unit": Unit.CM}],
)
def test_a_fingerprint_changes_with_every_field(change: dict[str, object]) -> None:
    assert fingerprint(dataclasses.replace(FULL, **change)) != fingerprint(FULL)


def test_a_fingerprint_does_not_know_the_order_of_names() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_a_fingerprint_tells_two_values_from_one_list() -> None:
    assert fingerprint("a", "b") != fingerprint(["a", "b"])


def test_a_fingerprint_survives_the_way_through_json() -> None:
    assert fingerprint(Circle(radius=1)) == fingerprint(from_json(Shape, to_json(Circle(radius=1))))
