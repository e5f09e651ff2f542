"""What describes an arm, and what is refused with a line that says what to write."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.arm import Arm, ArmError, Colour, PathRewrite, parse_address, parse_arm

GOOD: dict[str, Any] = {"name": "iris-v1", "servers": ["http://127.0.0.1:9001"]}


@pytest.mark.parametrize(
    ("url", "tls", "host", "port", "authority"),
    [
        ("http://127.0.0.1:9001", False, "127.0.0.1", 9001, "127.0.0.1:9001"),
        ("http://models.example", False, "models.example", 80, "models.example"),
        ("https://models.example/", True, "models.example", 443, "models.example"),
        ("http://[::1]:9001", False, "::1", 9001, "[::1]:9001"),
        ("HTTPS://Models.example:8443", True, "models.example", 8443, "Models.example:8443"),
    ],
)
def test_address(url: str, tls: bool, host: str, port: int, authority: str) -> None:
    address = parse_address(url)
    assert (address.tls, address.host, address.port, address.authority, address.path) == (tls, host, port, authority, None)


@pytest.mark.parametrize("url", ["unix:/run/model.sock", "unix:///run/model.sock"])
def test_unix_socket(url: str) -> None:
    address = parse_address(url)
    assert (address.path, address.authority, address.tls) == ("/run/model.sock", "localhost", False)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("127.0.0.1:9001", "no scheme: write http://127.0.0.1:9001"),
        ("localhost", "no scheme"),
        ("ftp://a", "scheme must be http, https or unix"),
        ("http://", "names no host"),
        ("http://:9001", "names no host"),
        ("http://a:0", "port 0"),
        ("http://a:99999", "not a URL"),
        ("http://a:x", "not a URL"),
        ("http://[::1", "not a URL"),
        ("http://me:secret@a", "must not carry a user"),
        ("http://a/v1", "path prefix is set with the arm's `path`"),
        ("http://a?x", "scheme, host and port only"),
        ("http://a#x", "scheme, host and port only"),
        ("http://a b", "holds a space"),
        ("http://é", "non-ASCII"),
        ("unix:relative", "absolute"),
        ("unix:/" + "a" * 120, "107 bytes"),
        ("", "no scheme"),
    ],
)
def test_address_that_is_refused(url: str, says: str) -> None:
    with pytest.raises(ArmError, match=says.replace("?", r"\?").replace("[", r"\[")):
        parse_address(url)


@given(st.text(max_size=30) | st.text("htps:/[]@.:a1#?% ", max_size=20).map(lambda text: "http://" + text))
def test_address_never_raises_anything_else(url: str) -> None:
    try:
        address = parse_address(url)
    except ArmError:
        return
    assert address.host
    assert address.path or 0 < address.port < 65536


def test_arm_and_back() -> None:
    value = {
        **GOOD,
        "path": {"from": "/v1/models/a", "to": "/v1/models/b"},
        "headers": {"Authorization": "Bearer x", "x-y": ""},
        "model": "iris-v2",
    }
    arm = parse_arm(value, "green")
    assert arm == Arm(
        "iris-v1",
        ("http://127.0.0.1:9001",),
        PathRewrite("/v1/models/a", "/v1/models/b"),
        (("authorization", "Bearer x"), ("x-y", "")),
        "iris-v2",
    )
    assert parse_arm(arm.to_dict(), "green") == arm
    assert parse_arm(parse_arm(GOOD, "blue").to_dict(), "blue") == parse_arm(GOOD, "blue")
    assert set(parse_arm(GOOD, "blue").to_dict()) == {"name", "servers"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"colour": "red"}, "unknown key 'colour'; known are"),
        ({"name": ""}, r"green\.name"),
        ({"name": "a b"}, r"green\.name"),
        ({"name": 5}, r"green\.name"),
        ({"servers": []}, r"green\.servers: must be a list"),
        ({"servers": "http://a"}, r"green\.servers: must be a list"),
        ({"servers": [5]}, r"green\.servers: must be a list"),
        ({"servers": ["http://a", "http://a"]}, "each once"),
        ({"servers": [f"http://a:{i}" for i in range(1, 66)]}, "at most 64"),
        ({"servers": ["a"]}, "no scheme"),
        ({"path": "/a"}, r"green\.path: must be"),
        ({"path": {"from": "/a"}}, r"green\.path: must be"),
        ({"path": {"from": "a", "to": "/b"}}, r"green\.path\.from"),
        ({"path": {"from": "/a", "to": "/b?c"}}, r"green\.path\.to"),
        ({"path": {"from": "/a", "to": "/b c"}}, r"green\.path\.to"),
        ({"path": {"from": "/a", "to": "/b\r\n"}}, r"green\.path\.to"),
        ({"headers": ["a"]}, r"green\.headers: must be a mapping"),
        ({"headers": {"a b": "c"}}, "not a header name"),
        ({"headers": {"a:": "c"}}, "not a header name"),
        ({"headers": {5: "c"}}, "not a header name"),
        ({"headers": {"a": "b\r\nc: d"}}, r"green\.headers\.a"),
        ({"headers": {"a": "b\n"}}, r"green\.headers\.a"),
        ({"headers": {"a": " b"}}, r"green\.headers\.a"),
        ({"headers": {"a": 5}}, r"green\.headers\.a"),
        ({"headers": {"a": "日"}}, r"green\.headers\.a"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "set by the router itself"),
        ({"headers": {"content-length": "5"}}, "set by the router itself"),
        ({"headers": {"Connection": "close"}}, "set by the router itself"),
        ({"headers": {"x-request-id": "5"}}, "set by the router itself"),
        ({"model": ""}, r"green\.model"),
        ({"model": "x" * 201}, r"green\.model"),
        ({"model": 5}, r"green\.model"),
    ],
)
def test_arm_that_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ArmError, match=says):
        parse_arm({**GOOD, **change}, "green")


@pytest.mark.parametrize("value", [None, [], "http://a", 5])
def test_what_is_no_arm_at_all(value: object) -> None:
    with pytest.raises(ArmError, match="blue: must be a mapping"):
        parse_arm(value, "blue")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "servers", "path", "from", "to", "headers", "model", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_arm_never_raises_anything_else(value: object) -> None:
    try:
        arm = parse_arm(value, "blue")
    except ArmError as error:
        said = str(error)
    else:
        said = "blue"
        assert parse_arm(arm.to_dict(), "blue") == arm
    assert said.startswith("blue")


def test_colours() -> None:
    assert Colour.BLUE.other is Colour.GREEN
    assert Colour.GREEN.other is Colour.BLUE
    assert str(Colour.BLUE) == "blue"
