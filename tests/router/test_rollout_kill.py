"""`kill -9` of a real control process at random moments of a rollout: nothing is skipped, repeated or lost."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import httpx
from control_process import ControlProcess, new_state, until
from rollout_stage import Stage

from router.rollout.records import broken_link
from router.store.rollouts import RolloutStore
from router.store.store import Store

KILLS = 3
STEPS = [1, 5, 20, 50, 100]
CONFIG = f"""
blue: {{name: v1, servers: [http://127.0.0.1:9001]}}
green: {{name: v2, servers: [http://127.0.0.1:9002]}}
shadow: {{percent: 100}}
rollout:
  shadow: {{min_pairs: 100}}
  steps: {STEPS}
  hold: 50ms
  bake: 500ms
  gates: {{agreement: {{min: 0.9}}, errors: {{max_increase: 0.05}}}}
"""


def test_a_control_process_that_is_killed_again_and_again_finishes_the_rollout(tmp_path: Path) -> None:
    state, _ = new_state(tmp_path, CONFIG)
    chance = random.Random(11)
    stage = Stage(state)
    process = ControlProcess(state)
    try:
        document = ask(process, "POST", {"action": "start"})
        assert document["state"] == "shadowing"
        for _ in range(KILLS):
            time.sleep(chance.uniform(0, 0.8))
            process.kill()
            process.start()
            until(lambda: is_at_one(ask(process), stage))
            document = ask(process)
        deadline = time.monotonic() + 60
        while document["state"] != "done":
            assert time.monotonic() < deadline, document
            time.sleep(0.05)
            document = ask(process)
        assert document["green_percent"] == 100
    finally:
        process.end()
        stage.stop()
    store = Store(state.store)
    rollouts = RolloutStore(store)
    moves = [(move.to_state, move.green_percent) for move in rollouts.moves(1)]
    assert moves == [
        ("shadowing", 0), *(("stepping", step) for step in STEPS[:-1]), ("baking", 100), ("done", 100),
    ]  # fmt: skip
    plans = [entry for entry in store.history() if entry["kind"] == "plan"]
    assert [entry["revision"] for entry in plans] == list(range(1, len(plans) + 1))
    assert [entry["new"]["split"]["green_percent"] for entry in plans] == [0, *STEPS]
    record = rollouts.record(1)
    assert record is not None
    assert broken_link([record]) is None
    assert record["document"]["outcome"] == "done"
    store.close()


def ask(process: ControlProcess, method: str = "GET", body: Any = None) -> dict[str, Any]:
    answer = httpx.request(method, f"{process.url}/v1/rollout", json=body, trust_env=False, timeout=30)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def is_at_one(document: dict[str, Any], stage: Stage) -> bool:
    """State and plan agree, but in the middle of a move; the plan may be a step further by now, since the rollout goes on."""
    expected = 0 if document["state"] == "shadowing" else document["steps"][document["step"] - 1]
    return bool(document["green_percent"] == expected and stage.plan().split.green_percent >= expected)
