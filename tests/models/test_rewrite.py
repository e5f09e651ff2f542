"""A request as it goes to its arm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.arm import Arm, PathRewrite
from models.framing import ChunkedBody
from models.http1 import RequestHead, parse_request
from models.rewrite import Rewrite

OWN = b"via: 1.1 bluegreen\r\nx-request-id: r\r\n"


def parsed(raw: bytes) -> RequestHead:
    head = parse_request(raw)
    assert head is not None
    return head


def rewrite(**parts: Any) -> Rewrite:
    return Rewrite(Arm("arm", ("http://10.0.0.1:9001",), **parts))


def test_nothing_to_change_passes_the_bytes() -> None:
    head = parsed(b"GET /a HTTP/1.1\r\nHost: h\r\nx:  y \r\n\r\n")
    assert rewrite().head(head, OWN) == b"GET /a HTTP/1.1\r\nHost: h\r\nx:  y \r\n" + OWN + b"\r\n"
    assert not rewrite().changes


def test_fields_that_end_here_are_taken_out() -> None:
    head = parsed(b"GET /a HTTP/1.1\r\nTE: x\r\nHost: h\r\nConnection: keep-alive, x-a\r\nX-A: 1\r\nX-Request-Id: mine\r\n\r\n")
    assert rewrite().head(head, OWN) == b"GET /a HTTP/1.1\r\nHost: h\r\n" + OWN + b"\r\n"
    head = parsed(b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nX-Request-Id: mine\r\n\r\n")
    assert rewrite().head(head, OWN) == b"GET /a HTTP/1.1\r\nHost: h\r\n" + OWN + b"\r\n"


def test_http_1_0_becomes_1_1_with_a_host() -> None:
    head = parsed(b"GET /a HTTP/1.0\r\n\r\n")
    out = rewrite().head(head, OWN)
    assert out.startswith(b"GET /a HTTP/1.1\r\n")
    assert out.count(b"Host: 10.0.0.1:9001\r\n") == 1
    assert b"via: 1.0 bluegreen\r\n" in out
    assert parsed(out).host == b"10.0.0.1:9001"
    named = rewrite(headers=(("host", "own"),)).head(head, OWN)
    assert parsed(named).host == b"own"  # and not twice, which the parser refuses


@pytest.mark.parametrize(
    ("source", "target", "path", "expected"),
    [
        ("/a", "/b", b"/a", b"/b"),
        ("/a", "/b", b"/a/", b"/b/"),
        ("/a", "/b", b"/a/c?d", b"/b/c?d"),
        ("/a", "/b", b"/a?d", b"/b?d"),
        ("/a", "/b", b"/a:predict", b"/b:predict"),
        ("/a", "/b", b"/ab", b"/ab"),
        ("/a", "/b", b"/c/a", b"/c/a"),
        ("/a/", "/b/", b"/a/c", b"/b/c"),
        ("/a/", "/b/", b"/a", b"/a"),
        ("/", "/b", b"/c", b"/b/c"),
        ("/", "/b", b"/", b"/b"),
        ("/", "/b/", b"/c", b"/b/c"),
        ("/a", "/", b"/a/c", b"/c"),
        ("/a", "/", b"/a", b"/"),
        ("/a", "/", b"/a?x", b"/?x"),
    ],
)
def test_path(source: str, target: str, path: bytes, expected: bytes) -> None:
    out = rewrite(path=PathRewrite(source, target)).head(parsed(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n"), OWN)
    assert out.split(b" ")[1] == expected


def test_headers_replace_the_client_s_own() -> None:
    changed = rewrite(headers=(("authorization", "Bearer arm"), ("x-new", "é")))
    out = changed.head(parsed(b"GET / HTTP/1.1\r\nAUTHORIZATION: a\r\nHost: h\r\nauthorization: b\r\n\r\n"), OWN)
    head = parsed(out)
    assert head.fields()["authorization"] == "Bearer arm"
    assert head.fields()["x-new"] == "é"
    assert out.lower().count(b"authorization") == 1


def test_upgrade_goes_on_as_the_router_s_own() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n\r\n"
    out = rewrite().head(parsed(raw), OWN)
    assert b"\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n" in out
    assert out.lower().count(b"\r\nconnection:") == 1
    assert b"\r\nSec-WebSocket-Key: k\r\n" in out


@given(
    st.dictionaries(st.text(max_size=5) | st.just("model"), st.integers() | st.text(max_size=5), max_size=4),
    st.booleans(),
)
def test_renamed_message_is_whole(document: dict[str, Any], chunked: bool) -> None:
    payload = json.dumps(document).encode()
    if chunked:
        raw = b"POST / HTTP/1.1\r\nHost: h\r\nTrailer: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    else:
        raw = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(payload)
    out = rewrite(model="new").renamed(parsed(raw), OWN, payload)
    if "model" not in document:
        assert out is None
        return
    assert out is not None
    head = parsed(out)
    assert head.length == len(out) - head.size  # framed by a length now, and by nothing else
    assert json.loads(out[head.size :]) == {**document, "model": "new"}
    assert head.header(b"trailer") is None


def test_body_that_cannot_be_renamed() -> None:
    head = parsed(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n")
    for payload in (b"", b"\x1f\x8b\x08", b"{}", b'{"inputs":1}\x00\x01'):
        assert rewrite(model="new").renamed(head, OWN, payload) is None
    assert rewrite().renamed(head, OWN, b'{"model":"a"}') is None


@given(st.sampled_from([b"GET", b"POST"]), st.binary(max_size=30).map(lambda raw: b"".join(b"%c" % (33 + c % 94) for c in raw)))
def test_every_rewritten_head_is_a_good_one(method: bytes, target: bytes) -> None:
    head = parsed(method + b" /a/" + target + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    out = rewrite(path=PathRewrite("/a", "/b"), headers=(("host", "own"), ("x", "y"))).head(head, OWN)
    again = parsed(out)
    assert (again.method, again.target, again.host, again.keep_alive) == (method, b"/b/" + target, b"own", True)
    assert ChunkedBody().feed(b"") == 0
