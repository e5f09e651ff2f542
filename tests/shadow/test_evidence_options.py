import pytest

from shadow.evidence_options import EvidenceOptions


def test_options_come_from_the_settings():
    document = {
        "compare": {"protocol": "open-inference", "rtol": 0.1, "atol": 0.2, "ignore": ["/id"], "pointers": {"y": "/y"},
                    "similarity_floor": 0.8, "python": "mine:judge"},
        "slices": ["header:x-country"],
        "record": {"disagreements": 5, "others": 10**6, "body": 100, "keep": 60.0, "redact": ["json:/user"]},
        "shadow": {"warm_up": 9},
        "rollout": {"alpha": 0.01, "gates": {"agreement": {"min": 0.98, "margin": 0.02}, "objective": {"latency_ms": 200},
                                             "slices": {"of": "agreement", "min": 0.9}}},
    }  # fmt: skip
    options = EvidenceOptions.from_settings(document)
    assert options.decode.protocol.value == "open-inference"
    assert [pointer.at for pointer in options.decode.pointers] == ["/y"]
    assert (options.compare.rtol, options.compare.atol, options.compare.similarity_floor) == (0.1, 0.2, 0.8)
    assert options.compare.ignore == ("/id",)
    assert (options.python, options.slices, options.warm_up) == ("mine:judge", ("header:x-country",), 9)
    assert (options.record.disagreements, options.record.body, options.record.redact) == (5, 100, ("json:/user",))
    assert options.record.others < 10**6
    assert (options.alpha, options.floor, options.slice_floor, options.margin) == (0.01, 0.98, 0.9, 0.02)
    assert options.objective_ms == 200.0


def test_empty_settings_are_the_defaults():
    assert EvidenceOptions.from_settings({}) == EvidenceOptions()
    assert EvidenceOptions.from_settings({"rollout": {"gates": {"agreement": {"min": 0.99}}}}).slice_floor == 0.99


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rollout": {"alpha": 2}}, "alpha"),
        ({"slices": ["cookie:x"]}, "slices"),
        ({"record": {"redact": ["x"]}}, "redact"),
        ({"rollout": {"gates": {"objective": {"latency_ms": 0}}}}, "objective"),
        ({"compare": {"rtol": -1}}, "rtol"),
        ({"compare": {"protocol": "grpc"}}, "grpc"),
        ({"compare": {"pointers": {"y": "y"}}}, "pointer"),
    ],
)
def test_wrong_settings_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        EvidenceOptions.from_settings(wrong)
