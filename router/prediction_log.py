"""The prediction log as the shadow process keeps it: exposures in, analysis out, and the bounds of both.

Left out altogether when the settings keep no rows. What the store does not take now is tried again later; nothing here may stop
the mirror.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from time import monotonic, time
from typing import Any, Final

from models.tasks import spawn
from router.errors import Unavailable
from router.experiments import Analysis
from router.exposures import Exposures
from router.plan import Plan
from router.state import StateDir
from router.store.exposures import ExposureLog
from router.store.store import Store
from router.unit_names import unit_names
from shadow.answers import Reading
from shadow.evidence_options import EvidenceOptions
from shadow.frame import Frame
from shadow.observation import Observation

_log = logging.getLogger("predictions")

_LOOK_SECONDS: Final = 0.25  # between two looks for new rows while there were none
_PRUNE_PIECES: Final = 50  # transactions in one round of pruning; the rest waits for the next


class PredictionLog:
    """For one event loop. `sweep` is called many times a second, `prune` about once a minute."""

    def __init__(self, state: StateDir, store: Store, settings: Mapping[str, Any], options: EvidenceOptions) -> None:
        """`settings` is the whole document. Raises StartError when the units' secret cannot be read or made."""
        predictions = settings.get("predictions", {})
        self._rows = int(predictions.get("rows", 0))
        self._keep = float(predictions.get("keep", 7 * 86400))
        self._pending = float(predictions.get("pending", 3600))
        self._log = ExposureLog(store)
        names = unit_names(state.unit_secret, plain=bool(predictions.get("plain_units", False)))
        self._exposures = Exposures(self._log, names, options.decode)
        bounds = float(predictions.get("reward_low", 0.0)), float(predictions.get("reward_high", 1.0))
        self._analysis = Analysis(self._log, options.alpha, bounds)
        self._begun = 0  # the release that the analysis is of
        self._release = 0
        self._looked_at = 0.0
        self._pruning: asyncio.Task[None] | None = None

    def obey(self, plan: Plan) -> None:
        """A plan holds."""
        self._exposures.obey(plan)
        self._release = plan.release

    def take(self, frame: Frame) -> None:
        """Log an exchange."""
        if self._rows:
            self._exposures.take(frame)

    def compared(self, observation: Observation, readings: tuple[Reading, Reading] | None) -> None:
        """Log what both arms said of a mirrored one."""
        if self._rows and readings is not None:
            self._exposures.compared(observation, readings)

    def sweep(self) -> bool:
        """Write what waits and read a little; True when `sections` gives something new."""
        if not self._rows:
            return False
        self._exposures.flush()
        try:
            if self._begun != self._release:
                self._analysis.begin(self._release)
                self._begun = self._release
            elif not self._analysis.behind and monotonic() - self._looked_at < _LOOK_SECONDS:
                return False
            self._looked_at = monotonic()
            return self._analysis.step()
        except Unavailable as error:
            _log.warning("the analysis waits: %s", error)
            return False

    def sections(self, release: int) -> dict[str, Any]:
        """What a release's evidence says beside that of the pairs; empty while there is nothing."""
        if self._begun != release or not (found := self._analysis.sections()):
            return {}
        return {**found, "prediction_log": self._exposures.counts()}

    def prune(self) -> None:
        """Keep to the bounds of time and rows, in the background."""
        if self._rows and self._pruning is None:
            self._pruning = spawn(self._prune(), "pruning of the prediction log")

    async def close(self) -> None:
        """Write everything."""
        if self._pruning is not None:
            await asyncio.wait([self._pruning])
        await self._exposures.close()
        try:
            if self._begun:
                self._analysis.save()
        except Unavailable as error:
            _log.error("the analysis was not saved: %s", error)

    async def _prune(self) -> None:
        try:
            for _ in range(_PRUNE_PIECES):
                now = time()
                prune = partial(self._log.prune, before=now - self._keep, rows=self._rows, pending_before=now - self._pending)
                if not await asyncio.to_thread(prune):
                    break
        except Unavailable as error:
            _log.warning("the prediction log is not pruned: %s", error)
        finally:
            self._pruning = None
