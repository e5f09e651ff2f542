"""Fields, paths, tolerances and what is left out."""

import json
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadow import json_fields
from shadow.json_fields import FieldDifference, below, close, compare_fields, is_ignored, shown, signed_difference

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "id", "usage"]), inner, max_size=4),
    max_leaves=15,
)


def paths(blue, green, *ignore, **more):
    return [field.path for field in compare_fields(blue, green, ignore, **more).fields]


@pytest.mark.parametrize(
    ("blue", "green"),
    [
        ({"a": None}, {}),
        ({"a": 1.0}, {"a": 1}),
        ({"a": 1.0}, {"a": 1.000001}),
        ({"a": math.nan}, {"a": math.nan}),
        ({"a": math.inf}, {"a": math.inf}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"id": 1, "created": 2, "model": "x", "usage": {"n": 1}, "a": 0}, {"id": 2, "created": 3, "a": 0}),
        ([], []),
    ],
)
def test_the_same(blue, green):
    assert compare_fields(blue, green).differing == 0


@pytest.mark.parametrize(
    ("blue", "green", "path"),
    [
        ({"a": 1}, {"a": 2}, "/a"),
        ({"a": 1}, {"a": 1.01}, "/a"),
        ({"a": True}, {"a": 1}, "/a"),
        ({"a": "1"}, {"a": 1}, "/a"),
        ({"a": {}}, {"a": []}, "/a"),
        ({"a": 0}, {"a": None}, "/a"),
        ({"a": {"id": 1}}, {"a": {"id": 2}}, "/a/id"),  # only at the top does an id differ in every answer
        ({"a/b": {"~": 1}}, {"a/b": {"~": 2}}, "/a~1b/~0"),
        ([1, 2], [1, 3], "/1"),
        ([1], [1, None], "/1"),
        (9007199254740993, 9007199254740992, ""),  # whole numbers exactly, beyond what a float can tell apart
        ({"a": math.nan}, {"a": 1.0}, "/a"),
        ({"a": 10**400}, {"a": 1.5}, "/a"),
    ],
)
def test_one_difference_with_its_path(blue, green, path):
    for one, other in ((blue, green), (green, blue)):
        compared = compare_fields(one, other)
        assert (compared.differing, [field.path for field in compared.fields]) == (1, [path])


def test_differences_come_in_the_order_of_the_document():
    blue = {"b": 1, "a": [1, 2, {"c": 3}], "z": 4}
    green = {"b": 2, "a": [2, 2, {"c": 4}], "z": 5}
    assert paths(blue, green) == ["/b", "/a/0", "/a/2/c", "/z"]
    assert compare_fields(blue, green).fields[2] == FieldDifference("/a/2/c", 3, 4)
    assert compare_fields(blue, green).differences == (1, 1, 1, 1)
    assert compare_fields(blue, green).leaves == 5


def test_pointers_leave_out():
    blue, green = {"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"b": 2, "c": [3, 4]}, "d": 2}
    assert paths(blue, green, "/a/b", "/a/c/1") == ["/a/c/0", "/d"]
    assert paths(blue, green, "/a/b", "/a") == ["/d"]
    assert paths(blue, green, "/a", "/a/b") == ["/d"]
    assert paths(blue, green, "/a/c/1/x", "/nowhere") == ["/a/b", "/a/c/0", "/a/c/1", "/d"]


def test_a_value_inside_its_document():
    assert paths({"id": 1, "b": 2}, {"id": 2, "b": 3}, "/out/0/b", path="/out/0") == ["/out/0/id"]
    assert compare_fields(1, 2, ("/out",), path="/out/0").leaves == 0
    assert below(("/a/b",), "/a") == {"b": None}
    assert is_ignored(("/a/b",), "/a/b/c")
    assert not is_ignored(("/a/b",), "/a")


def test_tolerances():
    assert paths({"a": 1.0}, {"a": 1.05}, rtol=0.1) == []
    assert paths({"a": 0.0}, {"a": 0.05}, atol=0.1) == []
    assert paths({"a": 1}, {"a": 2}, rtol=1.0, atol=5.0) == ["/a"]
    assert not close(1.0, 1.0 + 1e-9, 0.0, 0.0)
    assert close(10**400, 10**400, 0.0, 0.0)
    assert not close(10**400, 1.0, 1.0, 1.0)


def test_signed_differences():
    assert signed_difference(2, 5.5) == 3.5
    assert signed_difference(0, -(10**400)) == -math.inf
    assert compare_fields({"a": 1.0, "b": 5.0}, {"a": math.inf, "b": 2.5}).differences == (-2.5,)


def test_the_number_of_shown_differences_is_bounded():
    compared = compare_fields(list(range(1000)), list(range(1, 1001)))
    assert (compared.differing, len(compared.fields), len(compared.differences)) == (
        1000,
        json_fields.MAX_FIELDS,
        json_fields.MAX_FIELDS,
    )
    assert compared.fields[0].path == "/0"


def test_too_much_to_look_at_is_no_agreement():
    many = [0] * (json_fields.MAX_LEAVES + 1)
    assert compare_fields(many, many) is None
    nested = [[0] * 1000 for _ in range(json_fields.MAX_LEAVES // 1000 + 1)]
    assert compare_fields(nested, nested) is None


def test_deeper_than_the_recursion_limit():
    blue = green = 0
    for _ in range(sys.getrecursionlimit() * 2):
        blue, green = [blue], {"a": green}
    assert compare_fields(blue, blue).differing == 0
    assert compare_fields(blue, green).differing == 1


def test_long_values_are_cut():
    assert len(shown("x" * 10_000)) < 250
    assert len(shown(["x" * 100] * 100_000)) < 250
    assert shown({"a": [1, 2]}) == {"a": [1, 2]}
    assert shown(2.5) == 2.5


@settings(max_examples=150, deadline=None)
@given(documents, documents)
def test_symmetric_and_reflexive(blue, green):
    assert compare_fields(blue, blue).differing == 0
    forth, back = compare_fields(blue, green), compare_fields(green, blue)
    assert (forth.leaves, forth.differing) == (back.leaves, back.differing)
    assert sorted(field.path for field in forth.fields) == sorted(field.path for field in back.fields)
    json.dumps([[field.blue, field.green] for field in forth.fields])
