"""Records are what frozen dataclasses are, but for who watches over them."""

from dataclasses import FrozenInstanceError, dataclass, fields, replace

import pytest

from models.record import record


@record
class Point:
    x: int
    y: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Frozen:
    x: int
    y: tuple[int, ...] = ()


def test_equality_hash_repr_and_replace_are_those_of_a_frozen_dataclass():
    one, same, other = Point(1, (2,)), Point(1, (2,)), Point(2)
    assert one == same
    assert one != other
    assert hash(one) == hash(same) == hash(Frozen(1, (2,)))
    assert repr(one) == "Point(x=1, y=(2,))"
    assert replace(one, x=2, y=()) == other
    assert [field.name for field in fields(Point)] == ["x", "y"]
    assert len({one, same, other}) == 2


def test_it_has_slots_and_no_field_beside_its_own():
    assert Point.__slots__ == ("x", "y")
    with pytest.raises(AttributeError):
        Point(1).z = 3


def test_only_the_type_checker_refuses_an_assignment():
    point, frozen = Point(1), Frozen(1)
    point.x = 2
    assert point.x == 2
    with pytest.raises(FrozenInstanceError):
        frozen.x = 2
