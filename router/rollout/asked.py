"""What a policy asks for, in words: the floors and margins that hold, whether somebody wrote them down or left them out.

A verdict says what was found; this says what it was held against, and stands beside every verdict. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from router.rollout.policy import (
    DEFAULT_GATES,
    AgreementGate,
    DifferenceGate,
    DriftGate,
    ErrorsGate,
    LatencyGate,
    ObjectiveGate,
    Policy,
    SlicesGate,
)


def asked(policy: Policy) -> dict[str, Any]:
    """`{gates, min_pairs, alpha, default, words}`: the gates that are set, whether they are those that hold where none is
    named, and one phrase for each condition.
    """
    set_gates = {name: gate for name, gate in asdict(policy.gates).items() if gate is not None}
    return {
        "gates": set_gates,
        "min_pairs": policy.shadow.min_pairs,
        "alpha": policy.alpha,
        "default": policy.gates == DEFAULT_GATES,
        "words": [
            f"at least {policy.shadow.min_pairs:,} pairs",
            *(phrase for name in set_gates for phrase in _WORDS[name](getattr(policy.gates, name))),
        ],
    }


def asked_line(document: Mapping[str, Any]) -> str:
    """The same on one line, from what `asked` gave."""
    whose = " by the default gates" if document["default"] else ""
    return f"asked for{whose}, at alpha {document['alpha']:g}: {'; '.join(document['words'])}"


def _agreement(gate: AgreementGate) -> list[str]:
    found = [] if gate.min is None else [f"green answers like blue on at least {_percent(gate.min)} of them"]
    if gate.not_worse_than_noise:
        found.append(f"it differs from blue at most {_points(gate.margin)} more often than blue from itself")
    return found


def _errors(gate: ErrorsGate) -> list[str]:
    return [f"green fails at most {_points(gate.max_increase)} more often than blue"]


def _latency(gate: LatencyGate) -> list[str]:
    return [f"green's p{100 * gate.quantile:g} is at most {gate.max_ratio:g} times blue's"]


def _objective(gate: ObjectiveGate) -> list[str]:
    return [f"green answers within {gate.latency_ms:g} ms at least {_percent(gate.min)} of the time"]


def _drift(gate: DriftGate) -> list[str]:
    return [f"the distribution of predictions is at most {gate.max_distance:g} away from blue's"]


def _accuracy(gate: DifferenceGate) -> list[str]:
    return [f"green's share of right answers less blue's is at least {_signed_points(gate.min_difference)}"]


def _reward(gate: DifferenceGate) -> list[str]:
    return [f"green's mean reward less blue's is at least {gate.min_difference:+g}"]


def _slices(gate: SlicesGate) -> list[str]:
    return [f"green answers like blue on at least {_percent(gate.min)} of the pairs of every slice"]


def _python(name: str) -> list[str]:
    return [f"{name} says so"]


_WORDS: Final[Mapping[str, Callable[[Any], list[str]]]] = {
    "agreement": _agreement,
    "errors": _errors,
    "latency": _latency,
    "objective": _objective,
    "drift": _drift,
    "accuracy": _accuracy,
    "reward": _reward,
    "slices": _slices,
    "python": _python,
}


def _percent(share: float) -> str:
    return f"{100 * share:.6g} %"


def _points(difference: float) -> str:
    return f"{100 * difference:.4g} points"


def _signed_points(difference: float) -> str:
    return f"{100 * difference:+.4g} points"
