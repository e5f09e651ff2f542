"""The gates: evidence, policy and the time in, a verdict out. Pure: no clock, no socket, no store.

Each gate is `pass`, `fail` or `undecided`. Two error probabilities are kept apart, because promotion and rollback are not
mirror images: a gate passes at alpha, since promotion needs every one of them (intersection-union test, Berger 1982); one
fails at alpha/K, since any of K may take green back (union bound). The k-th attempt at the same release has
alpha 6/(pi^2 k^2), so that trying again until it passes is no way round. Every test may be looked at after each observation
(Ville's inequality).

Nothing passes by silence: without evidence, with evidence that is old, and while the shadow is down a gate that would pass is
undecided. A failure stays one. What each gate tests is in `gate_tests`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.rollout import gate_tests as tests
from router.rollout.gate_case import Case
from router.rollout.policy import Policy
from router.rollout.verdict import FAIL, HOLD, PASS, PROMOTE, ROLLBACK, UNDECIDED, GateResult, Live, OwnGate, Verdict
from shadow.multiplicity import attempt_alpha


def judge(
    evidence: Mapping[str, Any],
    live: Live,
    policy: Policy,
    now: float,
    *,
    attempt: int = 1,
    state: Mapping[str, Any] | None = None,
    own: OwnGate | None = None,
    detailed: bool = True,
) -> Verdict:
    """What the evidence allows now.

    `evidence` is a snapshot of `shadow.evidence.Evidence` (docs/evidence.md) with `as_of` in the seconds of `now`; `state`, the
    `Evidence.state()` of the same release, lets the latency, drift and slices gates be held at any level, without it only those
    of the snapshot serve. `live` is what is known of the live traffic; `own` the operator's gate. Intervals and forecasts cost
    most of the time and are left out unless `detailed`; the decisions are the same.
    """
    alpha = attempt_alpha(policy.alpha, attempt)
    gates = policy.gates
    chosen = [test for name, test in tests.TESTS.items() if getattr(gates, name) is not None]
    case = Case(evidence, live, policy, alpha, alpha / max(tests.count(policy), 1), now, state, own, detailed)
    found = [tests.pairs(case)]
    for test in chosen:
        found += test(case)
    found += tests.of_the_split(case)
    silent = _silence(case)
    if silent:
        found = [_kept_open(gate, silent) if gate.state == PASS else gate for gate in found]
    failed = [gate for gate in found if gate.state == FAIL]
    waiting = [gate for gate in found if gate.state == UNDECIDED]
    if failed:
        return Verdict(ROLLBACK, tuple(gate.detail for gate in failed), tuple(found))
    if silent:
        return Verdict(HOLD, (silent, *_reasons(waiting, silent)), tuple(found))
    if waiting:
        return Verdict(HOLD, _reasons(waiting, None), tuple(found))
    return Verdict(PROMOTE, (f"all {len(found)} gates pass",), tuple(found))


def _silence(case: Case) -> str | None:
    """Why nothing may pass at the moment, in words; None when it may."""
    as_of = case.evidence.get("as_of")
    if not case.live.shadow_running:
        return "the shadow process does not run: what passed before does not count until it does"
    if as_of is None:
        return "there is no evidence yet: no exchange has been compared"
    age = case.now - float(as_of)
    if age > case.policy.stale:
        return f"the evidence is {age:.0f} s old: nothing has been compared since"
    return None


def _kept_open(gate: GateResult, why: str) -> GateResult:
    return GateResult(
        gate.name, UNDECIDED, gate.estimate, gate.ci, gate.n, gate.of, gate.threshold, gate.more, f"{gate.detail}; but {why}"
    )


def _reasons(waiting: list[GateResult], silent: str | None) -> tuple[str, ...]:
    return tuple(gate.detail for gate in waiting if silent is None or not gate.detail.endswith(silent))
