"""The two model servers of a lane in one process, whose behaviour is set while they run.

    python server.py --blue P --green P

`POST /behave` at a port sets how that colour answers from now on, and forgets what was counted; `GET /behave` tells what was
counted: requests of users and of the shadow (which bear `x-bluegreen-shadow`), failures, and when the first failure of a user's
request was answered and the last user's request came (CLOCK_MONOTONIC seconds, which all processes of a machine share). Every other
POST is answered with a prediction after a log-normal time; every other GET with 200.

Runs by itself (no import from the project). One request at a time on each connection: the router never pipelines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from typing import Any

import uvloop

WELL: dict[str, Any] = {
    "wrong": 0.0,  # share of predictions that differ
    "errors": 0.0,  # share of all requests that are answered 503
    "live_errors": 0.0,  # share of users' requests that are answered 503
    "capacity": None,  # users' requests per second; those beyond are answered 503
    "latency_ms": 0.0,  # median
    "sigma": 0.0,  # of the logarithm of the time
}
_BURST_SECONDS = 0.25  # of the capacity, that may come at once


class Model:
    """One colour: how it answers, and what it counted."""

    def __init__(self, version: int) -> None:
        self._version = version
        self.behave({})

    def behave(self, given: dict[str, Any]) -> None:
        """Answer like this from now on. Raises ValueError for an unknown key."""
        if unknown := given.keys() - WELL.keys():
            raise ValueError(f"unknown: {', '.join(unknown)}")
        self.how = {**WELL, **given}
        self.counts: dict[str, Any] = {"live": 0, "mirrored": 0, "failed": 0, "first_failure": None, "last_live": None}
        self._tokens, self._filled = (self.how["capacity"] or 0.0) * _BURST_SECONDS, time.monotonic()

    def answer(self, *, live: bool) -> tuple[bytes, float]:
        """The next answer and how many seconds it takes."""
        how, counts = self.how, self.counts
        failed = random.random() < how["errors"] or (live and (random.random() < how["live_errors"] or self._beyond()))
        if live:
            counts["live"] += 1
            counts["last_live"] = time.monotonic()
            counts["failed"] += failed
            if failed and counts["first_failure"] is None:
                counts["first_failure"] = counts["last_live"]
        else:
            counts["mirrored"] += 1
        seconds = how["latency_ms"] * random.lognormvariate(0.0, how["sigma"]) / 1000.0 if how["latency_ms"] else 0.0
        if failed:
            return _message(b"503 Service Unavailable", b'{"error":"the model has no room"}'), 0.0
        label = int(random.random() < how["wrong"])
        text = (
            b'{"model_name":"m","model_version":"%d","outputs":[{"name":"label","shape":[1],"datatype":"INT64","data":[%d]}]}'
        )
        return _message(b"200 OK", text % (self._version, label)), seconds

    def _beyond(self) -> bool:
        """Whether this request is one more than there is room for: a token bucket."""
        capacity = self.how["capacity"]
        if capacity is None:
            return False
        now = time.monotonic()
        self._tokens = min(self._tokens + capacity * (now - self._filled), capacity * _BURST_SECONDS)
        self._filled = now
        if self._tokens < 1.0:
            return True
        self._tokens -= 1.0
        return False


class Connection(asyncio.Protocol):
    """One connection of the router, or of the benchmark."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass of asyncio.Transport

    def connection_lost(self, error: Exception | None) -> None:
        """It is closed: what is still to be answered goes nowhere."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Bytes came; answer once the request is whole."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[: end + 2].lower()
        place = head.find(b"\r\ncontent-length:")
        length = int(head[place + 17 : head.index(b"\r\n", place + 2)]) if place >= 0 else 0
        if len(self._buffer) < end + 4 + length:
            return
        body, self._buffer = self._buffer[end + 4 : end + 4 + length], b""
        if head.startswith((b"get /behave ", b"post /behave ")):
            self._write(self._behaviour(body))
        elif head.startswith(b"get "):
            self._write(_message(b"200 OK", b"{}"))
        else:
            answer, seconds = self._model.answer(live=b"\r\nx-bluegreen-shadow:" not in head)
            if seconds:
                asyncio.get_running_loop().call_later(seconds, self._write, answer)
            else:
                self._write(answer)

    def _behaviour(self, body: bytes) -> bytes:
        counted = json.dumps(self._model.counts).encode()
        try:
            if body:
                self._model.behave(json.loads(body))
        except ValueError as error:
            return _message(b"400 Bad Request", json.dumps({"error": str(error)}).encode())
        return _message(b"200 OK", counted)

    def _write(self, answer: bytes) -> None:
        if self._transport is not None:
            self._transport.write(answer)


def _message(status: bytes, content: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(content)) + content


async def main(blue: int, green: int) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    for version, port in ((1, blue), (2, green)):
        model = Model(version)
        await loop.create_server(lambda m=model: Connection(m), "127.0.0.1", port, backlog=1024)  # type: ignore[misc]
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--blue", type=int, required=True)
    parser.add_argument("--green", type=int, required=True)
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(given.blue, given.green))
