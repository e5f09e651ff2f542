from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from control_process import Follower, new_state, until

from models.arm import Arm, Colour
from router.control import plans
from router.control.plans import Control
from router.errors import PlanConflict, PlanError, Refused, Unavailable
from router.page import PlanPage
from router.plan import Change, Plan, read_plan, split_at, with_candidate, written
from router.seed import seed
from router.state import StateDir
from router.store.migrations import BUSY_SECONDS
from router.store.store import Store
from router.workers import Workers

V3 = Arm("v3", ("http://127.0.0.1:9009",))


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of this process may get no processor for longer than control waits for workers and for the history."""
    monkeypatch.setattr(plans, "SWITCH_SECONDS", 30.0)
    monkeypatch.setattr(plans, "CHANGE_SECONDS", 10.0)
    monkeypatch.setattr(plans, "CLOSE_SECONDS", 10.0)


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return new_state(tmp_path)[0]


def open_control(state: StateDir) -> Control:
    return Control(PlanPage(state.plan_page, writable=True), Store(state.store), Workers(state), now=lambda: 2000.0)


@pytest.fixture
def control(state: StateDir) -> Iterator[Control]:
    one = open_control(state)
    one.reconcile()
    yield one
    one.close()
    one.store.close()


def half(plan: Plan) -> Plan:
    return split_at(plan, 50)


def revisions(control: Control) -> list[int]:
    """What the history holds, once nothing waits to be written."""
    assert control.history.settle(10)
    return [entry["revision"] for entry in control.store.history()]


def test_a_change_is_in_the_page_and_in_the_history(control: Control, state: StateDir) -> None:
    plan = control.change(half, who="ann", action="split 50", why="a try")
    assert plan == control.plan() == read_plan(PlanPage(state.plan_page).read()[1])
    assert (plan.revision, plan.split.green_percent) == (2, 50)
    assert plan.change == Change("ann", 2000.0, "split 50", "a try")
    first, second = control.store.history()
    assert first["action"] == "start"
    assert (second["who"], second["why"], second["old"]["revision"], second["new"]) == ("ann", "a try", 1, plan.to_dict())


def test_a_release_that_a_change_begins_is_recorded(control: Control) -> None:
    control.change(lambda plan: with_candidate(plan, V3), who="ann", action="candidate v3", why="")
    assert [(row["release"], row["green"]["name"]) for row in control.store.releases()] == [(1, "iris-v2"), (2, "v3")]


def test_a_change_on_a_wrong_idea_of_the_plan_changes_nothing(control: Control) -> None:
    control.change(half, who="ann", action="a", why="", expect=1)
    with pytest.raises(PlanConflict, match="the plan is at revision 2, not 1"):
        control.change(half, who="bob", action="b", why="", expect=1)
    assert revisions(control) == [1, 2]
    assert control.page.revision == 2


def test_a_transition_that_refuses_changes_nothing(control: Control) -> None:
    control.change(lambda plan: replace(plan, green=None), who="a", action="a", why="")
    with pytest.raises(Refused):
        control.switch(Colour.GREEN, who="a", why="")
    with pytest.raises(PlanError):
        control.change(lambda plan: split_at(plan, 101), who="a", action="a", why="")
    assert control.page.revision == 2
    assert revisions(control) == [1, 2]


def test_a_plan_that_does_not_fit_the_page_is_refused(control: Control) -> None:
    with pytest.raises(PlanError, match=r"at most \d+ fit"):
        control.change(half, who="ann", action="split", why="x" * 300_000)
    assert control.page.revision == 1
    assert control.change(half, who="ann", action="split", why="").revision == 2


def test_a_page_without_a_plan_is_not_ready(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.create()
    control = open_control(state)
    with pytest.raises(Unavailable, match="no plan has been written yet"):
        control.plan()
    control.store.close()


def test_a_switch_counts_what_was_recalled_and_waits_for_it(control: Control, state: StateDir) -> None:
    followers = [Follower(state, 0, recalls=2), Follower(state, 1, recalls=3, delay=0.2)]
    done = control.switch(Colour.GREEN, who="ann", why="")
    assert (done.plan.revision, done.recalled, done.holds) == (2, 5, True)
    assert control.switch(Colour.GREEN, who="ann", why="").plan.revision == 3  # it holds already, and is written all the same
    for follower in followers:
        assert follower.words[2] == 3
        follower.stop()


def test_a_worker_that_does_not_obey_delays_no_other_switch(control: Control, state: StateDir) -> None:
    """One change waits for a worker that sleeps; another, meanwhile, is in the page at once."""
    follower = Follower(state, 0, delay=60)
    waiting = threading.Thread(target=lambda: control.change(half, who="a", action="a", why="", wait=60))
    waiting.start()
    while control.page.revision < 2:
        time.sleep(0.001)
    assert control.change(lambda plan: split_at(plan, 0), who="b", action="b", why="", wait=0).revision == 3
    assert follower.words[2] == 1
    assert waiting.is_alive()
    follower.die()
    waiting.join()
    assert revisions(control) == [1, 2, 3]


def test_concurrent_changes_each_get_a_revision_of_their_own_in_order(control: Control) -> None:
    def many(name: str) -> None:
        for _ in range(20):
            control.change(half, who=name, action="a", why="")

    threads = [threading.Thread(target=many, args=(str(n),)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert control.plan().revision == 101
    assert revisions(control) == list(range(1, 102))
    entries = control.store.history()
    assert all(new["old"] == old["new"] for old, new in pairwise(entries))


def test_a_store_that_fails_stops_no_change_and_gets_the_history_later(control: Control) -> None:
    with closing(sqlite3.connect(control.store.path)) as raw:
        raw.execute("ALTER TABLE history RENAME TO away")
    assert control.switch(Colour.GREEN, who="ann", why="").plan.revision == 2
    assert control.switch(Colour.BLUE, who="ann", why="").plan.revision == 3
    assert control.plan().split.green_percent == 0
    assert [plan.revision for plan in control.history.waiting()] == [2, 3]
    assert not control.history.settle(0)
    with closing(sqlite3.connect(control.store.path)) as raw:
        raw.execute("ALTER TABLE away RENAME TO history")
    assert revisions(control) == [1, 2, 3]  # by itself: nobody has to change the plan again


def test_a_store_that_somebody_has_locked_delays_no_switch(control: Control) -> None:
    with closing(sqlite3.connect(control.store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        for turn in range(4):
            assert control.switch(Colour.GREEN if turn % 2 == 0 else Colour.BLUE, who="ann", why="").holds
        assert time.monotonic() - began < BUSY_SECONDS  # the lock is waited for so long, by the history's own thread
        assert len(control.history.waiting()) == 4
        other.execute("ROLLBACK")
    assert revisions(control) == [1, 2, 3, 4, 5]


def test_switches_that_wait_for_a_stuck_worker_are_in_the_history_already(control: Control, state: StateDir) -> None:
    """Else a kill in these two seconds would lose all but the last two, which the page holds."""
    stuck = Follower(state, 0, delay=60)
    threads = [threading.Thread(target=control.switch, args=(Colour.GREEN,), kwargs={"who": name, "why": ""}) for name in "abc"]
    for thread in threads:
        thread.start()
    until(lambda: control.page.revision == 4)
    assert revisions(control) == [1, 2, 3, 4]
    assert all(thread.is_alive() for thread in threads)
    stuck.die()
    for thread in threads:
        thread.join()


# --- the start ------------------------------------------------------------------------------------------------------------


def test_the_first_plan_is_recorded_once(control: Control, state: StateDir) -> None:
    control.reconcile()
    again = open_control(state)
    again.reconcile()
    assert revisions(again) == [1]
    assert again.store.history()[0]["who"] == "configuration"
    again.store.close()


def test_revisions_that_only_the_page_knows_are_added_at_the_start(control: Control, state: StateDir) -> None:
    """As after a kill between the page and the history, twice."""
    plan = control.change(half, who="ann", action="split 50", why="")
    for number in (60, 70):
        plan = written(split_at(plan, number), plan, Change("ann", 1.0, f"split {number}", "killed"))
        control.page.write(plan.revision, plan.to_json())
    again = open_control(state)
    again.reconcile()
    entries = again.store.history()
    assert [entry["action"] for entry in entries] == ["start", "split 50", "split 60", "split 70"]
    assert entries[-1]["old"] == entries[-2]["new"]
    assert again.plan() == plan
    again.store.close()


def test_a_lost_page_gets_the_plan_of_the_history_again(control: Control, state: StateDir, tmp_path: Path) -> None:
    newest = control.change(lambda plan: with_candidate(plan, V3), who="ann", action="candidate v3", why="")
    state.plan_page.unlink()
    page = PlanPage(state.plan_page, writable=True)
    seed(page, replace(newest, green=None, revision=0), reseed=False, now=5.0)
    again = open_control(state)
    again.reconcile()
    plan = again.plan()
    assert (plan.blue, plan.green, plan.split) == (newest.blue, V3, newest.split)
    assert plan.revision > newest.revision
    assert plan.release > newest.release  # what was counted of the old one may be gone with the page
    assert plan.change.action == "recover"
    assert plan == read_plan(page.read()[1])
    assert again.store.last_plan() == plan
    again.reconcile()
    assert again.plan() == plan
    again.store.close()


def test_a_lost_page_and_reseed_take_the_files_plan_under_a_fresh_revision(control: Control, state: StateDir) -> None:
    newest = control.change(lambda plan: with_candidate(plan, V3), who="ann", action="candidate v3", why="")
    first = replace(newest, green=None, revision=0, release=1)
    state.plan_page.unlink()
    page = PlanPage(state.plan_page, writable=True)
    seed(page, first, reseed=True, now=5.0)
    again = open_control(state)
    again.reconcile()
    assert again.plan().green is None
    assert again.plan().revision > newest.revision
    again.store.close()
