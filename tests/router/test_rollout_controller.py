"""The controller on a real store, a real plan page and real counter pages; only time is played: it is a parameter."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from models.arm import Arm, Colour
from router import counters as c
from router.control import plans
from router.control.plans import Control
from router.counters import CounterPage
from router.errors import PlanError, Refused, Unavailable
from router.page import PlanPage
from router.plan import Plan, ShadowShare, shadowed_at, split_at, with_candidate
from router.rollout import controller as rollout_controller
from router.rollout import examiner
from router.rollout.controller import RolloutController
from router.rollout.examiner import Examiner
from router.rollout.policy import Policy
from router.rollout.policy_settings import parse_policy
from router.rollout.records import broken_link
from router.rollout.rollout import Rollout
from router.rollout.states import Event, State
from router.seed import seed
from router.state import StateDir
from router.store.rollouts import RolloutStore, Superseded
from router.store.store import Store
from router.workers import Workers

V1, V2 = Arm("v1", ("http://127.0.0.1:9001",)), Arm("v2", ("http://127.0.0.1:9002",))
FIRST = Plan(0, 1, V1, V2, shadow=ShadowShare(100.0, 0.0))
QUICK = {
    "shadow": {"min_pairs": 100},
    "steps": [10, 50, 100],
    "hold": 60,
    "bake": 120,
    "deadline": 3600,
    "gates": {"agreement": {"min": 0.9}, "errors": {"max_increase": 0.02}},
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing runs after it."""


@dataclass
class Setting:
    """A router's state, and one control process after another on it."""

    folder: Path
    first: Plan = FIRST
    now: float = 1000.0
    told: list[Mapping[str, Any]] = field(default_factory=list)
    shadow_running: bool = True

    def __post_init__(self) -> None:
        self.state = StateDir(self.folder / "state")
        self.state.create()
        page = PlanPage(self.state.plan_page, writable=True)
        seed(page, self.first, reseed=False, now=self.now)
        page.close()
        self.counters = CounterPage(self.state.counters(0), writable=True)
        self.begin()

    def begin(self) -> None:
        """Start a control process: everything that it has in memory is new."""
        self.page = PlanPage(self.state.plan_page, writable=True)
        self.store = Store(self.state.store)
        self.control = Control(self.page, self.store, Workers(self.state), now=lambda: self.now)
        self.control.reconcile()
        self.rollouts = RolloutStore(self.store)
        judging = Examiner(self.store, self.rollouts, lambda: self.shadow_running)
        self.controller = RolloutController(
            self.control, self.rollouts, judging, {}, parse_policy(QUICK), notify=lambda _policy, told: self.told.append(told)
        )
        self.controller.recover(self.now)

    def end(self) -> None:
        self.control.close()
        self.store.close()
        self.page.close()

    def again(self) -> None:
        """Kill the control process and start another."""
        self.end()
        self.begin()

    # --- what happens ---

    def evidence(self, agreed: int = 1000, differed: int = 0, **errors: int) -> None:
        """The shadow saves a snapshot now."""
        n = agreed + differed
        found = {"n": n, "green_only": 0, "blue_only": 0, **errors}
        snapshot = {"alpha": 0.05, "pairs": n, "agreement": {"n": n, "agreed": agreed}, "errors": found}
        self.store.save_evidence(self.control.plan().release, snapshot, self.now)

    def traffic(self, requests: int = 2000, *, green_failures: int = 0) -> None:
        """Users ask; green's share of them is the plan's, and some of its answers fail and are blue's in the end."""
        green = round(requests * self.control.plan().split.green_percent / 100)
        words = self.counters.words
        words[c.COLOUR_BASE[1] + c.STATUS + 1] += green - green_failures
        words[c.COLOUR_BASE[1] + c.ERRORS] += green_failures
        words[c.COLOUR_BASE[1] + c.FALLBACKS] += green_failures
        words[c.COLOUR_BASE[0] + c.STATUS + 1] += requests - green + green_failures

    def pass_time(self, seconds: float, *, good: bool = True, step: float = 5.0) -> None:
        """Time passes, with ticks, and with evidence and traffic unless told otherwise."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + step, end)
            if good:
                self.evidence()
                self.traffic()
            self.controller.tick(self.now)

    # --- what is so ---

    @property
    def rollout(self) -> Rollout:
        assert self.controller.rollout is not None
        return self.controller.rollout

    @property
    def at(self) -> tuple[State, int, float]:
        """State, step, and what the plan really gives green."""
        return self.rollout.state, self.rollout.step, self.control.plan().split.green_percent

    def shares(self) -> list[float]:
        """Green's share after each change of the plan that a rollout made, from the history."""
        plans = [entry for entry in self.store.history() if entry["kind"] == "plan" and entry["action"].startswith("rollout ")]
        return [float(entry["new"]["split"]["green_percent"]) for entry in plans]

    def start(self, **policy: Any) -> None:
        self.controller.start(parse_policy({**QUICK, **policy}), who="ann", now=self.now)


@pytest.fixture(autouse=True)
def _no_intervals_for_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of a look's time, and here is nobody who reads them; every decision is the same without."""
    monkeypatch.setattr(examiner, "DETAIL_SECONDS", 1e9)


@pytest.fixture(autouse=True)
def _patience_with_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread may get no processor for longer than anybody waits for it."""
    wait_for_the_history(monkeypatch, 10.0)


def wait_for_the_history(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for module, name in ((plans, "CHANGE_SECONDS"), (plans, "CLOSE_SECONDS"), (rollout_controller, "HISTORY_SECONDS")):
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Setting]:
    setting = Setting(tmp_path)
    yield setting
    setting.end()


# --- the whole walk -----------------------------------------------------------------------------------------------------------


def test_a_good_green_walks_up_step_by_step_and_is_done(router: Setting) -> None:
    router.start()
    assert router.at == (State.SHADOWING, -1, 0)
    router.pass_time(5)
    assert router.at == (State.STEPPING, 0, 10)
    router.pass_time(55)
    assert router.at == (State.STEPPING, 0, 10)  # the hold is not over
    router.pass_time(5)
    assert router.at == (State.STEPPING, 1, 50)
    router.pass_time(60)
    assert router.at == (State.BAKING, 2, 100)
    router.pass_time(115)
    assert router.at == (State.BAKING, 2, 100)
    router.pass_time(5)
    assert router.at == (State.DONE, 2, 100)
    assert router.shares() == [10, 50, 100]
    assert [move.to_state for move in router.rollouts.moves(1)] == [
        State.SHADOWING, State.STEPPING, State.STEPPING, State.BAKING, State.DONE,
    ]  # fmt: skip
    router.pass_time(100)
    assert router.at == (State.DONE, 2, 100)


def test_a_promoted_green_is_blue(router: Setting) -> None:
    router.start(promote=True, steps=[100], bake=1)
    router.pass_time(60)
    assert router.rollout.state is State.DONE
    plan = router.control.plan()
    assert (plan.blue, plan.green, plan.split.green_percent, plan.release) == (V2, V1, 0, 2)


def test_without_evidence_nothing_moves_and_the_deadline_says_what_is_missing(router: Setting) -> None:
    router.start()
    router.pass_time(3595, good=False, step=100)
    assert router.at == (State.SHADOWING, -1, 0)
    router.pass_time(5, good=False)
    assert router.at == (State.PAUSED, -1, 0)
    assert "there is no evidence yet" in router.rollout.reason
    assert router.shares() == []


def test_traffic_that_stops_in_a_step_holds_it(router: Setting) -> None:
    router.start()
    router.pass_time(10)
    router.pass_time(500, good=False, step=50)
    assert router.at == (State.STEPPING, 0, 10)
    router.pass_time(10)
    assert router.at == (State.STEPPING, 1, 50)


def test_evidence_without_users_in_a_step_is_not_enough(router: Setting) -> None:
    router.start()
    router.pass_time(10)
    for _ in range(40):
        router.now += 5
        router.evidence()
        router.controller.tick(router.now)
    assert router.at == (State.STEPPING, 0, 10)


@pytest.mark.parametrize("steps_up", [0, 1, 2])
def test_a_failed_gate_takes_green_back_from_wherever_it_is(router: Setting, steps_up: int) -> None:
    router.start()
    router.pass_time(5)
    router.pass_time(65 * steps_up)
    before = router.control.plan()
    assert before.split.green_percent == [10, 50, 100][steps_up]
    router.now += 1
    router.evidence(500, 500)
    router.controller.tick(router.now)
    assert router.at == (State.ROLLED_BACK, steps_up, 0)
    plan = router.control.plan()
    assert plan.revision == before.revision + 1
    assert (plan.change.who, plan.change.action) == ("rollout", "rollout 1: rolled back")
    assert "green answers like blue on 50 % of 1,000 pairs" in plan.change.why
    assert router.rollout.reason == plan.change.why


def test_a_failed_gate_pauses_where_the_policy_says_so(router: Setting) -> None:
    router.start(on_fail="pause")
    router.pass_time(5)
    router.now += 1
    router.evidence(500, 500)
    router.controller.tick(router.now)
    assert router.at == (State.PAUSED, 0, 10)
    assert router.rollout.reason.startswith("a gate failed: ")


def test_users_who_meet_errors_take_green_back_though_the_pairs_are_fine(router: Setting) -> None:
    router.start()
    router.pass_time(10)
    router.now += 5
    router.evidence()
    router.traffic(2000, green_failures=60)
    router.controller.tick(router.now)
    assert router.at == (State.ROLLED_BACK, 0, 0)
    assert "with users green fails" in router.rollout.reason


def test_what_was_in_flight_when_a_step_began_belongs_to_the_one_before(router: Setting) -> None:
    router.start()
    router.pass_time(5)
    assert router.at == (State.STEPPING, 0, 10)
    router.traffic(3000, green_failures=200)  # begun under the old plan
    router.now += 0.6
    router.controller.tick(router.now)
    router.pass_time(65)
    assert router.at == (State.STEPPING, 1, 50)


# --- people -------------------------------------------------------------------------------------------------------------------


def test_pause_resume_and_abort(router: Setting) -> None:
    router.start()
    router.pass_time(10)
    router.controller.act(Event.PAUSE, who="bob", now=router.now)
    router.pass_time(300, step=30)
    assert router.at == (State.PAUSED, 0, 10)
    router.controller.act(Event.RESUME, who="bob", now=router.now)
    assert router.at == (State.STEPPING, 0, 10)
    router.pass_time(55)
    assert router.at == (State.STEPPING, 0, 10)  # the hold began anew
    router.pass_time(5)
    assert router.at == (State.STEPPING, 1, 50)
    router.controller.act(Event.ABORT, who="cy", now=router.now)
    assert router.at == (State.ABORTED, 1, 0)
    assert router.control.plan().change.who == "cy"
    assert router.shares() == [10, 50, 0]
    assert [move.who for move in router.rollouts.moves(1)] == ["ann", "rollout", "bob", "bob", "rollout", "cy"]


@pytest.mark.parametrize(
    ("change", "action"),
    [
        (lambda plan: split_at(plan, 30), "split 30"),
        (lambda plan: with_candidate(plan, Arm("v3", ("http://127.0.0.1:9003",))), "candidate v3"),
        (lambda plan: replace(plan, blue=V2, green=V1, release=plan.release + 1), "promote"),
        (lambda plan: plan, "plan"),
    ],
)
def test_a_change_by_hand_pauses_and_says_who_it_was(router: Setting, change: Any, action: str) -> None:
    router.start()
    router.pass_time(10)
    plan = router.control.change(change, who="dan@10.0.0.7", action=action, why="I know better")
    router.pass_time(200)
    assert router.rollout.state is State.PAUSED
    assert router.control.plan() == plan  # the rollout keeps its hands off
    assert router.rollout.reason == (
        f"dan@10.0.0.7 changed the plan by hand: {action} (I know better), revision {plan.revision}"
    )
    assert router.rollouts.moves(1)[-1].who == "dan@10.0.0.7"
    history = router.store.history()[-1]
    assert (history["kind"], history["who"], history["action"]) == (
        "rollout", "dan@10.0.0.7", "rollout 1: paused by another change",
    )  # fmt: skip


def test_a_switch_by_hand_pauses_even_when_it_changes_nothing(router: Setting) -> None:
    router.start()
    router.control.switch(Colour.BLUE, who="dan", why="")
    router.pass_time(5)
    assert router.at == (State.PAUSED, -1, 0)


def test_another_share_of_mirrored_traffic_is_nobodys_interference(router: Setting) -> None:
    router.start()
    router.pass_time(10)
    router.control.change(lambda plan: shadowed_at(plan, 20), who="dan", action="shadow 20", why="")
    router.pass_time(60)
    assert router.at == (State.STEPPING, 1, 50)


def test_a_switch_by_hand_is_seen_before_the_history_has_it(router: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """A harmless change right after it must not hide it."""
    router.start()
    wait_for_the_history(monkeypatch, 0.1)
    write, go = router.store.add_history, threading.Event()
    monkeypatch.setattr(router.store, "add_history", lambda *entry: (go.wait(60), write(*entry)))
    router.control.switch(Colour.BLUE, who="dan", why="I know better")
    router.control.change(lambda plan: shadowed_at(plan, 50), who="eve", action="shadow 50", why="", wait=0)
    router.controller.tick(router.now)
    assert (router.rollout.state, router.rollout.by_hand) == (State.PAUSED, True)
    assert router.rollout.reason.startswith("dan changed the plan by hand: switch blue (I know better)")
    go.set()
    assert router.control.history.settle(10)
    router.pass_time(20)
    assert router.rollout.by_hand


def test_after_a_change_by_hand_a_resumption_goes_back_to_its_step(router: Setting) -> None:
    router.start()
    router.pass_time(10)
    router.control.change(lambda plan: split_at(plan, 30), who="dan", action="split 30", why="")
    router.pass_time(10)
    router.controller.act(Event.RESUME, who="dan", now=router.now)
    assert router.at == (State.STEPPING, 0, 10)
    router.pass_time(60)
    assert router.at == (State.STEPPING, 1, 50)


def test_after_another_green_there_is_nothing_to_resume(router: Setting) -> None:
    router.start()
    router.pass_time(10)
    v3 = Arm("v3", ("http://127.0.0.1:9003",))
    router.control.change(lambda plan: with_candidate(plan, v3), who="dan", action="candidate v3", why="")
    router.pass_time(5)
    with pytest.raises(Refused, match="blue or green has been replaced since"):
        router.controller.act(Event.RESUME, who="dan", now=router.now)
    router.controller.act(Event.ABORT, who="dan", now=router.now)
    assert router.rollout.state is State.ABORTED
    router.start()
    assert (router.rollout.release, router.rollout.attempt) == (2, 1)


def test_an_abort_after_a_change_by_hand_leaves_the_traffic_where_it_was_put(router: Setting) -> None:
    router.start()
    router.pass_time(10)
    router.control.switch(Colour.GREEN, who="dan", why="blue is down")
    router.pass_time(5)
    router.controller.act(Event.ABORT, who="dan", now=router.now)
    assert router.at == (State.ABORTED, 0, 100)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (replace(FIRST, green=None), "there is no green to roll out"),
        (split_at(FIRST, 20), "green has 20 % of the traffic already, and a rollout begins at 0; `bluegreen switch blue`"),
        (split_at(FIRST, 100), "green has 100 % of the traffic already, and a rollout begins at 0; `bluegreen promote`"),
    ],
)
def test_a_start_that_makes_no_sense_is_refused(tmp_path: Path, first: Plan, words: str) -> None:
    router = Setting(tmp_path, first)
    with pytest.raises(Refused, match=words):
        router.start()
    assert router.controller.rollout is None
    router.end()


def test_a_second_start_and_gates_that_cannot_be_decided_are_refused(router: Setting) -> None:
    with pytest.raises(Refused, match=r"gates\.slices: there are no slices"):
        router.start(gates={"slices": {}})
    router.start()
    with pytest.raises(Refused, match="rollout 1: a rollout is shadowing already"):
        router.start()
    for event in (Event.RESUME,):
        with pytest.raises(Refused, match="the rollout is shadowing, so it cannot be resumed"):
            router.controller.act(event, who="ann", now=router.now)


def test_each_attempt_at_a_release_is_counted(router: Setting) -> None:
    for attempt in (1, 2, 3):
        router.start()
        assert (router.rollout.number, router.rollout.attempt) == (attempt, attempt)
        router.controller.act(Event.ABORT, who="ann", now=router.now)


# --- the shadow's share -------------------------------------------------------------------------------------------------------


def test_the_start_has_mirrored_what_it_needs_and_the_end_gives_it_back(tmp_path: Path) -> None:
    router = Setting(tmp_path, replace(FIRST, shadow=ShadowShare(0.0, 0.0)))
    router.start(gates={"latency": {}}, shadow={"min_pairs": 10, "percent": 80, "noise_percent": 25})
    assert router.control.plan().shadow == ShadowShare(80.0, 25.0)
    assert router.rollout.state is State.SHADOWING
    router.controller.tick(router.now)
    assert router.rollout.state is State.SHADOWING
    router.controller.act(Event.ABORT, who="ann", now=router.now)
    assert router.control.plan().shadow == ShadowShare(0.0, 0.0)
    router.end()


def test_a_share_that_somebody_has_changed_since_is_left_alone(tmp_path: Path) -> None:
    router = Setting(tmp_path, replace(FIRST, shadow=ShadowShare(0.0, 0.0)))
    router.start()
    assert router.control.plan().shadow == ShadowShare(100.0, 0.0)
    router.control.change(lambda plan: shadowed_at(plan, 30), who="dan", action="shadow 30", why="")
    router.pass_time(5)
    router.controller.act(Event.ABORT, who="ann", now=router.now)
    assert router.control.plan().shadow == ShadowShare(30.0, 0.0)
    router.end()


# --- the breaker's part -------------------------------------------------------------------------------------------------------


def test_the_breaker_takes_green_to_nothing_without_the_store_and_the_next_tick_tells_it(
    router: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert router.controller.armed() is None
    router.start()
    assert router.controller.armed() is None  # no user sees green
    router.pass_time(10)
    armed = router.controller.armed()
    assert armed is not None
    wait_for_the_history(monkeypatch, 0.1)
    with closing(sqlite3.connect(router.state.store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # somebody writes for long
        router.store.close()
        assert router.controller.trip(armed, "fast breaker: 30 of green's 40 requests failed within 0.1 s")
        assert router.control.plan().split.green_percent == 0
    assert router.rollout.state is State.STEPPING
    router.now += 0.2
    router.controller.tick(router.now)
    assert router.at == (State.ROLLED_BACK, 0, 0)
    assert router.rollout.reason.startswith("fast breaker: 30 of green's 40")
    assert router.rollouts.moves(1)[-1].event is Event.TRIP
    assert router.controller.armed() is None


def test_the_breaker_is_armed_while_paused_but_never_after_a_change_by_hand(router: Setting) -> None:
    router.start()
    router.pass_time(10)
    router.controller.act(Event.PAUSE, who="ann", now=router.now)
    armed = router.controller.armed()
    assert armed is not None
    router.control.switch(Colour.GREEN, who="dan", why="blue is down")
    assert not router.controller.trip(armed, "late")  # the plan is not the rollout's any more
    router.pass_time(5)
    assert router.controller.armed() is None
    assert router.control.plan().split.green_percent == 100


def test_a_burst_at_the_moment_of_a_step_is_not_missed(router: Setting) -> None:
    router.start()
    router.pass_time(10)
    armed = router.controller.armed()
    assert armed is not None
    router.pass_time(60)
    assert router.at == (State.STEPPING, 1, 50)
    assert router.controller.trip(armed, "burst")  # armed before the step, and the plan is still a rollout's
    router.controller.tick(router.now)
    assert router.at == (State.ROLLED_BACK, 1, 0)


# --- records and messages -----------------------------------------------------------------------------------------------------


def test_every_end_leaves_a_record_chained_to_the_one_before(router: Setting) -> None:
    router.start()
    router.pass_time(500, step=10)
    assert router.rollout.state is State.DONE
    router.control.switch(Colour.BLUE, who="ann", why="")
    router.start()
    router.controller.act(Event.ABORT, who="bob", now=router.now)
    router.start()
    router.now += 1
    router.evidence(100, 900)
    router.controller.tick(router.now)
    records = [router.rollouts.record(row["number"]) for row in router.rollouts.records()]
    assert [record["document"]["outcome"] for record in records if record] == ["done", "aborted", "rolled_back"]
    assert broken_link([record for record in records if record]) is None
    document = records[0]["document"] if records[0] else {}
    assert document["arms"]["green"] == {"name": "v2", "servers": ["http://127.0.0.1:9002"]}
    assert document["policy"] == parse_policy(QUICK).to_dict()
    assert [move["to"] for move in document["moves"]] == ["shadowing", "stepping", "stepping", "baking", "done"]
    assert all(move["evidence"]["pairs"] == 1000 for move in document["moves"][1:])
    assert all(move["verdict"]["verdict"] == "promote" for move in document["moves"][1:])
    assert document["moves"][2]["live"]["green_requests"] >= 1000
    assert document["versions"]["bluegreen"]
    assert router.told[-1]["record"] == router.rollouts.records()[-1]["hash"]


def test_each_transition_is_told_once(router: Setting) -> None:
    router.start()
    router.pass_time(500, step=10)
    assert [(told["from"], told["to"], told["green_percent"]) for told in router.told] == [
        ("idle", "shadowing", 0),
        ("shadowing", "stepping", 10),
        ("stepping", "stepping", 50),
        ("stepping", "baking", 100),
        ("baking", "done", 100),
    ]
    assert all(told["rollout"] == 1 and told["why"] and told["who"] for told in router.told)


# --- kill -9 ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", range(1, 12))
@pytest.mark.parametrize("page_first", [False, True])
def test_killed_before_or_after_any_write_it_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int, page_first: bool
) -> None:
    """Every write of a rollout's tables, and every write of the plan page, is once the last thing that the process did."""
    router = Setting(tmp_path)
    left = {"n": write}

    def counted(original: Any, *, after: bool) -> Any:
        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            left["n"] -= 1
            if left["n"] == 0 and not after:
                raise Killed
            result = original(self, *arguments, **named)
            if left["n"] == 0:
                raise Killed
            return result

        return call

    for kind, name in ((RolloutStore, "save"), (RolloutStore, "create"), (PlanPage, "write")):
        monkeypatch.setattr(kind, name, counted(getattr(kind, name), after=page_first))
    kills = 0
    for _ in range(100):
        try:
            if router.controller.rollout is None:
                router.start()
            router.pass_time(20, step=20)
            if router.rollout.state is State.DONE:
                break
        except Killed:
            kills += 1
            router.again()
            if router.controller.rollout is not None:
                state, step, share = router.at
                expected = {State.SHADOWING: 0.0, State.DONE: 100.0}.get(state, QUICK["steps"][step])  # type: ignore[index]
                assert share == expected
                assert router.rollout.intent is None
    assert router.at == (State.DONE, 2, 100)
    assert router.shares() == [10, 50, 100]
    assert [move.to_state for move in router.rollouts.moves(1)] == [
        State.SHADOWING, State.STEPPING, State.STEPPING, State.BAKING, State.DONE,
    ]  # fmt: skip
    revisions = [entry["revision"] for entry in router.store.history() if entry["kind"] == "plan"]
    assert revisions == list(range(1, revisions[-1] + 1))
    assert (
        broken_link([record for row in router.rollouts.records() if (record := router.rollouts.record(row["number"]))]) is None
    )
    assert kills == 1
    router.end()


@pytest.mark.parametrize("moment", ["before the page", "after the page"])
def test_killed_in_the_middle_of_a_rollback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    router = Setting(tmp_path)
    router.start()
    router.pass_time(10)
    router.now += 1
    router.evidence(100, 900)

    def killed(*_arguments: Any, **_named: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(
            PlanPage if moment == "before the page" else RolloutStore, "write" if "before" in moment else "save", killed
        )
        with pytest.raises(Killed):
            router.controller.tick(router.now)
    router.again()
    router.controller.tick(router.now)
    assert router.at == (State.ROLLED_BACK, 0, 0)
    assert "green answers like blue on 10 %" in router.rollout.reason
    assert router.shares() == [10, 0]
    router.end()


def test_an_older_controller_that_wakes_up_changes_nothing(router: Setting) -> None:
    router.start()
    router.pass_time(10)
    second = Examiner(router.store, newer := RolloutStore(router.store), lambda: True)
    controller = RolloutController(router.control, newer, second, {}, Policy())
    controller.recover(router.now)
    plan = router.control.plan()
    router.pass_time(200)
    assert router.control.plan() == plan
    assert router.controller.superseded
    with pytest.raises(Superseded, match="another control process has taken over"):
        router.controller.act(Event.ABORT, who="ann", now=router.now)
    controller.tick(router.now)
    assert controller.rollout is not None
    assert controller.rollout.state is State.STEPPING


def test_a_store_that_fails_in_the_middle_of_a_move_loses_nothing(router: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    router.start()
    router.pass_time(5)
    original, calls = RolloutStore.save, {"n": 0}

    def sometimes(self: RolloutStore, *arguments: Any) -> Any:
        calls["n"] += 1
        if calls["n"] % 3:
            raise Unavailable("the disk is full")
        return original(self, *arguments)

    monkeypatch.setattr(RolloutStore, "save", sometimes)
    for _ in range(200):
        router.now += 10
        router.evidence()
        router.traffic()
        try:
            router.controller.tick(router.now)
        except Unavailable:
            continue
        if router.rollout.state is State.DONE:
            break
    assert router.at == (State.DONE, 2, 100)
    assert router.shares() == [10, 50, 100]


def test_a_reseeded_plan_is_a_change_by_hand(router: Setting) -> None:
    router.start()
    router.pass_time(10)
    router.end()
    page = PlanPage(router.state.plan_page, writable=True)
    seed(page, split_at(FIRST, 70), reseed=True, now=router.now)
    page.close()
    router.begin()
    router.pass_time(5)
    assert router.at == (State.PAUSED, 0, 70)
    assert router.rollout.reason.startswith("configuration changed the plan by hand: reseed")


def test_a_bad_policy_changes_nothing(router: Setting) -> None:
    before = router.control.plan()
    with pytest.raises(PlanError):
        router.start(steps=[5, 1])
    assert router.control.plan() == before
    assert router.controller.rollout is None
