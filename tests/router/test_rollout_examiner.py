"""What the examiner puts before the gates, and what it says later that they saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.arm import Arm
from router.plan import Plan
from router.rollout.examiner import Examiner
from router.rollout.live_counts import Counts
from router.rollout.policy_settings import parse_policy
from router.rollout.rollout import Rollout
from router.rollout.states import State
from router.rollout.verdict import HOLD, PROMOTE
from router.store.rollouts import RolloutStore
from router.store.store import Store

PLAN = Plan(1, 1, Arm("v1", ("http://127.0.0.1:9001",)), Arm("v2", ("http://127.0.0.1:9002",)))
POLICY = parse_policy({"shadow": {"min_pairs": 100}, "gates": {"agreement": {"min": 0.9}}})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(tmp_path / "store.sqlite")
    yield one
    one.close()


def rollout(release: int = 1) -> Rollout:
    return Rollout(1, release, 1, State.SHADOWING, -1, 0.0, 1, "ann", "", 0.0, 0.0, 0.0, POLICY)


def saw(store: Store, agreed: int, differed: int, at: float, release: int = 1) -> None:
    n = agreed + differed
    store.save_evidence(release, {"alpha": 0.05, "pairs": n, "agreement": {"n": n, "agreed": agreed}}, at)


def asked(examiner: Examiner, now: float, **more: Any) -> str:
    return examiner.verdict(rollout(), PLAN, Counts(), now, **more).verdict


def test_a_decision_is_remembered_with_what_it_was_made_on(store: Store) -> None:
    """The shadow writes between the look that decides and the one that fills in the intervals."""
    examiner = Examiner(store, RolloutStore(store), lambda: True)
    saw(store, 1000, 0, 10.0)
    assert asked(examiner, 10.0) == PROMOTE
    saw(store, 1000, 900, 10.5)
    assert asked(examiner, 10.0, detailed=True) == PROMOTE
    assert (examiner.evidence(1) or {})["pairs"] == 1000
    assert asked(examiner, 10.7) != PROMOTE
    assert (examiner.evidence(1) or {})["pairs"] == 1900


def test_the_evidence_is_that_of_the_newest_verdict_and_not_a_newer_one(store: Store) -> None:
    """Within a second looks that change nothing leave the verdict that people see, and its evidence, as they are."""
    examiner = Examiner(store, RolloutStore(store), lambda: True)
    saw(store, 10, 0, 10.0)
    assert asked(examiner, 10.0) == HOLD
    saw(store, 15, 0, 10.2)
    assert asked(examiner, 10.2) == HOLD
    shown, evidence = examiner.newest, examiner.evidence(1)
    assert shown is not None
    assert evidence is not None
    assert shown.gates[0].n == evidence["pairs"] == 10
    assert asked(examiner, 11.3) == HOLD
    assert (examiner.evidence(1) or {})["pairs"] == 15


def test_there_is_no_evidence_of_another_release_nor_of_none(store: Store) -> None:
    examiner = Examiner(store, RolloutStore(store), lambda: True)
    assert (examiner.newest, examiner.evidence(1), examiner.live_counts()) == (None, None, None)
    saw(store, 40, 0, 10.0)
    asked(examiner, 10.0)
    assert examiner.evidence(2) is None
    examiner.idle()
    assert (examiner.newest, examiner.evidence(1)) == (None, None)


def test_the_operator_s_gate_is_asked_once_about_each_snapshot(store: Store) -> None:
    policy = parse_policy({"shadow": {"min_pairs": 100}, "gates": {"agreement": {"min": 0.9}, "python": "mine:gate"}})
    asked_about: list[int] = []

    def gate(evidence: Mapping[str, Any]) -> object:
        asked_about.append(evidence["pairs"])
        return {"state": "pass"} if len(asked_about) == 1 else {"state": "fail"}

    examiner = Examiner(store, RolloutStore(store), lambda: True, gate)
    one = replace(rollout(), policy=policy)
    saw(store, 1000, 0, 10.0)
    first = examiner.verdict(one, PLAN, Counts(), 10.0)
    for look in range(10):
        assert examiner.verdict(one, PLAN, Counts(), 10.0 + look / 20, detailed=True).verdict == first.verdict
    assert asked_about == [1000]
    saw(store, 1100, 0, 11.0)
    examiner.verdict(one, PLAN, Counts(), 11.0)
    assert asked_about == [1000, 1100]
