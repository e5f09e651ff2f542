"""One byte stream is cut into the same messages by the router, by llhttp and by h11, and what they refuse is refused.

The readers, the generator and the list of explained differences are in benchmarks/fuzz.py, which a longer run is started with
(`python -m benchmarks.fuzz --count 1000000`). Here: a few thousand streams, and known ones of request smuggling one by one.
"""

from __future__ import annotations

import pytest

from benchmarks import fuzz
from benchmarks.fuzz_grammar import Generator


@pytest.mark.parametrize("seed", [11, 12])
def test_generated_streams(seed: int) -> None:
    tally = fuzz.run(1500, seed)
    assert tally.found == []
    # The generator reaches both sides: neither is everything refused nor everything taken.
    assert tally.taken > 400
    assert tally.refused > 400
    assert tally.messages > tally.taken


def test_same_seed_gives_the_same_streams() -> None:
    one, two, other = Generator(5), Generator(5), Generator(6)
    first = [one.requests() for _ in range(50)] + [one.answers() for _ in range(50)]
    assert first == [two.requests() for _ in range(50)] + [two.answers() for _ in range(50)]
    assert first != [other.requests() for _ in range(50)] + [other.answers() for _ in range(50)]


SMUGGLING = {
    "CL.TE": b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "TE.CL": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n",
    "TE.TE": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n",
    "TE with a space before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "TE with a vertical tab": b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "TE folded": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "TE behind a bare LF": b"x: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE behind a bare CR": b"x: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE in quotes": b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "TE.identity": b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello",
    "a list of lengths": b"Content-Length: 5, 0\r\n\r\nhello",
    "a length with a sign": b"Content-Length: +5\r\n\r\nhello",
    "a length in hexadecimal": b"Content-Length: 0x5\r\n\r\nhello",
    "a length with a space inside": b"Content-Length: 1 0\r\n\r\nhello",
    "a length and NUL": b"Content-Length: 5\x00\r\n\r\nhello",
    "a length behind a space": b" Content-Length: 5\r\n\r\nhello",
    "chunk size with a sign": b"Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
    "chunk size with 0x": b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "chunk size with an underscore": b"Transfer-Encoding: chunked\r\n\r\n0_5\r\nhello\r\n0\r\n\r\n",
    "chunk size that overflows": b"Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
    "chunk line ended by LF": b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    "chunk data ended by LF": b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n",
    "chunk data ended by anything": b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    "a bare CR in a chunk extension": b"Transfer-Encoding: chunked\r\n\r\n5;a\rX\r\nhello\r\n0\r\n\r\n",
    "a bare LF in a chunk extension": b"Transfer-Encoding: chunked\r\n\r\n2;\nxx\r\n4c\r\n0\r\n\r\n",
    "a length among the trailers": b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\nhello",
    "a second Host": b"Host: b\r\n\r\n",
    "an empty name": b": chunked\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_smuggling_is_refused_however_it_is_cut(name: str) -> None:
    stream = b"POST / HTTP/1.1\r\nHost: a\r\n" + SMUGGLING[name]
    own, _, found = fuzz.check(stream, [stream[i : i + 1] for i in range(len(stream))], answers=False)
    assert own.end == "refused"
    assert own.messages == ()
    assert found == []


ANSWERS = {
    "both": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "not only chunked": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "folded": b"Content-Length:\r\n 5\r\n\r\nhello",
    "a space before the colon": b"Content-Length : 5\r\n\r\nhello",
    "bare LF": b"x: y\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_response_splitting_is_refused(name: str) -> None:
    stream = b"HTTP/1.1 200 OK\r\n" + ANSWERS[name]
    own, _, found = fuzz.check(stream, [stream[i : i + 1] for i in range(len(stream))], answers=True)
    assert own.end == "refused"
    assert own.messages == ()
    assert found == []


@pytest.mark.parametrize("name", fuzz.EXPLAINED)
def test_every_explanation_is_of_something_that_happens(name: str) -> None:
    """An entry that covers nothing any more would only hide what comes later."""
    streams = {
        "empty line first": (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", False),
        "other methods": (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", False),
        "blanks around the coding": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\t\r\n\r\n0\r\n\r\n", False),
        "blanks around the coding of an answer": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\t\r\n\r\n0\r\n\r\n", True),
        "Proxy-Connection": (
            b"GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: close\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            False,
        ),
        "close of an interim answer": (
            b"HTTP/1.1 103 H\r\nConnection: close\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            True,
        ),
        "upgrade with a body": (
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\na",
            False,
        ),
        "101 unasked": (b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", True),
    }
    stream, answers = streams[name]
    own, explained, found = fuzz.check(stream, [stream], answers=answers)
    assert own.messages
    assert explained == [name]
    assert found == []


def test_disagreements_are_seen() -> None:
    """The comparison itself: what it must call a disagreement, and what not."""
    one, two = (b"GET", b"/", b"a"), (b"GET", b"/", b"b")
    reading = fuzz.Reading
    assert fuzz.disagreement(reading((one,), "more"), reading((two,), "more")) == "read other messages"
    assert fuzz.disagreement(reading((one,), "more"), reading((), "refused")) == "refuses what we take"
    assert fuzz.disagreement(reading((one,), "more"), reading((), "more")) == "waits where we go on"
    assert fuzz.disagreement(reading((), "more"), reading((one,), "more")) == "goes on where we wait"
    assert fuzz.disagreement(reading((), "more", partial=b"a"), reading((), "refused")) == "refuses the body that we take"
    assert fuzz.disagreement(reading((), "more", partial=b"a"), reading((), "more", partial=b"b")) == "reads another payload"
    for other in (reading((one,), "more"), reading((), "refused"), reading((), "more")):
        assert fuzz.disagreement(reading((), "refused"), other) == ""
    assert fuzz.disagreement(reading((one,), "stopped"), reading((one, two), "more")) == ""
    assert fuzz.disagreement(reading((), "more"), reading((), "refused")) == ""


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--count", "200", "--seed", "21"]) == 0
    assert "unexplained: 0" in capsys.readouterr().out
