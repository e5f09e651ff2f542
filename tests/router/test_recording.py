"""Exchanges as lines of JSON and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.http1 import parse_request
from models.http1_response import parse_response
from router.recording import REDACTED, Recorded, Recorder, RecordingError, read_line, read_recording
from shadow.frame import FELL_BACK, REQUEST_CUT, RESPONSE_CUT, Frame


def frame(body: bytes = b'{"a": 1}', answer: bytes = b'{"b": 2}', **more: Any) -> Frame:
    fields: dict[str, Any] = {
        "colour": 0,
        "flags": 0,
        "release": 3,
        "revision": 14,
        "started": 1700000000.25,
        "first_byte_ms": 1.5,
        "total_ms": 2.5,
        "request_id": b"r-1",
        "request_head": b"POST /v2/models/m/infer?x=1 HTTP/1.1\r\nHost: a.example\r\nAuthorization: Bearer secret\r\n"
        b"X-User-Id: ann\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body),
        "request_body": body,
        "response_head": b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Note: yes\r\nContent-Length: %d\r\n\r\n"
        % len(answer),
        "response_body": answer,
    }
    return Frame(**{**fields, **more})


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def test_a_line_holds_the_exchange_and_no_credentials() -> None:
    line = Recorder().line(frame())
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert b"secret" not in line
    assert b"a=1" not in line
    found = read_line(line)
    assert found == Recorded(
        request_id="r-1",
        started=1700000000.25,
        colour="blue",
        release=3,
        revision=14,
        method="POST",
        target="/v2/models/m/infer?x=1",
        request_headers=(
            ("Host", "a.example"),
            ("Authorization", REDACTED),
            ("X-User-Id", "ann"),
            ("Content-Type", "application/json"),
            ("Content-Length", "8"),
        ),
        request_body=b'{"a": 1}',
        status=200,
        response_headers=(("Set-Cookie", REDACTED), ("Set-Cookie", REDACTED), ("X-Note", "yes"), ("Content-Length", "8")),
        response_body=b'{"b": 2}',
        first_ms=1.5,
        total_ms=2.5,
    )


def test_back_as_a_frame_it_is_framed_by_its_length_and_blanked_fields_are_gone() -> None:
    given_frame = frame(
        request_head=b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nCookie: x\r\n\r\n",
        request_body=chunked(b"hello"),
        response_head=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        response_body=chunked(b"world"),
        flags=FELL_BACK | RESPONSE_CUT,
        colour=1,
    )
    again = read_line(Recorder().line(given_frame)).to_frame(release=7)
    head = parse_request(again.request_head)
    answered = parse_response(again.response_head, b"POST")
    assert head is not None
    assert answered is not None
    assert (head.length, again.request_body, answered.length, again.response_body) == (5, b"hello", 5, b"world")
    assert head.fields() == {"host": "a", "content-length": "5"}
    assert (again.colour, again.flags, again.release, again.request_id) == (1, FELL_BACK | RESPONSE_CUT, 7, b"r-1")


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_bodies_come_back_byte_by_byte(body: bytes, answer: bytes) -> None:
    found = read_line(Recorder().line(frame(body, answer)))
    assert (found.request_body, found.response_body) == (body, answer)
    again = found.to_frame()
    assert (again.request_body, again.response_body) == (body, answer)


def test_what_the_settings_name_is_redacted_before_it_is_written() -> None:
    recorder = Recorder(("header:x-user-id", "json:/name"))
    found = read_line(recorder.line(frame(b'{"name": "Ann", "age": 3}', b'{"b": 2}')))
    assert json.loads(found.request_body) == {"name": REDACTED, "age": 3}
    assert ("X-User-Id", REDACTED) in found.request_headers
    with pytest.raises(RecordingError, match="nothing in it could be redacted"):
        recorder.line(frame(b"name=Ann"))
    with pytest.raises(RecordingError, match="nothing in it could be redacted"):
        recorder.line(frame(b"{}", b"{}", flags=RESPONSE_CUT))
    recorder.line(frame(b"", b""))


def test_what_was_not_kept_whole_or_cannot_be_read_is_not_recorded() -> None:
    with pytest.raises(RecordingError, match="longer than what is kept"):
        Recorder().line(frame(flags=REQUEST_CUT))
    for wrong in ({"request_head": b"rubbish"}, {"response_head": b""}, {"response_head": b"HTTP/1.1 999\r\n"}):
        with pytest.raises(RecordingError):
            Recorder().line(frame(**wrong))


def changed(**changes: Any) -> bytes:
    document = json.loads(Recorder().line(frame()))
    for path, value in changes.items():
        *parents, name = path.split("__")
        place = document
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[name]
        else:
            place[name] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a recorded exchange"),
        (b"{}", "not a recorded exchange"),
        (changed(version=2), "version 2"),
        (changed(colour="red"), "no colour"),
        (changed(request__method=None), "lacks 'method'"),
        (changed(request__method="P OST"), "no exchange"),
        (changed(request__target="/a\r\nX: y"), "no exchange"),
        (changed(request__headers=[["a"]]), "no exchange"),
        (changed(request__headers=[["Host", "a"], ["X", "y\r\n\r\nz"]]), "line end"),
        (changed(request__headers=5), "no exchange"),
        (changed(response__status="fine"), "no exchange"),
        (changed(response__status=5), "no exchange"),
        (changed(response__body_base64="?"), "no exchange"),
        (changed(started="now"), "no exchange"),
        (changed(request__headers=[["Host", "\u4e2d"]]), "no exchange"),
    ],
)
def test_a_line_that_is_none_is_refused_in_words(line: bytes, words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        read_line(line)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5), lambda x: st.lists(x) | st.dictionaries(st.text(max_size=3), x)
    )
)
def test_no_value_in_a_line_raises_anything_else(value: Any) -> None:
    for path in ("request", "response", "request__headers", "request__target", "request__body", "first_ms", "release"):
        try:
            read_line(changed(**{path: value}) if value is not None else changed())
        except RecordingError:
            continue


def test_a_file_is_read_line_by_line_and_a_bad_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(Recorder().line(frame()) + b"\n" + Recorder().line(frame(request_id=b"r-2")) + b"oh\n")
    lines = read_recording(path)
    assert [next(lines).request_id, next(lines).request_id] == ["r-1", "r-2"]
    with pytest.raises(RecordingError, match=r"r\.jsonl: line 4 is not JSON"):
        next(lines)
    with pytest.raises(RecordingError, match="cannot read"):
        list(read_recording(tmp_path / "none"))
