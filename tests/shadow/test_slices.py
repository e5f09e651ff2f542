import gzip
import json
import random

import pytest

from shadow.slices import MAX_SHOWN, MAX_VALUES, MISSING, OTHER, Slices

COUNTRY = "header:x-country"


def test_the_slice_that_is_bad_is_flagged_and_no_other(wire, evidence_of):
    draw = random.Random(8)
    countries = [f"c{number}" for number in range(12)]
    pairs = []
    for number in range(3000):
        country = countries[number % 12]
        wrong = draw.random() < (0.25 if country == "c7" else 0.01)
        pairs.append(wire.see(wire.labels(1), wire.labels(2 if wrong else 1), headers={"x-country": country}))
    found = evidence_of(*pairs, slices=(COUNTRY,), slice_floor=0.95).snapshot(0.0)
    assert found["slices_total"] == 12
    assert [entry["value"] for entry in found["slices"] if entry["flagged"]] == ["c7"]
    worst = found["slices"][0]
    assert (worst["by"], worst["value"], worst["n"], worst["floor"]) == (COUNTRY, "c7", 250, 0.95)
    assert worst["ci"][0] < worst["rate"] < worst["ci"][1] < 0.95
    assert any("c7" in sentence for sentence in found["summary"])


def test_slices_that_are_well_are_seldom_flagged(wire):
    """At the floor exactly, which is the hardest case, looked at at the end."""
    draw = random.Random(9)
    flagged = 0
    for _ in range(60):
        slices = Slices((COUNTRY,))
        for number in range(20):
            agreed = sum(draw.random() < 0.95 for _ in range(200))
            slices.counts[COUNTRY][str(number)] = [agreed, 200 - agreed, 0, 0, 0, 0]
        flagged += any(entry["flagged"] for entry in slices.snapshot(0.05, 0.95))
    assert flagged <= 6


def test_a_slice_that_is_worse_than_blues_own_noise_is_flagged_as_such(wire, evidence_of):
    same, other = wire.labels(1), wire.labels(2)
    pairs = [wire.see(same, other if i % 4 == 0 else same, same, headers={"x-country": "de"}) for i in range(120)]
    pairs += [wire.see(same, same, same, headers={"x-country": "fr"}) for _ in range(120)]
    found = {entry["value"]: entry for entry in evidence_of(*pairs, slices=(COUNTRY,), slice_floor=0.1).snapshot(0.0)["slices"]}
    assert found["de"]["against_noise"] == {"worse": 30, "better": 0, "log_e": pytest.approx(found["de"]["against_noise"]["log_e"]),
                                            "flagged": True}  # fmt: skip
    assert not found["fr"]["against_noise"]["flagged"]
    assert not found["de"]["flagged"]


def test_values_beyond_the_bound_are_put_together(wire, evidence_of):
    pairs = [wire.see(wire.labels(1), headers={"x-country": f"{number}"}) for number in range(200)]
    evidence = evidence_of(*pairs, wire.see(wire.labels(1)), slices=(COUNTRY,))
    counts = evidence.slices.counts[COUNTRY]
    assert len(counts) == MAX_VALUES + 1
    assert sum(row[0] for row in counts.values()) == 201
    assert counts[OTHER][0] == 201 - MAX_VALUES
    assert len(evidence.snapshot(0.0)["slices"]) == MAX_SHOWN


def test_a_request_without_the_property_is_a_slice_of_its_own(wire, evidence_of):
    evidence = evidence_of(wire.see(wire.labels(1)), slices=(COUNTRY, "json:/segment"))
    assert set(evidence.slices.counts[COUNTRY]) == {MISSING}
    assert set(evidence.slices.counts["json:/segment"]) == {MISSING}


@pytest.mark.parametrize(
    ("value", "name"),
    [("gold", "gold"), (3, "3"), (True, "true"), (0.5, "0.5"), ([1], MISSING), (None, MISSING), ({}, MISSING)],
)
def test_a_value_in_the_body_is_found(wire, evidence_of, value, name):
    request = {"parameters": {"segment": value}, "inputs": []}
    evidence = evidence_of(wire.see(wire.labels(1), request=request), slices=("json:/parameters/segment",))
    assert set(evidence.slices.counts["json:/parameters/segment"]) == {name}


def test_a_compressed_body_is_looked_into(wire, evidence_of):
    body = gzip.compress(json.dumps({"segment": "gold"}).encode())
    seen = wire.see(wire.labels(1), request=body, headers={"content-encoding": "gzip"})
    assert set(evidence_of(seen, slices=("json:/segment",)).slices.counts["json:/segment"]) == {"gold"}


def test_failures_are_counted_where_they_happened(wire, evidence_of):
    here = {"x-country": "de"}
    evidence = evidence_of(
        wire.see(wire.labels(1), wire.failed(), headers=here),
        wire.see(wire.failed(), wire.labels(1), headers=here),
        wire.see(wire.labels(1), headers=here),
        slices=(COUNTRY,),
    )
    (entry,) = evidence.snapshot(0.0)["slices"]
    assert (entry["n"], entry["green_failed"], entry["blue_failed"]) == (1, 1, 1)


def test_a_value_called_like_the_rest_makes_no_confusion():
    slices = Slices((COUNTRY,))
    slices._row(COUNTRY, OTHER)
    for number in range(MAX_VALUES + 5):
        slices._row(COUNTRY, str(number))
    assert len(slices.counts[COUNTRY]) == MAX_VALUES + 1
