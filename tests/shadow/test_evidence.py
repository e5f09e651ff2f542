import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shadow.evidence import MAX_REASONS, Evidence, EvidenceOptions
from shadow.observation import Observation, Outcome

# What servers may send: bodies of every protocol, halves of them, and noise.
BODIES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"",
            b"[0, 2]",
            b"[0.25, NaN, -Infinity]",
            b'{"predictions": [[0.1, 0.9]]}',
            b'{"predictions": ["' + b"\\udc80" + b'", null, true, 1e999, 123456789012345678901234567890]}',
            b'{"outputs": [{"name": "a", "shape": [1], "datatype": "INT64", "data": [3]}]}',
            b'{"outputs": [{"name": "a", "shape": [2, 2], "datatype": "FP64", "data": [0.5, 0.5, 1.0, 0.0]}]}',
            b'{"outputs": [{"shape": [1], "datatype": "BYTES", "data": ["a long sentence with many words in it"]}]}',
            b'{"choices": [{"message": {"content": "hello"}}], "usage": {"completion_tokens": 7}}',
            b'{"data": [{"embedding": [1, 2, 3, 4, 5, 6, 7, 8]}]}',
            b'data: {"choices": [{"delta": {"content": "he"}}]}\n\ndata: [DONE]\n\n',
            b'data: {"error": "no"}\n\n',
            b'{"error": "no"}',
            b"<html>",
            "ünïcode".encode(),
            b"\xff\xfe",
        ]
    ),
)
TIMES = st.one_of(st.floats(0, 1e5), st.sampled_from([0.0, float("inf"), float("nan"), -1.0, 1e-9]))
OUTCOMES = st.builds(
    Outcome,
    status=st.sampled_from([200, 200, 200, 201, 204, 304, 400, 404, 500, 503]),
    headers=st.sampled_from(
        [{}, {"content-type": "application/json"}, {"content-type": "text/plain"}, {"content-encoding": "gzip"},
         {"content-type": "text/event-stream"}, {"inference-header-content-length": "4"}, {"x-\udcff": "\udcff"}]
    ),
    body=BODIES,
    first_ms=TIMES,
    total_ms=TIMES,
    gaps_ms=st.lists(TIMES, max_size=3).map(tuple),
    failure=st.sampled_from([None, None, None, None, "connect", "timeout", "broken", "too large"]),
    truncated=st.booleans(),
)  # fmt: skip
OBSERVATIONS = st.builds(
    Observation,
    release=st.just(1),
    revision=st.integers(0, 2**63),
    request_id=st.text(max_size=8),
    started=TIMES,
    method=st.just("POST"),
    path=st.sampled_from(["/", "/invocations", "/v1/chat/completions", "/v2/models/m/infer", "/\udc80"]),
    request_headers=st.sampled_from([{}, {"x-country": "de"}, {"x-country": "\udcff"}, {"x-stainless-retry-count": "1"}]),
    request_body=st.sampled_from([b"", b"[1]", b'{"instances": [1, 2], "segment": 1e400}', b"{", b'{"segment": {"a": 1}}']),
    live=st.sampled_from(["blue", "green"]),
    blue=OUTCOMES,
    green=OUTCOMES,
    again=st.none() | OUTCOMES,
    fell_back=st.booleans(),
    green_again=st.none() | OUTCOMES,
)
EVERYTHING = EvidenceOptions(slices=("header:x-country", "json:/segment"), objective_ms=50.0, warm_up=2, floor=0.9)


def numbers_of(evidence):
    """All the numbers of a snapshot, in the form in which they are stored."""
    return json.loads(json.dumps(evidence.snapshot(5.0), allow_nan=False))


@given(st.lists(OBSERVATIONS, max_size=12))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_comes_is_counted_once_and_can_be_written_down(observations):
    evidence = Evidence(1, EVERYTHING)
    for observation in observations:
        evidence.observe(observation)
    assert evidence.internal_failures == 0, evidence.internal_last
    assert evidence.received == len(observations) == evidence.pairs + evidence.dropped
    json.dumps(evidence.state(), allow_nan=False)
    json.dumps(numbers_of(evidence), ensure_ascii=False).encode("utf-8")
    json.dumps(evidence.take_records(6.0), allow_nan=False, ensure_ascii=False).encode("utf-8")


@given(st.lists(OBSERVATIONS, max_size=10), st.lists(OBSERVATIONS, max_size=10))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_restart_changes_no_number(before, after):
    straight = Evidence(1, EVERYTHING)
    for observation in before:
        straight.observe(observation)
    straight.take_records(0.0)
    resumed = Evidence(1, EVERYTHING, json.loads(json.dumps(straight.state())))
    for observation in after:
        straight.observe(observation)
        resumed.observe(observation)
    assert numbers_of(resumed) == numbers_of(straight)
    assert resumed.take_records(0.0) == straight.take_records(0.0)
    assert resumed.state() == straight.state()


def test_a_state_of_another_kind_is_refused(evidence_of):
    state = evidence_of().state()
    with pytest.raises(ValueError, match="version"):
        Evidence(1, EvidenceOptions(), {**state, "version": 99})
    with pytest.raises(KeyError):
        Evidence(1, EvidenceOptions(), {"version": 1})


def test_agreement_is_the_share_of_pairs_that_say_the_same(wire, evidence_of):
    evidence = evidence_of(
        *(wire.see(wire.labels(3)) for _ in range(96)), *(wire.see(wire.labels(3), wire.labels(8)) for _ in range(4))
    )
    found = evidence.snapshot(0.0)
    assert (found["pairs"], found["dropped"], found["received"]) == (100, 0, 100)
    agreement = found["agreement"]
    assert (agreement["n"], agreement["agreed"], agreement["rate"]) == (100, 96, 0.96)
    low, high = agreement["ci"]
    assert 0.8 < low < 0.96 < high < 1.0
    assert found["confusion"] == {"labels": ["3", "8"], "counts": [[96, 4], [0, 0]], "n": 100}
    assert found["protocols"] == {"open-inference": 100}
    assert found["recognised"] == {"path": 100}
    assert found["kinds"] == {"labels": 100}


def test_without_traffic_nothing_is_claimed(evidence_of):
    found = evidence_of(floor=0.98, objective_ms=100.0).snapshot(0.0)
    for section in ("agreement", "noise", "errors"):
        assert found[section]["n"] == 0
        assert found[section]["rate"] is None
        assert found[section]["ci"] == [0.0, 1.0]
    assert not found["against_noise"]["worse_than_noise"]
    assert not found["against_noise"]["no_worse_than_noise"]
    assert found["latency"]["paired"]["difference_ms"]["p50"] == {"estimate": None, "ci": [None, None]}
    assert not found["drift"]["decided"]
    assert found["summary"] == ["No exchange has been mirrored yet: nothing can be said about green."]


def test_a_green_that_fails_does_not_agree_and_is_an_error(wire, evidence_of):
    evidence = evidence_of(
        *(wire.see(wire.labels(3)) for _ in range(50)),
        *(wire.see(wire.labels(3), wire.failed("timeout")) for _ in range(20)),
        *(wire.see(wire.labels(3), wire.answer({"detail": "gone"}, status=404)) for _ in range(5)),
        *(wire.see(wire.answer(b"", status=500), wire.labels(3)) for _ in range(3)),
        *(wire.see(wire.answer(b"", status=500), wire.answer(b"", status=500)) for _ in range(2)),
        *(wire.see(wire.answer({}, status=422), wire.answer({}, status=422)) for _ in range(4)),
    )
    found = evidence.snapshot(0.0)
    errors = found["errors"]
    counts = {key: errors[key] for key in ("n", "both_well", "green_only", "blue_only", "both", "refused_by_both")}
    assert counts == {"n": 84, "both_well": 54, "green_only": 25, "blue_only": 3, "both": 2, "refused_by_both": 4}
    assert errors["troubles"] == {"timeout": 20, "404": 5}
    assert errors["worse"]
    assert errors["ci"][0] < 25 / 84 < errors["ci"][1]
    assert found["dropped_by"] == {"green failed": 25, "blue failed": 3, "both failed": 2, "refused by both": 4}
    assert found["pairs"] == found["agreement"]["agreed"] == 50
    assert found["pairs"] + found["dropped"] == found["received"] == 84


def test_what_cannot_be_read_is_counted_by_side_and_reason(wire, evidence_of):
    evidence = evidence_of(
        wire.see(wire.labels(3), wire.answer(b"<html>")),
        wire.see(wire.labels(3), wire.answer(b"")),
        wire.see(wire.answer(b"<html>"), wire.answer(b"<html>")),
        wire.see(wire.labels(3), wire.labels(3)),
    )
    found = evidence.snapshot(0.0)
    assert found["unreadable"]["green"] == {"not json": 2, "empty": 1}
    assert found["unreadable"]["blue"] == {"not json": 1}
    assert (found["unreadable"]["green_only"], found["unreadable"]["blue_only"], found["unreadable"]["n"]) == (2, 0, 4)
    assert found["dropped_by"] == {"unreadable": 3}
    assert (found["pairs"], found["agreement"]["agreed"]) == (1, 1)
    assert found["errors"]["green_only"] == 0


def test_a_clients_retry_is_not_a_new_observation(wire, evidence_of):
    retry = {"x-stainless-retry-count": "1"}
    evidence = evidence_of(wire.see(wire.labels(1)), wire.see(wire.labels(1), wire.labels(2), headers=retry))
    found = evidence.snapshot(0.0)
    assert (found["pairs"], found["retries"], found["dropped_by"]) == (1, 1, {"client's retry": 1})
    assert found["agreement"]["rate"] == 1.0
    assert found["errors"]["n"] == 1


def test_drops_add_to_what_was_received(wire, evidence_of):
    evidence = evidence_of(wire.see(wire.labels(1)))
    evidence.drop("too many in flight", 7)
    evidence.drop("no green")
    evidence.drop("nothing", 0)
    assert (evidence.received, evidence.pairs, evidence.dropped) == (9, 1, 8)
    assert evidence.snapshot(0.0)["dropped_by"] == {"too many in flight": 7, "no green": 1}
    for number in range(10_000):
        evidence.drop(f"reason {number}")
    assert len(evidence.dropped_by) <= MAX_REASONS + 1
    assert evidence.dropped == 10_008


def test_what_was_given_up_too_early_is_taken_back(wire, evidence_of):
    evidence = evidence_of(wire.see(wire.labels(1)))
    evidence.drop("lost", 3)
    assert (evidence.take_back("lost", 2), evidence.received, evidence.dropped_by) == (2, 2, {"lost": 1})
    assert (evidence.take_back("lost", 5), evidence.received, evidence.dropped_by) == (1, 1, {})
    assert (evidence.take_back("lost", 1), evidence.take_back("other", -1), evidence.received) == (0, 0, 1)
    assert evidence.pairs + evidence.dropped == evidence.received


def test_noise_pairs_judge_green_by_what_blue_does_to_itself(wire, evidence_of):
    same, other, third = wire.labels(1), wire.labels(2), wire.labels(3)
    evidence = evidence_of(
        *(wire.see(same, same, same) for _ in range(5)),
        *(wire.see(same, other, same) for _ in range(4)),  # green alone differs
        *(wire.see(same, same, other) for _ in range(3)),  # blue alone differs
        *(wire.see(same, other, third) for _ in range(2)),  # both differ
        wire.see(same, same, wire.failed("timeout")),
        wire.see(same, same, wire.answer(b"<html>")),
        wire.see(same, other),
    )
    found = evidence.snapshot(0.0)
    against = found["against_noise"]
    assert (against["n"], against["worse"], against["better"], against["same"]) == (14, 4, 3, 7)
    assert found["noise"]["unusable"] == 2
    assert (found["noise"]["n"], found["noise"]["rate"]) == (14, 9 / 14)
    assert found["pairs"] == 17
    assert not against["worse_than_noise"]


def test_a_green_as_noisy_as_blue_is_seldom_called_worse(wire):
    """The whole way from bytes to the decision; how often it errs in the long run is tested with the method."""
    draw = random.Random(11)
    answers = [wire.labels(1), wire.labels(2)]

    def noisy(share):
        return answers[draw.random() < share]

    def called_worse(green_share):
        evidence = Evidence(1, EvidenceOptions())
        for _ in range(200):
            evidence.observe(wire.see(noisy(0.05), noisy(green_share), noisy(0.05)))
        return evidence.snapshot(0.0)["against_noise"]["worse_than_noise"]

    assert sum(called_worse(0.05) for _ in range(12)) <= 2
    assert sum(called_worse(0.40) for _ in range(3)) == 3


def test_answers_that_are_alike_by_degrees_are_judged_by_how_much_they_lose(wire, evidence_of):
    blue = wire.chat("the cat sat on the mat and looked at the dog")
    near = wire.chat("the cat sat on the mat and looked at the fox")
    far = wire.chat("nothing of the kind, said the judge, and left")
    evidence = evidence_of(*(wire.see(blue, far, near, path="/v1/chat/completions") for _ in range(150)))
    found = evidence.snapshot(0.0)
    similarity = found["against_noise"]["similarity"]
    assert similarity["n"] == 150
    assert similarity["less"]
    assert similarity["ci"][0] < similarity["lost"] < similarity["ci"][1]
    assert found["text"]["n"] == 150
    assert found["text"]["exact"]["mean"] == 0.0


def test_pairs_that_were_recorded_in_part_are_marked(wire, evidence_of):
    stream = b'data: {"choices": [{"delta": {"content": "once upon"}}]}\n\ndata: {"cho'
    half = wire.answer(stream, headers={"content-type": "text/event-stream"}, truncated=True)
    evidence = evidence_of(wire.see(half, path="/v1/chat/completions"))
    found = evidence.snapshot(0.0)
    assert (found["pairs"], found["compared_in_part"]) == (1, 1)
    assert found["stream_dialects"] == {"sse": 1}


# --- the operator's own comparison ---


@pytest.fixture
def own(tmp_path):
    """A module in a directory of its own, and the options that name it."""

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        return {"python": f"{name}:judge", "python_directory": tmp_path}

    return write


def test_an_own_comparison_decides(wire, evidence_of, own):
    options = own("own_parity", "def judge(blue, green):\n    first = lambda a: a['outputs'][0]['data'][0]\n"
                  "    return {'agree': first(blue) % 2 == first(green) % 2, 'measures': {'sum': first(blue) + first(green)}}\n")  # fmt: skip
    evidence = evidence_of(wire.see(wire.labels(1), wire.labels(3)), wire.see(wire.labels(1), wire.labels(4)), **options)
    found = evidence.snapshot(0.0)
    assert (found["pairs"], found["agreement"]["agreed"]) == (2, 1)
    assert found["custom"] == {"name": "own_parity:judge", "n": 2, "failures": 0, "last": None}
    assert found["measures"]["sum"]["mean"] == 4.5
    assert found["confusion"]["labels"] == ["1", "3", "4"]


def test_an_own_comparison_that_fails_is_counted_and_shown(wire, evidence_of, own):
    options = own("own_broken", "def judge(blue, green):\n    return 1 / 0\n")
    evidence = evidence_of(wire.see(wire.labels(1)), wire.see(wire.labels(1)), **options)
    found = evidence.snapshot(0.0)
    assert (found["pairs"], found["dropped_by"]) == (0, {"own comparison failed": 2})
    assert found["custom"]["failures"] == 2
    assert "ZeroDivisionError" in found["custom"]["last"]
    assert any("Your own comparison failed" in sentence for sentence in found["summary"])


def test_an_own_comparison_that_is_not_there_never_agrees(wire, evidence_of, tmp_path):
    evidence = evidence_of(wire.see(wire.labels(1)), python="no_such_module:judge", python_directory=tmp_path)
    found = evidence.snapshot(0.0)
    assert found["pairs"] == 0
    assert "no_such_module" in found["custom"]["last"]


# --- bounds ---


def test_memory_and_state_stay_bounded_whatever_the_traffic(wire):
    draw = random.Random(5)
    options = EvidenceOptions(slices=("header:x-user", "json:/segment"), objective_ms=100.0)
    evidence = Evidence(1, options)
    stream = {"content-type": "text/event-stream"}
    for number in range(3_000):
        ms = [10 ** draw.uniform(-4, 6) for _ in range(6)]
        kind = number % 4
        if kind == 0:
            ours, theirs, second = (wire.labels(draw.getrandbits(70), ms=ms[i]) for i in range(3))
        elif kind == 1:
            values = [draw.choice((-1, 1)) * 10 ** draw.uniform(-9, 15) for _ in range(3)]
            ours, theirs, second = (wire.numbers(values[i], ms=ms[i]) for i in range(3))
        elif kind == 2:
            ours, theirs, second = (wire.chat("word " * draw.randrange(1, 60), ms=ms[i]) for i in range(3))
        else:
            events = b"".join(b'data: {"token": "%d"}\n\n' % i for i in range(draw.randrange(2, 9)))
            gaps = tuple(10 ** draw.uniform(-5, 5) for _ in range(4))
            ours, theirs, second = (wire.answer(events, ms=ms[i], headers=stream, gaps_ms=gaps) for i in range(3))
        request = {"segment": draw.random(), "inputs": []}
        evidence.observe(wire.see(ours, theirs, second, request=request, headers={"x-user": f"user-{number}" * 20}))
        if number % 500 == 0:
            evidence.take_records(0.0)
    assert evidence.internal_failures == 0, evidence.internal_last
    assert evidence.received == 3_000
    assert len(json.dumps(evidence.state())) < 1_000_000
    assert len(json.dumps(evidence.snapshot(0.0))) < 200_000


def test_many_labels_share_the_last_place(wire, evidence_of):
    evidence = evidence_of(*(wire.see(wire.labels(number)) for number in range(200)))
    confusion = evidence.snapshot(0.0)["confusion"]
    assert len(confusion["labels"]) == 51
    assert confusion["labels"][-1] == "(other)"
    assert confusion["counts"][-1][-1] == 150
    assert confusion["n"] == 200


def test_noise_pairs_of_what_green_answered_live_say_how_fast_it_is_and_what_noise_is(wire):
    evidence = Evidence(1, EvidenceOptions(objective_ms=15.0))
    for number in range(50):
        one = wire.see(wire.labels(1), wire.labels(1), wire.labels(2 if number % 5 == 0 else 1))
        # The client's own answer took 500 ms, in another process and under other circumstances: it is not what is compared.
        green = replace(one.green, total_ms=500.0)
        again, mirrored = replace(one.again, total_ms=10.0), replace(one.green, total_ms=20.0 + number % 3)
        evidence.observe(replace(one, live="green", green=green, again=again, green_again=mirrored))
    found = evidence.snapshot(0.0)
    assert evidence.internal_failures == 0, evidence.internal_last
    assert found["against_noise"]["n"] == 50
    assert found["latency"]["objective"]["n"] == 50
    paired = found["latency"]["paired"]
    assert paired["n"] == 50
    assert (paired["blue"]["p50"], paired["difference_ms"]["p50"]["ci"]) == (10.0, [10.0, 12.0])


# --- settings ---


def test_changed_settings_keep_what_still_holds(wire, evidence_of):
    before = evidence_of(
        *(wire.see(wire.labels(1), wire.labels(2), wire.labels(1), headers={"x-country": "de"}) for _ in range(10)),
        objective_ms=5.0,
        slices=("header:x-country",),
    )
    options = EvidenceOptions(objective_ms=20.0, slices=("header:x-plan",), margin=0.05)
    found = Evidence(1, options, before.state()).snapshot(0.0)
    assert found["pairs"] == 10
    assert found["latency"]["objective"]["n"] == 0
    assert found["slices"] == []
    assert (found["against_noise"]["n"], found["against_noise"]["margin"]) == (10, 0.05)


# --- its description ---


def keys_of(document):
    """Every key in a document, except where keys are data: reasons, labels' names, measures."""
    for key, value in document.items():
        yield key
        if key in {"dropped_by", "troubles", "protocols", "recognised", "kinds", "stream_dialects", "quantiles"}:
            continue
        if isinstance(value, dict):
            inner = keys_of(value)
            yield from (name for name in inner if key != "unreadable" or name not in {"not json", "empty"})
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield from keys_of(value[0])


def test_every_key_is_described(wire, evidence_of, own):
    """docs/evidence.md names each key of the document."""
    described = set(re.findall(r"`([a-z0-9_]+)`", (Path(__file__).parents[2] / "docs" / "evidence.md").read_text()))
    chat, near = wire.chat("a b c d"), wire.chat("a b c e")
    pairs = [wire.see(wire.labels(1), wire.labels(2), wire.labels(1), headers={"x-country": "de"}) for _ in range(3)]
    pairs += [wire.see(wire.numbers(1.0), wire.numbers(2.0)), wire.see(chat, near, chat, path="/v1/chat/completions")]
    pairs += [wire.see(wire.labels(1), wire.failed()), wire.see(wire.labels(1), wire.answer(b"<html>"))]
    options = {"slices": ("header:x-country",), "objective_ms": 5.0, "floor": 0.9}
    for found in (evidence_of(*pairs, **options), evidence_of(*pairs, **own("own_plain", "def judge(a, b): return True"))):
        missing = {key for key in keys_of(found.snapshot(0.0)) if key not in described}
        assert missing == set()
