"""Answers that the router makes itself, read back by a strict parser; and answers framed anew."""

from __future__ import annotations

import json

import h11
import pytest

from models.framing import CHUNKED
from models.http1_response import parse_response
from router.proxy import answers
from router.proxy.reframing import Reframing, needed


def read(raw: bytes, method: bytes = b"GET") -> tuple[h11.Response, bytes, h11.Connection]:
    """What an independent client makes of an answer."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    response, body = client.next_event(), b""
    assert isinstance(response, h11.Response)
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return response, body, client


@pytest.mark.parametrize("status", [400, 404, 408, 413, 414, 417, 431, 501, 502, 503, 504, 505])
@pytest.mark.parametrize("keep_alive", [True, False])
def test_a_problem_is_a_whole_rfc_9457_document(status: int, keep_alive: bool) -> None:
    raw = answers.problem(status, 'why: "quoted"', b"id-1", keep_alive=keep_alive, arm_line=b"x-bluegreen-arm: blue\r\n")
    response, body, client = read(raw)
    fields = dict(response.headers)
    assert response.status_code == status
    assert fields[b"content-type"] == b"application/problem+json"
    assert fields[b"x-request-id"] == b"id-1"
    assert fields[b"x-bluegreen-arm"] == b"blue"
    assert fields[b"cache-control"] == b"no-store"
    assert (b"retry-after" in fields) == (status == 503)
    assert (client.our_state is h11.MUST_CLOSE) == (not keep_alive)
    document = json.loads(body)
    assert document["status"] == status
    assert document["detail"] == 'why: "quoted"'
    assert document["request_id"] == "id-1"
    assert document["type"] == "about:blank"
    assert document["title"]


def test_head_gets_the_fields_and_no_body() -> None:
    whole = answers.problem(502, "gone", b"i", keep_alive=True)
    short = answers.problem(502, "gone", b"i", keep_alive=True, head_only=True)
    assert whole.startswith(short)
    assert short.endswith(b"\r\n\r\n")
    assert read(short, b"HEAD")[1] == b""


def test_an_http_1_0_client_is_told_that_the_connection_stays() -> None:
    assert b"Connection: keep-alive\r\n" in answers.plain(200, "ok", b"i", keep_alive=True, minor=0)
    assert b"Connection" not in answers.plain(200, "ok", b"i", keep_alive=True)
    assert b"Connection: close\r\n" in answers.plain(200, "ok", b"i", keep_alive=False, minor=0)


def test_an_answer_that_only_the_close_ends_goes_on_in_chunks() -> None:
    head = parse_response(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n", b"GET")
    assert head is not None
    assert needed(head, 1)
    assert not needed(head, 0)
    one = Reframing(head)
    raw = one.head(head.passed) + b"\r\n" + one.body(b"abc", False) + one.body(b"", False) + one.body(b"d" * 20, True)
    assert read(raw)[1] == b"abc" + b"d" * 20


def test_chunks_are_taken_off_for_a_client_that_knows_none() -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nx-kept: 1\r\n\r\n"
    head = parse_response(raw, b"GET")
    assert head is not None
    assert head.length == CHUNKED
    assert needed(head, 0)
    assert not needed(head, 1)
    one = Reframing(head)
    assert one.head(head.passed) == b"HTTP/1.1 200 OK\r\nx-kept: 1\r\n"
    wire = b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 11\r\n\r\n"
    for cut in range(len(wire)):
        again = Reframing(head)
        assert again.body(wire[:cut], False) + again.body(wire[cut:], True) == b"hello world"
