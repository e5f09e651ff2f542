"""The analysis of a release, fed from the log: rows in the order of their ids, some at a time, from where it stopped.

The log is the truth and the analysis a fold over it; what was folded is saved now and then with the ids up to which it goes,
so a restart repeats nothing and loses nothing. Feedback is folded two seconds after it was joined, when the other arm's answer
to a mirrored request is usually known.

A value that feedback corrects after it was folded cannot be taken out of a sequential test: the fold begins anew, beside the
one that is shown, and takes its place when it has caught up. That needs a log that still reaches back to the first row folded;
where it does not, the first value stays, and the correction is counted as uncounted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import monotonic, time
from typing import Any, Final

from router.store.exposures import FELL_BACK, KEYED, RETRY, SCHEME_SHIFT, ExposureLog
from shadow.draws import Drawn
from shadow.experiment import Experiment
from shadow.experiment_words import words

_log = logging.getLogger("experiments")

FEEDBACK_LAG_SECONDS: Final = 2.0
SECTIONS_SECONDS: Final = 2.0
SAVE_SECONDS: Final = 60.0
ANEW_SECONDS: Final = 60.0  # between two folds anew
_ROWS: Final = 1000  # at a time: a few dozen milliseconds


class Fold:
    """An analysis and how far it has read the log."""

    __slots__ = ("corrections", "experiment", "exposure", "feedback", "first", "release")

    def __init__(self, release: int, experiment: Experiment, corrections: int = 0) -> None:
        self.release = release
        self.experiment = experiment
        self.exposure = self.feedback = 0  # ids read
        self.first = 0  # the oldest exposure that was folded, 0 for none
        self.corrections = corrections  # how many there were when the fold began

    def advance(self, log: ExposureLog, until: float) -> bool:
        """Read on; feedback as far as it was joined until a time. Returns whether there may be more. Raises Unavailable."""
        before = self.exposure
        rows, self.exposure = log.exposures_after(self.exposure, self.release, _ROWS)
        for number, revision, share, unit, arm, flags, error, latency_ms, at in rows:
            self.first = self.first or number
            self.experiment.expose(
                _drawn(unit, arm, share, revision, flags),
                error=bool(error),
                latency_ms=latency_ms,
                at=at,
                keyed=bool(flags & KEYED),
                retry=bool(flags & RETRY),
            )
        found = log.feedback_after(self.feedback, until, _ROWS)
        for number, release, label, reward, revision, share, unit, arm, flags, blue, green in found:
            self.feedback = number
            if release != self.release:
                continue
            drawn, keyed = _drawn(unit, arm, share, revision, flags), bool(flags & KEYED)
            if label is not None:
                answer = green if arm == "green" and not flags & FELL_BACK else blue
                self.experiment.label(drawn, label, blue, green, answer=answer, keyed=keyed)
            if reward is not None:
                self.experiment.earn(drawn, reward, keyed=keyed)
        return len(rows) == _ROWS or len(found) == _ROWS or self.exposure - before >= _ROWS

    def to_dict(self) -> dict[str, Any]:
        """For the store."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {**numbers, "experiment": self.experiment.to_dict()}

    @classmethod
    def from_dict(cls, release: int, state: Mapping[str, Any]) -> Fold:
        """The inverse of `to_dict`. Raises ValueError, KeyError, TypeError."""
        made = cls(release, Experiment.from_dict(state["experiment"]))
        for name in _NUMBERS:
            setattr(made, name, int(state[name]))
        return made


_NUMBERS: Final = ("exposure", "feedback", "first", "corrections")


class Analysis:
    """The present release's fold. `step` does a little of the work and returns whether `sections` has changed."""

    def __init__(self, log: ExposureLog, alpha: float, reward_bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        self._log = log
        self._alpha = alpha
        self._bounds = reward_bounds
        self._fold = Fold(0, self._fresh())
        self._anew: Fold | None = None
        self._anew_at = -ANEW_SECONDS
        self._uncounted = 0
        self._changed = False
        self._sections: dict[str, Any] = {}
        self.behind = True  # whether there may be more to read at once
        self._told_at = self._saved_at = 0.0
        self._saved = (0, 0)

    def begin(self, release: int) -> None:
        """Turn to a release, and go on where its analysis stopped. Raises Unavailable."""
        if self._fold.release:
            self.save()
        state = self._log.experiment(release)
        self._fold = Fold(release, self._fresh(), self._log.corrections(release))
        self._anew, self._uncounted = None, 0
        if state is not None:
            try:
                fold = Fold.from_dict(release, state)
            except (ValueError, KeyError, TypeError) as error:
                _log.error("the analysis of release %d cannot be read and begins anew: %s", release, error)
            else:
                found = fold.experiment
                if (found.reward.low, found.reward.high, found.alpha) == (*self._bounds, self._alpha):
                    self._fold = fold
                else:
                    _log.warning("alpha or the bounds of rewards have changed: the analysis begins anew")
        self._saved = (self._fold.exposure, self._fold.feedback)
        self._sections = {}
        self._changed, self._told_at = True, 0.0

    def step(self) -> bool:
        """Read a little of the log; True when what `sections` gives is new. Raises Unavailable."""
        fold = self._anew or self._fold
        before = (fold.exposure, fold.feedback)
        more = fold.advance(self._log, time() - FEEDBACK_LAG_SECONDS)
        self.behind = more
        self._changed = self._changed or (fold.exposure, fold.feedback) != before
        if self._anew is not None and not more:
            _log.info("release %d: analysed anew with %d corrections", fold.release, fold.corrections)
            self._fold, self._anew = fold, None
        now = monotonic()
        if now - self._told_at < SECTIONS_SECONDS:
            return False
        self._told_at = now
        self._look_for_corrections(now)
        if now - self._saved_at >= SAVE_SECONDS:
            self.save()
        if not self._changed or more or self._anew is not None:
            return False
        self._changed = False
        self._sections = self._made()
        return True

    def sections(self) -> dict[str, Any]:
        """`experiment`, `feedback` and `experiment_summary` as they were last made; empty before the first time."""
        return self._sections

    def save(self) -> None:
        """Keep what was folded, if anything was. Raises Unavailable."""
        self._saved_at = monotonic()
        fold = self._fold
        if (fold.exposure, fold.feedback) != self._saved:
            self._log.save_experiment(fold.release, fold.to_dict(), time())
            self._saved = (fold.exposure, fold.feedback)

    def _fresh(self) -> Experiment:
        return Experiment(self._alpha, self._bounds)

    def _made(self) -> dict[str, Any]:
        made = self._fold.experiment.sections()
        made["feedback"]["corrections"] = self._fold.corrections
        made["feedback"]["uncounted_corrections"] = self._uncounted
        made["experiment_summary"] = words(made, self._alpha)
        return made

    def _look_for_corrections(self, now: float) -> None:
        corrections = self._log.corrections(self._fold.release)
        if corrections <= self._fold.corrections + self._uncounted or self._anew is not None:
            return
        if now - self._anew_at < ANEW_SECONDS:
            return
        self._anew_at = now
        oldest = self._log.first_exposure()
        if self._fold.first and oldest > self._fold.first:
            self._uncounted = corrections - self._fold.corrections
            self._changed = True
            return
        self._anew = Fold(self._fold.release, self._fresh(), corrections)


def _drawn(unit: str | None, arm: str, share: float, revision: int, flags: int) -> Drawn:
    return Drawn(unit, arm == "green", share, revision, flags >> SCHEME_SHIFT)
