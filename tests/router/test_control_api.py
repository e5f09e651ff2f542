"""The control API over a real socket: a control process of its own, and two players of workers beside it."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from busy import in_time
from control_process import ControlProcess, Follower, new_state, until

from router import counters as c
from router.counters import bin_of
from router.store.store import RecordedPair, Store

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlProcess]:
    state, _ = new_state(tmp_path_factory.mktemp("api"))
    one = ControlProcess(state)
    yield one
    assert one.end() == 0


@pytest.fixture(scope="module")
def followers(process: ControlProcess) -> Iterator[list[Follower]]:
    two = [Follower(process.state, 0), Follower(process.state, 1)]
    yield two
    for follower in two:
        follower.stop()


@pytest.fixture
def api(process: ControlProcess, followers: list[Follower]) -> Iterator[httpx.Client]:
    with process.client() as client:
        yield client


def problem(answer: httpx.Response, status: int, detail: str) -> dict[str, Any]:
    """That an answer is a problem document which says so."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    value: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail"} <= set(value)
    assert value["status"] == status
    assert detail in value["detail"]
    return value


def revision(api: httpx.Client) -> int:
    return int(api.get("/v1/plan").json()["revision"])


def obey(followers: list[Follower], number: int) -> bool:
    return all(follower.words[c.RECALLED_REVISION] == number for follower in followers)


def whole_history(api: httpx.Client) -> list[dict[str, Any]]:
    """The history, once it holds the present plan: who asks waits a fifth of a second for an entry that is being written."""
    until(lambda: api.get("/v1/history", params={"last": 1}).json()["history"][0]["revision"] == revision(api))
    found: list[dict[str, Any]] = api.get("/v1/history").json()["history"]
    return found


# --- changes --------------------------------------------------------------------------------------------------------------


def test_switch_returns_when_it_holds_on_every_worker(api: httpx.Client, followers: list[Follower]) -> None:
    def switch() -> int:
        before = revision(api)
        until(lambda: obey(followers, before))
        for follower in followers:
            follower.recalls = 4
        try:
            answer = api.post("/v1/switch", json={"to": "green", "reason": "a try"})
            assert [follower.words[c.REVISION] for follower in followers] == [before + 1] * 2
        finally:
            for follower in followers:
                follower.recalls = 0
        assert answer.status_code == 200
        assert answer.json() == {"revision": before + 1, "recalled": 8, "holds": True}
        return before

    before = in_time(1.5, switch)  # a switch waits 2 s for a worker that gets no processor
    assert api.get("/v1/plan").json()["split"]["green_percent"] == 100
    assert api.post("/v1/switch", json={"to": "blue"}).json()["revision"] == before + 2
    assert api.post("/v1/switch", json={"to": "blue"}).json()["revision"] == before + 3
    assert api.get("/v1/plan").json()["split"]["green_percent"] == 0


def test_split_and_shadow_answer_with_the_new_plan(api: httpx.Client, process: ControlProcess) -> None:
    before = revision(api)
    plan = api.post("/v1/split", json={"green_percent": 12.34}).json()
    assert plan["revision"] == before + 1
    assert plan["split"] == {"green_percent": 12.34, "key": "header:x-user-id", "salt": "iris"}
    plan = api.post("/v1/shadow", json={"percent": 75, "reason": "more"}).json()
    assert plan["shadow"] == {"percent": 75, "noise_percent": 10, "max_in_flight": 64}
    assert plan["change"]["why"] == "more"
    assert process.plan().to_dict() == plan


def test_candidate_and_promote(api: httpx.Client) -> None:
    release = api.get("/v1/status").json()["release"]
    body = {"name": "v3", "servers": ["http://127.0.0.1:9100"], "headers": {"X-Key": "1"}, "path": {"from": "/a", "to": "/b"}}
    plan = api.put("/v1/arms/green", json={**body, "model": "m"}).json()
    assert plan["release"] == release + 1
    assert plan["green"] == {**body, "headers": {"x-key": "1"}, "model": "m"}
    assert plan["split"]["green_percent"] == 0
    blue = plan["blue"]
    plan = api.post("/v1/promote").json()
    assert (plan["blue"]["name"], plan["green"], plan["release"]) == ("v3", blue, release + 2)
    plan = api.post("/v1/promote", json={"reason": "back"}).json()
    assert (plan["blue"], plan["change"]["why"]) == (blue, "back")


@pytest.mark.parametrize(
    ("servers", "name"),
    [
        (["http://10.1.2.3:9000", "http://10.1.2.4:9000"], "10.1.2.3:9000"),
        (["http://[::1]:9000"], "::1:9000".lstrip(":")),
        (["unix:/run/models/v3.sock"], "run/models/v3.sock"),
        (["https://models.example"], "models.example"),
    ],
)
def test_a_candidate_without_a_name_is_named_by_its_address(api: httpx.Client, servers: list[str], name: str) -> None:
    assert api.put("/v1/arms/green", json={"servers": servers}).json()["green"] == {"name": name, "servers": servers}


def test_put_plan_needs_the_etag_that_was_read(api: httpx.Client) -> None:
    got = api.get("/v1/plan")
    plan, etag = got.json(), got.headers["etag"]
    assert etag == f'"{plan["revision"]}"'
    plan["split"] = {"green_percent": 0, "key": "cookie:uid", "salt": "new"}
    problem(api.put("/v1/plan", json=plan), 428, "If-Match")
    problem(api.put("/v1/plan", json=plan, headers={"if-match": '"99999"'}), 412, f'has the ETag "{plan["revision"]}"')
    problem(api.put("/v1/plan", json=plan, headers={"if-match": f"W/{etag}"}), 412, "If-Match")
    problem(api.put("/v1/plan", json=plan, headers={"if-match": etag.strip('"')}), 412, "If-Match")
    assert api.get("/v1/plan").headers["etag"] == etag
    done = api.put("/v1/plan?reason=tidy", json=plan, headers={"if-match": f'"1", {etag}'})
    assert done.status_code == 200
    assert done.headers["etag"] == f'"{plan["revision"] + 1}"'
    assert done.json()["split"] == plan["split"]
    assert done.json()["release"] == plan["release"]
    assert done.json()["change"]["why"] == "tidy"
    problem(api.put("/v1/plan", json=plan, headers={"if-match": etag}), 412, "If-Match")
    assert api.put("/v1/plan", json=plan, headers={"if-match": "*"}).status_code == 200


def test_of_two_who_read_the_same_plan_one_wins(api: httpx.Client) -> None:
    plan = api.get("/v1/plan").json()
    etag = f'"{plan["revision"]}"'
    answers: list[int] = []

    def put() -> None:
        answers.append(httpx.put(f"{api.base_url}/v1/plan", json=plan, headers={"if-match": etag}, timeout=30).status_code)

    threads = [threading.Thread(target=put) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 412, 412, 412, 412, 412]
    assert revision(api) == plan["revision"] + 1


V1 = {"name": "a", "servers": ["http://127.0.0.1:1"]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "detail"),
    [
        ("POST", "/v1/switch", {"to": "purple"}, 422, "to: must be 'blue' or 'green'"),
        ("POST", "/v1/switch", {}, 422, "to: is missing"),
        ("POST", "/v1/switch", {"to": "blue", "now": True}, 422, "now: is not a field of this call"),
        ("POST", "/v1/switch", {"to": "blue", "reason": "x" * 1001}, 422, "reason:"),
        ("POST", "/v1/switch", [], 422, "the body: must be"),
        ("POST", "/v1/split", {"green_percent": 101}, 422, "green_percent: must be a number from 0 to 100, got 101"),
        ("POST", "/v1/split", {"green_percent": -1}, 422, "green_percent: must be a number from 0 to 100, got -1"),
        ("POST", "/v1/split", {"green_percent": 0.001}, 422, "green_percent: must be a multiple of 0.01"),
        ("POST", "/v1/split", {"green_percent": "10"}, 422, "green_percent: must be a number from 0 to 100"),
        ("POST", "/v1/split", {"green_percent": True}, 422, "green_percent: must be a number"),
        ("POST", "/v1/shadow", {"percent": 100.5}, 422, "percent: must be a number from 0 to 100"),
        ("POST", "/v1/shadow", {"green_percent": 1}, 422, "(and 1 more)"),
        ("PUT", "/v1/arms/green", {"servers": ["127.0.0.1:9"]}, 422, "has no scheme: write http://127.0.0.1:9"),
        ("PUT", "/v1/arms/green", {"servers": []}, 422, "green.servers: must be a list of at least one URL"),
        ("PUT", "/v1/arms/green", {"servers": "http://h"}, 422, "green.servers: must be a list"),
        ("PUT", "/v1/arms/green", {"name": "", "servers": ["http://h"]}, 422, "green.name: must be"),
        ("PUT", "/v1/arms/green", {"servers": ["http://h"], "headers": {"Host\r\nx": "y"}}, 422, "is not a header name"),
        ("PUT", "/v1/arms/green", {"servers": ["http://u:p@h"]}, 422, "must not carry a user or password"),
        ("PUT", "/v1/arms/green", {}, 422, "servers: is missing"),
        ("POST", "/v1/promote", {"to": "green"}, 422, "to: is not a field of this call"),
        ("PUT", "/v1/plan", {}, 422, "blue: is missing"),
        ("PUT", "/v1/plan", {"blue": V1, "bleu": V1}, 422, "unknown key 'bleu'"),
        ("PUT", "/v1/plan", {"blue": V1, "split": {"green_percent": 5}}, 422, "the plan has no green"),
        ("PUT", "/v1/plan", {"blue": V1, "split": {"green_percent": 10**400}}, 422, "must be a number from 0 to 100"),
        ("PUT", "/v1/plan", {"blue": {**V1, "model": "\ud800"}}, 422, "JSON cannot carry"),
        ("PUT", "/v1/plan", [], 422, "the body: must be"),
        ("GET", "/v1/evidence?release=x", None, 422, "release: must be a valid integer"),
        ("GET", "/v1/evidence?release=999", None, 409, "there is no release 999 yet"),
        ("GET", "/v1/pairs?limit=0", None, 422, "limit: must be greater than or equal to 1"),
        ("GET", "/v1/history?after=-1", None, 422, "after: must be greater than or equal to 0"),
        ("GET", "/v1/nothing", None, 404, "there is no /v1/nothing here"),
        ("GET", "/v1/status/", None, 404, "there is no /v1/status/ here"),
        ("GET", "/v1/switch", None, 405, "/v1/switch does not take GET, only POST"),
        ("DELETE", "/v1/plan", None, 405, "/v1/plan does not take DELETE"),
    ],
)
def test_bad_requests_get_a_problem_document_and_change_nothing(
    api: httpx.Client, method: str, path: str, body: object, status: int, detail: str
) -> None:
    before = revision(api)
    content = json.dumps(body).encode() if body is not None else None
    headers = {"content-type": "application/json", "if-match": "*", "x-request-id": "mine-1"}
    value = problem(api.request(method, path, content=content, headers=headers), status, detail)
    assert value["request_id"] == "mine-1"
    assert revision(api) == before


@pytest.mark.parametrize(
    ("content", "kind", "status", "detail"),
    [
        (b"{", "application/json", 400, "the body is not JSON"),
        (b"\xff", "application/json", 400, ""),
        (b'{"to":"blue"}', "text/plain", 415, "Content-Type: application/json, not text/plain"),
        (b"to=blue", "application/x-www-form-urlencoded", 415, "Content-Type: application/json"),
        (b'{"to":"blue","reason":"\\ud800"}', "application/json", 422, "reason"),
        (b"[" * 100_000, "application/json", 400, ""),
        (b"", "application/json", 422, "is missing"),
        (b'{"to":"blue","reason":"' + b"x" * 2**20 + b'"}', "application/json", 413, "at most 1048576 bytes"),
    ],
)
def test_bodies_that_are_none(api: httpx.Client, content: bytes, kind: str, status: int, detail: str) -> None:
    before = revision(api)
    problem(api.post("/v1/switch", content=content, headers={"content-type": kind}), status, detail)
    assert revision(api) == before


def test_a_number_too_long_for_a_float_is_refused(api: httpx.Client) -> None:
    for text in (b"1e999", b"9" * 400, b"NaN", b"-Infinity"):
        answer = api.post("/v1/split", content=b'{"green_percent":%s}' % text, headers={"content-type": "application/json"})
        problem(answer, 422, "green_percent: must be a number from 0 to 100")


def test_a_body_that_breaks_off_is_not_acted_on(api: httpx.Client, process: ControlProcess) -> None:
    """`POST /v1/promote` needs no body; one that was promised and did not come must not pass for none."""
    before = revision(api)
    with socket.create_connection(("127.0.0.1", process.port)) as raw:
        raw.sendall(
            b"POST /v1/promote HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{"
        )
        time.sleep(0.1)
    time.sleep(0.2)
    assert revision(api) == before


def test_chunked_bodies_have_the_same_limit(api: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 2**16

    try:
        answer = api.post("/v1/switch", content=chunks(), headers={"content-type": "application/json"})
    except httpx.WriteError:
        return  # refused and closed before all of it was sent
    problem(answer, 413, "at most 1048576 bytes")


def test_what_needs_green_is_refused_without_one(tmp_path: Path) -> None:
    state, _ = new_state(tmp_path, "blue: {name: alone, servers: [http://127.0.0.1:9001]}")
    process = ControlProcess(state)
    with process.client() as api:
        for method, path, body in (
            ("POST", "/v1/switch", {"to": "green"}),
            ("POST", "/v1/split", {"green_percent": 1}),
            ("POST", "/v1/promote", {}),
        ):
            value = problem(api.request(method, path, json=body), 409, "bluegreen candidate URL")
            assert value["title"] == "Refused"
        assert api.post("/v1/switch", json={"to": "blue"}).status_code == 200
        assert api.get("/v1/status").json()["green"] is None
        assert api.get("/v1/evidence").json()["arms"] == {
            "blue": {"name": "alone", "servers": ["http://127.0.0.1:9001"]},
            "green": None,
        }
        assert [entry["action"] for entry in whole_history(api)] == ["start", "switch blue"]
    assert process.end() == 0


# --- questions ------------------------------------------------------------------------------------------------------------


def test_status_says_what_holds_and_what_was_counted(api: httpx.Client, followers: list[Follower]) -> None:
    api.put("/v1/arms/green", json={"name": "v4", "servers": ["http://127.0.0.1:9104", "http://127.0.0.1:9105"]})
    plan = api.post("/v1/split", json={"green_percent": 25}).json()
    until(lambda: obey(followers, plan["revision"]))
    for number, follower in enumerate(followers, 1):
        words = follower.words
        blue, green = c.COLOUR_BASE
        words[blue + c.STATUS + 1], words[blue + c.STATUS + 4] = 100 * number, number
        words[green + c.STATUS + 1], words[green + c.ERRORS], words[green + c.FALLBACKS] = 10 * number, 3 * number, 2 * number
        words[green + c.IN_FLIGHT] = number
        words[c.HISTOGRAM_BASE[0] + bin_of(1500)] = 95
        words[c.HISTOGRAM_BASE[0] + bin_of(40_000)] = 5
        words[c.CONNECTIONS] = 7
        words[c.OWN_BASE + c.OWN_STATUSES.index(503)] = 4
    followers[1].words[c.COLOUR_BASE[1] + c.DOWN] = 0b10
    followers[0].words[c.COLOUR_BASE[1] + c.BREAKER] = 2
    status = api.get("/v1/status").json()
    assert status["revision"] == plan["revision"]
    assert status["green"] == {
        "name": "v4",
        "servers": [{"url": "http://127.0.0.1:9104", "healthy": True}, {"url": "http://127.0.0.1:9105", "healthy": False}],
    }
    assert status["split"] == plan["split"]
    assert status["shadow"]["percent"] == plan["shadow"]["percent"]
    assert status["shadow"]["running"] is False
    assert status["rollout"] == {"state": "idle"}
    assert [worker["revision"] for worker in status["workers"]] == [plan["revision"]] * 2
    assert [worker["requests"] for worker in status["workers"]] == [111, 222]
    assert status["arms"]["blue"]["requests"] == 303
    green = status["arms"]["green"]
    assert (green["requests"], green["errors"], green["fallbacks"], green["in_flight"]) == (30, 9, 6, 3)
    assert (green["breaker"], status["arms"]["blue"]["breaker"]) == ("half-open", "closed")
    assert green["latency_ms"] == {"p50": None, "p95": None, "p99": None}
    blue_ms = status["arms"]["blue"]["latency_ms"]
    assert blue_ms["p50"] == pytest.approx(1.5, rel=1 / 16)
    assert blue_ms["p99"] == pytest.approx(40, rel=1 / 16)
    assert status["connections"] == 14
    assert status["own_answers"] == {"503": 8}


def test_an_ended_worker_keeps_its_counts_and_loses_its_say(tmp_path: Path) -> None:
    state, _ = new_state(tmp_path)
    process = ControlProcess(state)
    living, dead = Follower(state, 0), Follower(state, 1)
    dead.words[c.COLOUR_BASE[0] + c.STATUS + 1] = 50
    dead.words[c.COLOUR_BASE[0] + c.DOWN] = 1
    dead.words[c.COLOUR_BASE[0] + c.IN_FLIGHT] = dead.words[c.CONNECTIONS] = 9
    with process.client() as api:
        assert api.get("/v1/status").json()["blue"]["servers"][0]["healthy"] is False
        dead.die()
        status = api.get("/v1/status").json()
        assert [worker["slot"] for worker in status["workers"]] == [0]
        assert status["blue"]["servers"][0]["healthy"] is True
        assert (status["arms"]["blue"]["requests"], status["arms"]["blue"]["in_flight"], status["connections"]) == (50, 0, 0)
        assert api.get("/readyz").json() == {"status": "ready", "revision": 1, "workers": 1}
        living.die()
        problem(api.get("/readyz"), 503, "no worker is running")
        assert api.get("/readyz").headers["retry-after"] == "1"
        assert api.get("/healthz").json() == {"status": "ok"}
        assert api.post("/v1/switch", json={"to": "green"}).json() == {"revision": 2, "recalled": 0, "holds": True}
    assert process.end() == 0


def test_the_shadow_runs_while_its_socket_takes_connections(api: httpx.Client, process: ControlProcess) -> None:
    with socket.socket(socket.AF_UNIX) as shadow:
        shadow.bind(str(process.state.tap))
        assert api.get("/v1/status").json()["shadow"]["running"] is False
        shadow.listen()
        assert api.get("/v1/status").json()["shadow"]["running"] is True
    assert api.get("/v1/status").json()["shadow"]["running"] is False


def test_evidence_before_there_is_any(api: httpx.Client) -> None:
    release = api.put("/v1/arms/green", json={"name": "v5", "servers": ["http://127.0.0.1:9105"]}).json()["release"]
    evidence = api.get("/v1/evidence").json()
    assert evidence["release"] == release
    assert evidence["agreement"] == evidence["noise"] == {"n": 0, "rate": None, "ci": [0.0, 1.0]}
    assert (evidence["pairs"], evidence["dropped"], evidence["latency"], evidence["errors"]) == (0, 0, {}, {})
    assert evidence["arms"]["green"] == {"name": "v5", "servers": ["http://127.0.0.1:9105"]}
    assert evidence["verdict"]["verdict"] == "hold"
    assert any("0 pairs compared, 500 wanted" in reason for reason in evidence["verdict"]["reasons"])
    assert evidence["as_of"] is None


def test_evidence_counts_what_never_reached_the_shadow(
    api: httpx.Client, process: ControlProcess, followers: list[Follower]
) -> None:
    release = api.put("/v1/arms/green", json={"servers": ["http://127.0.0.1:9106"]}).json()["release"]
    snapshot = {
        "pairs": 90,
        "dropped": 3,
        "agreement": {"n": 90, "rate": 0.9, "ci": [0.8, 0.96]},
        "noise": {"n": 9, "rate": 1.0, "ci": [0.6, 1.0]},
        "latency": {"p50": {"blue": 1.0}},
        "drift": {"psi": 0.01},
    }
    store = Store(process.state.store)
    store.save_evidence(release, snapshot, 1234.5)
    store.close()
    for follower in followers:
        cell = c.RELEASE_BASE + 3 * (release % c.RELEASE_CELLS)
        follower.words[cell], follower.words[cell + 1], follower.words[cell + 2] = release, 50, 2
    evidence = api.get("/v1/evidence").json()
    for key in ("pairs", "agreement", "noise", "latency", "drift"):
        assert evidence[key] == snapshot[key]
    assert (evidence["dropped"], evidence["sampled"], evidence["as_of"]) == (7, 100, 1234.5)
    later = api.put("/v1/arms/green", json={"servers": ["http://127.0.0.1:9107"]}).json()["release"]
    assert api.get("/v1/evidence").json()["pairs"] == 0
    old = api.get("/v1/evidence", params={"release": release}).json()
    assert (old["release"], old["pairs"], old["arms"]["green"]["servers"]) == (release, 90, ["http://127.0.0.1:9106"])
    assert later == release + 1


def test_pairs(api: httpx.Client, process: ControlProcess) -> None:
    release = api.put("/v1/arms/green", json={"servers": ["http://127.0.0.1:9108"]}).json()["release"]
    store = Store(process.state.store)
    store.add_pairs([RecordedPair(release, float(n), f"r{n}", n % 2 == 0, None, {"n": n}) for n in range(4)])
    store.add_pairs([RecordedPair(release - 1, 9.0, "old", False, "x", {})])
    store.close()
    document = api.get("/v1/pairs").json()
    assert document["release"] == release
    assert [pair["request_id"] for pair in document["pairs"]] == ["r3", "r2", "r1", "r0"]
    disagreeing = api.get("/v1/pairs", params={"disagreeing": True, "limit": 1}).json()["pairs"]
    assert [pair["request_id"] for pair in disagreeing] == ["r3"]
    assert disagreeing[0]["content"] == {"n": 3}
    assert [pair["request_id"] for pair in api.get("/v1/pairs", params={"release": release - 1}).json()["pairs"]] == ["old"]


def test_history_says_who_when_and_why(api: httpx.Client, process: ControlProcess) -> None:
    begin = time.time()
    with process.client(**{"x-bluegreen-user": "ann"}) as named:
        named.post("/v1/switch", json={"to": "blue", "reason": "an incident"})
    api.post("/v1/split", json={"green_percent": 1})
    first, second = whole_history(api)[-2:]
    assert api.get("/v1/history", params={"last": 2}).json()["history"] == [first, second]
    assert first["who"] == "ann@127.0.0.1"
    assert (first["action"], first["why"], first["kind"]) == ("switch blue", "an incident", "plan")
    assert begin <= first["when"] <= second["when"] <= time.time()
    assert second["who"] == "anonymous@127.0.0.1"
    assert second["old"] == first["new"]
    assert second["new"] == api.get("/v1/plan").json()
    assert api.get("/v1/history", params={"after": first["id"]}).json()["history"] == [second]
    whole = api.get("/v1/history").json()["history"]
    assert [entry["revision"] for entry in whole] == list(range(1, second["revision"] + 1))
    assert api.get("/v1/history", params={"limit": 3}).json()["history"] == whole[:3]


def test_history_answers_beside_a_locked_store_and_is_completed_afterwards(api: httpx.Client, process: ControlProcess) -> None:
    before = whole_history(api)
    with closing(sqlite3.connect(process.state.store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        changed = api.post("/v1/switch", json={"to": "blue", "reason": "locked"})
        assert changed.status_code == 200
        assert api.get("/v1/history").json()["history"] == before  # what is written; the change holds all the same
        assert api.get("/v1/plan").json()["revision"] == before[-1]["revision"] + 1
        other.execute("ROLLBACK")
    until(lambda: api.get("/v1/history", params={"last": 1}).json()["history"][0]["why"] == "locked")


def test_the_openapi_document_names_every_call(api: httpx.Client) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    expected = {
        *("/v1/status", "/v1/plan", "/v1/switch", "/v1/split", "/v1/shadow", "/v1/arms/green", "/v1/promote"),
        *("/v1/evidence", "/v1/pairs", "/v1/history", "/metrics", "/healthz", "/readyz"),
    }
    assert expected <= set(paths)
    assert all(call.get("description") for path in paths.values() for call in path.values())
    assert api.get("/docs").status_code == 200


def test_every_call_is_documented(api: httpx.Client) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/control-api.md").read_text()
    for path, calls in api.get("/openapi.json").json()["paths"].items():
        for method in calls:
            assert f"`{method.upper()} {path}" in text, f"{method.upper()} {path}"


def test_the_dashboard_is_whole_and_asks_nobody_else(api: httpx.Client) -> None:
    page = api.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path, kind in (("/dashboard/page.js", "text/javascript"), ("/dashboard/style.css", "text/css")):
        assert path in page.text
        assert api.get(path).headers["content-type"].startswith(kind)
    script = api.get("/dashboard/page.js").text
    for call in ("/v1/status", "/v1/evidence", "/v1/history", "/v1/switch"):
        assert call in script
    for text in (page.text, script, api.get("/dashboard/style.css").text):
        assert "https://" not in text
        assert "innerHTML" not in text
