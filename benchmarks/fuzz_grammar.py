"""Streams for the differential fuzzing: messages of usual, unusual and wrong parts, then mutated.

Most parts are right, so that many streams get far; what is wrong comes from what request smuggling is made of: both lengths,
lengths with signs and blanks, codings that only look like `chunked`, folded lines, bare CR and LF, NUL, chunk sizes in every
disguise, trailers, several messages on one connection.
"""

from __future__ import annotations

import random

METHODS = (b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH")
ODD_METHODS = (
    b"get",
    b"CONNECT",
    b"G T",
    b"",
    b"PRI",
    b"BREW",
    b"TRACE",
    b"M-SEARCH",
    b"GET\t",
    b"G\x00T",
    b"POST " * 2,
    b"X" * 40,
)
TARGETS = (b"/", b"/v2/models/iris/infer", b"/a?b=c&d", b"/%20;x", b"//", b"/a/../b", b"/?", b'/"<>\\^`{|}')
ODD_TARGETS = (
    *(b"*", b"http://a/x", b"https://a:1/?y", b"http://a", b"HTTP://A/", b"a", b"", b"/ x", b"/\x00", b"/\xff", b"?x"),
    *(b"http://u@a/", b"http:///x", b"/#f", b"/a#b?c#d", b"a:80", b"/\x7f", b"ftp://a/", b"http://a b/", b"//a//b", b"/\t"),
)
VERSIONS = (b"HTTP/1.1", b"HTTP/1.0")
ODD_VERSIONS = (
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"http/1.1",
    b"HTTP/1.10",
    b"HTTP/1",
    b"",
    b"HTTP/1.1 ",
    b"HTTP/01.1",
    b"ICE/1.0",
    b"HTTP/1,1",
)
STATUSES = (
    b"200 OK",
    b"204 No Content",
    b"304 Not Modified",
    b"404 Not Found",
    b"500 X",
    b"200 ",
    b"100 Continue",
    b"103 Early Hints",
    b"206 P",
)
ODD_STATUSES = (
    b"200",
    b"99 X",
    b"600 X",
    b"1000 X",
    b"20 X",
    b"200\tOK",
    b"101 Switching Protocols",
    b"200 \x00",
    b"",
    b"+20 X",
    b"0200 OK",
    b"200  OK",
    b"205 R",
    b"199 X",
)
ENDS = (b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\r\n\t", b"\n\r\n", b"\r\n\r\n", b"\x0b\r\n", b"", b"\x00\r\n", b"\x85")
FIELDS = (
    *(b"Accept: */*", b"User-Agent: x/1 (y)", b"Cookie: a=b", b"x: caf\xc3\xa9", b"x-long: " + b"a" * 60, b"X-Request-Id: r1"),
    *(
        b"Connection: keep-alive",
        b"Content-Type: application/json",
        b"traceparent: 00-1-2-01",
        b"x:",
        b"X-A:\t b \t",
        b"Accept: text/html",
    ),
    *(
        b"Trailer: x",
        b"TE: trailers",
        b"Via: 1.1 p",
        b"!#$%&'*+-.^_`|~9: t",
        b"Content-Lengthy: 3",
        b"Xtransfer-encoding: chunked",
    ),
)
ODD_FIELDS = (
    *(b"Connection: close", b"Connection: x, close", b"connection: Upgrade", b"Upgrade: websocket", b"Keep-Alive: timeout=5"),
    *(
        b"Connection: keep-alive, close",
        b"Connection: x y",
        b"x : y",
        b"x\t: y",
        b": y",
        b"nocolon",
        b" x: y",
        b"\tx: y",
        b"x y: z",
    ),
    *(
        b"x: a\x00b",
        b"x: a\x01",
        b"x: a\x0bb",
        b"x: \x7f",
        b"x\x00: y",
        b"x\x80: y",
        b"x: a\rb",
        b"x: a\nb",
        b"(x): y",
        b"x: y\r",
    ),
    *(
        b"Expect: 100-continue",
        b"Expect: x",
        b"Proxy-Connection: close",
        b"Host: b",
        b"host: a",
        b"Host:",
        b"Host: a b",
        b"Host: a/b",
    ),
    *(
        b"X-Request-Id: a b",
        b"x-request-id: " + b"r" * 250,
        b"Connection:",
        b"Connection: content-length",
        b"Connection: transfer-encoding",
    ),
)
LENGTHS = (b"%d",)
ODD_LENGTHS = (
    *(
        b"+%d",
        b"-%d",
        b"0x%x",
        b"%d ",
        b" %d",
        b"\t%d\t",
        b"0%d",
        b"%d, %d",
        b"%d,%d",
        b"%d;",
        b"%d.0",
        b"%d %d",
        b"1_%d",
        b"'%d'",
    ),
    *(
        b"",
        b"%d\x00",
        b"%d\x0b",
        b"9999999999999999999",
        b"18446744073709551616",
        b"18446744073709551615",
        b"99999999999999999999999",
        b"%d0",
        b"\xd9\xa5",
        b"%dx",
        b"-0",
        b"+0",
    ),
)
LENGTH_NAMES = (b"Content-Length: ", b"content-length:", b"CONTENT-LENGTH:\t", b"Content-Length:  ")
ODD_LENGTH_NAMES = (
    b"Content-Length : ",
    b"Content_Length: ",
    b"\tContent-Length: ",
    b"Content-Length:\r\n ",
    b"Content-Length\x00: ",
    b"xContent-Length: ",
    b"Content-Length:\x0b",
)
CODINGS = (
    b"Transfer-Encoding: chunked",
    b"transfer-encoding:chunked",
    b"Transfer-Encoding:\tchunked ",
    b"TRANSFER-ENCODING: CHUNKED",
)
ODD_CODINGS = (
    *(
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: gzip",
    ),
    *(
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, gzip",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding:",
    ),
    *(
        b"Transfer-Encoding: chunked;q=1",
        b"Transfer-Encoding: ,chunked",
        b"Transfer-Encoding: chunked,",
        b"Transfer-Encoding:\r\n chunked",
    ),
    *(
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding: chunked\x00",
        b"Transfer_Encoding: chunked",
        b'Transfer-Encoding: "chunked"',
    ),
    *(
        b"Transfer-Encoding: chunked\xa0",
        b"Transfer-Encoding: chun ked",
        b"\x00Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity, chunked",
    ),
    *(
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
    ),
    *(
        b"Transfer-Encoding\xa0: chunked",
        b"Transfer-Encoding: trailers",
        b" Transfer-Encoding: chunked",
        b"Transfer-Encoding: \tchunked\t",
    ),
)
SIZES = (b"%x", b"%X", b"0%x", b"000%x")
ODD_SIZES = (
    *(
        b"+%x",
        b"-%x",
        b"0x%x",
        b" %x",
        b"%x ",
        b"%x\t",
        b"%x;",
        b"%x;a=b",
        b'%x;a="b;c"',
        b"%x; a=b",
        b"%x ;a",
        b"%x;a=",
        b"%x;=b",
        b'%x;a="',
        b"%x;\x00",
    ),
    *(
        b"",
        b"g",
        b"%x\x00",
        b"1%x",
        b"00000000000000000%x",
        b"10000000000000000%x",
        b"ffffffffffffffff",
        b"%x;a\x0b",
        b"%x,",
        b"%x.",
        b"%x\xff",
        b"%x;a\xff",
        b"_%x",
        b"%x_0",
        b"%x;a b",
    ),
)
TRAILERS = (b"", b"", b"", b"x: y\r\n", b"x: y\r\nz:\r\n")
ODD_TRAILERS = (
    b"x : y\r\n",
    b" x: y\r\n",
    b"x: y\r\n z\r\n",
    b"x\r\n",
    b"x: y\n",
    b"x: \x00\r\n",
    b": y\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"x: y\r",
    b"Host: b\r\n",
)
TOKENS = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"0",
        b"\x0b",
        b"\x0c",
        b"\xff",
        b"\r\n\r\n",
        b"0\r\n\r\n",
        b"\r\n ",
        b"-",
        b"+",
        b"0x",
        b"=",
        b'"',
    ),
    *(
        b"chunked",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 0\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"Host: a\r\n",
        b"HTTP/1.1 ",
        b"#",
        b"?",
        b"/",
        b"\x7f",
        b"\x85",
        b"close",
    ),
)


class Generator:
    """A source of streams; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def requests(self) -> bytes:
        """One to three requests on one connection."""
        return self._stream(self._request)

    def answers(self) -> bytes:
        """One to three answers, perhaps with interim ones."""
        return self._stream(self._answer)

    def cut(self, stream: bytes) -> list[bytes]:
        """The stream in pieces."""
        pick = self.random
        if pick.random() < 0.3 and len(stream) < 400:
            return [stream[i : i + 1] for i in range(len(stream))]
        cuts = sorted(pick.randrange(len(stream) + 1) for _ in range(pick.randint(1, 6)))
        return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    def _stream(self, message: object) -> bytes:
        pick = self.random
        assert callable(message)
        many = 1 if pick.random() < 0.6 else pick.randint(2, 3)
        stream = b"".join(message() for _ in range(many))
        if pick.random() < 0.35:
            for _ in range(1 if pick.random() < 0.7 else pick.randint(2, 4)):
                stream = self._mutated(stream)
        return stream

    def _of(self, usual: tuple[bytes, ...], odd: tuple[bytes, ...], share: float = 0.04) -> bytes:
        pick = self.random
        return pick.choice(odd) if pick.random() < share else pick.choice(usual)

    def _request(self) -> bytes:
        pick = self.random
        line = b" ".join(
            (
                self._of(METHODS, ODD_METHODS, 0.03),
                self._of(TARGETS, ODD_TARGETS),
                self._of(VERSIONS[:1] * 6 + VERSIONS, ODD_VERSIONS, 0.03),
            )
        )
        fields = [b"Host: a"] if pick.random() < 0.97 else []
        start = b"\r\n" if pick.random() < 0.02 else b""
        return start + self._message(line, fields)

    def _answer(self) -> bytes:
        line = b" ".join((self._of(VERSIONS[:1] * 6 + VERSIONS, ODD_VERSIONS, 0.03), self._of(STATUSES, ODD_STATUSES)))
        return self._message(line, [], bodiless=line[9:10] == b"1" or line[9:12] in (b"204", b"304"))

    def _message(self, line: bytes, fields: list[bytes], *, bodiless: bool = False) -> bytes:
        pick = self.random
        fields += [self._of(FIELDS, ODD_FIELDS, 0.08) for _ in range(pick.choice((0, 0, 1, 1, 2, 3, 5)))]
        payload = bytes(pick.choice(b"ab0\r\n\x00\xffG5;:") for _ in range(pick.choice((0, 1, 3, 5, 16, 26))))
        body = b""
        kind = pick.random()
        if bodiless and kind < 0.9:
            pass
        elif kind < 0.35:
            fields.append(self._length(len(payload)))
            body = payload
        elif kind < 0.75:
            fields.append(self._of(CODINGS, ODD_CODINGS, 0.12))
            body = self._chunks(payload)
        elif kind < 0.80:
            fields.append(self._length(len(payload)))
            fields.append(self._of(CODINGS, ODD_CODINGS, 0.3))
            body = self._chunks(payload) if pick.random() < 0.5 else payload
        elif kind < 0.83:
            fields += [self._length(len(payload)), self._length(len(payload) + pick.randint(0, 1))]
            body = payload
        pick.shuffle(fields)
        return b"".join(one + self._end() for one in (line, *fields, b"")) + body

    def _length(self, length: int) -> bytes:
        name = self._of(LENGTH_NAMES, ODD_LENGTH_NAMES, 0.06)
        text = self._of(LENGTHS, ODD_LENGTHS, 0.2)
        return name + text % ((length,) * text.count(b"%"))

    def _end(self) -> bytes:
        return b"\r\n" if self.random.random() < 0.993 else self.random.choice(ENDS)

    def _chunks(self, payload: bytes) -> bytes:
        pick = self.random
        out = []
        while payload:
            size = pick.randint(1, len(payload))
            out.append(self._size(size) + self._end() + payload[:size] + self._end())
            payload = payload[size:]
        out.append(self._size(0) + self._end() + self._of(TRAILERS, ODD_TRAILERS, 0.08) + self._end())
        return b"".join(out)

    def _size(self, size: int) -> bytes:
        text = self._of(SIZES, ODD_SIZES, 0.08)
        return text % ((size,) * text.count(b"%"))

    def _mutated(self, stream: bytes) -> bytes:
        pick = self.random
        if not stream:
            return stream
        at = pick.randrange(len(stream))
        kind = pick.randrange(8)
        if kind == 0:
            return stream[:at] + bytes((pick.randrange(256),)) + stream[at + 1 :]
        if kind == 1:
            return stream[:at] + pick.choice(TOKENS) + stream[at:]
        if kind == 2:
            return stream[:at] + stream[at + pick.choice((1, 1, 1, 2, 4)) :]
        if kind == 3:
            return stream[:at]
        if kind == 4:
            return stream[:at] + bytes((stream[at] ^ (1 << pick.randrange(8)),)) + stream[at + 1 :]
        lines = stream.split(b"\r\n")
        one, two = pick.randrange(len(lines)), pick.randrange(len(lines))
        if kind == 5:
            lines.insert(one, lines[two])
        elif kind == 6:
            lines[one], lines[two] = lines[two], lines[one]
        else:
            lines[one] = lines[one] + pick.choice((b" ", b"\t", b"\r\n ", b"\n", b"\r", b",", b"0", b"\x00")) + lines[two]
        return b"\r\n".join(lines)
