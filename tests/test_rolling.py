"""What holds the measured rollouts to account can itself fail: broken records are found, whole ones are not. Nothing runs here."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rolling import report
from benchmarks.rolling.bursts import Burst
from benchmarks.rolling.kills import Killed, disagreement
from benchmarks.rolling.paths import broken_history, broken_moves, unearned, unlike_history
from benchmarks.rolling.trials import Trial
from benchmarks.rolling.worlds import BURST, GREENS_WORSE, POLICY, QUICK
from router.rollout.policy import Policy
from router.rollout.policy_settings import parse_policy
from router.rollout.rollout import Move
from router.rollout.states import Event, State

STEPPED = Policy(steps=(10.0, 50.0, 100.0))
PASSED = {"verdict": "promote", "gates": [{"name": "errors", "state": "pass"}]}
FAILED = {"verdict": "rollback", "gates": [{"name": "errors", "state": "fail"}]}


def move(event: Event, before: State, after: State, step: int, percent: float, revision: int, verdict: Any = PASSED) -> Move:
    return Move(100.0 + revision, event, before, after, step, percent, revision, "rollout", "why", verdict)


WHOLE = [
    move(Event.START, State.IDLE, State.SHADOWING, -1, 0, 2, None),
    move(Event.STEP, State.SHADOWING, State.STEPPING, 0, 10, 3),
    move(Event.PAUSE, State.STEPPING, State.PAUSED, 0, 10, 3, None),
    move(Event.RESUME, State.PAUSED, State.STEPPING, 0, 10, 3, None),
    move(Event.STEP, State.STEPPING, State.STEPPING, 1, 50, 4),
    move(Event.FILL, State.STEPPING, State.BAKING, 2, 100, 5),
    move(Event.FINISH, State.BAKING, State.DONE, 2, 100, 5),
]


def entry(revision: int, action: str, percent: float) -> dict[str, Any]:
    new = {"revision": revision, "split": {"green_percent": percent}}
    return {"kind": "plan", "revision": revision, "action": action, "new": new, "old": None}


def history() -> list[dict[str, Any]]:
    entries = [
        entry(1, "start", 0),
        entry(2, "rollout 7: started", 0),
        *(entry(3 + n, f"rollout 7: step {n + 1} of 3", percent) for n, percent in enumerate(STEPPED.steps)),
    ]
    for earlier, later in pairwise(entries):
        later["old"] = earlier["new"]
    return entries


def test_whole_records_are_not_complained_about() -> None:
    assert broken_moves(WHOLE, STEPPED) == []
    assert unearned(WHOLE) == []
    assert broken_history(history()) == []
    assert unlike_history(7, WHOLE, STEPPED, history()) == []


def test_a_step_that_is_skipped_or_made_twice_is_found() -> None:
    skipped = [one for one in WHOLE if one.step != 1]
    assert any("at step 3 after step 2" in line for line in broken_moves(skipped, STEPPED))
    twice = [*WHOLE[:2], WHOLE[1], *WHOLE[2:]]
    assert any("from shadowing, but the one before led to stepping" in line for line in broken_moves(twice, STEPPED))
    assert unlike_history(7, skipped, STEPPED, history())
    assert unlike_history(7, WHOLE, STEPPED, [*history(), history()[2]])


def test_a_share_that_is_not_the_steps_is_found() -> None:
    wrong = [replace(one, green_percent=60.0) if one.step == 1 else one for one in WHOLE]
    assert any("green has 60 % and not the step's 50 %" in line for line in broken_moves(wrong, STEPPED))


def test_a_rollout_without_an_end_is_found() -> None:
    assert broken_moves(WHOLE[:-1], STEPPED) == ["it has not ended: baking"]


def test_a_step_that_was_not_earned_is_found() -> None:
    undecided = {"verdict": "hold", "gates": [{"name": "errors", "state": "undecided"}]}
    assert unearned([WHOLE[0], replace(WHOLE[1], verdict=undecided)]) == ["move 2 (step) was made with errors not passed"]
    after = [WHOLE[0], replace(WHOLE[1], verdict=FAILED), WHOLE[4]]
    assert "move 3 (step) follows move 2, at which a gate had failed" in unearned(after)


def test_a_revision_that_is_missing_or_follows_another_plan_is_found() -> None:
    assert broken_history([one for one in history() if one["revision"] != 3]) == ["revision 4 stands where 3 belongs"]
    torn = history()
    torn[3] = {**torn[3], "old": torn[0]["new"]}
    assert broken_history(torn) == ["revision 4 does not follow the plan of revision 3"]


@pytest.mark.parametrize(
    ("state", "step", "percent", "agrees"),
    [
        ("idle", 0, 0, True),
        ("shadowing", 0, 0, True),
        ("shadowing", 0, 10, False),
        ("stepping", 2, 50, True),
        ("stepping", 2, 10, False),
        ("baking", 3, 100, True),
        ("done", 3, 50, False),
        ("rolled_back", 2, 50, False),
        ("paused", 2, 50, False),
    ],
)
def test_state_and_plan_are_held_against_each_other(state: str, step: int, percent: float, agrees: bool) -> None:
    document = {"state": state, "step": step, "steps": [10, 50, 100], "green_percent": percent}
    assert (disagreement(document) is None) == agrees


@pytest.mark.parametrize("policy", [POLICY, QUICK, BURST])
def test_the_policies_are_valid(policy: dict[str, Any]) -> None:
    parse_policy(policy, from_client=True)


def a_trial(**changes: Any) -> Trial:
    return replace(Trial("like blue", State.DONE, 4, "all pass", 12.0), **changes)


def test_as_many_wrong_rollbacks_as_alpha_explains_are_no_failure_and_more_are() -> None:
    back = a_trial(state=State.ROLLED_BACK, step=1, gates=("errors",), n=40, of="pairs")
    good = [a_trial()] * 38
    assert report.alike_part([*good, back, back]).failures == ()
    assert "rolled back wrongly" in report.alike_part([*good[:32], *[back] * 8]).failures[0]
    assert "not decided" in report.alike_part([*good, a_trial(state=State.PAUSED)]).failures[0]


def test_each_part_tells_what_fell_short() -> None:
    worse = [
        a_trial(green=green.name, state=State.ROLLED_BACK, step=1, gates=("errors",), n=9, of="pairs") for green in GREENS_WORSE
    ]
    assert report.worse_part(worse).failures == ()
    assert "errors everywhere: done at 100 %" in report.worse_part([*worse, a_trial(green="errors everywhere")]).text
    idle = [a_trial(green="never any", state=State.PAUSED, step=0), a_trial(green="none from the first step on", step=2)]
    assert report.idle_part(idle).failures == ("none from the first step on: done at 25 %: all pass",)
    assert "**1 advanced**" in report.idle_part(idle).text
    killed = Killed(random=3, verified=["1 promotion record"], complaints=["a-0: a step twice"])
    assert "**1 violations**" in report.kills_part(killed).text
    burst = Burst(1.0, 90.0, 20.0, 12, "fast breaker", 18_000, 0, 9.0, 3.0, ())
    assert report.burst_part([burst]).failures == ()
    slow = report.burst_part([replace(burst, zero_ms=1200.0), replace(burst, errors=2)])
    assert slow.failures == ("a burst took 1200 ms", "2 client requests saw an error")


def test_parts_go_between_their_markers(tmp_path: Path) -> None:
    manual = tmp_path / "manual.md"
    manual.write_text("head\n<!-- rollouts:aa:begin -->\nold\n<!-- rollouts:aa:end -->\ntail\n")
    report.write([report.Part("aa", "new", ())], manual)
    assert manual.read_text() == "head\n<!-- rollouts:aa:begin -->\nnew\n<!-- rollouts:aa:end -->\ntail\n"
    with pytest.raises(ValueError, match="has no <!-- rollouts:kills:begin -->"):
        report.write([report.Part("kills", "new", ())], manual)


def test_the_manual_has_a_place_for_every_part() -> None:
    text = report.MANUAL.read_text()
    for name in ("aa", "worse", "idle", "kills", "burst"):
        assert f"<!-- rollouts:{name}:begin -->" in text
        assert f"<!-- rollouts:{name}:end -->" in text
