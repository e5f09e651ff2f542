"""Differential fuzzing of the message parser: `python -m benchmarks.fuzz --count 1000000 --seed 1`.

A gateway is safe from request smuggling when it and the server behind it cut one byte stream into the same messages. So
streams are generated (benchmarks/fuzz_grammar.py: usual, unusual and wrong parts, mutated in bytes, tokens and lines) and read
by three readers: `models.http1` with `models.framing`, as the router uses them, llhttp (httptools) and h11. What must hold:

- what one of the other two refuses, the router refuses;
- the messages that the router and another reader have both read are the same: method or status, target, payload;
- neither takes a message for whole while the other waits for more of it.

The router may refuse more, being the stricter reader on purpose. Checked with the same streams: the other two read what the
router passes on as exactly the one message that it was, the router's reader gives the same result however the bytes are cut
into pieces, and its fast path for usual requests gives the same as the long way.

EXPLAINED lists, with reasons, where another reader refuses and the router is right not to. Everything else is a disagreement:
it is printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import h11
import httptools

from benchmarks import fuzz_grammar as grammar
from models import http1
from models.arm import Arm
from models.familiar import Familiar
from models.framing import UNTIL_CLOSE, Body, BodyTooLarge, ChunkedBody, FramingError, body_of
from models.http1 import HttpError, RequestHead, parse_request
from models.http1_response import ResponseHead, parse_response
from models.rewrite import Rewrite

Message = tuple[bytes, bytes, bytes]

# What two readings of one head must agree on.
HEAD_FACTS: Final = (
    "raw", "size", "method", "target", "minor", "length", "keep_alive", "expects", "upgrade", "request_id", "nominated",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """How a reader cut a stream.

    messages: the whole ones, as (method or status, target, payload). end: `more` (it waits), `refused`, or `stopped` (what
    follows is not for it to read: a close, a tunnel). partial: the payload so far, when the head of the next one was whole.
    """

    messages: tuple[Message, ...]
    end: str
    why: str = ""
    partial: bytes | None = None


# --- the three readers ---------------------------------------------------------------------------------------------------


_ARM: Final = Rewrite(Arm("arm", ("http://10.0.0.1:9001",)))
_OWN: Final = b"via: 1.1 bluegreen\r\nx-request-id: 1\r\n"


class Ours:
    """Reads a stream as `router.proxy.downstream` does, or of a server as `models.upstream` does, up to the final answer."""

    def __init__(self, *, answers: bool) -> None:
        self._answers = answers
        self._held = b""
        self._empty_line = False  # one has been passed over before this message
        self._head: RequestHead | ResponseHead | None = None
        self._body: Body | None = None
        self._first = self._target = self._payload = b""
        self._wire = b""
        self._messages: list[Message] = []
        self.passed: list[tuple[Message, bytes]] = []  # what goes on of each, and how it must be read there
        self._end = ""
        self._why = ""

    def feed(self, data: bytes) -> None:
        """The next piece of the stream."""
        self._held += data
        try:
            while not self._end and self._held and (self._take_body() if self._body is not None else self._take_head()):
                pass
        except (HttpError, FramingError, BodyTooLarge) as error:
            self._end, self._why = "refused", str(error)

    def reading(self) -> Reading:
        """What has been read so far."""
        partial = self._payload if self._body is not None and not self._end else None
        return Reading(tuple(self._messages), self._end or "more", self._why, partial)

    def _take_head(self) -> bool:
        if not self._answers and not self._empty_line and self._held[:2] == b"\r\n":
            self._held, self._empty_line = self._held[2:], True
            return True
        head = parse_response(self._held, b"GET") if self._answers else parse_request(self._held)
        if head is None:
            return False
        words = self._held[: self._held.index(b"\r\n")].split(b" ")
        self._first, self._target = (words[1], b"") if self._answers else (words[0], words[1])
        size = len(head.raw) if isinstance(head, ResponseHead) else head.size
        self._held = self._held[size:]
        self._head, self._body = head, body_of(head.length, collect=True)
        self._payload = self._wire = b""
        if self._body.done:
            self._whole()
        return True

    def _take_body(self) -> bool:
        body = self._body
        assert body is not None
        end = body.feed(self._held)
        if isinstance(body, ChunkedBody):
            self._payload += b"".join(body.payload)
            body.payload.clear()
        else:
            self._payload += self._held[:end]
        self._wire += self._held[:end]
        self._held = self._held[end:]
        if body.done:
            self._whole()
        return body.done

    def _whole(self) -> None:
        self._messages.append((self._first, self._target, self._payload))
        head, self._body, self._empty_line = self._head, None, False
        if isinstance(head, ResponseHead):
            if head.length != UNTIL_CLOSE:
                self.passed.append((self._messages[-1], head.passed + _OWN + b"\r\n" + self._wire))
            if head.status >= 200 or head.status == 101:
                self._end = "stopped"
        elif head is not None:
            self.passed.append(((self._first, head.target, self._payload), _ARM.head(head, _OWN) + self._wire))
            if not head.keep_alive or head.upgrade:
                self._end = "stopped"


def ours(pieces: Iterable[bytes], *, answers: bool) -> Ours:
    """The router's reader, after a stream that comes in these pieces."""
    reader = Ours(answers=answers)
    for piece in pieces:
        reader.feed(piece)
    return reader


class _Events:
    """What llhttp calls."""

    def __init__(self, *, answers: bool) -> None:
        self.messages: list[Message] = []
        self.target = self.payload = b""
        self.first = b""
        self.in_body = False
        self.stopped = False
        self._answers = answers
        self.parser: httptools.HttpRequestParser | httptools.HttpResponseParser = (
            httptools.HttpResponseParser(self) if answers else httptools.HttpRequestParser(self)
        )

    def on_message_begin(self) -> None:
        """A start line begins."""
        self.target = self.payload = b""
        self.in_body = False

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self.target += url

    def on_headers_complete(self) -> None:
        """The head is whole."""
        parser = self.parser
        if isinstance(parser, httptools.HttpResponseParser):
            self.first = b"%d" % parser.get_status_code()
        else:
            self.first = parser.get_method()
        self.in_body = True

    def on_body(self, body: bytes) -> None:
        """A piece of the payload."""
        self.payload += body

    def on_message_complete(self) -> None:
        """The message is whole."""
        self.in_body = False
        if not self.stopped:
            self.messages.append((self.first, self.target, self.payload))
            self.stopped = self._answers and (self.first[:1] != b"1" or self.first == b"101")


def llhttp(stream: bytes, *, answers: bool) -> Reading:
    """The reading of llhttp, at its default strictness."""
    events = _Events(answers=answers)
    try:
        events.parser.feed_data(stream)
    except httptools.HttpParserUpgrade:
        return Reading(tuple(events.messages), "stopped")
    except httptools.HttpParserError as error:
        return Reading(tuple(events.messages), "stopped" if events.stopped else "refused", str(error))
    partial = events.payload if events.in_body else None
    return Reading(tuple(events.messages), "stopped" if events.stopped else "more", partial=partial)


def by_h11(stream: bytes, *, answers: bool) -> Reading:
    """The reading of h11, which answers each request so as to go on to the next."""
    connection = h11.Connection(h11.CLIENT if answers else h11.SERVER)
    messages: list[Message] = []
    first = target = payload = b""
    in_body = False
    if answers:
        connection.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
        connection.send(h11.EndOfMessage())
    try:
        connection.receive_data(stream)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                first, target, payload, in_body = event.method, event.target, b"", True
            elif isinstance(event, h11.Response):
                first, payload, in_body = b"%d" % event.status_code, b"", True
            elif isinstance(event, h11.InformationalResponse):
                messages.append((b"%d" % event.status_code, b"", b""))
                if event.status_code == 101:
                    return Reading(tuple(messages), "stopped")
            elif isinstance(event, h11.Data):
                payload += event.data
            elif isinstance(event, h11.EndOfMessage):
                messages.append((first, target, payload))
                in_body = False
                if answers or not _next_cycle(connection):
                    return Reading(tuple(messages), "stopped")
            else:
                return Reading(tuple(messages), "more", partial=payload if in_body else None)
    except h11.RemoteProtocolError as error:
        return Reading(tuple(messages), "refused", str(error))


def _next_cycle(connection: h11.Connection) -> bool:
    connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
    if connection.our_state is h11.SWITCHED_PROTOCOL:
        return False  # CONNECT
    connection.send(h11.EndOfMessage())
    if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
        connection.start_next_cycle()
        return True
    return False


# --- the comparison ------------------------------------------------------------------------------------------------------


def disagreement(own: Reading, other: Reading) -> str:
    """In what the other reader contradicts the router's, or an empty text."""
    both = min(len(own.messages), len(other.messages))
    if own.messages[:both] != other.messages[:both]:
        return "read other messages"
    if len(own.messages) > both:
        return {"refused": "refuses what we take", "more": "waits where we go on", "stopped": ""}[other.end]
    if len(other.messages) > both:
        return "goes on where we wait" if own.end == "more" else ""
    if other.end == "refused":
        # A head that is not whole goes nowhere; a body that is not whole has been passed on so far.
        return "refuses the body that we take" if own.end == "more" and own.partial is not None else ""
    if own.partial is not None and other.partial is not None and own.partial != other.partial:
        return "reads another payload"
    return ""


@dataclass(frozen=True, slots=True)
class Explained:
    """Where another reader is expected to contradict.

    `kind` is an expression for the whole of what `disagreement` says; `reason` is searched in the reader's words, `stream` in
    the bytes.
    """

    reader: str
    kind: str
    why: str
    reason: str = ""
    stream: bytes = b""


REFUSES: Final = "refuses .* take"  # a whole message, or one of which the head is whole
READS: Final = "reads? other messages|reads another payload|waits where we go on"

EXPLAINED: Final = {
    "empty line first": Explained(
        "h11",
        REFUSES,
        "one empty line before a request is passed over, as RFC 9112, 2.2 asks; it is not passed on",
        "no request line received",
    ),
    "other methods": Explained(
        "llhttp",
        REFUSES,
        "llhttp knows a list of methods; any token is one (RFC 9110, 9.1), and what it means is the server's affair",
        "Invalid method encountered|Expected space after method|Expected HTTP/|Expected SOURCE method|Invalid word encountered",
    ),
    "blanks around the coding": Explained(
        "llhttp",
        REFUSES,
        "a tab around `chunked` is optional white space (RFC 9110, 5.6.3); the router sends the field on as ` chunked`",
        "invalid `Transfer-Encoding`",
        rb"(?i)transfer-encoding:[ \t]*chunked[ \t]*\t[ \t]*\r\n",
    ),
    "blanks around the coding of an answer": Explained(
        "llhttp",
        READS,
        "the same; llhttp reads such an answer until the close. It goes on to the client as ` chunked`",
        "",
        rb"(?i)transfer-encoding:[ \t]*chunked[ \t]*\t[ \t]*\r\n",
    ),
    "Proxy-Connection": Explained(
        "llhttp",
        REFUSES,
        "llhttp takes `Proxy-Connection: close` for Connection; HTTP knows no such field (RFC 9112, C.2.2) and it is taken out",
        "Data after `Connection: close`",
        rb"(?i)proxy-connection:[ \t]*close",
    ),
    "close of an interim answer": Explained(
        "llhttp",
        REFUSES,
        "llhttp takes an interim answer that says close (or HTTP/1.0) for the last; the final one is (RFC 9110, 15.2)",
        "Data after `Connection: close`",
        rb"\AHTTP/1\.[01] 1",
    ),
    "upgrade with a body": Explained(
        "llhttp",
        READS,
        "httptools ends a message at its head when it asks for an upgrade; the router takes Upgrade out of one with a body",
        "",
        rb"(?i)\r\nupgrade:",
    ),
    "101 unasked": Explained(
        "h11",
        REFUSES,
        "the reader does not know what was asked for; router.proxy.exchange refuses a 101 that was not asked for",
        "_SWITCH_UPGRADE event without a pending proposal",
    ),
}


READERS = {"llhttp": llhttp, "h11": by_h11}


@dataclass(slots=True)
class Tally:
    """What a run has seen."""

    streams: int = 0
    messages: int = 0
    taken: int = 0  # streams of which the router read at least one whole message
    refused: int = 0
    explained: Counter[str] | None = None
    found: list[tuple[str, bytes]] | None = None

    def __post_init__(self) -> None:
        self.explained, self.found = Counter(), []


def check(stream: bytes, cut: list[bytes], *, answers: bool) -> tuple[Reading, list[str], list[str]]:
    """Read a stream in every way: the router's reading, the explained disagreements, and the others in words."""
    reader = ours([stream], answers=answers)
    own = reader.reading()
    explained, found = [], []
    again = ours(cut, answers=answers).reading()
    if (again.messages, again.end, again.partial) != (own.messages, own.end, own.partial):
        found.append(f"cut in pieces it reads differently: {again} and {own}; pieces {cut}")
    if not answers and (complaint := fast_and_slow(stream)):
        found.append(complaint)
    found += [complaint for message, wire in reader.passed if (complaint := misread(message, wire, answers=answers))]
    for name, read in READERS.items():
        other = read(stream, answers=answers)
        kind = disagreement(own, other)
        if kind:
            entry = explanation(name, kind, other, stream)
            if entry:
                explained.append(entry)
            else:
                found.append(f"{name} {kind}: {other}; the router: {own}")
    return own, explained, found


_NEXT: Final = b"GET /next HTTP/1.1\r\nHost: next\r\n\r\n"


def misread(message: Message, wire: bytes, *, answers: bool) -> str:
    """Whether another reader takes what is passed on for anything but this one message, up to its last byte."""
    upgrade = not answers and b"\r\nConnection: upgrade\r\n" in wire
    expected = [message] if answers or upgrade else [message, (b"GET", b"/next", b"")]
    stream = wire if answers or upgrade else wire + _NEXT
    if message[0] == b"101":
        return ""
    for name, read in READERS.items():
        reading = read(stream, answers=answers)
        if list(reading.messages) == expected:
            continue
        if name == "llhttp" and re.search(EXPLAINED["other methods"].reason, reading.why):
            continue
        return f"{name} reads what is passed on as {reading}, and not as {message}: {stream!r}"
    return ""


def explanation(reader: str, kind: str, other: Reading, stream: bytes) -> str:
    """The name of the entry of EXPLAINED that covers this disagreement, or an empty text."""
    for name, entry in EXPLAINED.items():
        expected = entry.reader == reader and re.fullmatch(entry.kind, kind)
        if expected and re.search(entry.reason, other.why) and re.search(entry.stream, stream):
            return name
    return ""


def fast_and_slow(stream: bytes) -> str:
    """The fast paths give what the long way gives: the same head, byte for byte in what it passes on.

    There are two: one for usual requests, and one for what begins like the requests before it on its connection.
    """
    results: list[tuple[object, ...] | None] = []
    for parse in (parse_request, familiar_with(stream).parse, http1._parse_request):
        try:
            head = parse(stream, 32768, 100)
        except HttpError as error:
            results.append((error.status,))
            continue
        if head is None:
            results.append(None)
            continue
        line = head.raw[: head.raw.index(b"\r\n") + 2]
        passed = head.passed or line + http1.forwarded_fields(head)
        host = head.host.lower() if head.host is not None else None
        results.append((*(getattr(head, name) for name in HEAD_FACTS), host, passed))
    fast, alike, slow = results
    return "" if fast == alike == slow else f"fast path {fast}, familiar {alike}, long way {slow}"


def familiar_with(stream: bytes) -> Familiar:
    """A reader that has seen two requests which begin with the first half of this one's lines."""
    familiar = Familiar()
    lines = stream.partition(b"\r\n\r\n")[0].split(b"\r\n")
    begin = b"".join(line + b"\r\n" for line in lines[: 1 + len(lines) // 2])
    for tail in (b"a: 1\r\n\r\n", b"b: 2\r\n\r\n"):
        with contextlib.suppress(HttpError):
            familiar.parse(begin + tail, 32768, 100)
    return familiar


def run(count: int, seed: int, *, show: int = 20, progress: float = 0.0) -> Tally:
    """Read `count` streams, requests and answers by turns."""
    source = grammar.Generator(seed)
    tally = Tally()
    assert tally.explained is not None
    assert tally.found is not None
    told = time.monotonic()
    for number in range(count):
        answers = bool(number & 1)
        stream = source.answers() if answers else source.requests()
        own, explained, found = check(stream, source.cut(stream), answers=answers)
        tally.streams += 1
        tally.messages += len(own.messages)
        tally.taken += bool(own.messages)
        tally.refused += own.end == "refused"
        tally.explained.update(explained)
        for text in found:
            if len(tally.found) < show:
                tally.found.append((text, stream))
                if progress:
                    print(f"DISAGREEMENT {text}\n  {stream!r}", flush=True)
        if progress and time.monotonic() - told > progress:
            told = time.monotonic()
            print(f"{number + 1:,} of {count:,}, {len(tally.found)} disagreements", file=sys.stderr, flush=True)
    return tally


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="benchmarks.fuzz", description="Differential fuzzing against llhttp and h11.")
    parser.add_argument("--count", type=int, default=100_000, help="streams to read")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=20, help="disagreements to print at most")
    arguments = parser.parse_args(argv)
    began = time.process_time()
    tally = run(arguments.count, arguments.seed, show=arguments.show, progress=10.0)
    assert tally.explained is not None
    assert tally.found is not None
    seconds = time.process_time() - began
    print(f"{tally.streams:,} streams with seed {arguments.seed} in {seconds:.0f} s of CPU:")
    print(f"  {tally.messages:,} whole messages in {tally.taken:,} streams; {tally.refused:,} streams refused")
    for name, times in tally.explained.most_common():
        print(f"  explained, {times:,} times: {name}: {EXPLAINED[name].why}")
    print(f"  unexplained: {len(tally.found)}{' or more' if len(tally.found) >= arguments.show else ''}")
    return 1 if tally.found else 0


if __name__ == "__main__":
    sys.exit(main())
