"""The mirror: frames in, observations out, and a count of everything that was let go on the way.

Every frame of the present release becomes a pair: its request goes to the arm that did not answer the client. For a share of
them, the noise pairs, it also goes to blue once more, and to green once more when the client's answer was green's: then one
answer of either arm was had in the same way, and their latencies can be compared. The twins of a pair go one after the other in
random order, so that neither side is always the one that finds the caches warm. Requests carry `x-bluegreen-shadow: 1`.

Everything is bounded: pairs in flight, pairs waiting, requests per second to green, bytes of an answer, time. What is over a
bound is let go and counted by its reason; a mirror that waited instead would slow down nothing but its own evidence.
"""

from __future__ import annotations

import random
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

from models.arm import Arm
from models.framing import FramingError, unframed
from models.http1 import HttpError, RequestHead
from models.http1_response import parse_response
from models.pool import Health, Pool, Server
from models.rewrite import Rewrite
from shadow.fields import MAX_FIELDS, MAX_HEAD, RequestFields, answered_fields, request_head
from shadow.frame import FELL_BACK, REQUEST_CUT, RESPONSE_CUT, Frame, size
from shadow.observation import Observation, Outcome
from shadow.twin import Twin

_TOO_MANY = "too many in flight"
_TOO_LARGE = "too many bytes in flight"


@dataclass(frozen=True, slots=True)
class MirrorOptions:
    """Bounds. `max_in_flight` pairs at once, `waiting` more in line, all of them with at most `queue_bytes`.

    `max_per_second` 0 means no limit. Times in seconds.
    """

    max_in_flight: int = 64
    waiting: int = 256
    max_per_second: float = 0.0
    noise_percent: float = 0.0
    answer_bytes: int = 1 << 20
    connect_timeout: float = 1.0
    answer_timeout: float = 30.0
    keep_alive: float = 30.0
    queue_bytes: int = 32 << 20
    tls: ssl.SSLContext | None = None
    server_name: str | None = None


@dataclass(slots=True)
class _Side:
    """An arm as the mirror uses it."""

    arm: Arm
    rewrite: Rewrite
    pool: Pool


@dataclass(slots=True)
class _Pair:
    """A frame on its way to becoming an observation."""

    frame: Frame
    size: int  # of the frame, in bytes
    head: RequestHead
    live: Outcome
    todo: list[str]  # which twins are still to be sent, in order: of "blue", "again" (blue once more) and "green"
    twins: dict[str, Outcome] = field(default_factory=dict)
    twin: Twin | None = None


class Mirror:
    """Mirrors frames of one release. `observed` gets each finished pair, `let_go` each reason for one that will not be."""

    def __init__(
        self, options: MirrorOptions, observed: Callable[[Observation], None], let_go: Callable[[int, str], None]
    ) -> None:
        self._options = options
        self._observed = observed
        self._let_go = let_go
        self._release = 0
        self._sides: dict[str, _Side] = {}
        self._pairs: dict[int, _Pair] = {}
        self._waiting: deque[tuple[Frame, int]] = deque()  # with their sizes
        self._bytes = 0  # of the frames of all these
        self._next = 0
        self._allowance = 1.0
        self._allowed_at = 0.0

    @property
    def busy(self) -> int:
        """Pairs in flight and waiting."""
        return len(self._pairs) + len(self._waiting)

    def configure(self, release: int, blue: Arm, green: Arm | None, options: MirrorOptions) -> None:
        """Obey a plan. Pairs of an older release that still wait are let go; those in flight may finish and are observed."""
        self._options = options
        if release != self._release or green is None:
            for frame, length in self._waiting:
                self._bytes -= length
                self._let_go(frame.release, "no green" if release == self._release else "release over")
            self._waiting.clear()
            self._release = release
        arms = {"blue": blue, **({"green": green} if green is not None else {})}
        for colour in list(self._sides):
            if arms.get(colour) != self._sides[colour].arm:
                for server in self._sides.pop(colour).pool.servers:
                    server.retire()
        for colour, arm in arms.items():
            if colour not in self._sides:
                # The mirror asks every server, sick or not: that one fails is what it is there to find out.
                health = Health(eject_after=1 << 30)
                self._sides[colour] = _Side(arm, Rewrite(arm), Pool([Server(url) for url in arm.servers], health))

    def take(self, frame: Frame) -> None:
        """Mirror an exchange now, soon, or not at all."""
        reason = self._unfit(frame)
        if reason is not None:
            self._let_go(frame.release, reason)
            return
        length = size(frame)
        if self._bytes and self._bytes + length > self._options.queue_bytes:
            self._let_go(frame.release, _TOO_LARGE)
        elif len(self._pairs) < self._options.max_in_flight:
            self._bytes += length
            self._start(frame, length)
        elif len(self._waiting) < self._options.waiting:
            self._bytes += length
            self._waiting.append((frame, length))
        else:
            self._let_go(frame.release, _TOO_MANY)

    def refuses(self, release: int, flags: int, length: int) -> bool:
        """Let go of an exchange of which only this is known, if there is no place for it. True when it is gone.

        `length` is what `frame.size` would say. Says what `take` would, but for the limit per second, which it leaves unasked.
        Under more load than can be mirrored nearly every exchange ends here, so it must cost little.
        """
        options = self._options
        if release != self._release or flags & REQUEST_CUT or "green" not in self._sides:
            return False  # `take` has another reason
        if self._bytes and self._bytes + length > options.queue_bytes:
            self._let_go(release, _TOO_LARGE)
            return True
        if len(self._waiting) < options.waiting or len(self._pairs) < options.max_in_flight:
            return False
        self._let_go(release, _TOO_MANY)
        return True

    def sweep(self) -> None:
        """Give up what takes too long."""
        now = perf_counter()
        for pair in list(self._pairs.values()):
            if pair.twin is not None and pair.twin.started and now - pair.twin.started > self._options.answer_timeout:
                pair.twin.give_up()
        for side in self._sides.values():
            for server in side.pool.servers:
                server.reap(now, self._options.keep_alive)

    def close(self) -> None:
        """Let go of everything that is not finished."""
        for frame in [*(pair.frame for pair in self._pairs.values()), *(frame for frame, _ in self._waiting)]:
            self._let_go(frame.release, "shadow ended")
        self._pairs.clear()
        self._waiting.clear()
        self._bytes = 0

    # --- one pair ---

    def _unfit(self, frame: Frame) -> str | None:
        if frame.release != self._release:
            return "release over"
        if "green" not in self._sides:
            return "no green"
        if frame.flags & REQUEST_CUT:
            return "request too long"
        options = self._options
        if options.max_per_second:
            now = perf_counter()
            self._allowance += (now - self._allowed_at) * options.max_per_second
            self._allowance = min(self._allowance, max(options.max_per_second, 1.0))
            self._allowed_at = now
            if self._allowance < 1.0:
                return "rate limit"
            self._allowance -= 1.0
        return None

    def _pair(self, frame: Frame, length: int) -> _Pair:
        head = request_head(frame.request_head)
        answered = parse_response(frame.response_head, head.method, MAX_HEAD, MAX_FIELDS)
        if answered is None:
            raise HttpError(502, "half a head")
        body = unframed(frame.response_body, answered.length)
        cut = frame.flags & RESPONSE_CUT != 0
        live = Outcome(answered.status, answered_fields(answered), body, frame.first_byte_ms, frame.total_ms, (), None, cut)
        by_green = frame.colour == 1
        if random.random() * 100 < self._options.noise_percent:
            todo = ["blue", "again", "green"] if by_green else ["again", "green"]
            random.shuffle(todo)
        else:
            todo = ["blue" if by_green else "green"]
        return _Pair(frame, length, head, live, todo)

    def _start(self, frame: Frame, length: int) -> None:
        try:
            pair = self._pair(frame, length)
        except (HttpError, FramingError):
            self._bytes -= length
            self._let_go(frame.release, "not readable")
            return
        self._next += 1
        number = self._next
        self._pairs[number] = pair
        self._send(number, pair)

    def _send(self, number: int, pair: _Pair) -> None:
        twin = pair.todo.pop(0)
        side = self._sides.get("green" if twin == "green" else "blue")
        if side is None:
            # The candidate was taken away between two twins of one pair.
            del self._pairs[number]
            self._bytes -= pair.size
            self._let_go(pair.frame.release, "no green")
            return
        own = b"x-bluegreen-shadow: 1\r\nx-request-id: %s\r\nvia: 1.1 bluegreen\r\n" % pair.frame.request_id
        body = pair.frame.request_body
        data = None
        if side.rewrite.model is not None:
            data = side.rewrite.renamed(pair.head, own, unframed(body, pair.head.length))
        if data is None:
            data = side.rewrite.head(pair.head, own) + body

        def finished(outcome: Outcome) -> None:
            pair.twins[twin] = outcome
            self._sent(number, pair)

        options = self._options
        dial = (options.connect_timeout, options.tls, options.server_name)
        pair.twin = Twin(side.pool, pair.head.method, data, options.answer_bytes, dial, finished)
        pair.twin.send()

    def _sent(self, number: int, pair: _Pair) -> None:
        if number not in self._pairs:
            return  # closed in the meantime, and counted there
        if pair.todo:
            self._send(number, pair)
            return
        del self._pairs[number]
        self._bytes -= pair.size
        self._observed(_observation(pair))
        while self._waiting and len(self._pairs) < self._options.max_in_flight:
            self._start(*self._waiting.popleft())


def _observation(pair: _Pair) -> Observation:
    frame, head = pair.frame, pair.head
    by_green = frame.colour == 1
    # By position, which is twice as fast as by name.
    return Observation(
        frame.release,
        frame.revision,
        frame.request_id.decode("ascii", "replace"),
        frame.started,
        head.method.decode("ascii"),
        head.target.decode("ascii"),
        RequestFields(head),
        unframed(frame.request_body, head.length),
        "green" if by_green else "blue",
        pair.twins["blue"] if by_green else pair.live,
        pair.live if by_green else pair.twins["green"],
        pair.twins.get("again"),
        frame.flags & FELL_BACK != 0,
        pair.twins.get("green") if by_green else None,
    )
