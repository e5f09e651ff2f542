"""Puts before the gates what they judge: the newest evidence, the live counts of the present step, whether the shadow runs.

A snapshot is read again only when there is a new one, the operator's own gate is asked once about each, and the intervals that
people want to see, which cost most of a look, are computed about once a second; what is decided is decided at every look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from router.plan import Plan
from router.rollout.live_counts import Counts
from router.rollout.policy import Policy
from router.rollout.rollout import Rollout
from router.rollout.verdict import NO_TRAFFIC, Live, OwnGate, Verdict
from router.store.rollouts import RolloutStore
from router.store.store import Store

DETAIL_SECONDS: Final = 1.0


class Examiner:
    """The newest evidence and what it says. The controller's lock guards it; `newest` may be read without."""

    def __init__(
        self, store: Store, rollouts: RolloutStore, shadow_running: Callable[[], bool], own: OwnGate | None = None
    ) -> None:
        self._store = store
        self._rollouts = rollouts
        self._shadow_running = shadow_running
        self._own = own
        self._own_said: tuple[object, object | RuntimeError] | None = None  # about which snapshot, and what or why not
        self._read_at: tuple[int, float | None] | None = None  # release and time of the snapshot that was read
        self._evidence: dict[str, Any] = {}
        self._state: dict[str, Any] | None = None
        self._live: Live = NO_TRAFFIC
        self._asked_at = -1e18
        self._running = True
        self._detailed_at = -1e18
        self._looked_at: float | None = None
        self.newest: Verdict | None = None
        # What `newest` was made on: release, evidence, live counts. A record must not show another snapshot beside a verdict.
        self._basis: tuple[int, dict[str, Any], Live] | None = None

    def idle(self) -> None:
        """There is no rollout to judge."""
        self.newest = self._basis = None
        self._live = NO_TRAFFIC

    def verdict(self, rollout: Rollout, plan: Plan, counts: Counts, now: float, *, detailed: bool = False) -> Verdict:
        """What the evidence allows the rollout now. Raises Unavailable.

        Asked again at the same `now`, in detail, it says the same of the same evidence: what is remembered of a decision is
        what the decision was made on, whatever the shadow has written in between.
        """
        if not detailed or now != self._looked_at:
            self._read(rollout.release, rollout.policy)
            self._ask(now)
            self._live = live_of(rollout, plan, counts, shadow_running=self._running)
            self._looked_at = now
        verdict = self._judge(rollout.policy, rollout.attempt, now, detailed=False)
        known = self.newest
        changed = known is None or _states(known) != _states(verdict) or known.verdict != verdict.verdict
        if detailed or changed or now - self._detailed_at >= DETAIL_SECONDS or now < self._detailed_at:
            self._detailed_at = now
            self.newest = verdict = self._judge(rollout.policy, rollout.attempt, now, detailed=True)
            self._basis = (rollout.release, self._evidence, self._live)
        return verdict

    def judge_document(
        self, document: Mapping[str, Any], policy: Policy, rollout: Rollout | None, now: float
    ) -> dict[str, Any]:
        """The verdict of an evidence document by itself, for whoever asks for the evidence. Raises Unavailable."""
        from router.rollout.gates import judge

        release = int(document.get("release") or 0)
        state = self._store.evidence_state(release) if _needs_state(policy) else None
        present = rollout is not None and rollout.release == release
        live = self._live if present else Live("shadow", shadow_running=self._shadow_running())
        attempt = rollout.attempt if rollout is not None and present else 1
        return judge(document, live, policy, now, attempt=attempt, state=state, own=self._own).to_dict()

    def evidence(self, release: int) -> dict[str, Any] | None:
        """The snapshot of a release that `newest` was made on."""
        return self._basis[1] if self._basis is not None and self._basis[0] == release else None

    def live_counts(self) -> dict[str, Any] | None:
        """The live counts that `newest` was made on, as plain values; None while not both arms have users."""
        step = self._basis[2].step if self._basis is not None else None
        return step.to_dict() if step is not None else None

    def _judge(self, policy: Policy, attempt: int, now: float, *, detailed: bool) -> Verdict:
        from router.rollout.gates import judge  # a second's worth of statistics, and not before somebody wants a verdict

        return judge(
            self._evidence,
            self._live,
            policy,
            now,
            attempt=attempt,
            state=self._state,
            own=self._ask_own if self._own is not None else None,
            detailed=detailed,
        )

    def _ask_own(self, evidence: Mapping[str, Any]) -> object:
        """The operator's gate, asked once about each snapshot. One that has not answered in time is asked again."""
        assert self._own is not None
        if self._own_said is None or self._own_said[0] != self._read_at:
            try:
                self._own_said = (self._read_at, self._own(evidence))
            except RuntimeError as error:
                self._own_said = (self._read_at, error)
        said = self._own_said[1]
        if isinstance(said, RuntimeError):
            raise said
        return said

    def _read(self, release: int, policy: Policy) -> None:
        seen = (release, self._rollouts.evidence_updated(release))
        if seen == self._read_at:
            return
        found = self._store.evidence(release)
        snapshot, as_of = found if found is not None else ({}, None)
        self._evidence = {**snapshot, "as_of": as_of}
        self._state = self._store.evidence_state(release) if _needs_state(policy) else None
        self._read_at = seen

    def _ask(self, now: float) -> None:
        """Whether the shadow runs, at most once a second: it costs a connection."""
        if now - self._asked_at >= 1.0 or now < self._asked_at:
            self._asked_at = now
            self._running = self._shadow_running()


def live_of(rollout: Rollout, plan: Plan, counts: Counts, *, shadow_running: bool) -> Live:
    """The live traffic of the present step. Before it has settled nothing of it counts."""
    percent, sticky = plan.split.green_percent, plan.split.key is not None
    if percent == 0:
        return Live("shadow", sticky=sticky, shadow_running=shadow_running)
    grown = counts.since(rollout.base) if rollout.settled else Counts()
    tries = max(grown.green_tries, 0)
    if percent == 100:
        return Live("full", None, tries, sticky, shadow_running)
    return Live("split", grown.step_errors(percent / 100.0), tries, sticky, shadow_running)


def _needs_state(policy: Policy) -> bool:
    gates = policy.gates
    return gates.latency is not None or gates.drift is not None or gates.slices is not None


def _states(verdict: Verdict) -> tuple[tuple[str, str], ...]:
    return tuple((gate.name, gate.state) for gate in verdict.gates)
