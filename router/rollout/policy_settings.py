"""What may be written as a policy, in the configuration's `rollout` and in `POST /v1/rollout`, and what is made of it.

The one place of rollouts that knows pydantic. A gate that is left out is not applied; when all are left out, the two that
every model has (agreement and errors) are. An unknown key is an error that names the nearest right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema, model_validator

from router.config_file import explain
from router.errors import PlanError
from router.plan import percent
from router.rollout.policy import (
    DEFAULT_GATES,
    AgreementGate,
    BreakerRule,
    DifferenceGate,
    DriftGate,
    ErrorsGate,
    Gates,
    LatencyGate,
    ObjectiveGate,
    Policy,
    ShadowStage,
    SlicesGate,
)
from router.setting_types import Duration, ExistingFile, Flag, Group, Percent, PythonName, Real, Whole


class PolicyError(PlanError):
    """The client's policy is none; 422."""

    title = "Not a valid policy"


def _steps(value: object) -> object:
    if not isinstance(value, list | tuple) or not value or len(value) > 50:
        raise ValueError(f"must be a list of 1 to 50 percentages such as [1, 5, 25, 50, 100], got {value!r}")
    try:
        steps = [percent(step, "each step", step=True) for step in value]
    except PlanError as error:
        raise ValueError(str(error)) from None
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"must grow from step to step, got {value!r}")
    if steps[0] <= 0 or steps[-1] != 100:
        raise ValueError(f"must begin above 0 and end at 100, got {value!r}")
    return steps


def _url(value: object) -> str:
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        good = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"must be a URL such as https://example.org/hook, got {value!r}")
    return str(value)


Url = Annotated[str, BeforeValidator(_url), WithJsonSchema({"type": "string", "format": "uri"})]
Steps = Annotated[
    tuple[float, ...],
    BeforeValidator(_steps),
    WithJsonSchema({"type": "array", "items": {"type": "number"}, "minItems": 1}),
]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
InnerShare = Annotated[float, Field(strict=True, ge=0.0001, le=0.9999)]


class ShadowStageSettings(Group):
    """The stage before any user sees green."""

    min_pairs: Whole = Field(
        default=500, ge=1, le=10**9, description="Pairs that must have been compared before the first step."
    )
    percent: Percent = Field(
        default=100.0, description="Share of exchanges that the start has mirrored when none is mirrored yet."
    )
    noise_percent: Percent = Field(
        default=10.0, description="Share of noise pairs that the start sets when a gate needs them and there are none."
    )


class AgreementSettings(Group):
    """Green answers like blue."""

    min: Real | None = Field(default=None, ge=0.0001, le=0.9999, description="Share of pairs that must agree.")
    not_worse_than_noise: Flag = Field(
        default=False, description="true: green may differ from blue as often as blue from itself."
    )
    margin: Real = Field(default=0.01, ge=0.0001, le=0.5, description="How much more often than that is put up with.")

    @model_validator(mode="after")
    def _one(self) -> AgreementSettings:
        if self.min is None and not self.not_worse_than_noise:
            raise ValueError("needs `min: 0.98`, or `not_worse_than_noise: true`")
        return self


class ErrorsSettings(Group):
    """Green fails hardly more often than blue."""

    max_increase: Real = Field(default=0.005, ge=0.0001, le=0.2, description="How much more often, as a difference of rates.")


class LatencySettings(Group):
    """Green is hardly slower than blue."""

    quantile: Real = Field(default=0.95, ge=0.01, le=0.999, description="Which quantile of the times.")
    max_ratio: Real = Field(default=1.2, ge=0.1, le=100, description="Green's at most so many times blue's.")


class ObjectiveSettings(Group):
    """Green keeps a latency objective."""

    latency_ms: Real = Field(ge=0.001, le=1e9, description="The time within which answers shall come, in milliseconds.")
    min: InnerShare = Field(default=0.99, description="Share of green's answers that must.")


class DriftSettings(Group):
    """Green's predictions are distributed like blue's."""

    max_distance: InnerShare = Field(
        default=0.1, description="Largest difference of a label's share, or distance of the distributions."
    )


class AccuracySettings(Group):
    """Green is right about as often as blue, by labels that come as feedback."""

    min_difference: Real = Field(
        default=-0.005, ge=-0.9999, le=0.9999, description="Green's share of right answers less blue's, at least."
    )


class RewardSettings(Group):
    """Green earns about as much as blue, by rewards that come as feedback."""

    min_difference: Real = Field(default=-0.01, ge=-1e9, le=1e9, description="Green's mean reward less blue's, at least.")


class SlicesSettings(Group):
    """No slice of the traffic is much worse off; needs `slices`."""

    of: Literal["agreement"] = Field(default="agreement", description="What is looked at in each slice.")
    min: InnerShare = Field(default=0.95, description="Share of pairs that must agree in every slice.")


class GatesSettings(Group):
    """The conditions; all of those that are set must pass."""

    agreement: AgreementSettings | None = Field(default=None, description="Green answers like blue.")
    errors: ErrorsSettings | None = Field(default=None, description="Green fails hardly more often than blue.")
    latency: LatencySettings | None = Field(default=None, description="Green is hardly slower. Needs noise pairs.")
    objective: ObjectiveSettings | None = Field(default=None, description="Green keeps a latency objective. Needs noise pairs.")
    drift: DriftSettings | None = Field(default=None, description="Green's predictions are distributed like blue's.")
    accuracy: AccuracySettings | None = Field(default=None, description="Green is right as often. Needs labels as feedback.")
    reward: RewardSettings | None = Field(default=None, description="Green earns as much. Needs rewards as feedback.")
    slices: SlicesSettings | None = Field(default=None, description="No slice is much worse off. Needs `slices`.")
    python: PythonName | None = Field(default=None, description='A gate of your own, "module:function".')


# What is asked of every model while the file names nothing; written out, so that whoever reads the settings sees what holds.
DEFAULT_GATES_SETTINGS = GatesSettings.model_validate(
    {name: gate for name, gate in asdict(DEFAULT_GATES).items() if gate is not None}
)


def _none_is_left_out(value: object) -> object:
    return DEFAULT_GATES_SETTINGS if value is None else value


class BreakerSettings(Group):
    """The fast breaker: a burst of green's failures takes it to 0 % at once."""

    errors: Whole = Field(default=20, ge=0, le=10**9, description="Failures of green that make a burst; 0: no breaker.")
    seconds: Duration = Field(default=1.0, description="Within how long.")
    share: Share = Field(default=0.5, description="And at least this share of green's requests.")


class RolloutSettings(Group):
    """The policy of automatic rollouts."""

    shadow: ShadowStageSettings = ShadowStageSettings()
    steps: Steps = Field(
        default=(1.0, 5.0, 25.0, 50.0, 100.0), description="Green's share of live traffic, step by step; the last is 100."
    )
    hold: Duration = Field(default=600.0, description="Least time in each step.")
    deadline: Duration = Field(default=86400.0, description="After this long the rollout pauses and says what is missing.")
    bake: Duration = Field(default=1800.0, description="Least time at 100 % before the rollout is done.")
    gates: Annotated[GatesSettings, BeforeValidator(_none_is_left_out)] = Field(
        default=DEFAULT_GATES_SETTINGS,
        description="The conditions; left out: agreement of 0.98, and errors no more than 0.005 up.",
    )
    alpha: Real = Field(default=0.05, ge=1e-9, le=0.5, description="Error probability of the whole rollout.")
    on_fail: Literal["rollback", "pause"] = Field(default="rollback", description="What a failed gate does.")
    promote: Flag = Field(default=False, description="true: a rollout that is done makes green's servers blue's.")
    stale: Duration = Field(default=30.0, description="Evidence older than this lets nothing pass.")
    breaker: BreakerSettings = BreakerSettings()
    notify: tuple[Url, ...] = Field(default=(), description="URLs that are told of each transition (POST, JSON).")
    notify_secret_file: ExistingFile | None = Field(
        default=None, description="File with the secret that signs them; BLUEGREEN_WEBHOOK_SECRET comes first."
    )

    @model_validator(mode="after")
    def _judged(self) -> RolloutSettings:
        if not any(getattr(self.gates, name) for name in GatesSettings.model_fields):
            raise ValueError("gates: name at least one gate, such as `errors: {max_increase: 0.005}`, or leave `gates` out")
        return self

    def policy(self) -> Policy:
        """The settings as the record that everything else works with."""
        return Policy(
            shadow=ShadowStage(self.shadow.min_pairs, self.shadow.percent, self.shadow.noise_percent),
            steps=tuple(self.steps),
            hold=self.hold,
            deadline=self.deadline,
            bake=self.bake,
            gates=_gates(self.gates),
            alpha=self.alpha,
            on_fail=self.on_fail,
            promote=self.promote,
            stale=self.stale,
            breaker=BreakerRule(self.breaker.errors, self.breaker.seconds, self.breaker.share),
            notify=tuple(self.notify),
        )


def _gates(given: GatesSettings) -> Gates:
    agreement, objective = given.agreement, given.objective
    return Gates(
        agreement=AgreementGate(agreement.min, agreement.not_worse_than_noise, agreement.margin) if agreement else None,
        errors=ErrorsGate(given.errors.max_increase) if given.errors else None,
        latency=LatencyGate(given.latency.quantile, given.latency.max_ratio) if given.latency else None,
        objective=ObjectiveGate(objective.latency_ms, objective.min) if objective else None,
        drift=DriftGate(given.drift.max_distance) if given.drift else None,
        accuracy=DifferenceGate(given.accuracy.min_difference) if given.accuracy else None,
        reward=DifferenceGate(given.reward.min_difference) if given.reward else None,
        slices=SlicesGate(given.slices.of, given.slices.min) if given.slices else None,
        python=given.python,
    )


def parse_policy(document: object, *, from_client: bool = False) -> Policy:
    """Check plain JSON values and make a Policy of them; what is left out gets its default.

    `from_client`: the document came over the control API, which may not name files of this machine or code to run. Raises
    PolicyError with one line: the dotted key, what is wrong with it, and for an unknown key the nearest right one.
    """
    if not isinstance(document, Mapping):
        raise PolicyError('policy: must be an object such as {"steps": [10, 50, 100]}')
    try:
        settings = RolloutSettings.model_validate(dict(document))
    except ValidationError as error:
        raise PolicyError(explain(error, RolloutSettings)) from None
    except RecursionError:
        raise PolicyError("policy: is nested too deeply") from None
    if from_client and document.get("notify_secret_file") is not None:
        raise PolicyError("notify_secret_file: belongs into the configuration file; a policy that is sent cannot name files")
    return settings.policy()


def lacks_of(policy: Policy, document: Mapping[str, Any]) -> str | None:
    """What the router's settings (plain JSON) lack for a policy's gates, in words that say what to write; None: nothing.

    The shadow counts some things only when it knows from its start that they are asked for. A gate that would never be
    decided is refused here, and not found out at the deadline.
    """
    gates = policy.gates
    if gates.slices is not None and not document.get("slices"):
        return "gates.slices: there are no slices; name some in the configuration, such as `slices: [header:x-country]`"
    file_rollout = document.get("rollout") or {}
    objective = ((file_rollout.get("gates") or {}).get("objective") or {}).get("latency_ms")
    if gates.objective is not None and gates.objective.latency_ms != objective:
        return (
            f"gates.objective: the shadow measures {'no objective' if objective is None else f'{objective:g} ms'}, "
            f"not {gates.objective.latency_ms:g} ms; set rollout.gates.objective.latency_ms in the configuration and restart"
        )
    if gates.python is not None and gates.python != (file_rollout.get("gates") or {}).get("python"):
        return "gates.python: code is run only when the configuration file names it (rollout.gates.python)"
    return None
