"""Rollouts with every real process: workers, shadow, control, servers and clients."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from deployment import Client, ColourServers, Deployment

POLICY = {
    "shadow": {"min_pairs": 100},
    "steps": [50, 100],
    "hold": "300ms",
    "bake": "500ms",
    "gates": {"agreement": {"min": 0.9}, "errors": {"max_increase": 0.05}},
}


class ModelServers(ColourServers):
    """Two model servers on one loop. `broken` has green answer 503; `wrong` is the share of its labels that differ."""

    def __init__(self) -> None:
        self.broken = False
        self.wrong = 0.0
        self._chance = random.Random(4)
        super().__init__()

    async def _serve(self, colour: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
                await reader.readexactly(length)
                differs = colour == "green" and self._chance.random() < self.wrong
                status = b"503 No" if colour == "green" and self.broken else b"200 OK"
                text = b'{"outputs":[{"name":"p","shape":[1],"datatype":"INT64","data":[%d]}]}' % differs
                writer.write(
                    b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (status, len(text), text)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Users(threading.Thread):
    """Clients that ask all the time and count what is not a prediction."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.asked, self.failures = 0, 0
        self._port = port
        self._stop_asking = threading.Event()
        self.start()

    def run(self) -> None:
        client = Client(self._port)
        while not self._stop_asking.is_set():
            status, _, answer = client.ask("x")
            self.asked += 1
            self.failures += status != 200 or "outputs" not in answer
        client.close()

    def finish(self) -> None:
        self._stop_asking.set()
        self.join(70)


@pytest.fixture(scope="module")
def servers() -> Iterator[ModelServers]:
    one = ModelServers()
    yield one
    one.close()


@pytest.fixture(scope="module")
def router(servers: ModelServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("router")
    one = Deployment(folder, servers.url("blue"), servers.url("green"), shadow={"percent": 0, "nice": 0}, rollout=POLICY)
    one.start()
    yield one
    one.stop()


@pytest.fixture
def users(router: Any, servers: ModelServers) -> Iterator[list[Users]]:
    """Some users of a router whose green is new and well."""
    servers.broken, servers.wrong = False, 0.0
    router.call("PUT", "/v1/arms/green", {"name": "v2", "servers": [servers.url("green")]})
    some = [Users(router.port) for _ in range(3)]
    yield some
    for user in some:
        user.finish()
    router.post("/v1/rollout", {"action": "abort"})
    router.post("/v1/switch", {"to": "blue"})


def wait_for(router: Any, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        document: dict[str, Any] = router.get("/v1/rollout")[1]
        if document["state"] in states:
            return document
        assert time.monotonic() < deadline, json.dumps(document)[:2000]
        time.sleep(0.02)


def test_a_good_green_gets_all_users(router: Any, users: list[Users]) -> None:
    assert router.post("/v1/rollout", {"action": "start"})[0] == 200
    document = wait_for(router, "done", "rolled_back", "paused")
    assert document["state"] == "done", document["reason"]
    assert router.get("/v1/plan")[1]["split"]["green_percent"] == 100
    assert router.get("/v1/plan")[1]["shadow"]["percent"] == 0  # as it was before
    assert sum(user.failures for user in users) == 0


def test_a_green_that_differs_goes_back_before_any_user_sees_it(router: Any, users: list[Users], servers: ModelServers) -> None:
    servers.wrong = 0.3
    router.post("/v1/rollout", {"action": "start"})
    document = wait_for(router, "done", "rolled_back", "paused")
    assert document["state"] == "rolled_back"
    assert "green answers like blue on " in document["reason"]
    assert "shown not to be at least 90 %" in document["reason"]
    assert document["step"] == 0
    assert router.get("/v1/plan")[1]["split"]["green_percent"] == 0


def test_a_burst_of_errors_takes_green_to_nothing_and_no_client_sees_it(
    router: Any, users: list[Users], servers: ModelServers
) -> None:
    # With a gate that does not mind: a control process that got no processor for a second would first see the evidence.
    router.post("/v1/rollout", {"action": "start", "policy": {**POLICY, "hold": "1h", "gates": {"agreement": {"min": 0.01}}}})
    wait_for(router, "stepping")
    asked = users[0].asked
    while users[0].asked < asked + 50:
        time.sleep(0.01)
    servers.broken = True
    document = wait_for(router, "rolled_back")
    servers.broken = False
    assert document["reason"].startswith("fast breaker: ")
    plan = router.get("/v1/plan")[1]
    assert plan["split"]["green_percent"] == 0
    assert (plan["change"]["who"], plan["change"]["action"]) == (
        "rollout", f"rollout {document['number']}: rolled back by the breaker",
    )  # fmt: skip
    assert "requests failed within" in plan["change"]["why"]
    assert sum(user.failures for user in users) == 0


def test_a_supervisor_that_is_killed_with_all_its_processes_goes_on_where_it_was(
    router: Any, users: list[Users], servers: ModelServers
) -> None:
    for user in users:
        user.finish()
    more = Users(router.port)
    router.post("/v1/rollout", {"action": "start", "policy": {**POLICY, "hold": "2s"}})
    wait_for(router, "stepping")
    more.finish()
    router.kill_all()
    router.start()
    again = Users(router.port)
    document = wait_for(router, "done", "rolled_back", "paused")
    assert document["state"] == "done", document["reason"]
    again.finish()
    numbers = [entry for entry in router.get("/v1/history")[1]["history"] if entry["kind"] == "plan"]
    mine = [e for e in numbers if e["action"].startswith(f"rollout {document['number']}: step")]
    assert [entry["new"]["split"]["green_percent"] for entry in mine] == [50, 100]
