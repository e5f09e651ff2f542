"""Rows of feedback from JSON, JSON lines and CSV, and the command that sends them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.commands import feedback as command
from router.commands.feedback import Piece
from router.feedback import MAX_LINE, FeedbackError, RowReader, TextRows, json_rows
from router.store.exposures import FeedbackRow
from router.unit_names import UnitNames

NAMES = UnitNames(b"s" * 32, plain=True)


def reader() -> RowReader:
    return RowReader(NAMES)


def text_rows(kind: str, text: str | bytes, step: int = 1 << 20) -> list[Any]:
    rows = TextRows(kind, reader())
    data = text.encode() if isinstance(text, str) else text
    found = [row for at in range(0, len(data), step) for row in rows.feed(data[at : at + step])]
    return [*found, *rows.finish()]


def good(
    line: int, request_id: str | None = "a", label: str | None = None, reward: float | None = None, **more: Any
) -> FeedbackRow:
    return FeedbackRow(line, request_id, more.get("unit"), more.get("at", 0.0), label, reward)


# --- one row ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "row"),
    [
        ({"request_id": "a", "label": 2}, good(1, label="2")),
        ({"request_id": "a", "label": "2.0", "reward": 1}, good(1, label="2", reward=1.0)),
        ({"request_id": 17, "reward": "0.5"}, good(1, "17", reward=0.5)),
        ({"request_id": "a", "label": False}, good(1, label="false")),
        ({"request_id": "a", "label": [1, 2]}, good(1, label='["1","2"]')),
        ({"request_id": "a", "unit": "u", "label": 1, "note": "aside"}, good(1, label="1")),
        ({"request_id": "", "unit": "u", "label": 1}, good(1, None, "1", unit="u")),
        ({"unit": 42, "reward": 0}, good(1, None, None, 0.0, unit="42")),
        ({"unit": "u", "at": 1700000000, "reward": 0}, good(1, None, None, 0.0, unit="u", at=1.7e9)),
        ({"unit": "u", "at": "2023-11-14T22:13:20Z", "reward": 0}, good(1, None, None, 0.0, unit="u", at=1.7e9)),
        ({"unit": "u", "at": "2023-11-14T22:13:20", "reward": 0}, good(1, None, None, 0.0, unit="u", at=1.7e9)),
    ],
)
def test_a_row_is_what_it_says(value: object, row: FeedbackRow) -> None:
    assert reader().from_object(value, 1) == row


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([1], "not a JSON object"),
        ({}, "neither a request_id nor a unit"),
        ({"request_id": None, "label": 1}, "neither a request_id nor a unit"),
        ({"request_id": "a"}, "neither a label nor a reward"),
        ({"request_id": "a", "label": ""}, "neither a label nor a reward"),
        ({"request_id": "ä", "label": 1}, "printable ASCII"),
        ({"request_id": "a" * 201, "label": 1}, "at most 200"),
        ({"request_id": True, "label": 1}, "must be a text"),
        ({"unit": ["u"], "label": 1}, "must be a text or a number"),
        ({"unit": "u" * 5000, "label": 1}, "at most 4096"),
        ({"request_id": "a", "label": {"class": 1}}, "a label must be"),
        ({"request_id": "a", "label": []}, "empty list"),
        ({"request_id": "a", "reward": "much"}, "must be a number, not 'much'"),
        ({"request_id": "a", "reward": float("nan")}, "finite"),
        ({"request_id": "a", "reward": [1]}, "must be a number"),
        ({"unit": "u", "at": "yesterday", "reward": 1}, "ISO 8601"),
        ({"unit": "u", "at": -5, "reward": 1}, "seconds since the epoch"),
    ],
)
def test_a_bad_row_is_refused_in_words(value: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        reader().from_object(value, 1)


# --- texts ------------------------------------------------------------------------------------------------------------


def test_csv_with_extra_columns_quotes_blank_lines_and_a_mark() -> None:
    text = '\ufeffRequest_ID,name,label,reward\r\na,"Smith, Ann",2,\r\n\r\nb,x,"two ""words""",0.5\nc,x,,1'
    assert text_rows("csv", text) == [
        good(2, "a", "2"),
        good(4, "b", 'two "words"', 0.5),
        good(5, "c", None, 1.0),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_by_other_delimiters(delimiter: str) -> None:
    assert text_rows("csv", f"label{delimiter}unit\n1{delimiter}u\n") == [good(2, None, "1", unit="u")]


def test_bad_rows_are_told_with_their_lines_and_the_rest_is_taken() -> None:
    text = b'request_id,label\na,1\nb\nc,1,2\n,1\n"d,1\n\xff,1\ne,' + b"x" * MAX_LINE + b"\nf,2\n"
    found = text_rows("csv", text)
    assert [row if isinstance(row, FeedbackRow) else row[0] for row in found] == [
        good(2, label="1"),
        3,
        4,
        5,
        6,
        7,
        8,
        good(9, "f", "2"),
    ]
    whys = [row[1] for row in found if isinstance(row, tuple)]
    for why, words in zip(whys, ("1 fields", "3 fields", "neither", "a quote", "UTF-8", "longer"), strict=True):
        assert words in why


def test_json_lines() -> None:
    text = '{"request_id": "a", "label": 1}\n\nrubbish\n{"request_id": "b", "reward": 0.5}'
    assert text_rows("ndjson", text) == [good(1, label="1"), (3, "is not JSON"), good(4, "b", None, 0.5)]


@pytest.mark.parametrize("first", ["", "a,b\n1,2\n", "request_id\na\n", "label,reward\n1,2\n", '"request_id,label\n'])
def test_a_csv_text_without_its_columns_is_refused_as_a_whole(first: str) -> None:
    with pytest.raises(FeedbackError, match="first line"):
        text_rows("csv", first)


def test_a_text_without_lines_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(FeedbackError, match="one row per line"):
        text_rows("ndjson", b"x" * (MAX_LINE + 2), step=1000)


@given(st.integers(1, 40))
def test_pieces_of_any_size_give_the_same_rows(step: int) -> None:
    text = "request_id,label\na,1\nbad\nc,3\r\n\nd,ä\n"
    assert text_rows("csv", text, step) == text_rows("csv", text)


@given(st.binary(max_size=300), st.sampled_from(["csv", "ndjson"]))
def test_no_text_raises_anything_else(data: bytes, kind: str) -> None:
    for head in (b"", b"request_id,label,reward,unit,at\n"):
        with contextlib.suppress(FeedbackError):
            text_rows(kind, head + data)


def test_a_json_list() -> None:
    body = json.dumps([{"request_id": "a", "label": 1}, 5, {"unit": "u", "reward": 1}]).encode()
    first, second, third = json_rows(body, reader())
    assert (first, third) == (good(1, label="1"), good(3, None, None, 1.0, unit="u"))
    assert isinstance(second, tuple)
    assert second[0] == 2
    for wrong in (b"{}", b"nonsense", b'"a"', b"[" * 100_000):
        with pytest.raises(FeedbackError):
            list(json_rows(wrong, reader()))


# --- the command ------------------------------------------------------------------------------------------------------


def pieces(kind: str, content: bytes, monkeypatch: pytest.MonkeyPatch, size: int = 10) -> list[Piece]:
    monkeypatch.setattr(command, "PIECE", size)
    return list(command._pieces(io.BytesIO(content), kind))


def test_pieces_of_a_file_know_the_lines_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"\nrequest_id,label\n" + b"".join(b"r%d,%s\n" % (n, b"1" if n % 7 else b"") for n in range(1, 60))
    whole = [row for row in text_rows("csv", content) if isinstance(row, tuple)]
    found = []
    for piece in pieces("text/csv", content, monkeypatch):
        found += [(row[0] + piece.before, row[1]) for row in text_rows("csv", piece.content) if isinstance(row, tuple)]
    assert found == whole
    assert len(whole) == 8
    lines = b'{"request_id": "a"}\n' * 5
    found = []
    for piece in pieces("application/x-ndjson", lines, monkeypatch):
        found += [row[0] + piece.before for row in text_rows("ndjson", piece.content)]
    assert found == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.csv", b"{", "text/csv"),
        ("a.jsonl", b"", "application/x-ndjson"),
        ("a.txt", b'\n {"a": 1}', "application/x-ndjson"),
        ("a", b"request_id,label", "text/csv"),
        ("a.json", b" [1]", "application/json"),
        ("a.json", b"{", "application/x-ndjson"),
    ],
)
def test_a_files_kind_is_told_by_its_name_or_its_first_character(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with path.open("rb") as file:
        assert command._kind(path, file) == kind
        assert file.read() == content
