"""A plan made ready for the hot path: which target a request goes to, and what each target needs prepared.

The plan is decoded once per revision; after that a request costs a comparison or a hash. Targets outlive revisions as long as
their arm stays the same, and servers outlive arms, so that warm connections survive splits, switches and promotions.
"""

from __future__ import annotations

import json
import random
import re
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from models.arm import Arm, Colour
from models.http1 import RequestHead
from models.pool import Pool, Server
from models.rewrite import Rewrite
from router.counters import COLOUR_BASE, HISTOGRAM_BASE
from router.plan import Plan
from router.proxy.breaker import Breaker
from router.proxy.options import ProxyOptions
from router.split import bucket_of, green_buckets, keyed_hash

if TYPE_CHECKING:
    from router.proxy.exchange import Exchange

KeyOf = Callable[[RequestHead, bytes], bytes | None]


class Target:
    """An arm as the worker uses it."""

    __slots__ = (
        "arm",
        "arm_line",
        "base",
        "breaker",
        "colour",
        "histogram",
        "in_flight",
        "index",
        "is_green",
        "only",
        "pool",
        "rewrite",
        "waiting",
    )

    def __init__(self, colour: Colour, arm: Arm, pool: Pool, options: ProxyOptions) -> None:
        self.arm = arm
        self.pool = pool
        self.in_flight = 0
        self.waiting: deque[Exchange] = deque()
        self.breaker = Breaker(options.fallback)
        self.rewrite = Rewrite(arm)
        # With one server that wants nothing rewritten there is nothing to choose and nothing to compose.
        plain = len(pool.servers) == 1 and not self.rewrite.changes and self.rewrite.model is None and not options.trusted
        self.only = pool.servers[0] if plain else None
        self.colour = colour
        self.is_green = colour is Colour.GREEN
        self.index = 1 if self.is_green else 0
        self.base = COLOUR_BASE[self.index]
        self.histogram = HISTOGRAM_BASE[self.index]
        self.arm_line = f"x-bluegreen-arm: {colour.value}\r\n".encode()


class Routing:
    """One plan revision. `choose` is all that a request asks of it."""

    __slots__ = (
        "_hash",
        "blue",
        "green",
        "key_of",
        "needs_body",
        "plan",
        "release",
        "release_cell",
        "renames",
        "revision",
        "shadowed",
        "share",
        "splits",
        "waits",
    )

    def __init__(self, plan: Plan, blue: Target, green: Target | None, release_cell: int) -> None:
        self.plan = plan
        self.revision = plan.revision
        self.release = plan.release
        self.release_cell = release_cell
        self.blue = blue
        self.green = green
        self.share = green_buckets(plan.split.green_percent) if green else 0
        self._hash = keyed_hash(plan.split.salt.encode())  # copied for each key, which is cheaper than keying it anew
        self.key_of = key_reader(plan.split.key)
        # A body is waited for only while it decides anything.
        self.needs_body = bool(plan.split.key and plan.split.key.startswith("json:") and 0 < self.share < 10_000)
        # To replace the model's name in a body, all of it must be there first (up to the limit on bodies).
        self.renames = blue.rewrite.model is not None or (green is not None and green.rewrite.model is not None)
        self.splits = 0 < self.share < 10_000
        self.waits = self.needs_body or self.renames
        self.shadowed = plan.shadow.percent / 100 if green else 0.0

    def choose(self, head: RequestHead, body: bytes) -> Target:
        """The target of a request; `body` matters only when `needs_body` says so.

        All or nothing is absolute: at 0 and at 100 % no key is looked at. In between a request without the key goes to blue.
        """
        share = self.share
        if not share or self.green is None:
            return self.blue
        if share >= 10_000:
            return self.green
        if self.key_of is None:
            return self.green if random.random() * 10_000 < share else self.blue
        key = self.key_of(head, body)
        if key is None:
            return self.blue
        hash_ = self._hash.copy()
        hash_.update(key)
        return self.green if bucket_of(hash_.digest()) < share else self.blue


class Targets:
    """Keeps targets and servers from one plan to the next."""

    def __init__(self, options: ProxyOptions) -> None:
        self._options = options
        self._servers: dict[str, Server] = {}
        self._targets: list[Target] = []

    @property
    def servers(self) -> list[Server]:
        """All servers that the present plan names."""
        return list(self._servers.values())

    def take_options(self, options: ProxyOptions) -> None:
        """Breakers and health obey these options from now on."""
        self._options = options
        for target in self._targets:
            target.breaker.fallback = options.fallback
            target.pool.health = options.health

    def route(self, plan: Plan, release_cell: int) -> Routing:
        """The routing of a plan; servers that it no longer names are retired."""
        old = self._targets
        blue = self._target(Colour.BLUE, plan.blue, old)
        green = self._target(Colour.GREEN, plan.green, [t for t in old if t is not blue]) if plan.green else None
        self._targets = [blue, green] if green else [blue]
        named = {url for target in self._targets for url in target.arm.servers}
        for url in [u for u in self._servers if u not in named]:
            self._servers.pop(url).retire()
        return Routing(plan, blue, green, release_cell)

    def _target(self, colour: Colour, arm: Arm, old: list[Target]) -> Target:
        # The colours of one arm are alike to its servers, but a request in flight keeps counting for the colour it was sent
        # as; so a target is used again only under its own colour.
        for target in old:
            if target.arm == arm and target.colour is colour:
                return target
        servers = [self._servers.get(url) or self._servers.setdefault(url, Server(url)) for url in arm.servers]
        return Target(colour, arm, Pool(servers, self._options.health), self._options)


def key_reader(source: str | None) -> KeyOf | None:
    """A function that reads the split key from a request, or None when the split is by chance."""
    if source is None:
        return None
    kind, _, name = source.partition(":")
    wanted = name.encode()
    if kind == "header":
        return _header_reader(b"\r\n" + wanted.lower() + b":")
    if kind == "cookie":
        pattern = re.compile(rb"(?:\A|;)[ \t]*" + re.escape(wanted) + rb'="?([^;"]*)"?')
        return lambda head, _body: _cookie(head, pattern)
    if kind == "query":
        return lambda head, _body: _query(head, wanted)
    steps = tuple(step.replace("~1", "/").replace("~0", "~") for step in name.split("/")[1:])
    return lambda _head, body: _json_value(body, steps)


def _header_reader(needle: bytes) -> KeyOf:
    size = len(needle)

    def read(head: RequestHead, _body: bytes) -> bytes | None:
        raw = head.raw
        at = raw.lower().find(needle)
        return raw[at + size : raw.index(b"\r", at + size)].strip(b" \t") or None if at >= 0 else None

    return read


_COOKIES: Final = re.compile(rb"\r\ncookie:([^\r]*)", re.IGNORECASE)


def _cookie(head: RequestHead, pattern: re.Pattern[bytes]) -> bytes | None:
    for line in _COOKIES.findall(head.raw):
        match = pattern.search(line)
        if match and match.group(1):
            return match.group(1).strip()
    return None


def _query(head: RequestHead, wanted: bytes) -> bytes | None:
    _, mark, query = head.target.partition(b"?")
    if not mark:
        return None
    for pair in query.partition(b"#")[0].split(b"&"):
        name, _, value = pair.partition(b"=")
        if value and (name == wanted or unquote_to_bytes(name) == wanted):
            return unquote_to_bytes(value.replace(b"+", b" "))
    return None


def _json_value(body: bytes, steps: tuple[str, ...]) -> bytes | None:
    """A scalar in the body by JSON pointer (RFC 6901); a number counts by its shortest decimal form."""
    try:
        value = json.loads(body)
        for step in steps:
            value = value[int(step)] if isinstance(value, list) else value[step]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass") or None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value).encode()
    return None
