import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadow.finite import finite
from shadow.latency import ArmPair, Latency, quantile_ranks
from shadow.quantiles import Histogram, order_statistic_ranks


@given(st.integers(0, 3_000), st.sampled_from([0.01, 0.5, 0.9, 0.95, 0.99]), st.sampled_from([0.05, 0.025, 0.001]))
def test_the_fast_ranks_are_the_ranks(n, p, alpha):
    low, high = order_statistic_ranks(n, p, alpha)
    assert quantile_ranks(n, p, alpha) == (int(low), int(high))


@pytest.mark.parametrize("n", [10**5, 10**7, 10**9])
def test_the_fast_ranks_hold_for_long_streams(n):
    for p in (0.5, 0.99):
        low, high = order_statistic_ranks(n, p, 0.05)
        assert quantile_ranks(n, p, 0.05) == (int(low), int(high))


@given(st.lists(st.floats(0.01, 1e4), max_size=200), st.floats(0.1, 10.0))
def test_a_pair_of_arms_gives_the_methods_own_intervals(values, factor):
    pair = ArmPair()
    blue, green = Histogram(low_exponent=-10, high_exponent=30), Histogram(low_exponent=-10, high_exponent=30)
    for value in values:
        pair.update(value, factor * value)
        blue.update(value)
        green.update(factor * value)
    found = pair.snapshot(0.05, "_ms")
    assert found["n"] == len(values)
    if not values:
        return
    for name, p in (("p50", 0.5), ("p95", 0.95)):
        b, g = blue.quantile_interval(p, 0.025), green.quantile_interval(p, 0.025)
        expected = [g.low - b.high, g.high - b.low]
        assert found["difference_ms"][name]["ci"] == [end if math.isfinite(end) else None for end in expected]
        assert found["blue"][name] == blue.quantile(p)
        estimate = found["ratio"][name]["estimate"]
        low, high = found["ratio"][name]["ci"]
        assert low <= estimate
        assert high is None or estimate <= high


def slowed(wire, evidence_of, by, n=1500, seed=3, **options):
    """Noise pairs whose green takes `by` milliseconds more than blue, both with the spread of a real loop."""
    draw = random.Random(seed)

    def ms():
        return 5.0 + draw.gammavariate(2.0, 1.0)

    pairs = (wire.see(wire.labels(1, ms=0.1), wire.labels(1, ms=ms() + by), wire.labels(1, ms=ms())) for _ in range(n))
    return evidence_of(*pairs, **options).snapshot(0.0)


def test_an_added_delay_is_found_and_measured(wire, evidence_of):
    paired = slowed(wire, evidence_of, 20.0)["latency"]["paired"]
    assert paired["n"] == 1500
    low, high = paired["difference_ms"]["p50"]["ci"]
    assert low < 20.0 < high
    assert high - low < 2.0
    low, high = paired["median"]["ci"]
    assert low < 20.0 < high
    assert paired["median"]["decided"] == "green is slower"
    assert paired["ratio"]["p50"]["ci"][0] > 2.0
    assert paired["first_byte"]["difference_ms"]["p50"]["ci"][0] > 10.0


def test_equal_arms_are_not_told_apart(wire, evidence_of):
    paired = slowed(wire, evidence_of, 0.0)["latency"]["paired"]
    for name in ("p50", "p95", "p99"):
        low, high = paired["difference_ms"][name]["ci"]
        assert low < 0.0 < high
        low, high = paired["ratio"][name]["ci"]
        assert low < 1.0 < high
    assert paired["median"]["decided"] is None
    low, high = paired["mean_ratio"]["ci"]
    assert low < 1.0 < high


def test_a_faster_green_is_found(wire, evidence_of):
    found = slowed(wire, evidence_of, -3.0)
    assert found["latency"]["paired"]["median"]["decided"] == "green is faster"
    assert any("faster" in sentence for sentence in found["summary"])


def test_p99_has_no_upper_end_before_there_are_enough_pairs(wire, evidence_of):
    few = slowed(wire, evidence_of, 0.0, n=200)["latency"]["paired"]["difference_ms"]["p99"]
    assert few["ci"] == [None, None]
    assert few["estimate"] is not None


def test_live_times_are_shown_and_not_compared(wire, evidence_of):
    evidence = evidence_of(
        wire.see(wire.labels(1, ms=4.0), wire.labels(1, ms=9.0)), wire.see(wire.labels(1), wire.labels(1, ms=7.0), live="green")
    )
    latency = evidence.snapshot(0.0)["latency"]
    assert latency["paired"]["n"] == 0
    assert latency["live"]["blue"]["n"] == latency["live"]["green"]["n"] == latency["mirrored"]["green"]["n"] == 1
    assert latency["live"]["blue"]["p50"] == pytest.approx(4.0, rel=0.01)
    assert latency["live"]["green"]["p50"] == pytest.approx(7.0, rel=0.01)
    assert latency["mirrored"]["green"]["p50"] == pytest.approx(9.0, rel=0.01)
    assert any("not comparable" in sentence for sentence in evidence.snapshot(0.0)["summary"])


def test_the_first_pairs_are_kept_apart(wire, evidence_of):
    pairs = [wire.see(wire.labels(1), wire.labels(1, ms=1000.0), wire.labels(1, ms=900.0)) for _ in range(5)]
    pairs += [wire.see(wire.labels(1), wire.labels(1, ms=2.0), wire.labels(1, ms=2.0)) for _ in range(8)]
    latency = evidence_of(*pairs, warm_up=5, objective_ms=100.0).snapshot(0.0)["latency"]
    assert (latency["paired"]["n"], latency["warm_up"]["n"], latency["warm_up"]["of"]) == (8, 5, 5)
    assert latency["paired"]["green"]["p99"] < 3.0
    assert latency["warm_up"]["green"]["p50"] == pytest.approx(1000.0, rel=0.01)
    assert (latency["objective"]["n"], latency["objective"]["green"]["within"]) == (8, 8)


def test_what_was_cut_off_was_not_waited_for(wire, evidence_of):
    cut = wire.labels(1, ms=3.0, truncated=True)
    latency = evidence_of(wire.see(wire.labels(1), cut, wire.labels(1)), wire.see(cut, wire.labels(1))).snapshot(0.0)["latency"]
    assert latency["paired"]["n"] == 0
    assert latency["live"]["blue"]["n"] == 1
    assert latency["mirrored"]["green"]["n"] == 1


def test_an_answer_that_does_not_come_is_over_the_objective(wire, evidence_of):
    fast, slow = wire.labels(1, ms=10.0), wire.labels(1, ms=300.0)
    evidence = evidence_of(
        *(wire.see(fast, fast, fast) for _ in range(6)),
        *(wire.see(fast, slow, fast) for _ in range(3)),
        wire.see(fast, wire.failed("connect", ms=0.2), fast),
        *(wire.see(fast, fast, slow) for _ in range(2)),
        wire.see(fast, slow, slow),
        objective_ms=100.0,
    )
    objective = evidence.snapshot(0.0)["latency"]["objective"]
    assert (objective["n"], objective["worse"], objective["better"], objective["same"]) == (13, 4, 2, 7)
    assert (objective["green"]["within"], objective["blue"]["within"]) == (8, 10)
    assert objective["green"]["ci"][0] < 8 / 13 < objective["green"]["ci"][1]


def test_streams_have_gaps_and_a_pace(wire, evidence_of):
    def stream(pieces, ms, gap):
        events = b"".join(b'data: {"choices": [{"delta": {"content": "w "}}]}\n\n' for _ in range(pieces)) + b"data: [DONE]\n\n"
        headers = {"content-type": "text/event-stream"}
        return wire.answer(events, ms=ms, first_ms=100.0, headers=headers, gaps_ms=(gap,) * (pieces - 1))

    blue, green = stream(11, 1100.0, 100.0), stream(11, 600.0, 50.0)
    evidence = evidence_of(*(wire.see(blue, green, blue, path="/v1/chat/completions") for _ in range(40)))
    streams = evidence.snapshot(0.0)["latency"]["streams"]
    assert streams["gaps_ms"]["blue"]["n"] == 400
    assert streams["gaps_ms"]["green"]["p50"] == pytest.approx(50.0, rel=0.01)
    pace = streams["tokens_per_second"]
    assert pace["n"] == 40
    assert pace["blue"]["p50"] == pytest.approx(10.0, rel=0.01)
    assert pace["green"]["p50"] == pytest.approx(20.0, rel=0.01)


def test_times_survive_a_restart_and_a_new_objective_begins_anew(wire, evidence_of):
    evidence = evidence_of(
        *(wire.see(wire.labels(1), wire.labels(1, ms=5.0), wire.labels(1)) for _ in range(20)), objective_ms=7.0
    )
    state = json.loads(json.dumps(evidence.latency.to_dict()))
    same = Latency.from_dict(state, 0, 7.0)
    assert finite(same.snapshot(0.05)) == finite(evidence.latency.snapshot(0.05))
    other = Latency.from_dict(state, 0, 8.0)
    assert other.total.n == 20
    assert other.snapshot(0.05)["objective"]["n"] == 0
