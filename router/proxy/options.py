"""What of the settings a worker obeys, as plain records read from the JSON that the supervisor wrote.

Settings are checked once, by pydantic, before any process starts; a worker takes the result on trust and
stays free of pydantic.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from models.pool import Health, Tls

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. See docs/configuration.md for what each one bounds."""

    connect: float = 1.0
    first_byte: float = 30.0
    idle: float = 60.0
    head: float = 10.0
    body: float = 300.0
    keep_alive: float = 75.0
    upstream_keep_alive: float = 30.0
    continue_: float = 1.0
    drain: float = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes and counts; 0 connections per client means no limit. `in_flight` and `queue` are per arm and worker."""

    body: int = 64 << 20
    head: int = 32 << 10
    headers: int = 100
    connections: int = 10000
    connections_per_client: int = 0
    in_flight: int = 1024
    queue: int = 256
    queue_wait: float = 1.0


@dataclass(frozen=True, slots=True)
class Fallback:
    """Which failures of green blue answers for, from request bodies kept up to `body` bytes, and when green is skipped."""

    on: frozenset[str] = frozenset(("connect", "timeout", "5xx"))
    body: int = 1 << 20
    budget_percent: float = 20.0
    open_after: int = 5
    open_for: float = 5.0


@dataclass(frozen=True, slots=True)
class Mirroring:
    """Which exchanges may be handed to the shadow, and how much of each; `logged` is the share for the prediction log."""

    methods: frozenset[bytes] = frozenset((b"POST",))
    paths: tuple[bytes, ...] = (b"/",)
    body: int = 1 << 20
    queue: int = 32 << 20
    logged: float = 1.0


@dataclass(frozen=True, slots=True)
class AccessLog:
    """Where to write JSON lines, and for which share of the requests."""

    path: str | None = None
    sample: float = 1.0


@dataclass(frozen=True, slots=True)
class ListenTls:
    """The certificate that clients are shown on the TLS port."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """All of it."""

    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    fallback: Fallback = Fallback()
    mirroring: Mirroring = Mirroring()
    health: Health = field(default_factory=Health)
    upstream_tls: Tls = field(default_factory=Tls)
    access_log: AccessLog = AccessLog()
    trusted: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    listen_tls: ListenTls | None = None


def read_options(settings: Mapping[str, Any]) -> ProxyOptions:
    """The options in a settings document (what `Settings.to_json` gives)."""
    timeouts = dict(settings.get("timeouts", {}))
    if "continue" in timeouts:
        timeouts["continue_"] = timeouts.pop("continue")
    shadow = settings.get("shadow", {})
    predictions = settings.get("predictions", {})
    fallback = dict(settings.get("fallback", {}))
    if "on" in fallback:
        fallback["on"] = frozenset(fallback["on"])
    mirroring = Mirroring(
        frozenset(m.encode() for m in shadow.get("methods", ["POST"])),
        tuple(p.encode() for p in shadow.get("paths", ["/"])),
        shadow.get("body", 1 << 20),
        shadow.get("queue", 32 << 20),
        predictions.get("percent", 100.0) / 100 if predictions.get("rows", 1) else 0.0,
    )
    tls = settings.get("listen_tls")
    return ProxyOptions(
        timeouts=_record(Timeouts, timeouts),
        limits=_record(Limits, settings.get("limits", {})),
        fallback=_record(Fallback, fallback),
        mirroring=mirroring,
        health=_record(Health, settings.get("health", {})),
        upstream_tls=_record(Tls, settings.get("upstream_tls", {})),
        access_log=_record(AccessLog, settings.get("access_log", {})),
        trusted=tuple(ipaddress.ip_network(n) for n in settings.get("forwarded", {}).get("trust", [])),
        listen_tls=ListenTls(tls["certificate"], tls["key"]) if tls else None,
    )


def _record(kind: type[T], values: Mapping[str, Any]) -> T:
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]  # only dataclasses are passed
    return kind(**{name: value for name, value in values.items() if name in known})
