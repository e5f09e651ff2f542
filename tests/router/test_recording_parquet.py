"""Recordings as Parquet: written, read by us and by others, and what is said of files that are none."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import cli, recording_parquet
from router.recording import Recorded, RecordingError, count_recorded, read_line, read_recording
from router.recording_parquet import ParquetRecording

EXCHANGE = Recorded(
    request_id="r-1",
    started=1700000000.123456,
    colour="blue",
    release=3,
    revision=14,
    method="POST",
    target="/v2/models/m/infer?x=1",
    request_headers=(("Host", "a.example"), ("Authorization", "[redacted]"), ("X-Name", "Zo\u00eb")),
    request_body=b'{"a": 1}',
    status=200,
    response_headers=(("X-Note", "one"), ("X-Note", "two")),
    response_body=b"\x00\xff\n",
    first_ms=1.5,
    total_ms=2.5,
)


def line(exchange: Recorded) -> bytes:
    def message(headers: Any, body: bytes, **more: Any) -> dict[str, Any]:
        return {"headers": headers, "body_base64": base64.b64encode(body).decode(), **more}

    names = ("request_id", "started", "colour", "release", "revision", "fell_back", "first_ms", "total_ms")
    document = {
        "version": 1,
        **{name: getattr(exchange, name) for name in names},
        "request": message(exchange.request_headers, exchange.request_body, method=exchange.method, target=exchange.target),
        "response": message(
            exchange.response_headers, exchange.response_body, status=exchange.status, truncated=exchange.truncated
        ),
    }
    return json.dumps(document).encode() + b"\n"


def written(path: Path, *exchanges: Recorded) -> Path:
    with ParquetRecording(path) as out:
        for exchange in exchanges:
            out.add(exchange)
    return path


def rewritten(path: Path, table: Any) -> Path:
    """As another program writes what it has read: without our metadata."""
    pq.write_table(table.replace_schema_metadata(None), path)
    return path


def test_what_was_written_is_read_in_order(tmp_path: Path) -> None:
    exchanges = [
        replace(EXCHANGE, request_id=f"r-{n}", colour=("blue", "green")[n % 2], fell_back=n % 3 == 0, truncated=n % 5 == 0)
        for n in range(300)
    ]
    path = written(tmp_path / "r.parquet", *exchanges)
    assert list(read_recording(path)) == exchanges
    assert count_recorded(path) == 300


@given(st.binary(max_size=60), st.binary(max_size=60), st.integers(0, 4 * 10**15))
def test_bodies_and_times_come_back_to_the_last_bit(tmp_path_factory: Any, body: bytes, answer: bytes, started: int) -> None:
    path = tmp_path_factory.mktemp("p") / "r.parquet"
    exchange = replace(EXCHANGE, request_body=body, response_body=answer, started=started / 1e6)
    assert list(read_recording(written(path, exchange))) == [exchange]


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_lines_may_come_in_any_pieces(tmp_path: Path, size: int) -> None:
    exchanges = [replace(EXCHANGE, request_id=f"r-{n}") for n in range(20)]
    text = b"".join(line(exchange) for exchange in exchanges)
    assert [read_line(one + b"\n") for one in text.splitlines()] == exchanges
    path = tmp_path / "r.parquet"
    with ParquetRecording(path) as out:
        for at in range(0, len(text), size):
            out.write(text[at : at + size])
    assert list(read_recording(path)) == exchanges


def test_others_find_columns_of_sensible_types(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path / "r.parquet", EXCHANGE))
    assert {field.name: "map" if pa.types.is_map(field.type) else str(field.type) for field in table.schema} == {
        "request_id": "string", "started": "timestamp[us, tz=UTC]", "colour": "string", "release": "int64", "revision": "int64",
        "fell_back": "bool", "first_ms": "double", "total_ms": "double", "method": "string", "target": "string",
        "request_headers": "map", "request_body": "binary", "status": "int16",
        "response_headers": "map", "response_body": "binary", "truncated": "bool",
    }  # fmt: skip
    (row,) = table.to_pylist()
    assert row["started"] == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    assert row["response_headers"] == [("X-Note", "one"), ("X-Note", "two")]
    assert json.loads(row["request_body"]) == {"a": 1}


def test_memory_is_bounded_by_groups_of_rows_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_parquet, "GROUP_ROWS", 50)
    monkeypatch.setattr(recording_parquet, "GROUP_BYTES", 100_000)
    small, large = written(tmp_path / "s.parquet", *[EXCHANGE] * 120), tmp_path / "l.parquet"
    with ParquetRecording(large) as out:
        for n in range(60):
            out.add(replace(EXCHANGE, request_body=bytes([n]) * 30_000))
            assert out._held < 100_000
    rows = [
        [pq.read_metadata(path).row_group(n).num_rows for n in range(pq.read_metadata(path).num_row_groups)]
        for path in (small, large)
    ]
    assert rows == [[50, 50, 20], [4] * 15]
    assert [exchange.request_body[0] for exchange in read_recording(large)] == list(range(60))


def test_what_was_recorded_before_an_error_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    with pytest.raises(RecordingError, match="is not JSON"), ParquetRecording(path) as out:
        out.write(line(EXCHANGE) + line(EXCHANGE) + b"rubbish\n")
    assert list(read_recording(path)) == [EXCHANGE, EXCHANGE]


def test_a_file_that_others_have_filtered_and_written_again_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path / "r.parquet", *[replace(EXCHANGE, request_id=f"r-{n}", status=200 + n) for n in range(10)])
    table = pq.read_table(path)
    few = table.filter(pc.less(table["status"], 203)).append_column("note", pa.array(["mine"] * 3))
    few = few.set_column(1, "started", few["started"].cast(pa.timestamp("ns", tz="UTC")))
    few = few.set_column(0, "request_id", few["request_id"].cast(pa.large_string()))
    headers = pa.array([[["Host", "b.example"]]] * 3, pa.list_(pa.list_(pa.string())))  # as pandas writes maps
    few = few.set_column(few.schema.get_field_index("request_headers"), "request_headers", headers)
    found = list(read_recording(rewritten(tmp_path / "few.parquet", few)))
    assert [(one.request_id, one.status, one.started) for one in found] == [
        (f"r-{n}", 200 + n, EXCHANGE.started) for n in range(3)
    ]
    assert found[0].request_headers == (("Host", "b.example"),)


def spoilt(path: Path, column: str, values: Any) -> Path:
    table = pq.read_table(written(path, EXCHANGE, EXCHANGE))
    return rewritten(path, table.set_column(table.schema.get_field_index(column), column, values))


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("colour", pa.array(["blue", "red"]), "row 2 was answered by 'red', which is no colour"),
        ("method", pa.array([None, "POST"], pa.string()), "row 1 has nothing in the column method"),
        ("started", pa.array([1.0, 2.0]), "double in the column started where a timestamp is due"),
        ("started", pa.array([0, None], pa.timestamp("us", tz="UTC")), "row 2 has no time in the column started"),
        ("status", pa.array([99999, 200]), "row 1 is no exchange"),
        ("status", pa.array(["well", "ill"]), "row 1 is no exchange: invalid literal"),
        ("target", pa.array(["/a b\r\nHost: x", "/"]), "row 1 is no exchange"),
        ("request_headers", pa.array([[["X", "a\r\nY: b"]]] * 2), "row 1 has a header field with a line end in it"),
        ("total_ms", pa.array([float("nan")] * 2), "row 1 has a time that is no number"),
    ],
)
def test_a_row_that_is_no_exchange_is_told_with_its_number(tmp_path: Path, column: str, values: Any, words: str) -> None:
    path = spoilt(tmp_path / "r.parquet", column, values)
    with pytest.raises(RecordingError) as found:
        list(read_recording(path))
    assert words in str(found.value)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)


def test_files_that_are_no_recordings_are_told_in_one_line(tmp_path: Path) -> None:
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(written(tmp_path / "r.parquet", EXCHANGE).read_bytes()[:-20])
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), other)
    newer = tmp_path / "newer.parquet"
    table = pq.read_table(tmp_path / "r.parquet")
    pq.write_table(table.replace_schema_metadata({"bluegreen.recording": "2"}), newer)
    for path, words in (
        (cut, "cannot read"),
        (other, "it lacks the columns request_id, started"),
        (newer, "is of version '2'"),
    ):
        with pytest.raises(RecordingError, match=words) as found:
            list(read_recording(path))
        assert "\n" not in str(found.value)
    with pytest.raises(RecordingError, match="cannot read"):
        count_recorded(cut)


def test_without_pyarrow_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "r.parquet", EXCHANGE)
    lines = tmp_path / "r.jsonl"
    lines.write_bytes(line(EXCHANGE))
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    fresh = tmp_path / "new.parquet"
    nowhere = "http://127.0.0.1:9"
    for command in (
        ("record", str(fresh), "--control", nowhere),
        ("replay", str(path), "--to", nowhere),
        ("backtest", str(path), "--green", nowhere),
    ):
        assert cli.main(command) == 1
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.count("\n") == 1
        assert "pip install 'bluegreen[parquet]'" in told.err
    assert not fresh.exists()
    assert list(read_recording(lines)) == [EXCHANGE]
