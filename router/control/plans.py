"""Changes the plan: the one place from which the plan page is written while the router runs.

A change is one short critical section (read, pure transition, write of the page) and what follows it outside: nudge the
workers, have the history written (router/control/history_writer.py), wait until the workers obey. The page comes first because
it is the truth and must not wait for anything, least of all for a disk: when the store does not answer, the change holds all
the same. Waiting happens outside the lock, so that one stuck worker delays nobody else's switch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from models.arm import Colour
from router.control.history_writer import HistoryWriter
from router.errors import PlanConflict, PlanError, Unavailable
from router.page import PlanPage
from router.plan import Change, Plan, read_plan, switched, written
from router.seed import SEEDER
from router.store.store import Store
from router.workers import Workers

SWITCH_SECONDS = 2.0  # how long a switch waits for every worker
CHANGE_SECONDS = 0.5  # how long any other change does, and then for its history entry
CLOSE_SECONDS = 1.0

log = logging.getLogger("control")


@dataclass(frozen=True, slots=True)
class Switched:
    """What a switch did: the plan, how many requests were recalled, and whether it `holds` on every worker by now."""

    plan: Plan
    recalled: int
    holds: bool


class Control:
    """The present plan and the only way to change it. Safe to use from several threads."""

    def __init__(self, page: PlanPage, store: Store, workers: Workers, *, now: Callable[[], float] = time.time) -> None:
        """`page` must be writable and hold a plan (router/seed.py); `now` gives seconds since the epoch."""
        self.page = page
        self.store = store
        self.workers = workers
        self.now = now
        self.history = HistoryWriter(store)
        self._changing = threading.Lock()
        self._decoded: Plan | None = None

    def plan(self) -> Plan:
        """The plan that holds. Raises Unavailable while there is none."""
        known = self._decoded
        if known is not None and known.revision == self.page.revision:
            return known
        _, content = self.page.read()
        if not content:
            raise Unavailable("no plan has been written yet; the router is still starting")
        self._decoded = plan = read_plan(content)
        return plan

    def change(
        self,
        transition: Callable[[Plan], Plan],
        *,
        who: str,
        action: str,
        why: str,
        expect: int | None = None,
        wait: float = CHANGE_SECONDS,
    ) -> Plan:
        """Apply a transition of `router.plan`, and return the plan that was written.

        Returns when every living worker obeys it, or after `wait` seconds (0: at once), and its history entry is written if the
        store answers; it holds for each worker's next request from the write on. Raises PlanConflict when the present revision
        is not `expect`, PlanError, Refused; then nothing has changed.
        """
        plan = self._write(transition, who, action, why, expect)
        if wait > 0:
            self.workers.wait(plan.revision, wait)
        self.history.settle(CHANGE_SECONDS)
        return plan

    def switch(self, to: Colour, *, who: str, why: str) -> Switched:
        """All live traffic to one colour; returns when it holds on every living worker, or after 2 s.

        The page is written even when that colour has all traffic already: the caller wants to know that it holds. For the
        history nobody waits here.
        """
        before = self.workers.recalled()
        plan = self._write(lambda present: switched(present, to), who, f"switch {to}", why, None)
        holds = self.workers.wait(plan.revision, SWITCH_SECONDS)
        recalled = self.workers.recalled() - before
        return Switched(plan, recalled, holds)

    def close(self) -> None:
        """Give the history a moment to become complete."""
        self.history.close(CLOSE_SECONDS)

    def reconcile(self) -> None:
        """Bring history and page together at the start.

        A control process that was killed between the page and the history left revisions that only the page knows: they are
        added. When the history is ahead, the page was lost (or the machine stopped before it reached the disk): the history's
        newest plan is written again under a fresh revision and release, unless `--reseed` asked for the file's plan.
        """
        plan, newest = self.plan(), self.store.last_plan()
        if newest is not None and (newest.revision > plan.revision or (newest.revision == plan.revision and newest != plan)):
            plan = self._recovered(plan, newest)
            self.store.add_history(plan, newest)
            return
        previous = self.page.previous()
        for known in (read_plan(previous) if previous else None, plan):
            if known is not None and (newest is None or known.revision > newest.revision):
                self.store.add_history(known, newest)
                newest = known

    def _write(self, transition: Callable[[Plan], Plan], who: str, action: str, why: str, expect: int | None) -> Plan:
        with self._changing:
            present = self.plan()
            if expect is not None and expect != present.revision:
                raise PlanConflict(f"the plan is at revision {present.revision}, not {expect}; read it again, then change it")
            plan = written(transition(present), present, Change(who, self.now(), action, why))
            plan = replace(plan, revision=self.page.revision + 1)
            self._put(plan)
            self.history.put(plan, present)
        self.workers.nudge()
        return plan

    def _put(self, plan: Plan) -> None:
        try:
            self.page.write(plan.revision, plan.to_json())
        except ValueError as error:
            raise PlanError(str(error)) from None
        self._decoded = plan

    def _recovered(self, plan: Plan, newest: Plan) -> Plan:
        reseeded = plan.change.who == SEEDER and plan.change.action == "reseed"
        revision = newest.revision + 1
        if revision % 2 == self.page.revision % 2:
            revision += 1  # the other slot: the one that readers look at now must stay whole
        release = max((row["release"] for row in self.store.releases()), default=0) + 1
        why = f"the plan page was at revision {plan.revision}, the history at {newest.revision}"
        change = Change("control", self.now(), "recover", why)
        plan = replace(plan if reseeded else newest, revision=revision, release=max(release, newest.release + 1), change=change)
        self._put(plan)
        self.workers.nudge()
        log.warning("%s: wrote %s again as revision %d", why, "the file's plan" if reseeded else "the history's", revision)
        return plan
