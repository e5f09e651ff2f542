import base64
import gzip
import json
from collections import Counter

import pytest

from shadow.evidence_options import RecordOptions
from shadow.records import MAX_FAILURES, REDACTED, Reservoir


def kept(evidence):
    return evidence.take_records(0.0)


def test_a_pair_is_kept_with_request_answers_and_difference(wire, evidence_of):
    evidence = evidence_of(wire.see(wire.labels(3), wire.labels(8, ms=12.5), wire.labels(3), request_id="abc"))
    (record,) = kept(evidence)
    assert set(record) == {"release", "when", "request_id", "agree", "disagreement", "content"}
    assert (record["release"], record["request_id"], record["agree"]) == (1, "abc", False)
    assert record["disagreement"] == "different label: blue 3, green 8"
    content = record["content"]
    assert json.loads(content["request"]["body"]["text"])["inputs"][0]["name"] == "x"
    assert json.loads(content["blue"]["body"]["text"])["outputs"][0]["data"] == [3]
    assert content["green"]["total_ms"] == 12.5
    assert content["again"]["status"] == 200
    assert content["flags"] == ["noise pair"]
    assert content["difference"]["labels"] == [["3", "8"]]
    (field,) = content["difference"]["fields"]
    assert (field["blue"], field["green"]) == (3, 8)
    assert field["path"].startswith("/outputs/0")
    assert kept(evidence) == []


def test_a_failure_is_kept_with_its_reason(wire, evidence_of):
    evidence = evidence_of(
        wire.see(wire.labels(3), wire.failed("timeout")),
        wire.see(wire.labels(3), wire.answer(b"<html>")),
        wire.see(wire.labels(3)),
    )
    failure, unreadable, other = kept(evidence)
    assert (failure["agree"], failure["disagreement"]) == (False, "green failed: green timeout")
    assert not unreadable["agree"]
    assert "unreadable" in unreadable["disagreement"]
    assert (other["agree"], other["disagreement"]) == (True, None)


def test_the_samples_have_their_sizes(wire, evidence_of):
    options = RecordOptions(disagreements=10, others=5)
    evidence = evidence_of(
        *(wire.see(wire.labels(1)) for _ in range(50)),
        *(wire.see(wire.labels(1), wire.labels(2)) for _ in range(60)),
        *(wire.see(wire.labels(1), wire.failed()) for _ in range(MAX_FAILURES + 30)),
        record=options,
    )
    assert Counter(record["agree"] for record in kept(evidence)) == {True: 5, False: 20}
    found = evidence.snapshot(0.0)["records"]
    assert found["others"] == {"seen": 50, "kept": 5}
    assert found["disagreements"] == {"seen": 60, "kept": 10}
    assert found["failures"] == {"seen": MAX_FAILURES + 30, "kept": 10}


def test_nothing_is_kept_where_nothing_is_asked_for(wire, evidence_of):
    evidence = evidence_of(wire.see(wire.labels(1)), wire.see(wire.labels(1), wire.labels(2)), record=RecordOptions(0, 0))
    assert kept(evidence) == []


def test_a_store_that_obeys_holds_exactly_the_sample(wire, evidence_of):
    """The caller's part: add, forget, tell the ids. Then the store has as many rows as the sample, restarts or not."""
    evidence = evidence_of(record=RecordOptions(disagreements=3, others=8))
    stored, next_id = {}, 0
    for number in range(400):
        evidence.observe(wire.see(wire.labels(1), request_id=f"r{number}"))
        if number % 7 == 0:
            records = evidence.take_records(0.0)
            ids = list(range(next_id, next_id + len(records)))
            next_id += len(records)
            for row in evidence.forget:
                del stored[row]
            stored.update(zip(ids, records, strict=True))
            evidence.kept([row + 1000 for row in ids])
            stored = {row + 1000 if row in ids else row: record for row, record in stored.items()}
    assert len(stored) == 8
    # the newest are not favoured
    assert any(int(record["request_id"][1:]) < 200 for record in stored.values())


def test_every_pair_has_the_same_chance():
    drawn = Counter()
    for seed in range(400):
        sample, places = Reservoir(5, seed * 1000), {}
        for number in range(50):
            place = sample.place()
            if place is not None:
                places[place] = number
        drawn.update(places.values())
    assert sum(drawn.values()) == 2000
    # 40 expected for each, standard deviation 6
    assert min(drawn[number] for number in range(50)) > 15
    assert max(drawn[number] for number in range(50)) < 70


def test_credentials_are_never_kept(wire, evidence_of):
    headers = {
        "authorization": "Bearer s3cret",
        "cookie": "s3cret",
        "x-api-key": "s3cret",
        "x-user": "anna",
        "x-mine": "s3cret",
    }
    answers = wire.labels(1, headers={"set-cookie": "s3cret"})
    evidence = evidence_of(wire.see(answers, headers=headers), record=RecordOptions(redact=("header:X-Mine",)))
    (record,) = kept(evidence)
    assert "s3cret" not in json.dumps(record)
    assert record["content"]["request"]["headers"]["authorization"] == REDACTED
    assert record["content"]["request"]["headers"]["x-user"] == "anna"


REQUEST = {"parameters": {"user": "anna"}, "inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1.0]}]}


def test_pointers_are_redacted_in_request_answers_and_difference(wire, evidence_of):
    rules = RecordOptions(redact=("json:/parameters/user", "json:/outputs/0/data"))
    evidence = evidence_of(wire.see(wire.labels(77771), wire.labels(88882), wire.labels(99993), request=REQUEST), record=rules)
    (record,) = kept(evidence)
    text = json.dumps(record)
    for secret in ("anna", "77771", "88882", "99993"):
        assert secret not in text
    assert json.loads(record["content"]["request"]["body"]["text"])["parameters"]["user"] == REDACTED
    assert record["disagreement"] == "different label"
    (field,) = record["content"]["difference"]["fields"]
    assert (field["blue"], field["green"]) == (REDACTED, REDACTED)


@pytest.mark.parametrize(
    "body",
    [b'data: {"user": "anna"}\n\n', b'{"user": "anna"', b"anna", b'{"user": "anna", "x": ' + b"1" * (1 << 20) + b"}"],
    ids=["stream", "broken", "text", "long"],
)
def test_what_could_not_be_redacted_is_withheld(wire, evidence_of, body):
    green = wire.answer(body, headers={"content-type": "text/event-stream"} if body.startswith(b"data") else {})
    evidence = evidence_of(wire.see(wire.labels(1), green), record=RecordOptions(redact=("json:/user",)))
    (record,) = kept(evidence)
    found = record["content"]["green"]["body"]
    assert "anna" not in json.dumps(found)
    assert "withheld" in found


def test_compressed_bodies_are_kept_in_plain_and_redacted(wire, evidence_of):
    body = gzip.compress(json.dumps({"user": "anna", "predictions": [1]}).encode())
    packed = wire.answer(body, headers={"content-encoding": "gzip"})
    (record,) = kept(evidence_of(wire.see(packed), record=RecordOptions(redact=("json:/user",))))
    assert json.loads(record["content"]["blue"]["body"]["text"]) == {"user": REDACTED, "predictions": [1]}
    assert record["content"]["blue"]["body"]["bytes"] == len(body)
    broken = wire.answer(b"\x1f\x8b anna", headers={"content-encoding": "gzip"})
    (record,) = kept(evidence_of(wire.see(wire.labels(1), broken), record=RecordOptions(redact=("json:/user",))))
    assert "withheld" in record["content"]["green"]["body"]


def test_long_bodies_are_cut_between_characters(wire, evidence_of):
    body = ("ü" * 100).encode()
    (record,) = kept(evidence_of(wire.see(wire.labels(1), wire.answer(body)), record=RecordOptions(body=33)))
    found = record["content"]["green"]["body"]
    assert (found["bytes"], found["cut"], found["text"]) == (200, True, "ü" * 16)


def test_bytes_that_are_no_text_are_kept_as_base64(wire, evidence_of):
    (record,) = kept(evidence_of(wire.see(wire.labels(1), wire.answer(b"\xff\xfe\x00"))))
    assert base64.b64decode(record["content"]["green"]["body"]["base64"]) == b"\xff\xfe\x00"


def test_records_that_nobody_takes_do_not_pile_up(wire, evidence_of):
    body = json.dumps({"predictions": ["x" * 60_000]}).encode()
    evidence = evidence_of(record=RecordOptions(others=2000))
    for _ in range(200):
        evidence.observe(wire.see(wire.answer(body)))
    waiting = kept(evidence)
    assert len(json.dumps(waiting)) < 40 << 20
    assert evidence.snapshot(0.0)["records"]["let_go"] == 200 - len(waiting) > 0


def test_ids_are_told_once_for_each_record(wire, evidence_of):
    evidence = evidence_of(wire.see(wire.labels(1)))
    kept(evidence)
    with pytest.raises(ValueError, match="zip"):
        evidence.kept([1, 2, 3])


def test_answers_with_one_head_are_each_redacted(wire, evidence_of):
    """The fields of an answer are written once for all answers that share them, under each evidence's own rules."""
    shared = {"content-type": "application/json", "x-trace": "s3cret", "set-cookie": "s3cret"}
    observations = []
    for value in range(40):  # more heads than are remembered, each of them twice
        own = {**shared, "x-number": str(value)}
        one = wire.labels(value)
        answers = [type(one)(200, own, one.body, 1.0, 2.0) for _ in range(2)]
        observations.append(wire.see(*answers))
    for rules, seen in (((), "s3cret"), (("header:x-trace",), REDACTED)):
        records = kept(evidence_of(*observations, record=RecordOptions(redact=rules)))
        assert len(records) == 40
        for number, record in enumerate(records):
            for side in ("blue", "green"):
                headers = record["content"][side]["headers"]
                assert headers["x-number"] == str(number)
                assert (headers["x-trace"], headers["set-cookie"]) == (seen, REDACTED)
