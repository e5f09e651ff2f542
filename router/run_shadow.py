"""The shadow process, composed: intake, mirror, evidence, and their snapshots in the store.

    python -P -m router.run_shadow --state DIR --parent PID

It takes what workers hand over, judges it, and about twice a second writes what it knows. Should it be killed, it goes on
from its last snapshot; what was on its way at that moment is reckoned from the workers' counters and counted as lost, so that
pairs and dropped ones always add up to what was sampled.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import signal
import sys
from dataclasses import replace
from pathlib import Path
from time import monotonic, thread_time, time
from typing import Any

import uvloop

from models.pool import Tls
from models.tasks import spawn
from router.counters import release_counts
from router.errors import PlanError, StartError
from router.page import PlanPage
from router.plan import Plan, read_plan
from router.prediction_log import PredictionLog
from router.process import die_with_parent, give_way
from router.proxy.options import read_options
from router.proxy.tap import short_path
from router.recordings import Spool
from router.state import StateDir
from router.store.store import RecordedPair, Store
from router.workers import Workers
from shadow.evidence import Evidence, EvidenceOptions
from shadow.frame import LOGGED_ONLY, Frame
from shadow.intake import Intake
from shadow.mirror import Mirror, MirrorOptions
from shadow.observation import Observation

_log = logging.getLogger("shadow")

SWEEP_SECONDS = 0.05
SNAPSHOT_SECONDS = 0.5
# The state is what a restart goes on from: written often enough that a `kill -9` costs less than a second of it. The snapshot
# is what people and gates read; its intervals take ten milliseconds, over many slices more: no more than this share of a core
# goes into it.
STATE_SECONDS = 0.8
SNAPSHOT_SHARE = 0.03
LATEST_SNAPSHOT_SECONDS = 3.0
QUIET_SECONDS = 1.0  # without frames, after which what is missing will not come any more
PRUNE_SECONDS = 60.0


def main(argv: list[str] | None = None) -> int:
    """Run the shadow until it is told to end."""
    parser = argparse.ArgumentParser(prog="router.run_shadow")
    parser.add_argument("--state", required=True)
    parser.add_argument("--parent", type=int, default=None)
    arguments = parser.parse_args(argv)
    die_with_parent(arguments.parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s shadow %(message)s", stream=sys.stderr)
    try:
        shadow = Shadow(StateDir(Path(arguments.state)))
        # Comparing may lag; answering clients may not. Not before here, so that a busy machine does not hold up the start.
        give_way(shadow.nice)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(shadow.run())
    except (StartError, OSError) as error:
        _log.error("%s", error)
        return 1
    return 0


class Shadow:
    """The composition."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._settings: dict[str, Any] = json.loads(state.settings_json.read_bytes())
        self._page = PlanPage(state.plan_page)
        self._workers = Workers(state)
        self._store = Store(state.store)
        self._seen = -1
        self._release = 0
        self._evidence_options = EvidenceOptions.from_settings(self._settings)
        self._evidence = Evidence(0, self._evidence_options)
        self._predictions = PredictionLog(state, self._store, self._settings, self._evidence_options)
        self._spool = Spool(state, self._evidence_options.record.redact)
        options = read_options(self._settings)
        shadow = self._settings.get("shadow", {})
        self.nice = int(shadow.get("nice", 15))
        tls: Tls = options.upstream_tls
        self._bounds = MirrorOptions(
            max_per_second=float(shadow.get("max_per_second", 0)),
            answer_bytes=options.mirroring.body,
            connect_timeout=options.timeouts.connect,
            answer_timeout=options.timeouts.first_byte,
            keep_alive=options.timeouts.upstream_keep_alive,
            queue_bytes=options.mirroring.queue,
            tls=tls.context(),
            server_name=tls.server_name,
        )
        self._mirror = Mirror(self._bounds, self._observed, self._let_go)
        self._frame_at = 0.0
        self._before: Evidence | None = None  # of an older release, some of whose exchanges were still on their way
        self._before_changed = False
        self._saved_at = self._told_at = 0.0
        self._tell_every = SNAPSHOT_SECONDS
        self._snapshot: dict[str, Any] = {}
        self._changed = self._untold = False
        self._all_logged = False  # also exchanges that are not mirrored belong into the prediction log

    async def run(self) -> None:
        """Serve until SIGTERM."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # the supervisor decides
        self._obey_plan()
        self._reckon("lost at a restart")
        self._save()
        path = self._state.tap
        path.unlink(missing_ok=True)
        with short_path(path) as name:
            server = await loop.create_unix_server(lambda: Intake(self._take, self._refuses), name)
        path.chmod(0o600)
        gc.collect()
        gc.freeze()
        # A pair is made of hundreds of short-lived containers, none of them in a cycle: looking for cycles after every 700 of
        # them costs several per cent and finds nothing.
        gc.set_threshold(50_000, 20, 20)
        sweeper = spawn(self._sweep(), "sweep")
        _log.info("listening; release %d, %d pairs so far", self._release, self._evidence.pairs)
        await stop.wait()
        sweeper.cancel()
        server.close()
        self._mirror.close()
        self._spool.close()
        await self._predictions.close()
        self._save()
        self._store.close()

    # --- frames ---

    def _take(self, frame: Frame) -> None:
        if self._page.word[0] != self._seen:
            self._obey_plan()
        self._frame_at = monotonic()
        self._predictions.take(frame)
        if self._spool.recording:
            self._spool.take(frame)
        if frame.flags & LOGGED_ONLY:
            return
        self._changed = True
        self._mirror.take(frame)

    def _refuses(self, release: int, flags: int, size: int) -> bool:
        """Whether a frame is let go before it is decoded: the mirror has no place for it, and nobody else wants it."""
        if flags & LOGGED_ONLY or self._all_logged or self._spool.recording or self._page.word[0] != self._seen:
            return False
        if not self._mirror.refuses(release, flags, size):
            return False
        self._frame_at = monotonic()
        return True

    def _observed(self, observation: Observation) -> None:
        if observation.release == self._release:
            self._changed = True
            self._evidence.observe(observation)
            self._predictions.compared(observation, self._evidence.readings)
        else:
            # What was on its way when its release ended: that release's evidence is complete, but for this one's place in it.
            self._let_go(observation.release, "release over")

    def _let_go(self, release: int, reason: str) -> None:
        if release == self._release:
            self._changed = True
            self._evidence.drop(reason)
        elif (before := self._evidence_before(release)) is not None:
            self._before_changed = True
            before.drop(reason)

    def _evidence_before(self, release: int) -> Evidence | None:
        """The evidence of an older release, to count what comes late; None when there is none."""
        if self._before is not None and self._before.release == release:
            return self._before
        if not 0 < release < self._release or (state := self._store.evidence_state(release)) is None:
            return None
        self._save_before()
        try:
            self._before = Evidence(release, self._evidence_options, state)
        except (KeyError, TypeError, ValueError) as error:
            _log.error("the stored evidence of release %d cannot be read: %s", release, error)
            return None
        return self._before

    def _obey_plan(self) -> None:
        self._seen = self._page.word[0]
        try:
            _, content = self._page.read()
            plan = read_plan(content)
        except (StartError, PlanError) as error:
            _log.error("the plan page cannot be read: %s", error)
            return
        self._predictions.obey(plan)
        # Of split traffic every exchange counts, and which are left out must not depend on what the mirror has to do.
        split = plan.green is not None and 0.0 < plan.split.green_percent < 100.0
        self._all_logged = split and int(self._settings.get("predictions", {}).get("rows", 0)) > 0
        if plan.release != self._release:
            self._begin_release(plan)
        share = plan.shadow
        self._mirror.configure(
            plan.release,
            plan.blue,
            plan.green,
            replace(
                self._bounds,
                max_in_flight=share.max_in_flight,
                waiting=4 * share.max_in_flight,
                noise_percent=share.noise_percent,
            ),
        )

    def _begin_release(self, plan: Plan) -> None:
        """Empty evidence for a new release; what was known of this one, if it was begun before."""
        if self._release:
            self._save()
            self._save_before()
            self._before = self._evidence
        state = self._store.evidence_state(plan.release)
        self._release = plan.release
        try:
            self._evidence = Evidence(plan.release, self._evidence_options, state)
        except (KeyError, TypeError, ValueError) as error:
            _log.error("the stored evidence of release %d cannot be read and begins anew: %s", plan.release, error)
            self._evidence = Evidence(plan.release, self._evidence_options)
        self._changed = True
        _log.info("release %d: %s against %s", plan.release, plan.green.name if plan.green else "no green", plan.blue.name)

    def _reckon(self, reason: str) -> None:
        """Count as dropped what workers handed over and nobody will ever observe."""
        pages = self._workers.pages().values()
        if (before := self._before) is not None and not self._mirror.busy:
            sampled, lost = release_counts(pages, before.release)
            if (missing := sampled - lost - before.received) > 0:
                before.drop(reason, missing)
                self._before_changed = True
        sampled, lost = release_counts(pages, self._release)
        missing = sampled - lost - self._evidence.received - self._mirror.busy
        if missing > 0:
            self._evidence.drop(reason, missing)
            self._changed = True
        elif missing < 0 and self._evidence.take_back(reason, -missing):
            # What had been given up for lost did come in the end.
            self._changed = True

    # --- the sweep ---

    async def _sweep(self) -> None:
        pruned = 0.0
        looked = monotonic()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                if self._page.word[0] != self._seen:
                    self._obey_plan()
                self._mirror.sweep()
                if self._predictions.sweep():
                    self._changed = True
                self._spool.sweep(time())
                now = monotonic()
                # After a time without the processor it may only seem quiet: what came meanwhile is read after this sweep.
                punctual, looked = now - looked < QUIET_SECONDS / 2, now
                if punctual and now - self._frame_at > QUIET_SECONDS and not self._mirror.busy:
                    self._reckon("lost with a worker")
                self._save_if_due(now)
                if now - pruned > PRUNE_SECONDS:
                    pruned = now
                    self._prune()
            except Exception:
                # Evidence that is not written is better than a shadow that no longer mirrors.
                _log.exception("the sweep failed")

    def _save_if_due(self, now: float) -> None:
        self._untold = self._untold or self._changed
        if self._untold and now - self._told_at >= self._tell_every:
            self._save()
        elif self._changed and now - self._saved_at >= STATE_SECONDS:
            self._save(tell=False)
        if self._before_changed:
            self._save_before()

    def _save(self, *, tell: bool = True) -> None:
        """Write the state and, with `tell`, a new snapshot; without it the last one stays."""
        self._changed = False
        self._saved_at = monotonic()
        evidence = self._evidence
        records = evidence.take_records(time())
        if records:
            evidence.kept(self._store.add_pairs([RecordedPair(**record) for record in records], evidence.forget))
        if tell:
            self._untold = False
            self._told_at = self._saved_at
            began = thread_time()
            self._snapshot = {**evidence.snapshot(time()), **self._predictions.sections(self._release)}
            share = (thread_time() - began) / SNAPSHOT_SHARE
            self._tell_every = min(max(SNAPSHOT_SECONDS, share), LATEST_SNAPSHOT_SECONDS)
        self._store.save_evidence(self._release, self._snapshot, self._snapshot["as_of"], evidence.state())

    def _save_before(self) -> None:
        """Write what came late to an older release."""
        before, changed = self._before, self._before_changed
        self._before_changed = False
        if before is not None and changed:
            now = time()
            self._store.save_evidence(before.release, before.snapshot(now), now, before.state())

    def _prune(self) -> None:
        record = self._settings.get("record", {})
        self._store.prune_pairs(
            before=time() - float(record.get("keep", 7 * 86400)),
            disagreements=int(record.get("disagreements", 1000)),
            others=int(record.get("others", 1000)),
        )
        self._predictions.prune()


if __name__ == "__main__":
    sys.exit(main())
