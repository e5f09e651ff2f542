"""The clients of the soak: six kinds, each of which checks that every answer carries what its request asked.

What goes wrong is written down with everything needed to tell whose fault it was: a wrong answer is always a failure; a lost
one is judged afterwards (benchmarks/soaking/troubles.py) by which worker held the connection and which server had begun to answer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from benchmarks.soaking.server import digest, pattern
from benchmarks.soaking.troubles import Lost, Troubles
from benchmarks.soaking.wire import Answer, Cut, Wire

_RANDOM_BYTES = os.urandom(1 << 20)
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Question:
    """One request. `only_blue` is the number of the plan change after which nothing but blue may answer, if that held."""

    identity: str
    head: bytes
    body: bytes
    answer_size: int
    only_blue: int | None

    @property
    def wire(self) -> bytes:
        """Head and body in one piece."""
        return self.head + self.body


def question(troubles: Troubles, size: int, *, answer: int = 0, fields: str = "", chunked: bool = False) -> Question:
    """A POST with `size` bytes of body, for a small prediction or an answer of so many bytes."""
    identity = f"{os.getpid()}-{next(_numbers)}"
    start = random.randrange(len(_RANDOM_BYTES) - size)
    body = _RANDOM_BYTES[start : start + size] if answer or size > 4096 else _small(identity, size)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    wanted = f"x-soak-answer: {answer}\r\n" if answer else ""
    head = (
        f"POST /v2/models/soak/infer HTTP/1.1\r\nHost: soak.example\r\nx-soak-id: {identity}\r\nx-request-id: {identity}\r\n"
        f"x-user-id: {random.randrange(1000)}\r\nContent-Type: application/json\r\n{wanted}{fields}{framing}\r\n\r\n"
    )
    return Question(identity, head.encode(), body, answer, troubles.only_blue)


def _small(identity: str, size: int) -> bytes:
    data = [random.randrange(100) for _ in range(size // 4)]
    return json.dumps(
        {"inputs": [{"name": "x", "shape": [1, len(data)], "datatype": "INT64", "data": data}], "id": identity}
    ).encode()


def wrong(asked: Question, answer: Answer, troubles: Troubles) -> str | None:
    """What is wrong with an answer, if anything."""
    fields, arm = answer.fields, answer.fields.get("x-bluegreen-arm")
    if answer.status != 200:
        return f"status {answer.status}: {answer.body[:200]!r}"
    if fields.get("x-soak-id") != asked.identity or fields.get("x-request-id") != asked.identity:
        return f"asked {asked.identity}, answered {fields.get('x-soak-id')} as {fields.get('x-request-id')}"
    if fields.get("x-soak-digest") != digest(asked.body):
        return "the server got another body than was sent"
    if not fields.get("x-soak-server", "").startswith(f"{arm}-"):
        return f"{fields.get('x-soak-server')} answered as {arm}"
    if arm == "green" and asked.only_blue is not None and asked.only_blue == troubles.only_blue:
        return "sent after the switch to blue had returned, answered by green"
    if asked.answer_size:
        return None if answer.body == pattern(asked.identity, asked.answer_size) else "the answer's bytes are not right"
    document = json.loads(answer.body)
    return None if document["id"] == asked.identity and document["colour"] == arm else f"the answer is {document}"


@dataclass
class Load:
    """All clients, until `stop`. `scale` multiplies how many there are of each kind."""

    port: int
    troubles: Troubles
    scale: float = 1.0
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    arms: Counter[str] = field(default_factory=Counter)
    vanished: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    _stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Start every client."""
        self._stopping = False
        kinds: list[tuple[Callable[[], Coroutine[Any, Any, None]], int]] = [
            (self._keep_alive, 20),
            (self._one_shot, 6),
            (self._chunked, 6),
            (self._pipelined, 6),
            (self._slow, 5),
            (self._vanishing, 6),
        ]
        for kind, count in kinds:
            for _ in range(max(1, round(count * self.scale))):
                self._tasks.append(asyncio.get_running_loop().create_task(self._again(kind)))

    async def stop(self) -> None:
        """Let every client finish what it has begun, and go."""
        self._stopping = True
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    async def _again(self, kind: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await asyncio.sleep(random.random())
        while not self._stopping:
            try:
                await kind()
            except Cut:
                await asyncio.sleep(0.05)  # written down where it happened

    # --- the kinds: each call is one connection ---

    async def _keep_alive(self) -> None:
        """Many requests on one connection."""
        wire = await self._open("keep-alive")
        try:
            for _ in range(random.randrange(1, 300)):
                fields = "x-soak-hold: 0.05\r\n" if random.random() < 0.02 else ""
                size = random.choice((16, 64, 256, 1024, 20_000))
                answer = random.choice((0, 0, 0, 0, 0, 0, 2_000, 60_000))
                await self._exchange("keep-alive", wire, question(self.troubles, size, answer=answer, fields=fields))
                await asyncio.sleep(random.expovariate(10))
                if self._stopping:
                    break
        finally:
            wire.closes()

    async def _one_shot(self) -> None:
        """A connection for one request."""
        wire = await self._open("one-shot")
        try:
            await self._exchange("one-shot", wire, question(self.troubles, 64, fields="Connection: close\r\n"))
        finally:
            wire.closes()
        await asyncio.sleep(random.expovariate(10))

    async def _chunked(self) -> None:
        """Uploads in chunks, and chunked answers."""
        wire = await self._open("chunked")
        try:
            for _ in range(random.randrange(1, 20)):
                size = random.randrange(10_000, 400_000)
                fields = "x-soak-chunked: 1\r\n"
                asked = question(self.troubles, size, answer=random.choice((0, 100_000)), fields=fields, chunked=True)
                await self._exchange("chunked", wire, asked, upload=True)
                await asyncio.sleep(random.expovariate(5))
                if self._stopping:
                    break
        finally:
            wire.closes()

    async def _pipelined(self) -> None:
        """Two requests at once; their answers in order."""
        wire = await self._open("pipelined")
        try:
            for _ in range(random.randrange(1, 100)):
                pair = [question(self.troubles, 32), question(self.troubles, 300, answer=random.choice((0, 5_000)))]
                self.asked["pipelined"] += 2
                began = monotonic()
                waiting = list(pair)
                try:
                    await wire.send(b"".join(one.wire for one in pair))
                    while waiting:
                        self._check("pipelined", waiting[0], await wire.answer())
                        waiting.pop(0)
                except Cut as cut:
                    for one in waiting:
                        self._lose("pipelined", one.identity, wire, began, cut)
                        wire.begun = None  # only the first of them had begun
                    raise
                await asyncio.sleep(random.expovariate(10))
                if self._stopping:
                    break
        finally:
            wire.closes()

    async def _slow(self) -> None:
        """A large answer, taken slowly through a small window."""
        wire = await self._open("slow", receive_buffer=16_384)
        try:
            size = random.randrange(200_000, 1_500_000)
            fields = "x-soak-chunked: 1\r\n" if random.random() < 0.5 else ""
            asked = question(self.troubles, 64, answer=size, fields=fields)
            await self._exchange("slow", wire, asked, piece=16_384, pause=random.uniform(0.005, 0.03))
        finally:
            wire.closes()

    async def _vanishing(self) -> None:
        """Goes away somewhere in the middle."""
        wire = await Wire.open(self.port)
        asked = question(self.troubles, 30_000, answer=random.choice((0, 300_000)), fields="x-soak-hold: 0.02\r\n")
        place = random.randrange(5)
        part = random.randrange(1, len(asked.head)) if place == 1 else random.randrange(len(asked.head), len(asked.wire))
        try:
            if place:  # 0: says nothing at all
                await wire.send(asked.wire[:part] if place in (1, 2) else asked.wire)
            if place == 4:  # in the middle of the answer
                await wire.reads(random.randrange(1, 20_000) if asked.answer_size else 20)
            else:
                await asyncio.sleep(random.random() * 0.03)
        finally:
            random.choice((wire.closes, wire.resets))()
            self.vanished += 1
        await asyncio.sleep(random.expovariate(10))

    # --- what they share ---

    async def _open(self, kind: str, *, receive_buffer: int = 0) -> Wire:
        try:
            return await Wire.open(self.port, receive_buffer=receive_buffer)
        except Cut as cut:
            self.wrong.append(f"{kind}: {cut}")  # the router's port is always open
            raise

    async def _exchange(
        self, kind: str, wire: Wire, asked: Question, *, upload: bool = False, piece: int = 2**16, pause: float = 0.0
    ) -> None:
        self.asked[kind] += 1
        began = monotonic()
        try:
            if upload:
                await self._upload(wire, asked)
            else:
                await wire.send(asked.wire)
            answer = await wire.answer(piece=piece, pause=pause)
        except Cut as cut:
            self._lose(kind, asked.identity, wire, began, cut)
            raise
        self._check(kind, asked, answer)
        if answer.fields.get("connection") == "close":
            raise Cut("closed in good order")

    async def _upload(self, wire: Wire, asked: Question) -> None:
        await wire.send(asked.head)
        left = asked.body
        while left:
            size = random.randrange(1, 60_000)
            piece, left = left[:size], left[size:]
            await wire.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            if random.random() < 0.3:
                await asyncio.sleep(0.002)
        await wire.send(b"0\r\n\r\n")

    def _check(self, kind: str, asked: Question, answer: Answer) -> None:
        fault = wrong(asked, answer, self.troubles)
        if fault is not None:
            self.wrong.append(f"{kind} {asked.identity}: {fault}")
        else:
            self.answered[kind] += 1
            self.arms[answer.fields["x-bluegreen-arm"]] += 1

    def _lose(self, kind: str, identity: str, wire: Wire, began: float, cut: Cut) -> None:
        server = wire.begun.get("x-soak-server") if wire.begun else None
        now = monotonic()
        self.lost.append(Lost(kind, identity, wire.port, wire.opened, began, now, server, str(cut)))
