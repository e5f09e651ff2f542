"""RFC 6901, with its own examples."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.predictions import json_pointer

# RFC 6901 section 5
EXAMPLE = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8}

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet="ab~/01", max_size=3), inner, max_size=4),
    max_leaves=12,
)


def places(document, path=""):
    """Every pointer into the document with its value."""
    yield path, document
    if isinstance(document, dict):
        for name, value in document.items():
            yield from places(value, f"{path}/{json_pointer.escape(name)}")
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from places(value, f"{path}/{index}")


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", EXAMPLE),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
    ],
)
def test_the_examples_of_the_rfc(pointer, value):
    assert json_pointer.get(EXAMPLE, pointer) == value


@pytest.mark.parametrize(
    "pointer", ["/nowhere", "/foo/2", "/foo/-", "/foo/01", "/foo/+1", "/foo/٠", "/foo/0/x", "/foo/" + "9" * 5000]
)
def test_a_pointer_that_leads_nowhere(pointer):
    with pytest.raises(KeyError):
        json_pointer.get(EXAMPLE, pointer)
    assert json_pointer.remove(EXAMPLE, pointer) is not None
    assert json_pointer.remove(EXAMPLE, pointer) == EXAMPLE
    assert json_pointer.replace(EXAMPLE, pointer, "x") == EXAMPLE


@pytest.mark.parametrize("pointer", ["foo", "#/foo", "/a~", "/a~2", " /a"])
def test_what_is_no_pointer(pointer):
    with pytest.raises(ValueError, match="is not a JSON pointer"):
        json_pointer.parse(pointer)


def test_tilde_one_escaped_stays_itself():
    assert json_pointer.parse("/~01") == ("~1",)


def test_remove_and_replace_do_not_touch_the_document():
    before = copy.deepcopy(EXAMPLE)
    assert json_pointer.remove(EXAMPLE, "/foo/0")["foo"] == ["baz"]
    assert "a/b" not in json_pointer.remove(EXAMPLE, "/a~1b")
    assert json_pointer.replace(EXAMPLE, "/foo/1", None)["foo"] == ["bar", None]
    assert json_pointer.remove(EXAMPLE, "") is None
    assert json_pointer.replace(EXAMPLE, "", 5) == 5
    assert before == EXAMPLE


@given(documents)
def test_every_place_can_be_read_replaced_and_removed(document):
    before = copy.deepcopy(document)
    for pointer, value in places(document):
        assert json_pointer.get(document, pointer) == value
        assert json_pointer.get(json_pointer.replace(document, pointer, "new"), pointer) == "new"
        if pointer:
            shorter = json_pointer.remove(document, pointer)
            parent = pointer.rpartition("/")[0]
            assert len(json_pointer.get(shorter, parent)) == len(json_pointer.get(document, parent)) - 1
    assert document == before


@given(documents, st.text(alphabet="/~01-ab", max_size=8))
def test_nothing_escapes_but_what_is_documented(document, pointer):
    try:
        value = json_pointer.get(document, pointer)
    except (KeyError, ValueError):
        return
    assert json_pointer.replace(document, pointer, value) == document
