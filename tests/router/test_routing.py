"""Which arm a request goes to, and what of the old targets a new plan keeps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.arm import Colour
from models.http1 import RequestHead, parse_request
from router.plan import Plan, parse_plan
from router.proxy.options import ProxyOptions
from router.proxy.routing import Routing, Targets, key_reader
from router.split import bucket, green_buckets


def head(*fields: str, target: str = "/infer") -> RequestHead:
    lines = [f"POST {target} HTTP/1.1", "Host: a", *fields, "", ""]
    parsed = parse_request("\r\n".join(lines).encode())
    assert parsed is not None
    return parsed


def plan(revision: int = 1, **changes: Any) -> Plan:
    return parse_plan(
        {
            "revision": revision,
            "release": 1,
            "blue": {"name": "one", "servers": ["http://127.0.0.1:1"]},
            "green": {"name": "two", "servers": ["http://127.0.0.1:2"]},
            "split": {"green_percent": 0},
            **changes,
        }
    )


def routing(**changes: Any) -> Routing:
    return Targets(ProxyOptions()).route(plan(**changes), 0)


def split(percent: float, key: str | None = None, salt: str = "s") -> dict[str, Any]:
    return {"green_percent": percent, "key": key, "salt": salt}


def test_nothing_and_everything_look_at_no_key() -> None:
    for percent, colour in ((0, Colour.BLUE), (100, Colour.GREEN)):
        one = routing(split=split(percent, "header:x-user"))
        assert all(one.choose(head(f"x-user: {n}"), b"").colour is colour for n in range(50))
        assert one.choose(head(), b"").colour is colour


def test_a_key_decides_as_its_bucket_says_and_its_absence_means_blue() -> None:
    one = routing(split=split(30, "header:x-user"))
    for number in range(500):
        expected = bucket(str(number).encode(), b"s") < green_buckets(30)
        assert one.choose(head(f"X-User:  {number} "), b"").is_green == expected
    assert not one.choose(head(), b"").is_green
    assert not one.choose(head("x-user: "), b"").is_green


def test_without_a_key_the_share_is_by_chance() -> None:
    one = routing(split=split(40))
    share = sum(one.choose(head(), b"").is_green for _ in range(20_000)) / 20_000
    assert abs(share - 0.4) < 0.02  # six standard errors


@pytest.mark.parametrize(
    ("source", "request_", "body", "key"),
    [
        ("header:x-user", head("X-USER: a b "), b"", b"a b"),
        ("header:x-user", head("x-user-2: no", "x-user: yes", "x-user: later"), b"", b"yes"),
        ("header:x-user", head("x-other: x-user: no"), b"", None),
        ("cookie:sid", head("Cookie: a=1; sid=two; sidx=3"), b"", b"two"),
        ("cookie:sid", head("Cookie: xsid=1", 'cookie: sid="q"'), b"", b"q"),
        ("cookie:sid", head("Cookie: sid="), b"", None),
        ("query:u", head(target="/p?x=1&u=a%20b+c#f"), b"", b"a b c"),
        ("query:u", head(target="/p?%75=1"), b"", b"1"),
        ("query:u", head(target="/p?uu=1&u="), b"", None),
        ("json:/user/id", head(), json.dumps({"user": {"id": "k"}}).encode(), b"k"),
        ("json:/users/1", head(), b'{"users": [1, 2.50]}', b"2.5"),
        ("json:/a~1b/~0", head(), b'{"a/b": {"~": 7}}', b"7"),
        ("json:/user", head(), b'{"user": true}', None),
        ("json:/user", head(), b'{"user": {}}', None),
        ("json:/user", head(), b"not json", None),
        ("json:/user", head(), b"[" * 100_000, None),
        ("json:/-1", head(), b"[1]", b"1"),
    ],
)
def test_where_a_key_is_found(source: str, request_: RequestHead, body: bytes, key: bytes | None) -> None:
    read = key_reader(source)
    assert read is not None
    assert read(request_, body) == key


def test_a_body_is_waited_for_only_while_it_decides() -> None:
    assert not routing(split=split(0, "json:/user")).waits
    assert routing(split=split(10, "json:/user")).waits
    assert not routing(split=split(100, "json:/user")).waits
    assert routing(green={"name": "g", "servers": ["http://127.0.0.1:2"], "model": "m"}).waits


def test_targets_outlive_plans_and_servers_outlive_arms() -> None:
    targets = Targets(ProxyOptions())
    first = targets.route(plan(1), 0)
    second = targets.route(plan(2, split=split(10)), 0)
    assert (second.blue, second.green) == (first.blue, first.green)
    assert first.green is not None
    # Promoted: green's server is blue's now, with its warm connections; the old blue's is retired.
    old, promoted = first.blue.pool.servers[0], first.green.pool.servers[0]
    third = targets.route(plan(3, blue={"name": "two", "servers": ["http://127.0.0.1:2"]}, green=None), 0)
    assert third.blue.pool.servers == [promoted]
    assert third.blue is not first.green  # what is in flight goes on counting as green's
    assert third.green is None
    assert old.retired
    assert not promoted.retired
    assert targets.servers == [promoted]


def test_no_green_means_no_share_and_no_shadow() -> None:
    alone = routing(green=None, shadow={"percent": 100})
    assert (alone.share, alone.shadowed, alone.splits) == (0, 0.0, False)
    assert alone.choose(head(), b"").colour is Colour.BLUE
