from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from router.rollout.own_gate import OwnGateError, OwnGateRunner, load_gate

PATIENCE = 60  # seconds for a call that is to return


def test_a_gate_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "my_own_gate.py").write_text("def enough(evidence):\n    return evidence['pairs'] > 10\n")
    gate = OwnGateRunner(load_gate("my_own_gate:enough", tmp_path), PATIENCE)
    assert gate({"pairs": 11}) is True
    assert gate({"pairs": 3}) is False


@pytest.mark.parametrize(
    ("name", "words"),
    [("no_such_module_here:f", "cannot import 'no_such_module_here'"), ("json:no_such_function", "has no function")],
)
def test_a_name_that_leads_nowhere(name: str, words: str) -> None:
    with pytest.raises(OwnGateError, match=words):
        load_gate(name)


def test_a_gate_that_raises_says_what() -> None:
    def broken(evidence: Any) -> object:
        raise LookupError("no such metric")

    with pytest.raises(RuntimeError, match="LookupError: no such metric"):
        OwnGateRunner(broken, PATIENCE)({})


def test_a_gate_that_hangs_is_not_waited_for_and_not_started_twice() -> None:
    going, calls = threading.Event(), []

    def slow(evidence: Any) -> object:
        calls.append(1)
        going.wait(60)
        return True

    gate = OwnGateRunner(slow, patience=0.02)
    with pytest.raises(TimeoutError, match=r"did not return within 0\.02 s"):
        gate({})
    with pytest.raises(TimeoutError, match="has not returned from an earlier call"):
        gate({})
    going.set()
    gate._running.join(60)  # type: ignore[union-attr]  # it was started
    gate._patience = PATIENCE
    assert gate({}) is True
    assert len(calls) == 2


def test_a_gate_cannot_change_the_evidence_of_the_others() -> None:
    def greedy(evidence: Any) -> object:
        evidence["agreement"]["n"] = 10**9
        return True

    evidence = {"agreement": {"n": 3}}
    assert OwnGateRunner(greedy, PATIENCE)(evidence) is True
    assert evidence == {"agreement": {"n": 3}}
