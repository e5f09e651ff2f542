"""The main job over real sockets and processes: split, switch, mirror, fall back, survive, drain."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from busy import in_time
from deployment import Client, ColourServers, Deployment

SWITCHES = 1000


@pytest.fixture(scope="module")
def servers() -> Iterator[Any]:
    servers = ColourServers()
    yield servers
    servers.close()


def deploy(servers: Any, folder: Path, **shadow: Any) -> Iterator[Any]:
    router = Deployment(
        folder,
        servers.url("blue"),
        servers.url("green"),
        split={"green_percent": 0, "key": "header:x-user-id", "salt": "iris"},
        shadow={"percent": 100, "noise_percent": 20, **shadow},
    )
    router.start()
    yield router
    if router.process is not None:
        router.stop()


@pytest.fixture
def router(servers: Any, tmp_path: Path) -> Iterator[Any]:
    """A router of one's own, for tests that kill or stop it, or look at what processes begin with."""
    yield from deploy(servers, tmp_path)


@pytest.fixture(scope="module")
def started(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    # What the shadow has to show must not depend on what else this machine has to do, to which it would give way.
    yield from deploy(servers, tmp_path_factory.mktemp("shared"), nice=0)


@pytest.fixture
def shared(started: Any, servers: Any) -> Any:
    """The router that tests share, at 0 % green and at the beginning of a release."""
    names = {
        colour: {"name": f"v{number}", "servers": [servers.url(colour)]} for number, colour in enumerate(("blue", "green"), 1)
    }
    _, plan = started.get("/v1/plan")
    split = {"green_percent": 0, "key": "header:x-user-id", "salt": "iris"}
    body = {**names, "green": None, "split": split, "shadow": plan["shadow"]}
    status, answer = started.call("PUT", "/v1/plan", body, **{"if-match": "*"})
    assert status == 200, answer
    assert started.call("PUT", "/v1/arms/green", names["green"])[0] == 200
    return started


class Asking(threading.Thread):
    """A client that asks all the time and keeps what it saw: when each request was sent, when answered, by whom."""

    def __init__(self, port: int, name: str, *, tolerant: bool = False) -> None:
        super().__init__(daemon=True)
        self.name = name
        self.answers: list[tuple[float, float, str]] = []
        self.failures: list[str] = []
        self._port = port
        self._tolerant = tolerant
        self._stop_asking = threading.Event()

    def run(self) -> None:
        client = Client(self._port)
        count = 0
        while not self._stop_asking.is_set():
            count += 1
            what, sent = f"{self.name}-{count}", time.monotonic()
            try:
                status, headers, answer = client.ask(what, x_user_id=f"{self.name}-{count % 50}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                client.close()
                if not self._tolerant:
                    return
                time.sleep(0.01)
                client = Client(self._port)
                continue
            if status != 200 or answer.get("asked") != what or answer["colour"] != headers["x-bluegreen-arm"]:
                self.failures.append(f"{status} {answer}")
            else:
                self.answers.append((sent, time.monotonic(), answer["colour"]))
        client.close()

    def finish(self) -> None:
        self._stop_asking.set()
        self.join(70)
        assert not self.is_alive()


def start_clients(router: Any, count: int, *, tolerant: bool = False) -> list[Asking]:
    clients = [Asking(router.port, f"client{n}", tolerant=tolerant) for n in range(count)]
    for client in clients:
        client.start()
    return clients


def wait_for_answers(router: Any, clients: list[Asking], more: int) -> None:
    """Until each of them has so many more answers, or ended over a failure."""
    wanted = [(client, len(client.answers) + more) for client in clients]
    router.wait_until(lambda: all(len(client.answers) >= count or not client.is_alive() for client, count in wanted), nap=0.001)


def whole_history(router: Any) -> list[dict[str, Any]]:
    """The history, once it holds the present plan: nobody who changes the plan waits long for its entry."""
    found: list[dict[str, Any]] = []

    def is_whole() -> bool:
        revision = router.get("/v1/plan")[1]["revision"]
        found[:] = router.get("/v1/history")[1]["history"]
        return bool(max(entry["revision"] or 0 for entry in found) == revision)

    router.wait_until(is_whole)
    return found


def test_a_thousand_switches_lose_nothing_and_hold_from_their_return(shared: Any) -> None:
    clients = start_clients(shared, 4)
    begun: list[tuple[float, str]] = []
    returned: list[tuple[float, str]] = []
    control = http.client.HTTPConnection("127.0.0.1", shared.control_port, timeout=60)
    for number in range(SWITCHES):
        colour = "green" if number % 2 == 0 else "blue"
        begun.append((time.monotonic(), colour))
        control.request("POST", "/v1/switch", f'{{"to":"{colour}"}}', {"content-type": "application/json"})
        answer = control.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        returned.append((time.monotonic(), colour))
        if number % 5:
            time.sleep(0.004)
        else:
            wait_for_answers(shared, clients, 2)  # the second of which was sent after the return
    for client in clients:
        client.finish()
    assert [c.failures for c in clients] == [[]] * 4
    judged = 0
    for client in clients:
        at = -1  # the last switch that had returned when the request was sent
        for sent, received, colour in client.answers:
            while at + 1 < SWITCHES and returned[at + 1][0] < sent:
                at += 1
            if at < 0:
                continue
            allowed = {returned[at][1]} | {c for when, c in begun[at + 1 :][:50] if when <= received}
            assert colour in allowed, f"sent after the switch to {returned[at][1]} had returned, answered by {colour}"
            judged += len(allowed) == 1
    assert judged > 500, "too few requests lay wholly within one switch for the test to mean anything"
    assert sum(entry["action"].startswith("switch") for entry in whole_history(shared)) == SWITCHES


def test_requests_hanging_at_green_are_recalled_by_a_switch(shared: Any, servers: Any) -> None:
    servers.holding.add("green")
    try:
        in_time(1.5, lambda: hang_at_green_and_switch(shared))  # a switch waits 2 s for a worker that gets no processor
    finally:
        servers.holding.discard("green")


def hang_at_green_and_switch(shared: Any) -> None:
    shared.post("/v1/switch", {"to": "green"})
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda n=n: answers.append(shared.ask(f"r{n}"))) for n in range(6)]
    for thread in threads:
        thread.start()
    shared.wait_until(lambda: shared.get("/v1/status")[1]["arms"]["green"]["in_flight"] == 6)
    status, done = shared.post("/v1/switch", {"to": "blue", "reason": "green hangs"})
    for thread in threads:
        thread.join(60)
    assert sorted(a[2]["asked"] for a in answers) == [f"r{n}" for n in range(6)]
    assert {a[2]["colour"] for a in answers} == {"blue"}
    assert (status, done["recalled"], done["holds"]) == (200, 6, True)


def test_killed_processes_come_back_and_lose_only_their_own_connections(router: Any) -> None:
    router.post("/v1/split", {"green_percent": 50})
    _, plan = router.get("/v1/plan")
    for module in ("router.run_control", "router.run_shadow", "router.run_worker"):
        clients = start_clients(router, 4, tolerant=True)
        wait_for_answers(router, clients, 30)
        victim = router.children(module)[0]
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        router.wait_until(lambda m=module, v=victim: v not in router.children(m) and len(router.children(m)) > 0)
        router.wait_until(lambda: router.get("/readyz")[0] == 200 and len(router.get("/v1/status")[1]["workers"]) == 2)
        router.wait_until(lambda: router.get("/v1/status")[1]["shadow"]["running"])
        back = time.monotonic() - killed
        wait_for_answers(router, clients, 10)
        for client in clients:
            client.finish()
        failures = [f for c in clients for f in c.failures]
        if module == "router.run_worker":
            # At most the connection that each client had at that worker.
            assert all(len(c.failures) <= 1 for c in clients), failures
        else:
            assert failures == []
        assert back < 30, f"{module} took {back:.1f} s to come back"
    assert router.get("/v1/plan")[1] == plan
    assert len(whole_history(router)) == 2


def test_after_kill_of_everything_the_same_plan_goes_on(router: Any) -> None:
    router.post("/v1/split", {"green_percent": 37.5, "reason": "before the crash"})
    asked = 0
    while router.get("/v1/evidence")[1]["pairs"] < 20:  # the first ones are dropped, until every worker has found the shadow
        router.ask(f"a{asked}", x_user_id=str(asked))
        asked += 1
    # The snapshot that is shown, and with it the state that a restart goes on from, is of after the last of them.
    router.wait_until(lambda: sum(router.get("/v1/evidence")[1][k] for k in ("pairs", "dropped")) == asked)
    plan, history = router.get("/v1/plan"), whole_history(router)
    router.kill_all()
    router.start()
    assert router.get("/v1/plan") == plan
    assert whole_history(router) == history
    evidence = router.get("/v1/evidence")[1]
    assert evidence["pairs"] >= 20
    assert evidence["pairs"] + evidence["dropped"] == asked
    assert "stored plan" in router.log


def test_history_is_whole_when_control_dies_between_page_and_history(router: Any) -> None:
    for number in range(4):  # the supervisor waits longer and longer for one that keeps dying
        thread = threading.Thread(target=lambda: _quietly(router, "/v1/switch", {"to": "green"}))
        thread.start()
        time.sleep(0.002 * number)
        for pid in router.children("router.run_control"):
            os.kill(pid, signal.SIGKILL)
        thread.join(60)
        router.wait_until(lambda: router.get("/readyz")[0] == 200)
        revision = router.get("/v1/plan")[1]["revision"]
        entries = router.get("/v1/history")[1]["history"]
        assert [e["revision"] for e in entries if e["revision"] is not None] == list(range(1, revision + 1))


def _quietly(router: Any, path: str, body: Any) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):  # control was killed under the call
        router.post(path, body)


def test_sigterm_drains_without_losing_a_request(router: Any, servers: Any) -> None:
    servers.holding.add("blue")
    process = router.process
    try:
        answers: list[Any] = []
        threads = [threading.Thread(target=lambda n=n: answers.append(router.ask(f"d{n}"))) for n in range(8)]
        for thread in threads:
            thread.start()
        router.wait_until(lambda: router.get("/v1/status")[1]["arms"]["blue"]["in_flight"] == 8)
        process.terminate()
        router.wait_until(lambda: [w["draining"] for w in router.get("/v1/status")[1]["workers"]] == [True, True])
        assert answers == []
        servers.holding.discard("blue")
        assert process.wait(60) == 0
        for thread in threads:
            thread.join(60)
        assert [a[0] for a in answers] == [200] * 8
        assert {a[1]["connection"] for a in answers} == {"close"}
    finally:
        servers.holding.discard("blue")


def test_a_second_router_on_the_same_state_is_refused(shared: Any, tmp_path: Path) -> None:
    second = Deployment(tmp_path, "http://127.0.0.1:1", None, state=str(shared.folder / "state"))
    with pytest.raises(AssertionError, match="another router"):
        second.start()


def test_a_taken_port_is_told(shared: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    second = Deployment(other, "http://127.0.0.1:1", None)
    second.config.write_text(second.config.read_text().replace(str(second.port), str(shared.port)))
    with pytest.raises(AssertionError, match=r"cannot listen on 127\.0\.0\.1"):
        second.start()


def test_shares_and_ramps_over_the_wire(shared: Any) -> None:
    """The same users, one by one, at 0, 10, 25 and 100 %: who went to green stays on green."""
    client = Client(shared.port)
    green: dict[int, set[int]] = {}
    for share in (10, 25):
        assert shared.post("/v1/split", {"green_percent": share})[0] == 200
        green[share] = {u for u in range(1500) if client.ask("x", x_user_id=f"u{u}")[2]["colour"] == "green"}
    assert green[10] <= green[25]
    from router.split import bucket

    assert green[10] == {u for u in range(1500) if bucket(f"u{u}".encode(), b"iris") < 1000}
    assert client.ask("x")[2]["colour"] == "blue"  # without the key
    shared.post("/v1/switch", {"to": "green"})
    assert client.ask("x")[2]["colour"] == "green"  # all is all
    client.close()


def test_the_shadow_compares_and_accounts_for_every_sampled_exchange(shared: Any) -> None:
    clients = start_clients(shared, 3)
    shared.wait_until(lambda: shared.get("/v1/evidence")[1]["pairs"] > 300)
    for client in clients:
        client.finish()
    asked = sum(len(c.answers) for c in clients)
    shared.wait_until(lambda: sum(shared.get("/v1/evidence")[1][k] for k in ("pairs", "dropped")) == asked)
    evidence = shared.get("/v1/evidence")[1]
    assert evidence["agreement"]["rate"] == 1.0
    assert 0 < evidence["noise"]["n"] < evidence["pairs"]
    low, high = evidence["agreement"]["ci"]
    assert low > 0.9
    assert high == 1.0


def test_the_shadow_gives_way_to_the_workers(router: Any) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    niceness = {}
    for role in ("worker", "shadow"):
        (pid,) = router.children(f"router.run_{role}")[:1]
        niceness[role] = os.getpriority(os.PRIO_PROCESS, pid) - own, os.sched_getscheduler(pid)
    assert niceness == {"worker": (0, os.SCHED_OTHER), "shadow": (min(15, 19 - own), os.SCHED_BATCH)}


def test_a_new_candidate_begins_a_release_and_promotion_swaps_the_arms(shared: Any, servers: Any) -> None:
    before = shared.get("/v1/plan")[1]["release"]
    shared.post("/v1/split", {"green_percent": 20})
    status, plan = shared.call("PUT", "/v1/arms/green", {"name": "v3", "servers": [servers.url("blue")]})
    assert status == 200
    assert (plan["split"]["green_percent"], plan["release"]) == (0, before + 1)
    assert shared.get("/v1/evidence")[1]["pairs"] == 0
    shared.post("/v1/switch", {"to": "green"})
    status, plan = shared.post("/v1/promote", {})
    assert status == 200
    assert (plan["blue"]["name"], plan["green"]["name"], plan["split"]["green_percent"]) == ("v3", "v1", 0)
    shared.post("/v1/switch", {"to": "green"})
    assert shared.ask("old blue")[2]["colour"] == "blue"  # the server that v1 has always been


def test_a_dead_green_is_answered_by_blue(servers: Any, tmp_path: Path) -> None:
    router = Deployment(tmp_path, servers.url("blue"), "http://127.0.0.1:1")
    router.start()
    try:
        router.post("/v1/switch", {"to": "green"})
        client = Client(router.port)
        for number in range(40):
            status, headers, answer = client.ask(f"f{number}")
            assert (status, answer["colour"], headers["x-bluegreen-arm"]) == (200, "blue", "blue")
        client.close()
        router.wait_until(lambda: router.get("/v1/status")[1]["arms"]["blue"]["requests"] >= 40)  # counted after the answer
        arms = router.get("/v1/status")[1]["arms"]
        assert arms["green"]["fallbacks"] >= 5
        assert arms["green"]["errors"] >= arms["green"]["fallbacks"]
        assert arms["blue"]["requests"] == 40
    finally:
        router.stop()
