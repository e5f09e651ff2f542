import json
import random

import pytest

from shadow import figures


@pytest.fixture
def rich(wire, evidence_of):
    """Evidence in which every figure has something to show."""
    draw = random.Random(1)
    pairs = []
    for number in range(400):
        label, ms = number % 4, 5.0 + draw.random()
        green = label if draw.random() < 0.9 else (label + 1) % 4
        headers = {"x-country": ["de", "fr"][number % 2]}
        pairs.append(wire.see(wire.labels(label), wire.labels(green, ms=ms + 2), wire.labels(label, ms=ms), headers=headers))
    pairs += [wire.see(wire.numbers(1.5), wire.numbers(1.5 + draw.gauss(0, 0.1))) for _ in range(60)]
    pairs += [wire.see(wire.labels(1), wire.failed())]
    return evidence_of(*pairs, slices=("header:x-country",), floor=0.98).snapshot(0.0)


def test_every_figure_is_drawn(rich):
    drawn = figures.figures(rich)
    assert list(drawn) == [
        "agreement", "confusion", "differences", "latency_curves", "latency_differences", "drift", "slices", "left_out",
    ]  # fmt: skip
    for figure in drawn.values():
        document = json.loads(figure.to_json())
        assert document["data"]
        assert document["layout"]["title"]["text"]


def test_a_figure_shows_the_evidences_numbers(rich):
    markers = [trace for trace in figures.agreement(rich).data if trace.mode == "markers"]
    assert [trace.x[0] for trace in markers] == [
        rich["noise"]["rate"], rich["against_noise"]["green_rate"], rich["agreement"]["rate"],
    ]  # fmt: skip
    bands = [trace for trace in figures.agreement(rich).data if trace.mode == "lines"]
    assert list(bands[-1].x) == rich["agreement"]["ci"]
    agreeing, differing = figures.confusion(rich).data
    counts = rich["confusion"]["counts"]
    assert [agreeing.z[i][i] for i in range(4)] == [counts[i][i] for i in range(4)]
    assert differing.z[0][1] == counts[0][1]
    assert differing.z[0][0] is None
    blue, green = figures.drift(rich).data
    assert sum(blue.y) == pytest.approx(1.0)
    assert list(green.y) == rich["drift"]["channels"]["labels"]["shares"]["green"]
    (bars,) = figures.differences(rich).data
    assert sum(bars.y) == sum(rich["numbers"]["histogram"]["counts"])
    (reasons,) = figures.left_out(rich).data
    assert (list(reasons.y), list(reasons.x)) == (["green failed"], [1])


def test_an_interval_without_an_end_is_drawn_as_one(wire, evidence_of):
    pairs = [wire.see(wire.labels(1), wire.labels(1, ms=9.0), wire.labels(1, ms=8.0)) for _ in range(30)]
    found = evidence_of(*pairs).snapshot(0.0)
    assert found["latency"]["paired"]["difference_ms"]["p99"]["ci"] == [None, None]
    lines = [trace for trace in figures.latency_differences(found).data if trace.mode == "lines"]
    assert lines[0].line.dash == "dot"
    assert "no bound yet" in lines[0].y[0]
    assert lines[0].x[0] < -1.0 < 1.0 < lines[0].x[1]


def test_without_evidence_there_are_no_figures(evidence_of):
    assert figures.figures(evidence_of().snapshot(0.0)) == {}


def test_a_document_of_the_control_api_without_a_shadow_has_no_figures():
    nothing = {"n": 0, "rate": None, "ci": [0.0, 1.0]}
    document = {"pairs": 0, "agreement": nothing, "noise": nothing, "latency": {}, "errors": {}, "dropped": 0}
    assert figures.figures(document) == {}


def test_names_from_traffic_are_text(wire, evidence_of):
    tag = "<a href='http://evil'>x</a>"
    pairs = [wire.see(wire.answer({"predictions": [tag]}), path="/v1/models/m:predict", headers={"x-c": tag}) for _ in range(5)]
    found = evidence_of(*pairs, slices=("header:x-c",)).snapshot(0.0)
    for figure in figures.figures(found).values():
        assert "<a " not in figure.to_json()
    assert "&lt;a " in figures.confusion(found).data[0].x[0]


def test_names_that_are_cut_stay_apart(wire, evidence_of):
    long = ["a_very_long_label_that_ends_in_" + end for end in ("one", "two")]
    pairs = [wire.see(wire.answer({"predictions": [name]}), path="/v1/models/m:predict") for name in long]
    names = figures.confusion(evidence_of(*pairs).snapshot(0.0)).data[0].x
    assert len(set(names)) == 2
