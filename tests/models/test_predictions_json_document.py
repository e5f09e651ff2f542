"""The bounds on JSON before it becomes objects."""

import contextlib
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.predictions import json_document
from models.predictions.prediction import Reason, Unreadable


def reason_of(body):
    with pytest.raises(Unreadable) as refused:
        json_document.load(body)
    return refused.value.reason


def nested(depth, opening=b"[", closing=b"]"):
    return opening * depth + closing * depth


def test_exact_integers_and_what_python_servers_send():
    assert json_document.load(b"[9007199254740993, 18446744073709551615, NaN, -Infinity]")[:2] == [2**53 + 1, 2**64 - 1]
    assert json_document.load(b"\xef\xbb\xbf[1]") == [1]
    assert json_document.load('["ü"]'.encode("utf-16")) == ["ü"]


PIECES = [
    b"{}",
    b"[1]",
    b'{"a":[1,2.5,"\xc3\xbc"]}',
    b" ",
    b"\n",
    b"\t",
    b"\0",
    b"[",
    b"}",
    b'"',
    b"1",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\x0b",
]


@given(
    st.lists(st.sampled_from(PIECES), max_size=4).map(b"".join), st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32-be"])
)
def test_it_reads_what_json_loads_reads(body, encoding):
    body = body if encoding == "utf-8" else body.decode("latin-1").encode(encoding)
    try:
        expected = json.loads(body)
    except ValueError as error:  # what is compared with is json.loads itself, not the code under test
        with pytest.raises(Unreadable, match="not json") as refused:
            json_document.load(body)
        assert refused.value.detail == str(error)
    else:
        assert json_document.load(body) == expected


@pytest.mark.parametrize("body", [b"", b"{", b"[1,]", b"\xff", b"[1] x", b"nul", b"'a'", b"1" * 5000, b"\x00", b'"\xed\xa0"'])
def test_not_json(body):
    assert reason_of(body) is Reason.NOT_JSON


@pytest.mark.parametrize(
    "body",
    [
        nested(129),
        nested(500),
        nested(100_000),
        nested(140, b'{"a":[', b"]}"),
        b"[" + b"[]," * 500 + nested(200) + b"]",
        b'["]]]]",' * 200 + b"0" + b"]" * 200,
    ],
)
def test_too_deep(body):
    assert reason_of(body) is Reason.TOO_DEEP


@pytest.mark.parametrize(
    "document",
    [
        [[[i] for i in range(5)] for _ in range(300)],
        [{"text": "[[[[{{{{" * 50}] * 20,
        json.loads(nested(128)),
        [{"a": [{"b": []}]}] * 500,
    ],
)
def test_wide_is_not_deep(document):
    assert json_document.load(json.dumps(document).encode()) == document


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"1,", b'"a",'])
def test_small_bodies_of_many_objects_are_refused_before_they_are_built(piece):
    body = b"[" + piece * (48 * 2**20 // len(piece) + 1) + b"0]"
    tracemalloc.start()
    try:
        assert reason_of(body) is Reason.TOO_LARGE
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_large_body_of_few_values_is_read():
    body = json.dumps(["x" * 8 * 2**20]).encode()
    assert len(json_document.load(body)[0]) == 8 * 2**20


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:01ea\\u.- ', max_size=300).map(str.encode))
def test_nothing_else_escapes(body):
    with contextlib.suppress(Unreadable):
        json.dumps(json_document.load(body))
