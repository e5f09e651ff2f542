from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_process import Follower, new_state, until, unused_pid

from router import counters as c
from router.counters import CounterPage
from router.page import PlanPage
from router.state import StateDir
from router.workers import FRESH_SECONDS, Workers


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return new_state(tmp_path)[0]


@pytest.fixture
def two(state: StateDir) -> Iterator[list[Follower]]:
    followers = [Follower(state, 0), Follower(state, 1)]
    yield followers
    for follower in followers:
        follower.stop()


def turn(state: StateDir, revision: int) -> None:
    PlanPage(state.plan_page, writable=True).write(revision, b"{}")


def test_pages_appear_as_workers_make_them(state: StateDir) -> None:
    workers = Workers(state)
    assert workers.pages() == {}
    CounterPage(state.counters(3), writable=True)
    assert list(workers.pages()) == [3]
    CounterPage(state.counters(0), writable=True)
    assert list(workers.pages()) == [0, 3]
    assert workers.pages()[3] is workers.pages()[3]


def test_what_is_no_page_of_this_version_is_left_out_until_it_is_replaced(state: StateDir) -> None:
    workers = Workers(state)
    state.counters(0).write_bytes(b"short")
    state.counters(1).write_bytes(b"BGCNT000".ljust(c.PAGE_BYTES, b"\0"))
    (state.counters_dir / "0.page.new").touch()
    (state.counters_dir / "notes.txt").touch()
    assert workers.pages() == {}
    CounterPage(state.counters(0), writable=True).words[c.RECALLED] = 5
    assert workers.pages()[0].words[c.RECALLED] == 5


def test_a_page_that_was_replaced_is_mapped_anew(state: StateDir) -> None:
    workers = Workers(state)
    CounterPage(state.counters(0), writable=True).words[c.RECALLED] = 5
    assert workers.recalled() == 5
    state.counters(0).unlink()
    CounterPage(state.counters(0), writable=True).words[c.RECALLED] = 7
    assert workers.recalled() == 7


def test_a_folder_that_has_settled_is_read_again_when_it_changes(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(state)
    CounterPage(state.counters(0), writable=True)
    os.utime(state.counters_dir, (1e9, 1e9))
    assert list(workers.pages()) == [0]
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", lambda _: pytest.fail("nothing has changed"))
        assert list(workers.pages()) == [0]
    CounterPage(state.counters(1), writable=True)
    assert list(workers.pages()) == [0, 1]
    state.counters(0).unlink()
    os.utime(state.counters_dir, (2e9, 2e9))
    assert list(workers.pages()) == [1]


def test_a_worker_lives_while_its_process_runs_and_it_beats(state: StateDir) -> None:
    workers, words = Workers(state), CounterPage(state.counters(0), writable=True).words
    now = int(time.monotonic() * 1000)
    assert workers.alive() == []  # no PID yet
    words[c.PID], words[c.BEAT] = os.getpid(), now
    assert workers.alive() == [0]
    words[c.BEAT] = now - int(FRESH_SECONDS * 1000) - 1000
    assert workers.alive() == []  # it hangs, or its number is another's by now
    words[c.BEAT] = now + 3_600_000
    assert workers.alive() == []  # a beat of another boot, whose clock was ahead
    words[c.PID], words[c.BEAT] = unused_pid(), now
    assert workers.alive() == []
    words[c.PID] = 2**62
    assert workers.alive() == []


def test_a_killed_worker_that_nobody_waited_for_does_not_live(state: StateDir) -> None:
    workers, words = Workers(state), CounterPage(state.counters(0), writable=True).words
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    words[c.PID], words[c.BEAT] = process.pid, int(time.monotonic() * 1000)
    assert workers.alive() == [0]
    process.kill()
    until(lambda: workers.alive() == [])  # it is a zombie until the next line
    process.wait()


def test_waiting_ends_when_every_living_worker_obeys(state: StateDir, two: list[Follower]) -> None:
    workers = Workers(state)
    assert workers.wait(1)
    assert not workers.wait(2, 0.05)
    two[1].delay = 0.2
    turn(state, 2)
    workers.nudge()
    assert workers.wait(2, 30)
    assert [follower.words[c.REVISION] for follower in two] == [2, 2]


def test_waiting_is_for_the_recall_as_well(state: StateDir) -> None:
    words = CounterPage(state.counters(0), writable=True).words
    words[c.PID], words[c.BEAT] = os.getpid(), int(time.monotonic() * 1000)
    words[c.REVISION] = 9
    words[c.RECALLED_REVISION] = 8
    assert not Workers(state).wait(9, 0.05)
    words[c.RECALLED_REVISION] = 9
    assert Workers(state).wait(9, 0.05)


def test_a_worker_that_dies_meanwhile_is_not_waited_for(state: StateDir, two: list[Follower]) -> None:
    two[0].delay = 60
    threading.Timer(0.1, two[0].die).start()
    turn(state, 2)
    assert Workers(state).wait(2, 5)
    assert two[0].words[c.REVISION] == 1


def test_nobody_there_is_no_reason_to_wait(state: StateDir) -> None:
    assert Workers(state).wait(99)


def test_a_nudge_reaches_those_who_listen_and_harms_nobody_else(state: StateDir, two: list[Follower]) -> None:
    CounterPage(state.counters(2), writable=True)  # a page without a pipe
    CounterPage(state.counters(3), writable=True)
    os.mkfifo(state.nudge(3))  # a pipe without a reader
    Workers(state).nudge()
    until(lambda: [follower.nudges for follower in two] == [1, 1])


def test_a_pipe_that_nobody_empties_does_not_stop_the_others(state: StateDir, two: list[Follower]) -> None:
    CounterPage(state.counters(2), writable=True)
    os.mkfifo(state.nudge(2))
    full = os.open(state.nudge(2), os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(full, b"x" * 4096)
    Workers(state).nudge()
    os.close(full)
    until(lambda: [follower.nudges for follower in two] == [1, 1])


def test_recalls_are_summed_over_ended_workers_too(state: StateDir, two: list[Follower]) -> None:
    two[0].words[c.RECALLED] = 3
    two[1].words[c.RECALLED] = 4
    two[1].die()
    assert Workers(state).recalled() == 7
