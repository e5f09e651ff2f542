import json
import random

import pytest

from shadow.drift import Confusion, Drift, ValueDrift, label_names
from shadow.evidence import Evidence, EvidenceOptions


def test_the_table_counts_every_item_and_the_tests_one_for_each_request(wire, evidence_of):
    evidence = evidence_of(
        *(wire.see(wire.labels(0, 1, 2, 2), wire.labels(0, 1, 2, 1), items=4) for _ in range(25)),
        wire.see(wire.labels(2), wire.labels(0)),
    )
    found = evidence.snapshot(0.0)
    assert found["confusion"] == {"labels": ["0", "1", "2"], "counts": [[25, 0, 0], [0, 25, 0], [1, 25, 25]], "n": 101}
    assert found["drift"]["n"] == 26
    single = sum(evidence.drift.confusion.single.values())
    assert single == 26
    # which item stands for a request hangs on its id: over many requests all of them do
    assert len(evidence.drift.confusion.single) >= 4


def test_a_label_with_its_probabilities_is_counted_once(wire, evidence_of):
    def both(label, probabilities):
        return wire.answer(
            {"outputs": [
                {"name": "predict", "shape": [1, 1], "datatype": "INT64", "data": [label]},
                {"name": "predict_proba", "shape": [1, 3], "datatype": "FP64", "data": probabilities},
            ]}
        )  # fmt: skip

    evidence = evidence_of(*(wire.see(both(2, [0.1, 0.1, 0.8]), both(1, [0.1, 0.6, 0.3])) for _ in range(30)))
    found = evidence.snapshot(0.0)
    assert found["confusion"] == {"labels": ["1", "2"], "counts": [[0, 0], [30, 0]], "n": 30}
    assert found["drift"]["channels"]["confidence"]["n"] == 30
    assert found["drift"]["of"] == "labels"
    assert found["measures"]["total_variation"]["mean"] == pytest.approx(0.5)


def test_more_of_one_label_is_found(wire, evidence_of):
    draw = random.Random(2)
    pairs = []
    for _ in range(400):
        blue = draw.randrange(3)
        green = 0 if draw.random() < 0.1 else blue
        pairs.append(wire.see(wire.labels(blue), wire.labels(green)))
    drift = evidence_of(*pairs).snapshot(0.0)["drift"]
    assert drift["decided"]
    assert drift["most_moved"] == "0"
    low, high = drift["distance"]["ci"]
    assert 0.0 < low < 0.067 < high
    assert drift["psi"] > 0.0
    assert 0.0 < drift["js"] < 1.0
    assert drift["channels"]["labels"]["shares"]["green"][0] > drift["channels"]["labels"]["shares"]["blue"][0]


def test_disagreement_without_a_shift_is_no_drift(wire, evidence_of):
    pairs = [wire.see(wire.labels(a), wire.labels(1 - a)) for a in (0, 1) * 150]
    found = evidence_of(*pairs).snapshot(0.0)
    assert found["agreement"]["rate"] == 0.0
    assert not found["drift"]["decided"]
    assert found["drift"]["psi"] == pytest.approx(0.0, abs=1e-9)


def test_shifted_values_are_found_and_equal_ones_are_not(wire):
    draw = random.Random(4)
    shifted, equal = Evidence(1, EvidenceOptions()), Evidence(1, EvidenceOptions())
    for _ in range(1200):
        value = draw.gauss(100.0, 10.0)
        shifted.observe(wire.see(wire.numbers(value), wire.numbers(value + 8.0)))
        equal.observe(wire.see(wire.numbers(value), wire.numbers(draw.gauss(100.0, 10.0))))
    found = shifted.snapshot(0.0)
    assert found["drift"]["of"] == "values"
    assert found["drift"]["decided"]
    low, high = found["drift"]["distance"]["ci"]
    assert low < 0.31 < high  # of two normal distributions 0.8 standard deviations apart: 2 Phi(0.4) - 1
    assert found["numbers"]["mean"] == pytest.approx(8.0)
    assert not equal.snapshot(0.0)["drift"]["decided"]


def test_longer_texts_are_found(wire, evidence_of):
    short, long = wire.chat("yes it is so"), wire.chat("yes it is so and that is all there is to say of it")
    drift = evidence_of(*(wire.see(short, long, path="/v1/chat/completions") for _ in range(500))).snapshot(0.0)["drift"]
    assert (drift["of"], drift["decided"]) == ("length", True)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, 2], ["1", "2"]),
        (["cat", "dog"], ["cat", "dog"]),
        ([1, "1", True, None, 0.5], ["1", '"1"', "true", "null", "0.5"]),
        (["null"], ["null"]),
    ],
)
def test_names_tell_labels_apart(labels, names):
    assert label_names(labels) == names


def test_labels_that_mean_the_same_share_a_place():
    confusion = Confusion()
    confusion.update([(1, 1.0), (2.0, 2), (True, 1)], 0)
    assert confusion.snapshot() == {"labels": ["1", "2"], "counts": [[2, 0], [0, 1]], "n": 3}


@pytest.mark.parametrize("label", [float("nan"), float("inf"), 10**400, -(2**80), "\udc80", "x" * 10_000, None])
def test_any_label_can_be_written_down(label):
    drift = Drift()
    for _ in range(2):
        drift.confusion.update([(label, label)], 0)
    document = drift.snapshot(0.05)
    json.dumps(document, allow_nan=False)
    text = json.dumps(drift.confusion.snapshot(), ensure_ascii=False)
    assert len(text.encode("utf-8")) < 500
    assert drift.confusion.snapshot()["n"] == 2
    assert Drift.from_dict(json.loads(json.dumps(drift.to_dict()))).snapshot(0.05) == document


def test_values_that_are_no_numbers_are_left_out():
    channel = ValueDrift(signed=True, low_exponent=-24, high_exponent=40)
    channel.update(float("nan"), 1.0)
    channel.update(1.0, float("inf"))
    channel.update(1.0, 2.0)
    assert channel.drift(0.05)["n"] == 1


def test_a_constant_has_one_bin():
    channel = ValueDrift(signed=False, low_exponent=-10, high_exponent=1)
    for _ in range(50):
        channel.update(1.0, 1.0)
    found = channel.drift(0.05)
    assert found["shares"]["blue"] == found["shares"]["green"]
    assert found["psi"] == pytest.approx(0.0, abs=1e-9)
