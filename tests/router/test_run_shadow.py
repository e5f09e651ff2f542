"""The shadow's composition: over the end of a release every exchange that was handed over stays in its release's account."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from router.counters import CounterPage
from router.page import PlanPage
from router.plan import parse_plan
from router.run_shadow import Shadow
from router.state import StateDir
from shadow import frame as frames

REQUEST = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: models\r\nContent-Length: 2\r\n\r\n"
ANSWER = b'{"predictions": [1]}'
ANSWERED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)


class Green:
    """A model server that answers when it is let."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                self.asked += 1
                await self.gate.wait()
                writer.write(ANSWERED + ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@dataclass
class Stage:
    """A state directory as the supervisor and control leave it, and a worker's counter page in it."""

    state: StateDir
    page: PlanPage
    counters: CounterPage

    def plan(self, revision: int, release: int, port: int) -> None:
        green = {"name": f"v{release}", "servers": [f"http://127.0.0.1:{port}"]}
        document: dict[str, Any] = {
            "revision": revision,
            "release": release,
            "blue": {"name": "v0", "servers": ["http://127.0.0.1:1"]},
            "green": green,
            "split": {"green_percent": 0},
            "shadow": {"percent": 100, "max_in_flight": 4},
        }
        self.page.write(revision, json.dumps(parse_plan(document).to_dict()).encode())

    def sampled(self, release: int, count: int) -> list[frames.Frame]:
        """Exchanges as a worker counts and sends them."""
        cell = self.counters.release_cell(release)
        self.counters.words[cell + 1] += count
        return [
            frames.decode(
                frames.encode(0, 0, release, release, 1e9, 1.0, 2.0, b"r%d-%d" % (release, n), REQUEST, b"{}", ANSWERED, ANSWER)
            )
            for n in range(count)
        ]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    state = StateDir(tmp_path)
    state.run.mkdir()
    state.counters_dir.mkdir()
    state.settings_json.write_text('{"timeouts": {"connect": 20}}')  # also on a busy machine
    return Stage(state, PlanPage(state.plan_page, writable=True), CounterPage(state.counters(0), writable=True))


def account(shadow: Shadow, release: int) -> tuple[int, int, dict[str, int]]:
    """What the store says of a release: (received, pairs, dropped by reason)."""
    stored = shadow._store.evidence(release)
    assert stored is not None
    snapshot = stored[0]
    return snapshot["received"], snapshot["pairs"], snapshot["dropped_by"]


async def until(true: Any) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.005)


def test_what_a_release_leaves_on_its_way_is_dropped_there(stage: Stage) -> None:
    async def play() -> None:
        green = Green()
        server = await asyncio.start_server(green.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        stage.plan(1, 1, port)
        shadow = Shadow(stage.state)
        shadow._obey_plan()
        for sent in stage.sampled(1, 30):  # 4 in flight, 16 wait, 10 find no place
            shadow._take(sent)
        await until(lambda: green.asked == 4)
        late = stage.sampled(1, 5)

        stage.plan(2, 2, port)
        for sent in stage.sampled(2, 3):
            shadow._take(sent)
        shadow._save_before()
        assert account(shadow, 1) == (26, 0, {"too many in flight": 10, "release over": 16})
        green.gate.set()
        await until(lambda: shadow._mirror.busy == 0)
        for sent in late:
            shadow._take(sent)
        stage.sampled(1, 2)  # these the worker takes with it
        shadow._reckon("lost with a worker")
        shadow._save_if_due(1e12)
        shadow._save()
        assert account(shadow, 1) == (37, 0, {"too many in flight": 10, "release over": 25, "lost with a worker": 2})
        assert account(shadow, 2) == (3, 3, {})

        # Once more after a restart, which finds the older release in the store alone.
        again = Shadow(stage.state)
        again._obey_plan()
        for sent in stage.sampled(1, 1):
            again._take(sent)
        again._save_before()
        assert account(again, 1)[0] == 38
        assert account(again, 1)[2]["release over"] == 26
        for one in (shadow, again):
            one._mirror.close()
            one._store.close()
        server.close()

    asyncio.run(play())


def test_a_busy_shadow_writes_its_state_and_leaves_the_snapshot_for_later(stage: Stage) -> None:
    """Intervals are computed as often as they take a small share of the time; what a restart needs is written all the same."""

    async def play() -> None:
        green = Green()
        green.gate.set()
        server = await asyncio.start_server(green.serve, "127.0.0.1", 0)
        stage.plan(1, 1, server.sockets[0].getsockname()[1])
        shadow = Shadow(stage.state)
        shadow._obey_plan()
        shadow._save()
        shadow._tell_every = 1e9
        for sent in stage.sampled(1, 4):
            shadow._take(sent)
        await until(lambda: shadow._mirror.busy == 0)
        shadow._save_if_due(shadow._saved_at + 10.0)
        assert account(shadow, 1)[:2] == (0, 0)
        state = shadow._store.evidence_state(1)
        assert state is not None
        assert state["received"] == 4
        shadow._save_if_due(shadow._saved_at + 2e9)
        assert account(shadow, 1)[:2] == (4, 4)
        shadow._mirror.close()
        shadow._store.close()
        server.close()

    asyncio.run(play())
