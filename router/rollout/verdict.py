"""What gates are told of live traffic, and what they say: the records that travel between them and everything else.

Apart from the gates, whose statistics take a second to load: a control process that is started again must answer before that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from router.rollout.live_errors import StepErrors
from shadow.finite import finite

PASS: Final = "pass"  # noqa: S105  # no password
FAIL: Final = "fail"
UNDECIDED: Final = "undecided"

PROMOTE: Final = "promote"
ROLLBACK: Final = "rollback"
HOLD: Final = "hold"

# The operator's own gate.
OwnGate: TypeAlias = Callable[[Mapping[str, Any]], object]


@dataclass(frozen=True, slots=True)
class Live:
    """What is known of the live traffic.

    `stage`: `shadow` while no user sees green, `split` while both arms have users, `full` when green has all. `step` holds the
    counts of the present step, while it is split; `green_requests` how many green was tried for in it; `sticky` says that
    users keep their arm, so that requests are not units.
    """

    stage: str
    step: StepErrors | None = None
    green_requests: int = 0
    sticky: bool = False
    shadow_running: bool = True


# Before any user sees green, and nobody has been asked whether the shadow runs.
NO_TRAFFIC: Final = Live("shadow")


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate now.

    `estimate` and `threshold` are in the gate's own unit; `ci` is [low, high], each end holding at the level at which the gate
    passes (None for an end without a bound, or both where no interval was asked for); `n` counts observations, which are
    `of` pairs, requests, labels; `more` is about how many further ones the gate needs (None: cannot be said). `detail` says
    all of it in words.
    """

    name: str
    state: str
    estimate: float | None
    ci: tuple[float | None, float | None]
    n: int
    of: str
    threshold: float | None
    more: int | None
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "state": self.state,
            "estimate": finite(self.estimate),
            "ci": [finite(end) for end in self.ci],
            "n": self.n,
            "of": self.of,
            "threshold": self.threshold,
            "more": self.more,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """`promote`, `rollback` or `hold`, with reasons in words and every gate."""

    verdict: str
    reasons: tuple[str, ...]
    gates: tuple[GateResult, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"verdict": self.verdict, "reasons": list(self.reasons), "gates": [gate.to_dict() for gate in self.gates]}
