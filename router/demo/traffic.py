"""The demo's clients: steady requests of a few hundred users to the one stable endpoint, in a thread of their own.

Each answer is looked at as a client would: did it come, is it a prediction for what was asked, and, once a switch has
returned, does it come from the colour that was switched to.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

USERS = 400
CLIENTS = 8


@dataclass(slots=True)
class Seen:
    """What the clients saw."""

    requests: int = 0
    errors: int = 0
    wrong_after_switch: int = 0
    by_arm: dict[str, int] = field(default_factory=lambda: {"blue": 0, "green": 0})
    users_on_green: set[str] = field(default_factory=set)
    first_error: str = ""
    slowest_ms: float = 0.0


class Traffic:
    """Clients that ask until they are told to stop. `seen` may be read at any time from another thread."""

    def __init__(self, url: str, rows: list[list[float]], per_second: float) -> None:
        self.seen = Seen()
        self._url = url
        self._rows = rows
        self._pause = CLIENTS / per_second
        self._only: tuple[float, str] | None = None  # since when (monotonic) only which colour may answer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="clients", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> Seen:
        """Ask no more; what was asked is answered first."""
        self._stop.set()
        self._thread.join(30)
        return self.seen

    def only(self, colour: str | None) -> None:
        """From now on a request that is sent may be answered by this colour alone."""
        self._only = (time.monotonic(), colour) if colour else None

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=self._url, limits=limits, timeout=30, trust_env=False) as http:
            await asyncio.gather(*(self._client(http, random.Random(number)) for number in range(CLIENTS)))

    async def _client(self, http: httpx.AsyncClient, chance: random.Random) -> None:
        await asyncio.sleep(chance.random() * self._pause)
        while not self._stop.is_set():
            sent = time.monotonic()
            await self._ask(http, f"user-{chance.randrange(USERS)}", chance.choice(self._rows), sent)
            await asyncio.sleep(max(0.0, self._pause - (time.monotonic() - sent)))

    async def _ask(self, http: httpx.AsyncClient, user: str, row: list[float], sent: float) -> None:
        only, seen = self._only, self.seen
        body = {"inputs": [{"name": "x", "shape": [1, len(row)], "datatype": "FP64", "data": row}]}
        seen.requests += 1
        try:
            answer = await http.post("/v2/models/digits/infer", json=body, headers={"x-user-id": user})
            label = _label(answer.json()) if answer.status_code == 200 else None
        except (httpx.HTTPError, ValueError) as error:
            self._count_error(f"{type(error).__name__}: {error}")
            return
        if label is None or not 0 <= label <= 9:
            self._count_error(f"status {answer.status_code}: {answer.text[:100]}")
            return
        arm = answer.headers["x-bluegreen-arm"]
        seen.by_arm[arm] += 1
        seen.slowest_ms = max(seen.slowest_ms, (time.monotonic() - sent) * 1e3)
        if arm == "green":
            seen.users_on_green.add(user)
        if only is not None and sent > only[0] and arm != only[1]:
            seen.wrong_after_switch += 1

    def _count_error(self, what: str) -> None:
        self.seen.errors += 1
        self.seen.first_error = self.seen.first_error or what


def _label(answer: Any) -> int | None:
    try:
        return int(answer["outputs"][0]["data"][0])
    except (KeyError, IndexError, TypeError, ValueError):
        return None
