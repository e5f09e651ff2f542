from __future__ import annotations

import json
from typing import Any

import pytest

from router.errors import RouterError
from router.rollout.policy import DEFAULT_GATES, Gates, Policy, policy_from_dict
from router.rollout.policy_settings import PolicyError, lacks_of, parse_policy

WHOLE: dict[str, Any] = {
    "shadow": {"min_pairs": 500},
    "steps": [1, 5, 25, 50, 100],
    "hold": "10m",
    "deadline": "24h",
    "bake": "30m",
    "gates": {
        "agreement": {"min": 0.98},
        "errors": {"max_increase": 0.005},
        "latency": {"quantile": 0.95, "max_ratio": 1.2},
        "objective": {"latency_ms": 200, "min": 0.99},
        "drift": {"max_distance": 0.1},
        "accuracy": {"min_difference": -0.005},
        "reward": {"min_difference": -0.01},
        "slices": {"of": "agreement", "min": 0.95},
        "python": "module:function",
    },
    "alpha": 0.05,
    "on_fail": "rollback",
    "notify": ["https://example.invalid/hook"],
}


def test_the_whole_policy_of_the_manual_is_understood() -> None:
    policy = parse_policy(WHOLE)
    assert policy.shadow.min_pairs == 500
    assert policy.steps == (1.0, 5.0, 25.0, 50.0, 100.0)
    assert (policy.hold, policy.deadline, policy.bake) == (600.0, 86400.0, 1800.0)
    gates = policy.gates
    assert gates.agreement is not None
    assert gates.agreement.min == 0.98
    assert gates.latency is not None
    assert (gates.latency.quantile, gates.latency.max_ratio) == (0.95, 1.2)
    assert gates.reward is not None
    assert gates.reward.min_difference == -0.01
    assert gates.python == "module:function"
    assert policy.notify == ("https://example.invalid/hook",)
    assert policy.live_steps == 4


def test_what_is_left_out_gets_the_defaults() -> None:
    assert parse_policy({}) == Policy()
    assert parse_policy({}).gates == DEFAULT_GATES
    assert parse_policy({"gates": None, "shadow": None}) == Policy()
    assert parse_policy({"gates": {"drift": {}}}).gates == Gates(drift=parse_policy(WHOLE).gates.drift)


@pytest.mark.parametrize("document", [{}, WHOLE, {"gates": {"agreement": {"not_worse_than_noise": True, "margin": 0.02}}}])
def test_a_policy_can_be_stored_and_sent_again(document: dict[str, Any]) -> None:
    policy = parse_policy(document)
    plain = json.loads(json.dumps(policy.to_dict(), allow_nan=False))
    assert policy_from_dict(plain) == policy
    assert parse_policy(plain) == policy


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ([1], "policy: must be an object"),
        ({"stepz": [1]}, "stepz: unknown key; did you mean steps?"),
        ({"min_pairs": 3}, "min_pairs: unknown key; did you mean shadow.min_pairs?"),
        ({"gates": {"agrement": {}}}, "gates.agrement: unknown key; did you mean gates.agreement?"),
        ({"gates": {"errors": {"max": 1}}}, "gates.errors.max: unknown key"),
        ({"steps": []}, "steps: must be a list of 1 to 50 percentages"),
        ({"steps": "5"}, "steps: must be a list"),
        ({"steps": [5, 1, 100]}, "steps: must grow from step to step"),
        ({"steps": [5, 5, 100]}, "steps: must grow from step to step"),
        ({"steps": [5, 50]}, "steps: must begin above 0 and end at 100"),
        ({"steps": [0, 100]}, "steps: must begin above 0 and end at 100"),
        ({"steps": [1.001, 100]}, "steps: each step: must be a multiple of 0.01"),
        ({"steps": ["a", 100]}, "steps: each step: must be a number"),
        ({"steps": [True, 100]}, "steps: each step: must be a number"),
        ({"gates": {}}, "gates: name at least one gate"),
        ({"gates": {"agreement": {}}}, "gates.agreement: needs `min: 0.98`"),
        ({"gates": {"agreement": {"min": 1.5}}}, "gates.agreement.min: must be a number from 0.0001 to 0.9999, got 1.5"),
        ({"gates": {"objective": {}}}, "gates.objective.latency_ms: is missing"),
        ({"gates": {"slices": {"of": "errors"}}}, "gates.slices.of: must be one of 'agreement'"),
        ({"gates": {"python": "no colon"}}, 'gates.python: must be "module:function"'),
        ({"hold": "soon"}, "hold: must be a duration such as 250ms"),
        ({"alpha": 0}, "alpha: must be a number from 1e-09 to 0.5"),
        ({"on_fail": "panic"}, "on_fail: must be one of 'rollback' or 'pause'"),
        ({"notify": ["ftp://x"]}, "notify.0: must be a URL such as https://example.org/hook"),
        ({"notify": "http://x"}, "notify: must be a list"),
        ({"breaker": {"share": 2}}, "breaker.share: must be a number from 0 to 1, got 2"),
        ({"promote": 1}, "promote: must be true or false"),
        ({"notify_secret_file": "/nowhere"}, "notify_secret_file: there is no file"),
    ],
)
def test_what_is_wrong_gets_one_line_with_its_key(document: object, line: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(document)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, RouterError)
    assert caught.value.status == 422


def test_a_client_cannot_name_files(tmp_path: Any) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    parse_policy({"notify_secret_file": str(secret)})
    with pytest.raises(PolicyError, match="belongs into the configuration file"):
        parse_policy({"notify_secret_file": str(secret)}, from_client=True)


def test_gates_that_this_router_could_never_decide_are_refused() -> None:
    objective = parse_policy({"gates": {"objective": {"latency_ms": 200}}})
    slices = parse_policy({"gates": {"slices": {}}})
    own = parse_policy({"gates": {"python": "m:f"}})
    assert lacks_of(parse_policy({}), {}) is None
    assert "no objective" in (lacks_of(objective, {}) or "")
    file = {"gates": {"objective": {"latency_ms": 100.0}, "python": "m:f"}}
    assert "measures 100 ms, not 200 ms" in (lacks_of(objective, {"rollout": file}) or "")
    assert lacks_of(objective, {"rollout": {"gates": {"objective": {"latency_ms": 200.0}}}}) is None
    assert "there are no slices" in (lacks_of(slices, {"slices": []}) or "")
    assert lacks_of(slices, {"slices": ["header:x-country"]}) is None
    assert "only when the configuration file names it" in (lacks_of(own, {}) or "")
    assert lacks_of(own, {"rollout": file}) is None
