from __future__ import annotations

from typing import Any

from router.report_tables import MAX_DISAGREEMENTS, disagreements, dropped, gates, history_table, key_numbers
from shadow.evidence import Evidence, EvidenceOptions
from shadow.observation import Observation, Outcome


def pair(number: int, **content: Any) -> dict[str, Any]:
    side = {"status": 200, "failure": None, "total_ms": 5.0, "body": {"bytes": 3, "cut": False, "text": "[1]"}}
    return {
        "when": 1.7e9 + number,
        "request_id": f"r{number}",
        "agree": False,
        "disagreement": "different label",
        "content": {"method": "POST", "path": "/p", "request": side, "blue": side, "green": side, "again": None, **content},
    }


def test_only_the_first_disagreements_are_shown_and_no_agreement() -> None:
    pairs = [pair(number) for number in range(50)] + [{**pair(99), "agree": True}]
    table = disagreements(pairs)
    assert table.count("<details>") == MAX_DISAGREEMENTS
    assert "r99" not in table


def test_a_body_is_shown_as_it_is_kept() -> None:
    def shown(**body: Any) -> str:
        return disagreements(
            [pair(1, green={"status": 0, "failure": "timeout", "total_ms": None, "body": {"bytes": 9, **body}})]
        )

    assert "withheld: it is not whole JSON" in shown(withheld="it is not whole JSON")
    assert "9 bytes, base64: AAA=" in shown(base64="AAA=")
    assert "&lt;b&gt;" in shown(text="<b>")
    assert "abc …" in shown(text="abc", cut=True)
    assert "(empty)" in shown(text="")
    assert "timeout" in shown(text="")
    assert len(shown(text="x" * 100_000)) < 10_000


def test_what_is_lost_before_the_shadow_is_told() -> None:
    evidence = Evidence(1, EvidenceOptions())
    evidence.drop("no green", 3)
    table = dropped({**evidence.snapshot(0.0), "dropped": 10})
    assert "no green" in table
    assert "<td>lost before the shadow</td><td class=n>7</td>" in table
    assert dropped({"dropped": 0}) == "<p>Every exchange that was sampled was compared.</p>"


def test_every_number_that_is_there_has_a_row() -> None:
    options = EvidenceOptions(objective_ms=20.0)
    evidence = Evidence(1, options)

    def answer(text: str, ms: float) -> Outcome:
        events = b"".join(b'data: {"choices": [{"delta": {"content": "%s "}}]}\n\n' % word.encode() for word in text.split())
        return Outcome(200, {"content-type": "text/event-stream"}, events, 1.0, ms, (1.0, 1.0))

    for number in range(40):
        green = answer("yes it is" if number % 2 else "no it is not so", 9.0)
        evidence.observe(
            Observation(1, 1, f"r{number}", 0.0, "POST", "/v1/chat/completions", {}, b"", "blue", answer("yes it is", 5.0), green,
                        answer("yes it is", 5.0))
        )  # fmt: skip
    assert evidence.pairs == 40
    table = key_numbers(evidence.snapshot(0.0))
    for name in (
        "Agreement of green with blue", "Agreement of blue with itself", "Disagreement beyond noise", "Similarity lost beyond noise",
        "Failures beyond blue&#x27;s", "Unreadable beyond blue&#x27;s", "Latency difference, same request", "Latency p99, green over blue",
        "Green within 20.0 ms", "Blue within 20.0 ms", "Tokens per second, green over blue (p50)", "Drift of length: distance",
        "Edit similarity", "Token f1",
    ):  # fmt: skip
        assert f"<td>{name}</td>" in table, name
    assert "no bound yet" in table


def test_a_gate_says_its_state_and_why() -> None:
    assert gates([]) == ""
    undecided = {"name": "errors", "state": "undecided", "n": 1500, "more": 800, "detail": "not yet <known>"}
    table = gates([undecided, {"name": "latency", "state": "pass", "n": 10, "more": None, "detail": "well"}])
    for words in ("1,500", "not yet &lt;known&gt;", '<td class="green">pass</td>'):
        assert words in table


def test_the_newest_changes_come_first_and_old_ones_not() -> None:
    entries = [{"when": 1.7e9 + number, "action": f"a{number}"} for number in range(30)]
    table = history_table(entries)
    assert table.index("a29") < table.index("a10")
    assert "a9<" not in table
