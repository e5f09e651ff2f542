"""An arm: one colour's model servers and how to address them.

Only records and their checks live here. Connections are `pool`'s business, and what share of the traffic an arm gets is the
router's. Two versions of a model are often addressed by different names, so an arm may rewrite the path, set headers and
replace the `model` field on the way upstream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

MAX_SERVERS = 64  # one bit each in a worker's health word (router/counters.py)

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}")
# What frames a message or belongs to one hop is written by the router alone: an arm that could set it could break framing.
_RESERVED_HEADERS = frozenset(
    (
        "connection content-length expect keep-alive proxy-connection te trailer transfer-encoding upgrade "
        "x-request-id x-bluegreen-arm x-bluegreen-shadow via"
    ).split()
)


class ArmError(ValueError):
    """An arm's description is wrong; the message says what and what to write instead."""


class Colour(StrEnum):
    """Which of the two environments: blue is in production, green is the candidate."""

    BLUE = "blue"
    GREEN = "green"

    @property
    def other(self) -> Colour:
        """The opposite colour."""
        return Colour.GREEN if self is Colour.BLUE else Colour.BLUE


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, taken apart once.

    `host` and `port` for TCP, `path` for a Unix socket; `authority` is what a `Host` field would say.
    """

    url: str
    tls: bool
    host: str
    port: int
    path: str | None
    authority: str


@dataclass(frozen=True, slots=True)
class PathRewrite:
    """Replace the path prefix `source` by `target` on the way upstream."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Arm:
    """A colour's name, its servers' base URLs, and the rewriting that its servers need."""

    name: str
    servers: tuple[str, ...]
    path: PathRewrite | None = None
    headers: tuple[tuple[str, str], ...] = ()
    model: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The arm as plain JSON values; what is not set is left out."""
        out: dict[str, Any] = {"name": self.name, "servers": list(self.servers)}
        if self.path is not None:
            out["path"] = {"from": self.path.source, "to": self.path.target}
        if self.headers:
            out["headers"] = dict(self.headers)
        if self.model is not None:
            out["model"] = self.model
        return out


def parse_address(url: str) -> Address:
    """Take a server's base URL apart.

    Accepts `http://host[:port]`, `https://host[:port]` and `unix:/path/to/socket`. Raises ArmError.
    """
    if url.startswith("unix:"):
        path = url.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/") or len(path.encode()) > 107 or any(ord(c) < 0x20 for c in path):
            raise ArmError(f"server {url!r}: a Unix socket is written unix:/absolute/path (at most 107 bytes)")
        return Address(url, False, "localhost", 0, path, "localhost")
    if "://" not in url:
        raise ArmError(f"server {url!r} has no scheme: write http://{url} or https://{url}")
    if any(ord(c) <= 0x20 or ord(c) >= 0x7F for c in url):
        raise ArmError(f"server {url!r} holds a space, a control or a non-ASCII character")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname
    except ValueError as error:
        raise ArmError(f"server {url!r} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise ArmError(f"server {url!r}: the scheme must be http, https or unix, not {parts.scheme!r}")
    if not host or port == 0:
        raise ArmError(f"server {url!r} names no host or port 0: write for example http://127.0.0.1:9001")
    if parts.username is not None or parts.password is not None:
        raise ArmError("a server URL must not carry a user or password: set an authorization header on the arm")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ArmError(f"server {url!r}: give scheme, host and port only; a path prefix is set with the arm's `path`")
    tls = parts.scheme == "https"
    return Address(url, tls, host, port or (443 if tls else 80), None, parts.netloc)


def parse_arm(value: object, what: str) -> Arm:
    """Check plain JSON or YAML values and make an Arm of them. Raises ArmError, whose message begins with `what`."""
    if not isinstance(value, Mapping):
        raise ArmError(f"{what}: must be a mapping with `name` and `servers`")
    unknown = sorted(set(map(str, value)) - {"name", "servers", "path", "headers", "model"})
    if unknown:
        raise ArmError(f"{what}: unknown key {unknown[0]!r}; known are name, servers, path, headers, model")
    name = value.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ArmError(f"{what}.name: must be 1 to 100 letters, digits or any of . _ : / @ + - (got {name!r})")
    servers = value.get("servers")
    if not isinstance(servers, list | tuple) or not servers or not all(isinstance(s, str) for s in servers):
        raise ArmError(f"{what}.servers: must be a list of at least one URL such as http://127.0.0.1:9001")
    if len(servers) > MAX_SERVERS or len(set(servers)) != len(servers):
        raise ArmError(f"{what}.servers: at most {MAX_SERVERS} different URLs, each once")
    for server in servers:
        try:
            parse_address(server)
        except ArmError as error:
            raise ArmError(f"{what}.servers: {error}") from None
    model = value.get("model")
    if model is not None and (not isinstance(model, str) or not model or len(model) > 200):
        raise ArmError(f"{what}.model: must be a name of at most 200 characters")
    return Arm(name, tuple(servers), _parse_path(value.get("path"), what), _parse_headers(value.get("headers"), what), model)


def _parse_path(value: object, what: str) -> PathRewrite | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != {"from", "to"}:
        raise ArmError(f"{what}.path: must be {{from: /old, to: /new}}")
    for side in ("from", "to"):
        text = value[side]
        if not isinstance(text, str) or not re.fullmatch(r"/[\x21\x22\x24-\x3e\x40-\x7e]*", text):
            raise ArmError(f"{what}.path.{side}: must be a path that starts with / and has no space, ? or # (got {text!r})")
    return PathRewrite(value["from"], value["to"])


def _parse_headers(value: object, what: str) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise ArmError(f"{what}.headers: must be a mapping of names to values")
    out = []
    for name, text in value.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ArmError(f"{what}.headers: {name!r} is not a header name")
        if name.lower() in _RESERVED_HEADERS:
            raise ArmError(f"{what}.headers: {name!r} is set by the router itself")
        if not isinstance(text, str) or not _FIELD_VALUE.fullmatch(text) or text != text.strip():
            raise ArmError(f"{what}.headers.{name}: must be text without line breaks or spaces at its ends")
        out.append((name.lower(), text))
    return tuple(out)
