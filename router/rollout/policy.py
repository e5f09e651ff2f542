"""The policy of a rollout: when green may go a step further, when it must go back.

Plain frozen records; what may stand in a file or a request is checked in `router.rollout.policy_settings`, the only module
here that knows pydantic, so that gates and the controller can be read and tested without it. Durations are seconds, shares
lie between 0 and 1 but for percentages, which are named so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ShadowStage:
    """Before any user sees green: how many pairs at least, and what share is mirrored for them if none is yet."""

    min_pairs: int = 500
    percent: float = 100.0
    noise_percent: float = 10.0


@dataclass(frozen=True, slots=True)
class AgreementGate:
    """Green answers like blue: on at least the share `min`, or no less often than blue agrees with itself, less `margin`."""

    min: float | None = None
    not_worse_than_noise: bool = False
    margin: float = 0.01


@dataclass(frozen=True, slots=True)
class ErrorsGate:
    """Green fails at most this much more often than blue; a difference of two rates."""

    max_increase: float = 0.005


@dataclass(frozen=True, slots=True)
class LatencyGate:
    """A quantile of green's times is at most `max_ratio` times blue's."""

    quantile: float = 0.95
    max_ratio: float = 1.2


@dataclass(frozen=True, slots=True)
class ObjectiveGate:
    """At least the share `min` of green's answers comes within `latency_ms`."""

    latency_ms: float
    min: float = 0.99


@dataclass(frozen=True, slots=True)
class DriftGate:
    """The distribution of green's predictions is within this distance of blue's."""

    max_distance: float = 0.1


@dataclass(frozen=True, slots=True)
class DifferenceGate:
    """Green's mean (of being right, or of the reward) less blue's is above this."""

    min_difference: float


@dataclass(frozen=True, slots=True)
class SlicesGate:
    """In every slice green answers like blue on at least the share `min`."""

    of: str = "agreement"
    min: float = 0.95


@dataclass(frozen=True, slots=True)
class Gates:
    """The gates that are set; None for one that is not."""

    agreement: AgreementGate | None = None
    errors: ErrorsGate | None = None
    latency: LatencyGate | None = None
    objective: ObjectiveGate | None = None
    drift: DriftGate | None = None
    accuracy: DifferenceGate | None = None
    reward: DifferenceGate | None = None
    slices: SlicesGate | None = None
    python: str | None = None

    @property
    def need_noise_pairs(self) -> bool:
        """Whether a gate can only be decided by requests that go to blue a second time."""
        against_noise = self.agreement is not None and self.agreement.not_worse_than_noise
        return against_noise or self.latency is not None or self.objective is not None


DEFAULT_GATES = Gates(agreement=AgreementGate(min=0.98), errors=ErrorsGate())


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """A burst that needs no statistics: `errors` failures of green within `seconds` that are `share` of its requests.

    `errors` 0 turns the breaker off.
    """

    errors: int = 20
    seconds: float = 1.0
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class Policy:
    """How a rollout goes; docs/rollouts.md explains every field."""

    shadow: ShadowStage = field(default_factory=ShadowStage)
    steps: tuple[float, ...] = (1.0, 5.0, 25.0, 50.0, 100.0)
    hold: float = 600.0
    deadline: float = 86400.0
    bake: float = 1800.0
    gates: Gates = DEFAULT_GATES
    alpha: float = 0.05
    on_fail: str = "rollback"
    promote: bool = False
    stale: float = 30.0
    breaker: BreakerRule = field(default_factory=BreakerRule)
    notify: tuple[str, ...] = ()

    @property
    def live_steps(self) -> int:
        """In how many steps both arms have users."""
        return sum(1 for percent in self.steps if percent < 100.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, from which `policy_from_dict` makes the same policy."""
        plain = asdict(self)
        return {**plain, "steps": list(self.steps), "notify": list(self.notify)}


_GATES = {
    "agreement": AgreementGate,
    "errors": ErrorsGate,
    "latency": LatencyGate,
    "objective": ObjectiveGate,
    "drift": DriftGate,
    "accuracy": DifferenceGate,
    "reward": DifferenceGate,
    "slices": SlicesGate,
}


def policy_from_dict(document: Mapping[str, Any]) -> Policy:
    """The inverse of `Policy.to_dict`, for what was stored; checks nothing (router/rollout/policy_settings.py does)."""
    plain = dict(document)
    gates = plain.pop("gates")
    made: dict[str, Any] = {name: kind(**gates[name]) for name, kind in _GATES.items() if gates.get(name) is not None}
    return Policy(
        shadow=ShadowStage(**plain.pop("shadow")),
        steps=tuple(float(step) for step in plain.pop("steps")),
        notify=tuple(plain.pop("notify")),
        breaker=BreakerRule(**plain.pop("breaker")),
        gates=Gates(**made, python=gates.get("python")),
        **plain,
    )
