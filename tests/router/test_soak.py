"""The soak in twenty seconds: a whole router under load, with plans that change and servers and workers that die.

The long run is `make soak`; what it checks is in benchmarks/soak.py. Too short to tell a leak from warming up, so what is held
against it here is everything but the memory. That lost requests are excused for the right reasons only is tested by itself.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from benchmarks import soak
from benchmarks.soaking import report
from benchmarks.soaking.load import Load, question, wrong
from benchmarks.soaking.report import Account, Held, Outcome
from benchmarks.soaking.server import digest, pattern
from benchmarks.soaking.troubles import Lost, ServerKill, Troubles, WorkerKill, excuse, held_ports
from benchmarks.soaking.wire import Answer


def test_twenty_seconds(tmp_path: Path) -> None:
    random.seed(7)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(soak.soak(20.0, 4.0, 0.5, tmp_path))
    account = outcome.account
    assert account is not None
    assert [failure for failure in outcome.failures() if not failure.startswith("memory of")] == []
    assert sum(account.answered.values()) > 300, "too little was asked for this to mean anything"
    assert account.worker_kills >= 1
    assert account.server_kills >= 2
    assert sum(account.changes.values()) >= 10
    assert outcome.evidence["pairs"] > 10
    assert "answered right" in report.render(outcome)


# --- who is excused ---

LOST = Lost("keep-alive", "1", 4711, 10.0, 20.0, 21.0, "blue-0", "reset")


@pytest.mark.parametrize(
    ("workers", "servers", "expected"),
    [
        ([], [], None),
        ([WorkerKill(20.5, 1, frozenset({4711}))], [], "worker"),
        ([WorkerKill(15.0, 1, frozenset({4711}))], [], "worker"),  # found out by the next request on it
        ([WorkerKill(20.5, 1, frozenset({4712}))], [], None),  # another's connection
        ([WorkerKill(9.0, 1, frozenset({4711}))], [], None),  # an earlier connection from the same port
        ([WorkerKill(22.0, 1, frozenset({4711}))], [], None),  # lost before
        ([], [ServerKill(20.5, "blue-0")], "server"),
        ([], [ServerKill(20.5, "blue-1")], None),  # not the one that was answering
        ([], [ServerKill(19.0, "blue-0")], None),  # dead before the request was sent
    ],
)
def test_lost_requests_are_excused_for_two_reasons_only(
    workers: list[WorkerKill], servers: list[ServerKill], expected: str | None
) -> None:
    assert excuse(LOST, workers, servers) == expected


def test_answer_that_had_not_begun_is_not_excused_by_a_servers_death() -> None:
    silent = Lost("slow", "1", 4711, 10.0, 20.0, 21.0, None, "reset")
    assert excuse(silent, [], [ServerKill(20.5, "blue-0")]) is None


def test_connections_of_a_process_are_read_from_the_kernel() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    accepted = [listener.accept()[0] for _ in range(2)]
    try:
        ours = frozenset(client.getsockname()[1] for client in clients[:2])
        assert held_ports(os.getpid(), port) == ours  # the third still waits in the queue, which outlives the process
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            assert held_ports(other.pid, port) == frozenset()
            other.communicate(b"\n")
    finally:
        for sock in [listener, *clients, *accepted]:
            sock.close()


# --- what counts as wrong ---


def answer_to(asked: object, troubles: Troubles, **changes: str) -> Answer:
    fields = {
        "x-soak-id": asked.identity,  # type: ignore[attr-defined]
        "x-request-id": asked.identity,  # type: ignore[attr-defined]
        "x-soak-digest": digest(asked.body),  # type: ignore[attr-defined]
        "x-soak-server": "green-0",
        "x-bluegreen-arm": "green",
    }
    return Answer(200, {**fields, **changes}, pattern(asked.identity, 1000))  # type: ignore[attr-defined]


@pytest.fixture
def troubles() -> Troubles:
    return Troubles(0, 0, [], 1.0, 1.0)


def test_right_answer(troubles: Troubles) -> None:
    asked = question(troubles, 50, answer=1000)
    assert wrong(asked, answer_to(asked, troubles), troubles) is None


@pytest.mark.parametrize(
    "change",
    [
        {"x-soak-id": "other"},
        {"x-request-id": "other"},
        {"x-soak-digest": "0"},
        {"x-bluegreen-arm": "blue"},
        {"x-soak-server": "blue-0"},
    ],
)
def test_answer_to_another_request_is_wrong(troubles: Troubles, change: dict[str, str]) -> None:
    asked = question(troubles, 50, answer=1000)
    assert wrong(asked, answer_to(asked, troubles, **change), troubles)


def test_status_and_bytes_are_checked(troubles: Troubles) -> None:
    asked = question(troubles, 50, answer=1000)
    right = answer_to(asked, troubles)
    assert wrong(asked, Answer(502, right.fields, right.body), troubles)
    assert wrong(asked, Answer(200, right.fields, right.body[:-1] + b"x"), troubles)


def test_green_is_wrong_after_a_switch_to_blue_until_the_next_change(troubles: Troubles) -> None:
    troubles.only_blue = 5
    asked = question(troubles, 50, answer=1000)
    assert wrong(asked, answer_to(asked, troubles), troubles)
    troubles.only_blue = None  # a change has begun in the meantime
    assert wrong(asked, answer_to(asked, troubles), troubles) is None


# --- what fails a run ---


def outcome_with(change: Callable[[Outcome], None]) -> list[str]:
    held = {"worker 0": Held(100 << 20, 20)}
    account = Account({"slow": 10}, {"slow": 10}, {"blue": 10}, 0, [], 0, 0, [], {}, [], 0, 0, 0, 0)
    outcome = Outcome(20.0, 5.0, held=[held, dict(held)], account=account)
    change(outcome)
    return outcome.failures()


def test_good_run_fails_nothing() -> None:
    assert outcome_with(lambda _: None) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o: o.held[1].update({"worker 0": Held(106 << 20, 20)}), "memory of worker 0"),
        (lambda o: o.held[1].update({"worker 0": Held(100 << 20, 25)}), "descriptors of worker 0"),
        (lambda o: o.account.wrong.append("x"), "wrong answer"),
        (lambda o: o.account.lost.append("x"), "lost: x"),
        (lambda o: o.account.asked.update(slow=11), "11 requests were sent and 10 have an end"),
        (lambda o: o.account.refused_changes.append("x"), "control: x"),
        (lambda o: o.leftovers.append("in flight: 3"), "in flight: 3"),
        (lambda o: o.complaints.append("Traceback"), "log: Traceback"),
    ],
)
def test_what_must_not_be_fails_the_run(change: Callable[[Outcome], None], words: str) -> None:
    assert any(words in failure for failure in outcome_with(change))


def test_report_goes_between_the_markers(tmp_path: Path) -> None:
    manual = tmp_path / "soak.md"
    manual.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write("new", manual)
    assert manual.read_text() == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    manual.write_text("no markers")
    with pytest.raises(ValueError, match="markers"):
        report.write("new", manual)


def test_load_counts_what_is_right_and_names_what_is_wrong(troubles: Troubles) -> None:
    load, asked = Load(0, troubles), question(troubles, 50, answer=1000)
    load._check("slow", asked, answer_to(asked, troubles))
    assert (load.answered["slow"], load.arms["green"], load.wrong) == (1, 1, [])
    load._check("slow", asked, answer_to(asked, troubles, **{"x-soak-id": "other"}))
    assert load.answered["slow"] == 1
    assert [asked.identity in line for line in load.wrong] == [True]
