"""The page of a promotion record as text. How it looks was looked at in a browser; what it says is held here."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_report import SCRIPT_TAG, Reader, without_library

from router.report_rollout import OUTCOMES, chain_words, render_rollout, write_rollout
from router.rollout.gates import judge
from router.rollout.live_errors import StepErrors
from router.rollout.policy_settings import parse_policy
from router.rollout.records import NO_HASH, chained, compose, trimmed
from router.rollout.rollout import Move, Rollout
from router.rollout.states import FINAL, Event, State
from router.rollout.verdict import NO_TRAFFIC, Live
from shadow.evidence import Evidence, EvidenceOptions
from shadow.observation import Observation, Outcome

POLICY = parse_policy(
    {"shadow": {"min_pairs": 50}, "steps": [10, 100], "gates": {"agreement": {"min": 0.9}, "errors": {"max_increase": 0.1}}}
)
WHOLE = {"whole": True, "records": 3, "newest": "f" * 64, "trouble": None}


def evidence_of(pairs: int, differing: int) -> dict[str, Any]:
    evidence = Evidence(2, EvidenceOptions(floor=0.9))

    def answer(label: str, ms: float) -> Outcome:
        output = {"name": "predict", "shape": [1], "datatype": "BYTES", "data": [label]}
        return Outcome(200, {"content-type": "application/json"}, json.dumps({"outputs": [output]}).encode(), ms / 2, ms)

    for number in range(pairs):
        green = answer(SCRIPT_TAG if number < differing else "cat", 9.0)
        evidence.observe(
            Observation(2, 7, f"r{number}", 1.7e9, "POST", "/v2/models/m/infer", {}, b"{}", "blue", answer("cat", 5.0), green)
        )
    return {**evidence.snapshot(1.7e9), "as_of": 1.7e9}


def move(at: float, event: Event, state: State, percent: float, why: str, **more: Any) -> Move:
    return Move(
        1.7e9 + at, event, State.SHADOWING, state, 0 if percent else -1, percent, 7, more.pop("who", "rollout"), why, **more
    )


def record(outcome: State = State.ROLLED_BACK, policy: Any = POLICY) -> dict[str, Any]:
    """Of a rollout that went to 10 % and back."""
    good, bad = evidence_of(120, 0), evidence_of(200, 90)
    live = StepErrors(0.1, 200, 1, 1800, 2)
    passed = judge(good, NO_TRAFFIC, policy, 1.7e9)
    failed = judge(bad, Live("split", live, 200), policy, 1.7e9)
    last = {State.ROLLED_BACK: Event.FAIL, State.DONE: Event.FINISH, State.ABORTED: Event.ABORT}[outcome]
    moves = [
        move(0, Event.START, State.SHADOWING, 0, f"started by {SCRIPT_TAG}", who=SCRIPT_TAG),
        move(60, Event.STEP, State.STEPPING, 10, "all gates pass", verdict=passed.to_dict(), evidence=trimmed(good)),
        move(65, Event.PAUSE, State.PAUSED, 10, "paused by ann", who="ann"),
        move(90, last, outcome, 0, "; ".join(failed.reasons), verdict=failed.to_dict(), evidence=trimmed(bad), live=live.to_dict()),
    ]  # fmt: skip
    rollout = Rollout(3, 2, 1, outcome, 0, 0.0, 7, SCRIPT_TAG, moves[-1].why, 1.7e9, 1.7e9, 1.7e9, policy, ended=1.7e9 + 90)
    arms = {
        "blue": {"name": "iris-v1", "servers": ["http://127.0.0.1:9001"]},
        "green": {"name": f"v2{SCRIPT_TAG}", "servers": ["http://127.0.0.1:9002"]},
    }
    document = compose(rollout, moves, arms=arms, versions={"bluegreen": "0.1.0", "python": "3.11.2"})
    previous = "ab" * 32
    return {"number": 3, "at": 1.7e9 + 90, "previous": previous, "hash": chained(previous, document), "document": document}


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    # As it comes out of the API.
    made: dict[str, Any] = json.loads(json.dumps(record()))
    return made


def text_of(page: str) -> str:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.loaded == []
    assert reader.alerts == 0
    return " ".join("".join(reader.text).split())


def test_the_page_says_what_the_record_holds(kept: dict[str, Any]) -> None:
    text = text_of(render_rollout(kept, WHOLE))
    for words in (
        f"Rollout 3: v2{SCRIPT_TAG} against iris-v1", "release 2, attempt 1; ended 2023-11-14 22:14:50 UTC", "Green was taken back",
        f"begun by {SCRIPT_TAG} at 2023-11-14 22:13:20 UTC",
        # the policy
        "at least 50 pairs", "green answers like blue on at least 90 % of them", "green fails at most 10 points more often",
        "[10.0, 100.0]", "hold600.0",
        # the moves
        "1. Started: green 0 %", "2. Next step: green 10 %", "3. Paused: green 10 %", "by ann: shadowing → paused",
        "4. Taken back: a gate failed: green 0 %", "Verdict: promote", "Verdict: rollback",
        "green answers like blue on 55 % of 200 pairs; shown not to be at least 90 %",
        "green 200 requests, 1 failed; blue 1,800 requests, 2 failed",
        # where it comes from
        kept["hash"], kept["previous"], "bluegreen 0.1.0, python 3.11.2", "http://127.0.0.1:9002", "bluegreen-rollout-1",
        "The chain of 3 promotion records is whole, and this record's content matches its hash.",
    ):  # fmt: skip
        assert words in text, words


def test_every_gate_of_every_verdict_has_its_interval_and_n(kept: dict[str, Any]) -> None:
    page = render_rollout(kept, WHOLE)
    verdicts = [move["verdict"] for move in kept["document"]["moves"] if move["verdict"]]
    assert page.count("<th>State</th>") == len(verdicts) == 2
    assert re.search(r'<td>agreement</td><td class="green">pass</td><td class=n>100 %</td><td class=n>9[\d.]+ % to 100 %</td>'
                     r"<td class=n>90 %</td><td class=n>120</td>", page)  # fmt: skip
    assert re.search(r'<td>agreement</td><td class="bad">fail</td><td class=n>55 %</td>', page)
    for gate in verdicts[1]["gates"]:
        assert f"<td>{gate['name'].replace('_', ' ')}</td>" in page
    assert "<td>errors live</td>" in page


def test_nothing_of_it_is_markup(kept: dict[str, Any]) -> None:
    page = render_rollout(kept, WHOLE)
    assert SCRIPT_TAG not in without_library(page)
    assert "default-src 'none'" in page


def test_the_figures_are_there_and_whole(kept: dict[str, Any]) -> None:
    page = render_rollout(kept, WHOLE)
    assert re.findall(r'data-figure="(figure-[a-z_]+)"', page) == ["figure-share", "figure-gates"]
    for name in ("share", "gates"):
        (data,) = re.findall(rf'<script type="application/json" id="figure-{name}">(.*?)</script>', page)
        assert "<" not in data
        assert json.loads(data)["data"]


@pytest.mark.parametrize(
    ("outcome", "kind"), [(State.DONE, "promote"), (State.ROLLED_BACK, "rollback"), (State.ABORTED, "hold")]
)
def test_each_way_to_end_has_its_words(outcome: State, kind: str) -> None:
    page = render_rollout(record(outcome), WHOLE)
    assert f'class="card verdict {kind}"' in page
    assert OUTCOMES[outcome.value][1] in text_of(page)
    assert set(OUTCOMES) == {state.value for state in FINAL} - {"idle"}


def test_one_that_promoted_says_so_and_default_gates_are_named() -> None:
    policy = replace(parse_policy({}), promote=True)
    text = text_of(render_rollout(record(State.DONE, policy), WHOLE))
    assert "Green was promoted: it is blue now" in text
    assert "The file named no gates, or just those that hold then." in text
    assert "green answers like blue on at least 98 % of them" in text


def test_a_record_that_was_changed_says_so(kept: dict[str, Any]) -> None:
    changed = copy.deepcopy(kept)
    changed["document"]["who"] = "somebody else"
    text = text_of(render_rollout(changed, WHOLE))
    assert "This record is not what it was when it was written" in text
    assert "broken" in text
    assert "is whole" not in text


def test_a_chain_that_is_broken_elsewhere_says_where(kept: dict[str, Any]) -> None:
    trouble = "record 2 is not what it was when it was written: its content does not match its hash"
    found = chain_words(kept, {"whole": False, "records": 3, "newest": None, "trouble": trouble})
    assert found == f"This record's content matches its hash, but the chain is broken: {trouble}."
    alone = {**kept, "previous": NO_HASH, "hash": chained(NO_HASH, kept["document"])}
    assert chain_words(alone, {**WHOLE, "records": 1}).startswith("It is the only promotion record")


def test_a_record_of_which_little_is_left_is_shown_all_the_same() -> None:
    """One that never saw any evidence, of a policy that this version does not know."""
    document = {"number": 1, "moves": [], "policy": {"speed": 9}}
    bare = {"number": 1, "at": None, "previous": NO_HASH, "hash": chained(NO_HASH, document), "document": document}
    text = text_of(render_rollout(bare, {**WHOLE, "records": 1}))
    assert "speed9" in text
    early = record(State.ABORTED)
    early["document"]["moves"] = early["document"]["moves"][:1]
    early["hash"] = chained(early["previous"], early["document"])
    assert "1. Started: green 0 %" in text_of(render_rollout(early, WHOLE))


def test_the_file_is_written_whole_or_not_at_all(kept: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "rollout.html"
    write_rollout(path, kept, WHOLE)
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    with pytest.raises(KeyError):
        write_rollout(path, {**kept, "document": {"moves": [{"event": "step"}]}}, WHOLE)
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["rollout.html"]
