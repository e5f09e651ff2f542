"""The shadow process, composed: intake, mirror, evidence, and their snapshots in the store.

    python -P -m router.run_shadow --state DIR --parent PID

It takes what workers hand over, judges it, and a few times per second writes what it knows. Should it be killed, it goes on
from its last snapshot; what was on its way at that moment is reckoned from the workers' counters and counted as lost, so that
pairs and dropped ones always add up to what was sampled.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import sys
from pathlib import Path
from time import monotonic, time
from typing import Any

import uvloop

from models.pool import Tls
from models.tasks import spawn
from router.counters import release_counts
from router.errors import PlanError, StartError
from router.page import PlanPage
from router.plan import Plan, read_plan
from router.process import die_with_parent
from router.proxy.options import read_options
from router.proxy.tap import short_path
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
SNAPSHOT_SECONDS = 0.25
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
    # Comparing may lag; answering clients may not. The kernel gives way to the workers when both want the processor.
    os.nice(5)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(Shadow(StateDir(Path(arguments.state))).run())
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
        options = read_options(self._settings)
        shadow = self._settings.get("shadow", {})
        tls: Tls = options.upstream_tls
        self._bounds = MirrorOptions(
            max_per_second=float(shadow.get("max_per_second", 0)),
            answer_bytes=options.mirroring.body,
            connect_timeout=options.timeouts.connect,
            answer_timeout=options.timeouts.first_byte,
            tls=tls.context(),
            server_name=tls.server_name,
        )
        self._mirror = Mirror(self._bounds, self._observed, self._let_go)
        self._frame_at = 0.0
        self._saved_at = 0.0
        self._changed = False

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
            server = await loop.create_unix_server(lambda: Intake(self._take), name)
        path.chmod(0o600)
        gc.collect()
        gc.freeze()
        sweeper = spawn(self._sweep(), "sweep")
        _log.info("listening; release %d, %d pairs so far", self._release, self._evidence.pairs)
        await stop.wait()
        sweeper.cancel()
        server.close()
        self._mirror.close()
        self._save()
        self._store.close()

    # --- frames ---

    def _take(self, frame: Frame) -> None:
        if self._page.word[0] != self._seen:
            self._obey_plan()
        self._frame_at = monotonic()
        if frame.flags & LOGGED_ONLY:
            return
        self._changed = True
        self._mirror.take(frame)

    def _observed(self, observation: Observation) -> None:
        self._changed = True
        if observation.release == self._release:
            self._evidence.observe(observation)

    def _let_go(self, release: int, reason: str) -> None:
        self._changed = True
        if release == self._release:
            self._evidence.drop(reason)

    def _obey_plan(self) -> None:
        self._seen = self._page.word[0]
        try:
            _, content = self._page.read()
            plan = read_plan(content)
        except (StartError, PlanError) as error:
            _log.error("the plan page cannot be read: %s", error)
            return
        if plan.release != self._release:
            self._begin_release(plan)
        share = plan.shadow
        bounds = self._bounds
        self._mirror.configure(
            plan.release,
            plan.blue,
            plan.green,
            MirrorOptions(
                max_in_flight=share.max_in_flight,
                waiting=4 * share.max_in_flight,
                noise_percent=share.noise_percent,
                max_per_second=bounds.max_per_second,
                answer_bytes=bounds.answer_bytes,
                connect_timeout=bounds.connect_timeout,
                answer_timeout=bounds.answer_timeout,
                tls=bounds.tls,
                server_name=bounds.server_name,
            ),
        )

    def _begin_release(self, plan: Plan) -> None:
        """Empty evidence for a new release; what was known of this one, if it was begun before."""
        if self._release:
            self._save()
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
        sampled, lost = release_counts(self._workers.pages().values(), self._release)
        missing = sampled - lost - self._evidence.received - self._mirror.busy
        if missing > 0:
            self._evidence.drop(reason, missing)
            self._changed = True

    # --- the sweep ---

    async def _sweep(self) -> None:
        pruned = 0.0
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                if self._page.word[0] != self._seen:
                    self._obey_plan()
                self._mirror.sweep()
                now = monotonic()
                if now - self._frame_at > QUIET_SECONDS and not self._mirror.busy:
                    self._reckon("lost with a worker")
                if self._changed and now - self._saved_at >= SNAPSHOT_SECONDS:
                    self._save()
                if now - pruned > PRUNE_SECONDS:
                    pruned = now
                    self._prune()
            except Exception:
                # Evidence that is not written is better than a shadow that no longer mirrors.
                _log.exception("the sweep failed")

    def _save(self) -> None:
        self._changed = False
        self._saved_at = monotonic()
        now = time()
        evidence = self._evidence
        records = evidence.take_records(now)
        if records:
            evidence.kept(self._store.add_pairs([RecordedPair(**record) for record in records], evidence.forget))
        self._store.save_evidence(self._release, evidence.snapshot(now), now, evidence.state())

    def _prune(self) -> None:
        record = self._settings.get("record", {})
        self._store.prune_pairs(
            before=time() - float(record.get("keep", 7 * 86400)),
            disagreements=int(record.get("disagreements", 1000)),
            others=int(record.get("others", 1000)),
        )


if __name__ == "__main__":
    sys.exit(main())
