import json
import math

import pytest

from shadow.finite import finite
from shadow.intervals import difference_intervals, rate_intervals
from shadow.noise import NoiseComparison
from shadow.sections import against_noise


def test_what_json_cannot_write_becomes_null():
    found = finite({"a": math.inf, "b": [math.nan, 1.5, (2, -math.inf)], "c": {"d": "x", "e": None, "f": True}})
    assert found == {"a": None, "b": [None, 1.5, [2, None]], "c": {"d": "x", "e": None, "f": True}}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("worse_every", [None, 3])
def test_the_section_says_what_the_comparison_with_noise_says(worse_every):
    """The same numbers as `NoiseComparison.snapshot`, which takes several times as long."""
    noise = NoiseComparison()
    for number in range(300):
        green = worse_every is not None and number % worse_every == 0
        noise.update(green, number % 50 == 0, 0.8 if green else 1.0, 1.0)
    green, pairs, expected = noise.green, noise.pairs, noise.snapshot(0.05)
    around_green = rate_intervals([(green.successes, green.failures)], 0.05)[0]
    around_difference = difference_intervals([(pairs.worse, pairs.better, pairs.same)], 0.05)[0]
    found = against_noise(noise, 0.05, around_green, around_difference)
    assert (found["n"], found["worse"], found["better"]) == (expected.n, expected.worse_pairs, expected.better_pairs)
    assert found["green_rate"] == expected.green_agreement
    assert found["difference"]["estimate"] == expected.excess
    assert found["difference"]["ci"] == pytest.approx([expected.excess_interval.low, expected.excess_interval.high], abs=1e-9)
    assert found["green_ci"] == pytest.approx([expected.green_interval.low, expected.green_interval.high], abs=1e-9)
    assert (found["log_e"], found["log_e_no_worse"]) == (expected.log_e_worse, expected.log_e_not_worse)
    assert (found["worse_than_noise"], found["no_worse_than_noise"]) == (expected.worse, expected.not_worse)
    assert found["more"] == (None if expected.worse or expected.not_worse else expected.more)
    similarity = expected.similarity
    assert similarity is not None
    assert found["similarity"]["n"] == similarity.n
    assert found["similarity"]["lost"] == similarity.mean
    assert found["similarity"]["ci"] == [similarity.interval.low, similarity.interval.high]
    assert (found["similarity"]["less"], found["similarity"]["no_less"]) == (similarity.less, similarity.not_less)


def test_each_section_has_what_a_gate_needs(wire, evidence_of):
    evidence = evidence_of(
        *(wire.see(wire.labels(1)) for _ in range(100)), wire.see(wire.labels(1), wire.failed("broken")), floor=0.9
    )
    found = evidence.snapshot(0.0)
    assert found["agreement"]["floor"] == 0.9
    assert found["agreement"]["log_e_above_floor"] == evidence.agreement.log_e_above(0.9) > math.log(20)
    assert found["agreement"]["log_e_below_floor"] == evidence.agreement.log_e_below(0.9) < 0
    assert found["errors"]["log_e"] == evidence.errors.log_e_above()
    assert found["errors"]["e_value"] == pytest.approx(math.exp(found["errors"]["log_e"]))
    assert found["errors"]["difference"]["estimate"] == pytest.approx(1 / 101)
    assert found["unreadable"]["difference"]["ci"][0] < 0 < found["unreadable"]["difference"]["ci"][1]
