"""The controller: looks at the evidence, asks gates and table what is due, and does it.

What it does to the plan and what it remembers in the store are two writes, and it may be killed between them. Most moves are
written down as an intent before the plan is written, and completed after; a plan that bears the intent's name at its revision
says that the move was made (`_catch_up`). Moves that take users off green are made on the plan first, since they wait for
nothing; their name in the plan tells of them just as well. So no step is skipped or made twice, whatever moment it ends at.

Whoever changes the plan by hand has the last word: the rollout pauses and says who it was. Time comes in from outside; threads
and their clocks are in `runner`, states and rules in `states` and `moves`.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from router.control.plans import Control
from router.errors import PlanConflict, Refused, RouterError
from router.plan import Plan
from router.rollout import moves
from router.rollout.examiner import Examiner
from router.rollout.live_counts import Counts, read_counts
from router.rollout.policy import BreakerRule, Policy
from router.rollout.policy_settings import lacks_of
from router.rollout.records import compose, trimmed
from router.rollout.rollout import CONTROLLER, Move, Rollout
from router.rollout.states import FINAL, Event, State, allowed, due, refusal
from router.rollout.verdict import Verdict
from router.store.rollouts import RolloutStore, Superseded
from router.version import own_version

SETTLE_SECONDS: Final = 0.5  # what was in flight when a step began belongs to the one before
HISTORY_SECONDS: Final = 0.2  # how long a move waits for the entry of the change that it answers to

log = logging.getLogger("rollout")

Notify = Callable[[Policy, Mapping[str, Any]], None]


def nobody(policy: Policy, message: Mapping[str, Any]) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Armed:
    """What the fast breaker needs to know: whose green, at which plan, by which rule."""

    rollout: Rollout
    rule: BreakerRule


class RolloutController:
    """The one controller of a router. Safe to use from several threads."""

    def __init__(
        self,
        control: Control,
        store: RolloutStore,
        examiner: Examiner,
        settings: Mapping[str, Any],
        policy: Policy,
        *,
        notify: Notify = nobody,
    ) -> None:
        """`settings` are the router's as plain JSON, `policy` the file's; `notify` must not block."""
        self._control = control
        self._store = store
        self._examiner = examiner
        self._settings = settings
        self.policy = policy
        self._notify = notify
        self._acting = threading.RLock()
        self._rollout: Rollout | None = None
        self._doubtful = False  # a write failed half way: what is in the store must be read again
        self._recovered = False
        self.superseded = False

    # --- what others see ----------------------------------------------------------------------------------------------

    @property
    def rollout(self) -> Rollout | None:
        """The newest rollout; None when there never was one."""
        return self._rollout

    @property
    def policy_in_force(self) -> Policy:
        """The policy by which evidence is judged now: the present rollout's, else the file's."""
        rollout = self._rollout
        return rollout.policy if rollout is not None and rollout.state not in FINAL else self.policy

    def armed(self) -> Armed | None:
        """What the fast breaker has to watch; None while there is nothing. Takes no lock.

        It watches while a rollout gives green users, also a paused one, but never after a change by hand: whoever sent the
        traffic to green himself may have lost blue.
        """
        rollout = self._rollout
        if rollout is None or not rollout.policy.breaker.errors or rollout.by_hand:
            return None
        if rollout.state not in (State.STEPPING, State.BAKING, State.PAUSED):
            return None
        return Armed(rollout, rollout.policy.breaker)

    @contextmanager
    def still(self, seconds: float) -> Iterator[None]:
        """Between two moves, so that rollout and plan belong together; but nobody waits for that longer than `seconds`."""
        held = self._acting.acquire(timeout=seconds)
        try:
            yield
        finally:
            if held:
                self._acting.release()

    def counts(self) -> Counts:
        """The live counts now."""
        return read_counts(self._control.workers.pages().values())

    # --- the tick -----------------------------------------------------------------------------------------------------

    def recover(self, now: float) -> None:
        """Take over: become the one that may act, and bring rollout and plan together. The first tick does it, or whoever
        cannot wait for that. Raises Unavailable.
        """
        with self._acting:
            self._store.acquire(f"pid {os.getpid()}", now)
            self._rollout = self._store.newest()
            self._recovered, self._doubtful = True, False
            self._catch_up(now)

    def tick(self, now: float) -> None:
        """Look once, and do what is due. Raises Unavailable when the store does not answer: nothing is lost, look again."""
        with self._acting:
            if self.superseded:
                return
            try:
                self._remember(now)
                self._tick(now)
            except Superseded:
                self.superseded = True
                log.error("another control process has taken over the rollouts; this one stops acting")
            except RouterError:
                self._doubtful = True
                raise

    def _tick(self, now: float) -> None:
        self._catch_up(now)
        rollout = self._rollout
        if rollout is None or rollout.state in FINAL:
            self._examiner.idle()
            return
        plan = self._control.plan()
        self._settle(rollout, plan, now)
        rollout = self._rollout
        assert rollout is not None
        verdict = self._examiner.verdict(rollout, plan, self.counts(), now)
        found = due(
            rollout.state,
            rollout.policy,
            step=rollout.step,
            verdict=verdict,
            in_state=now - rollout.entered,
            running=now - rollout.clock,
        )
        if found is not None:
            event, why = found
            # A move is remembered with its intervals, which most looks go without; the decision is the same.
            verdict = self._examiner.verdict(rollout, plan, self.counts(), now, detailed=True)
            self._move(event, who=CONTROLLER, why=why, now=now, verdict=verdict)

    def _settle(self, rollout: Rollout, plan: Plan, now: float) -> None:
        """Begin to count a step once what was in flight before it is over, and again should counts have been lost."""
        if rollout.state not in (State.STEPPING, State.BAKING):
            return
        counts = self.counts()
        if (not rollout.settled and now - rollout.entered >= SETTLE_SECONDS) or counts.went_back(rollout.base):
            self._keep(replace(rollout, base=counts, settled=True, revision=plan.revision))

    # --- what people ask for ------------------------------------------------------------------------------------------

    def start(self, policy: Policy | None, *, who: str, now: float) -> None:
        """Begin a rollout of the present green. Raises Refused with what to do first, Unavailable."""
        with self._acting:
            self._ready(now)
            policy = policy or self.policy
            plan = self._control.plan()
            self._may_start(policy, plan)
            rollout = Rollout(
                number=0,
                release=plan.release,
                attempt=self._store.attempts(plan.release) + 1,
                state=State.SHADOWING,
                step=-1,
                green_percent=0.0,
                revision=plan.revision,
                who=who,
                reason=f"started by {who}",
                began=now,
                entered=now,
                clock=now,
                policy=policy,
            )
            change, before = moves.starting(rollout, plan)
            move = self._told(rollout, Event.START, State.IDLE, who=who, why=rollout.reason, now=now)
            rollout = replace(rollout, shadow_before=before, intent=moves.start_intent(who) if change is not None else None)
            self._rollout = rollout = self._store.create(rollout, move)
            log.info("rollout %d of release %d has begun", rollout.number, plan.release)
            self._announce(rollout, move)
            self._catch_up(now)

    def act(self, event: Event, *, who: str, now: float) -> None:
        """Pause, resume or abort. Raises Refused with the reason, PlanConflict, Unavailable."""
        with self._acting:
            self._ready(now)
            rollout = self._rollout
            state = rollout.state if rollout is not None else State.IDLE
            if rollout is None or not allowed(state, event):
                raise Refused(refusal(state, event))
            if event is Event.RESUME:
                self._may_resume(rollout)
            words = {Event.PAUSE: "paused", Event.RESUME: "resumed", Event.ABORT: "aborted"}
            self._move(event, who=who, why=f"{words[event]} by {who}", now=now, verdict=self._examiner.newest)

    def trip(self, armed: Armed, why: str) -> bool:
        """Take green to 0 % at once: one write of the plan that waits for neither lock nor store. For the fast breaker.

        False when the plan has changed hands in the meantime. The next tick tells the store.
        """
        rollout = armed.rollout
        back = moves.backing(rollout)

        def change(plan: Plan) -> Plan:
            own = plan.revision == rollout.revision or moves.is_own(plan.change.action)
            if plan.release != rollout.release or not own or plan.split.green_percent == 0:
                raise Refused("the plan is not this rollout's any more")
            return back(plan)

        try:
            self._control.change(change, who=CONTROLLER, action=moves.action_of(rollout.number, Event.TRIP), why=why, wait=0)
        except Refused:
            return False
        log.warning("rollout %d: green taken to 0 %%: %s", rollout.number, why)
        return True

    def _ready(self, now: float) -> None:
        """Before anything is asked: what is remembered is what holds."""
        if self.superseded:
            raise Superseded("another control process has taken over the rollouts; ask that one")
        try:
            self._remember(now)
            self._catch_up(now)
        except RouterError:
            self._doubtful = True
            raise

    def _remember(self, now: float) -> None:
        """Have in memory what the store has, should that be in doubt."""
        if not self._recovered:
            self.recover(now)
        elif self._doubtful:
            self._rollout = self._store.newest()
            self._doubtful = False

    def _may_start(self, policy: Policy, plan: Plan) -> None:
        state = self._rollout.state if self._rollout else State.IDLE
        if not allowed(state, Event.START):
            assert self._rollout is not None
            raise Refused(f"rollout {self._rollout.number}: {refusal(state, Event.START)}")
        if plan.green is None:
            raise Refused("there is no green to roll out; name its servers first with `bluegreen candidate URL`")
        share = plan.split.green_percent
        if share:
            hint = "`bluegreen promote` makes it blue" if share == 100 else "`bluegreen switch blue` takes it back"
            raise Refused(f"green has {share:g} % of the traffic already, and a rollout begins at 0; {hint}")
        if missing := lacks_of(policy, self._settings):
            raise Refused(missing)

    def _may_resume(self, rollout: Rollout) -> None:
        plan = self._control.plan()
        if plan.release != rollout.release:
            raise Refused(
                "blue or green has been replaced since: what was shown is about other models; "
                "`bluegreen rollout abort`, then start a new rollout"
            )

    # --- moving -------------------------------------------------------------------------------------------------------

    def _move(self, event: Event, *, who: str, why: str, now: float, verdict: Verdict | None) -> None:
        """Make one transition: on the plan, in the store, and known to whoever wants to be told."""
        rollout = self._rollout
        assert rollout is not None
        plan = self._control.plan()
        step = moves.next_step(rollout, event, plan, why=why, now=now, counts=self.counts())
        new = step.rollout
        if step.change is not None and event in moves.URGENT:
            plan = self._control.change(step.change, who=who, action=step.action, why=why, wait=0)
            new = replace(new, revision=plan.revision)
        elif step.change is not None:
            self._keep(replace(rollout, intent=moves.intended(step, plan, who=who, why=why)))
            try:
                plan = self._control.change(step.change, who=who, action=step.action, why=why, expect=plan.revision, wait=0)
            except PlanConflict:
                self._keep(rollout)  # somebody was faster: the next look finds out who
                raise
            new = replace(new, revision=plan.revision, entered=plan.change.when)
        self._arrive(rollout, new, event, who=who, why=why, now=now, verdict=verdict)

    def _arrive(
        self, old: Rollout, new: Rollout, event: Event, *, who: str, why: str, now: float, verdict: Verdict | None
    ) -> None:
        """Remember a transition that the plan has seen already, or that it need not see."""
        move = self._told(new, event, old.state, who=who, why=why, now=now, verdict=verdict)
        record = None
        if new.state in FINAL:
            earlier = self._store.moves(new.number)
            record = compose(new, [*earlier, move], arms=self._arms(new.release), versions=_versions())
        try:
            digest = self._store.save(new, move, record)
        except RouterError:
            self._doubtful = True
            raise
        self._rollout = new
        log.info("rollout %d: %s -> %s: %s", new.number, old.state, new.state, why)
        self._announce(new, move, digest)

    def _keep(self, rollout: Rollout) -> None:
        self._store.save(rollout)
        self._rollout = rollout

    def _told(
        self, new: Rollout, event: Event, before: State, *, who: str, why: str, now: float, verdict: Verdict | None = None
    ) -> Move:
        evidence = self._examiner.evidence(new.release) if event is not Event.START else None
        return Move(
            at=now,
            event=event,
            from_state=before,
            to_state=new.state,
            step=new.step,
            green_percent=new.green_percent,
            revision=new.revision,
            who=who,
            why=why,
            verdict=verdict.to_dict() if verdict is not None else None,
            evidence=trimmed(evidence) if evidence else None,
            live=self._examiner.live_counts(),
        )

    def _announce(self, rollout: Rollout, move: Move, digest: str | None = None) -> None:
        """History and webhooks. Neither is waited for in vain: a history that fails is logged, a webhook has its own thread."""
        detail = {key: value for key, value in move.to_dict().items() if key not in ("evidence", "who", "why")}
        message = {"rollout": rollout.number, "release": rollout.release, **detail, "who": move.who, "why": move.why}
        if digest is not None:
            message["record"] = digest
        action = moves.action_of(rollout.number, move.event, move.step, len(rollout.policy.steps))
        self._control.history.settle(HISTORY_SECONDS)  # the change that a move answers to comes before it
        try:
            self._control.store.add_event("rollout", when=move.at, who=move.who, action=action, why=move.why, detail=message)
        except RouterError as error:
            log.error("a move of rollout %d is not in the history: %s", rollout.number, error)
        self._notify(rollout.policy, message)

    def _arms(self, release: int) -> dict[str, Any]:
        found = next((row for row in self._control.store.releases() if row["release"] == release), None)
        return {"blue": found["blue"], "green": found["green"]} if found else {"blue": None, "green": None}

    # --- catching up --------------------------------------------------------------------------------------------------

    def _catch_up(self, now: float) -> None:
        """Bring rollout and plan together: after a restart, after the breaker, and after changes by others."""
        rollout = self._rollout
        if rollout is None or rollout.state in FINAL:
            return
        plan = self._control.plan()
        if rollout.intent is not None:
            self._finish_intent(rollout, plan, now)
        rollout = self._rollout
        assert rollout is not None
        plan = self._control.plan()
        if rollout.state not in FINAL and plan.revision != rollout.revision:
            self._follow(rollout, plan, now)

    def _finish_intent(self, rollout: Rollout, plan: Plan, now: float) -> None:
        """The controller died between an intent and its completion. If the plan was written the move was made; else it is
        not made now either: the next look decides anew, on the evidence that there is then.
        """
        intent = rollout.intent
        assert intent is not None
        if intent.event is Event.START:
            self._raise_shadow(rollout)
            return
        made = next((c for c in self._changes(plan, intent.revision - 1) if c["revision"] == intent.revision), None)
        clean = replace(rollout, intent=None)
        if made is None or made["action"] != intent.action:
            self._keep(clean)
            return
        step = moves.next_step(clean, intent.event, plan, why=intent.why, now=float(made["when"]), counts=self.counts())
        new = replace(step.rollout, revision=intent.revision)
        self._arrive(clean, new, intent.event, who=intent.who, why=intent.why, now=now, verdict=None)

    def _follow(self, rollout: Rollout, plan: Plan, now: float) -> None:
        """The plan has moved on from where the rollout left it."""
        changes = self._changes(plan, rollout.revision)
        for change in changes:
            event = moves.urgent_event(rollout.number, change["action"])
            if event is not None:
                step = moves.next_step(rollout, event, plan, why=change["why"], now=float(change["when"]), counts=self.counts())
                new = replace(step.rollout, revision=change["revision"])
                self._arrive(rollout, new, event, who=change["who"], why=change["why"], now=now, verdict=None)
                return
        others = [change for change in changes if not moves.is_own(change["action"])]
        harmless = (
            plan.release == rollout.release
            and plan.split.green_percent == rollout.green_percent
            and all(change["action"].startswith("shadow ") for change in others)
        )
        if harmless or not others or (rollout.state is State.PAUSED and rollout.by_hand):
            self._keep(replace(rollout, revision=plan.revision, green_percent=plan.split.green_percent))
            return
        other = others[0]
        words = f" ({other['why']})" if other["why"] else ""
        why = f"{other['who']} changed the plan by hand: {other['action']}{words}, revision {other['revision']}"
        self._move(Event.HAND, who=other["who"], why=why, now=now, verdict=self._examiner.newest)

    def _changes(self, plan: Plan, after: int) -> list[dict[str, Any]]:
        """The changes of the plan after a revision, oldest first, whether the history holds them already or not."""
        waiting = [*self._control.history.waiting(), plan]  # before the store is asked: one may go over in between
        found = {change["revision"]: change for change in self._store.changes_after(after)}
        for one in waiting:
            change = one.change
            words = {"when": change.when, "who": change.who, "action": change.action, "why": change.why}
            found[one.revision] = {"revision": one.revision, **words}
        return [found[revision] for revision in sorted(found) if after < revision <= plan.revision]

    def _raise_shadow(self, rollout: Rollout) -> None:
        """Have mirrored what the rollout needs. Once more after a kill does no harm: then nothing is missing."""
        plan = self._control.plan()
        change, _ = moves.starting(rollout, plan)
        if change is not None:
            action = moves.action_of(rollout.number, Event.START)
            why = f"rollout {rollout.number} needs mirrored pairs"
            self._control.change(change, who=rollout.who, action=action, why=why, expect=plan.revision, wait=0)
        self._keep(replace(rollout, intent=None))


def _versions() -> dict[str, str]:
    return {"bluegreen": own_version(), "python": platform.python_version()}
