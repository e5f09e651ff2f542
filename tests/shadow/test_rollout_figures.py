"""The pictures of a rollout, from the document of its record."""

import json

import pytest

from shadow.figures import BAD, GREEN, NEUTRAL, WARNING
from shadow.rollout_figures import gates_by_move, judged, measured, share_of_green


def gate(name, state="pass", estimate=0.99, ci=(0.97, 0.999), threshold=0.98):
    return {"name": name, "state": state, "estimate": estimate, "ci": list(ci), "threshold": threshold, "n": 10}


def move(at, event, percent, *gates):
    verdict = {"verdict": "hold", "gates": list(gates)} if gates else None
    return {"at": 1.7e9 + at, "event": event, "green_percent": percent, "who": "<ann>", "verdict": verdict}


@pytest.fixture
def document():
    return {
        "moves": [
            move(0, "start", 0),
            move(60, "step", 10, gate("pairs", estimate=500.0, threshold=500.0), gate("agreement")),
            move(90, "hand", 33),
            move(120, "fail", 0, gate("agreement", "fail", 0.9, (0.88, 0.93)), gate("drift", "undecided", None, (None, None), 0.1),
                 gate("errors_live", "undecided", 0.01, (None, 0.05), 0.005), gate("python", threshold=None)),
        ]
    }  # fmt: skip


def test_the_share_is_what_each_move_left(document):
    (line,) = share_of_green(document).data
    assert list(line.y) == [0, 10, 33, 0]
    assert line.x[1] == "2023-11-14T22:14:20+00:00"
    assert line.line.shape == "hv"
    assert list(line.marker.color) == [GREEN, GREEN, WARNING, BAD]
    assert line.customdata[0][1] == "&lt;ann&gt;"


def test_gates_that_measure_something_have_a_row_each(document):
    assert [number for number, _ in judged(document)] == [2, 4]
    assert measured(document) == ["agreement", "errors_live"]
    figure = gates_by_move(document)
    assert [annotation.text for annotation in figure.layout.annotations] == ["agreement", "errors live"]
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert [(trace.x[0], trace.y[0], trace.marker.color) for trace in points] == [
        ("2: step<br>green 10 %", 0.99, GREEN), ("4: fail<br>green 0 %", 0.9, BAD), ("4: fail<br>green 0 %", 0.01, NEUTRAL),
    ]  # fmt: skip
    bands = [list(trace.y) for trace in figure.data if trace.mode == "lines" and trace.line.width == 7]
    assert bands == [[0.97, 0.999], [0.88, 0.93], [0.01, 0.05]]  # without a lower bound it begins at the estimate
    asked = [list(trace.y) for trace in figure.data if trace.line.dash == "dash"]
    assert asked == [[0.98, 0.98], [None, 0.005]]
    assert "no bound" in points[2].hovertemplate


def test_names_from_a_record_are_text():
    figure = gates_by_move({"moves": [move(0, "<b>", 5, gate("<i>x</i>"))]})
    shown = figure.to_json()
    assert "<b>" not in shown.replace("\\u003c", "<")
    assert "<i>" not in shown.replace("\\u003c", "<")


def test_without_verdicts_there_is_nothing_to_measure():
    bare = {"moves": [move(0, "start", 0), move(5, "abort", 0)]}
    assert (judged(bare), measured(bare)) == ([], [])
    assert json.loads(share_of_green(bare).to_json())["data"]
