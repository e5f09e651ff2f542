"""The threads of rollouts in the control process: one that ticks, and one for the fast breaker.

They are two because a tick may wait for the store, and the breaker may wait for nothing: it looks at the counter pages ten
times a second and, at a burst, writes the plan. Everything they decide is decided elsewhere; here are only clocks and threads.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from router.control.plans import Control
from router.counters import release_counts
from router.errors import RouterError
from router.rollout.asked import asked
from router.rollout.burst import BurstWatch
from router.rollout.controller import RolloutController
from router.rollout.document import brief, rollout_document
from router.rollout.examiner import Examiner
from router.rollout.own_gate import OwnGateError, OwnGateRunner, load_gate
from router.rollout.policy import Policy
from router.rollout.policy_settings import parse_policy
from router.rollout.rates import PerSecond, Rates
from router.rollout.verdict import NO_TRAFFIC, OwnGate
from router.rollout.webhooks import Webhooks, read_secret
from router.store.rollouts import RolloutStore

if TYPE_CHECKING:
    from router.rollout.forecast import Outlook

TICK_SECONDS: Final = 0.2
PRELOAD_SECONDS: Final = 0.3
BREAKER_SECONDS: Final = 0.1
LOOK_SECONDS: Final = 0.05  # how long whoever asks waits for a move to be finished
_RETRY_SECONDS: Final = 1.0  # after a tick that could not be finished

log = logging.getLogger("rollout")


class Rollouts:
    """Everything about rollouts that a control process has: the controller, its threads, and what the API tells of it."""

    def __init__(
        self,
        control: Control,
        settings: Mapping[str, Any],
        shadow_running: Callable[[], bool],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`settings` are the router's as plain JSON. Raises PolicyError and SettingsError for a policy that is none."""
        file = settings.get("rollout") or {}
        policy = parse_policy(file)
        self._control = control
        self._now = now
        self.store = RolloutStore(control.store)
        self._webhooks = Webhooks(read_secret(file.get("notify_secret_file")))
        self._examiner = Examiner(control.store, self.store, shadow_running, _own_gate(policy, settings))
        self.controller = RolloutController(control, self.store, self._examiner, settings, policy, notify=self._webhooks.notify)
        self.rates = Rates()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Take over and begin to tick. A store that does not answer yet is asked again by the ticks."""
        try:
            self.controller.recover(self._now())
        except RouterError as error:
            log.warning("rollouts could not be taken over yet: %s", error)
        for name, run in (("rollout", self._tick_on), ("breaker", self._watch_on)):
            thread = threading.Thread(target=run, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End the threads; a tick that runs is finished."""
        self._ended.set()
        for thread in self._threads:
            thread.join(2)
        self._webhooks.close()

    # --- what the API asks --------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """`GET /v1/rollout`."""
        with self.controller.still(LOOK_SECONDS):
            plan, rollout, verdict = self._control.plan(), self.controller.rollout, self._examiner.newest
        return rollout_document(rollout, plan, verdict, self.rates.now, self._now())

    def brief(self) -> dict[str, Any]:
        """The rollout's part of a status."""
        return brief(self.document())

    def judge(self, evidence: Mapping[str, Any]) -> dict[str, Any]:
        """The verdict of an evidence document, by the policy in force, and what that policy asks for. Raises Unavailable."""
        policy = self.controller.policy_in_force
        found = self._examiner.judge_document(evidence, policy, self.controller.rollout, self._now())
        return {"verdict": found["verdict"], "reasons": found["reasons"], "gates": found["gates"], "asked": asked(policy)}

    def outlook(self, policy: Policy) -> Outlook:
        """What a forecast of the present release starts from. Raises Unavailable."""
        from router.rollout.forecast import Outlook
        from router.rollout.gates import judge

        plan = self._control.plan()
        found = self._control.store.evidence(plan.release)
        evidence = {**found[0], "as_of": found[1]} if found is not None else {}
        state = self._control.store.evidence_state(plan.release)
        attempt = self.store.attempts(plan.release) + 1
        verdict = judge(evidence, NO_TRAFFIC, policy, self._now(), attempt=attempt, state=state)
        rates, shadow, stage = self.rates.now, plan.shadow, policy.shadow
        if not shadow.percent and rates.requests is not None:
            rates = PerSecond(rates.requests, rates.requests * stage.percent / 100.0)  # as the start would have it
        noise = shadow.noise_percent or (stage.noise_percent if policy.gates.need_noise_pairs else 0.0)
        return Outlook(evidence, verdict, rates, noise / 100.0, attempt)

    # --- threads ------------------------------------------------------------------------------------------------------

    def _tick_on(self) -> None:
        if not self._ended.wait(PRELOAD_SECONDS):
            # The statistics, which take a second: not at the start, when everybody waits, nor in somebody's first call.
            importlib.import_module("router.rollout.gates")
        wait = TICK_SECONDS
        while not self._ended.wait(wait):
            wait = TICK_SECONDS
            try:
                self._sample()
                self.controller.tick(self._now())
            except RouterError as error:
                log.warning("the rollout could not go on, and will be looked at again: %s", error)
                wait = _RETRY_SECONDS
            except Exception:
                # A rollout that stands still is better than one that nobody looks at any more.
                log.exception("the rollout's tick failed")
                wait = _RETRY_SECONDS

    def _watch_on(self) -> None:
        watch = BurstWatch()
        while not self._ended.wait(BREAKER_SECONDS):
            try:
                armed = self.controller.armed()
                if armed is None:
                    watch.clear()
                    continue
                found = watch.look(self.controller.counts(), armed.rule, time.monotonic())
                if found is not None and self._control.plan().split.green_percent > 0:
                    self.controller.trip(armed, f"fast breaker: {found}")
            except Exception:
                log.exception("the fast breaker could not look")

    def _sample(self) -> None:
        pages = self._control.workers.pages().values()
        counts = self.controller.counts()
        sampled, lost = release_counts(pages, self._control.plan().release)
        self.rates.sample(counts.green_tries + counts.blue_tries, sampled - lost, time.monotonic())


def _own_gate(policy: Policy, settings: Mapping[str, Any]) -> OwnGate | None:
    """The operator's gate; without it its gate stays undecided and says so."""
    name = policy.gates.python
    if name is None:
        return None
    try:
        directory = settings.get("directory")
        return OwnGateRunner(load_gate(name, Path(directory) if directory else None))
    except OwnGateError as error:
        log.error("%s", error)
        return None
