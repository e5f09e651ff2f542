"""How arms are addressed and chosen, over real sockets: rewriting of path, fields and model, and splits by key and by chance."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from typing import Any

import pytest
from plane import PATIENT, Client, Router, Upstream, arm, chunked, ok

from router import counters as c
from router.split import bucket

SETTINGS: dict[str, Any] = {
    "timeouts": PATIENT,
    "health": {"interval": 60, "eject_after": 10_000},
    "fallback": {"body": 65536},
}


def get(target: bytes = b"/", *lines: bytes) -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n" % (target, b"".join(line + b"\r\n" for line in lines))


def post(body: bytes, *lines: bytes, target: bytes = b"/v1/chat/completions") -> bytes:
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % (target, len(body))
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


# --- rewriting -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/v2/models/iris-v1/infer", b"/v2/models/iris-v2/infer"),
        (b"/v2/models/iris-v1", b"/v2/models/iris-v2"),
        (b"/v2/models/iris-v1?x=/v2/models/iris-v1", b"/v2/models/iris-v2?x=/v2/models/iris-v1"),
        (b"/v2/models/iris-v1:predict", b"/v2/models/iris-v2:predict"),
        (b"/v2/models/iris-v10/infer", b"/v2/models/iris-v10/infer"),
        (b"/x/v2/models/iris-v1/infer", b"/x/v2/models/iris-v1/infer"),
        (b"/", b"/"),
        (b"http://b/v2/models/iris-v1/infer", b"/v2/models/iris-v2/infer"),
        (b"*", b"*"),
    ],
)
def test_path_is_rewritten_for_its_arm_alone(
    router: Router, blue: Upstream, green: Upstream, client: Client, target: bytes, expected: bytes
) -> None:
    router.obeys(green=arm(green, path={"from": "/v2/models/iris-v1", "to": "/v2/models/iris-v2"}))
    method = b"OPTIONS" if target == b"*" else b"GET"
    raw = b"%s %s HTTP/1.1\r\nHost: a\r\n\r\n" % (method, target)
    assert client.asks(raw).arm == "blue"
    router.obeys(percent=100)
    assert client.asks(raw).arm == "green"
    assert blue.request().target == target.removeprefix(b"http://b")
    assert green.request().target == expected


def test_fields_are_set_for_their_arm_alone(router: Router, blue: Upstream, green: Upstream, client: Client) -> None:
    headers = {"Host": "green.internal", "Authorization": "Bearer green", "x-new": "1"}
    router.obeys(green=arm(green, headers=headers))
    raw = get(
        b"/", b"authorization: Bearer client", b"AUTHORIZATION: twice", b"x-other: kept", b"Connection: x-hop", b"x-hop: 1"
    )
    assert client.asks(raw).arm == "blue"
    router.obeys(percent=100)
    assert client.asks(raw).arm == "green"
    assert blue.request().values(b"authorization") == [b"Bearer client", b"twice"]
    assert not blue.request().values(b"x-new")
    seen = green.request()
    assert seen.header(b"authorization") == b"Bearer green"
    assert seen.header(b"host") == b"green.internal"
    assert seen.header(b"x-new") == b"1"
    assert seen.header(b"x-other") == b"kept"
    assert not seen.values(b"x-hop")
    assert seen.header(b"x-forwarded-host") == b"a"


@pytest.mark.parametrize("name", ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"])
def test_field_that_the_router_writes_too_is_there_once(router: Router, green: Upstream, client: Client, name: str) -> None:
    router.obeys(green=arm(green, headers={name: "own.example"}), percent=100)
    assert client.asks(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").status == 200
    assert green.request().header(name.encode()) == b"own.example"
    assert client.asks(get()).status == 200
    assert green.request(1).header(name.encode()) == b"own.example"


CHAT = b'{ "messages": [{"role": "user", "content": "model"}],\t"model" : "one", "temperature": 1.0e0 }'


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (CHAT, CHAT.replace(b'"one"', b'"two"')),
        (b'{"model":"one"}', b'{"model":"two"}'),
        (b'{"model":null,"a":"\xc3\xa9"}', b'{"model":"two","a":"\xc3\xa9"}'),
        (b'{"a":{"model":"one"}}', b'{"a":{"model":"one"}}'),
        (b'["model"]', b'["model"]'),
        (b"not json", b"not json"),
        (b'{"model":"one"', b'{"model":"one"'),
        (b"\xff\xfe\x00", b"\xff\xfe\x00"),
        (b"", b""),
    ],
)
@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_model_is_renamed(
    router: Router, blue: Upstream, green: Upstream, client: Client, body: bytes, expected: bytes, coding: str
) -> None:
    router.obeys(green=arm(green, model="two"))
    if coding == "length":
        raw = post(body)
    else:
        pieces = chunked(*[body[i : i + 5] for i in range(0, len(body), 5)])
        raw = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces
    for percent in (0, 100):
        router.obeys(percent=percent)
        with router.counting() as n:
            assert client.sends(raw[:60], raw[60:90], raw[90:], pause=0.002).receives().status == 200
        assert n.green(c.STATUS + 1) == (percent == 100)
    assert blue.request().wire == raw.partition(b"\r\n\r\n")[2]
    assert green.request().payload == expected
    assert len(green.request().values(b"content-length") + green.request().values(b"transfer-encoding")) == 1


def test_model_in_a_compressed_body_is_left_alone(router: Router, green: Upstream, client: Client) -> None:
    router.obeys(green=arm(green, model="two"), percent=100)
    body = gzip.compress(b'{"model":"one"}')
    assert client.asks(post(body, b"Content-Encoding: gzip")).status == 200
    assert green.request().payload == body


def test_trailers_of_a_body_that_is_not_rewritten_are_kept(router: Router, green: Upstream, client: Client) -> None:
    router.obeys(green=arm(green, model="two"), percent=100)
    wire = chunked(b"not json", trailers=b"x-sum: 8\r\n")
    assert (
        client.asks(b"POST / HTTP/1.1\r\nHost: a\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n" + wire).status == 200
    )
    assert (green.request().payload, green.request().trailers) == (b"not json", b"x-sum: 8\r\n")


def test_model_of_a_waiting_client_is_renamed(router: Router, green: Upstream, client: Client) -> None:
    """The body decides what is sent, so the router itself asks for it."""
    router.obeys(green=arm(green, model="two"), percent=100)
    body = b'{"model":"one"}'
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert client.asks(head).status == 100
    answer = client.sends(body).receives()
    answer = client.receives() if answer.status == 100 else answer
    assert answer.status == 200
    assert green.request().payload == b'{"model":"two"}'


def test_blue_gets_the_client_s_own_words_after_a_renamed_green_failed(
    router: Router, blue: Upstream, green: Upstream, client: Client
) -> None:
    router.obeys(green=arm(green, model="two", path={"from": "/v1", "to": "/g"}, headers={"x-g": "1"}), percent=100)
    green.resets_mid_head()
    assert client.asks(post(CHAT)).arm == "blue"
    assert (green.request().payload, green.request().target) == (CHAT.replace(b'"one"', b'"two"'), b"/g/chat/completions")
    seen = blue.request()
    assert (seen.payload, seen.target, seen.values(b"x-g")) == (CHAT, b"/v1/chat/completions", [])


# --- the split -----------------------------------------------------------------------------------------------------------


def colours(client: Client, requests: list[bytes]) -> list[str | None]:
    return [client.asks(raw).arm for raw in requests]


KEYED = {
    "header:x-user-id": lambda key: get(b"/", b"X-User-ID:  " + key),
    "cookie:uid": lambda key: get(b"/", b"Cookie: auid=zz; uid=" + key + b"; b=c"),
    "query:user": lambda key: get(b"/p?x=1&user=" + key + b"&user=other"),
    "json:/parameters/user": lambda key: post(b'{"parameters": {"user": "' + key + b'"}}'),
}


@pytest.mark.parametrize("source", KEYED)
def test_every_key_has_its_colour(router: Router, client: Client, source: str) -> None:
    """The bucket is the documented one, so anyone can recompute it; a ramp moves nobody back."""
    router.obeys(key=source, salt="iris")
    keys = [b"user-%d" % i for i in range(120)]
    green_before: set[bytes] = set()
    for percent in (0.5, 10, 50, 99.99):
        router.obeys(percent=percent)
        got = colours(client, [KEYED[source](key) for key in keys])
        assert got == ["green" if bucket(key, b"iris") < percent * 100 else "blue" for key in keys]
        green_now = {key for key, colour in zip(keys, got, strict=True) if colour == "green"}
        assert green_before <= green_now
        green_before = green_now


@pytest.mark.parametrize("source", KEYED)
def test_request_without_the_key_is_blue_until_all_is_green(router: Router, client: Client, source: str) -> None:
    router.obeys(key=source, percent=99.99)
    without = [get(), get(b"/?x=1"), post(b"{}"), post(b"no json"), post(b'{"parameters": {"user": {"no": "scalar"}}}')]
    assert set(colours(client, without)) == {"blue"}
    router.obeys(percent=100)
    assert set(colours(client, without)) == {"green"}
    router.obeys(percent=0)
    assert set(colours(client, [KEYED[source](b"user-%d" % i) for i in range(20)])) == {"blue"}


def test_json_keys_of_every_kind(router: Router, client: Client) -> None:
    router.obeys(key="json:/users/1/id~1x", percent=50)
    values: list[Any] = ["text", "é", 7, 7.5, True, None, "", [1], 10**20, "\\u00e9"]
    for value in values:
        body = json.dumps({"users": [0, {"id/x": value}]}).encode()
        if isinstance(value, bool) or value in (None, "") or isinstance(value, list):
            expected = "blue"
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            expected = "green" if bucket(text.encode(), b"") < 5000 else "blue"
        in_pieces = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body[:9], body[9:])
        assert colours(client, [post(body), in_pieces]) == [expected, expected], value


def test_query_key_is_decoded(router: Router, client: Client) -> None:
    router.obeys(key="query:user", percent=50)
    for raw, key in ((b"a%20b", b"a b"), (b"a+b", b"a b"), (b"%C3%A9", "é".encode()), (b"%zz", b"%zz")):
        expected = "green" if bucket(key, b"") < 5000 else "blue"
        assert colours(client, [get(b"/?user=" + raw)]) == [expected]


def test_body_over_the_bound_does_not_wait_for_its_key(router: Router, blue: Upstream, client: Client) -> None:
    """A key that lies beyond what is kept is a missing key."""
    router.obeys(key="json:/user", percent=99.99)
    body = b'{"pad": "%s", "user": "u1"}' % (b"x" * (3 << 20))
    assert client.asks(post(body)).arm == "blue"
    assert blue.request().payload == body


def test_split_by_chance(router: Router, client: Client) -> None:
    """2,000 draws at 30 %: a deviation of 5 standard deviations is less likely than 1 in a million."""
    router.obeys(percent=30)
    with router.counting() as n:
        got = Counter(client.asks(get()).arm for _ in range(2000))
    assert abs(got["green"] - 600) < 5 * (2000 * 0.3 * 0.7) ** 0.5
    assert (n.green(c.STATUS + 1), n.blue(c.STATUS + 1)) == (got["green"], got["blue"])


def test_latencies_and_statuses_are_counted(router: Router, blue: Upstream, client: Client) -> None:
    blue.answers(lambda seen: b"HTTP/1.1 %s X\r\nContent-Length: 0\r\n\r\n" % seen.target[1:])
    with router.counting() as n:
        for status in (b"200", b"204", b"301", b"404", b"422", b"500", b"503"):
            client.asks(get(b"/" + status))
    assert n.counts.words[c.COLOUR_BASE[0] : c.COLOUR_BASE[0] + 6] == (0, 2, 1, 2, 2, 2)
    assert n.blue(c.SERVER_ERRORS) == 2
    histogram = n.counts.words[c.HISTOGRAM_BASE[0] : c.HISTOGRAM_BASE[0] + c.HISTOGRAM_WORDS]
    assert sum(histogram) == 7


def test_plan_that_cannot_be_read_leaves_the_old_one_in_force(router: Router, blue: Upstream, client: Client) -> None:
    from router.page import PlanPage

    page = PlanPage(router.state.plan_page, writable=True)
    page.write(page.revision + 1, b'{"blue": "nonsense"}')
    page.close()
    assert client.asks(get()).arm == "blue"
    assert "stays in force" in router.log
    router.forgives("stays in force")
    blue.answers(ok(b"fine"))
    router.obeys(percent=0)
    assert client.asks(get()).payload == b"fine"
