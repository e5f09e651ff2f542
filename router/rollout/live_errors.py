"""Errors of the live split: whether green fails more often than blue by more than a margin, by requests or by users.

The error-event likelihood of `shadow.live` with an absolute margin. There, given that a request failed, it was green's with
probability pi theta/(pi theta + 1 - pi); betting on theta = e^x against theta = 1 multiplies the fortune by 1 + l/pi when green
fails, by 1 - l/(1 - pi) when blue does, and by 1 otherwise, with the stake l = pi (1 - pi) (e^x - 1)/(1 + pi (e^x - 1)).
That is a bet on the inverse propensity score Z = 1/pi, -1/(1 - pi), 0, whose mean is the difference of the two error rates
whatever the base rate does; so for a margin m the bet is on Z - m, and each request, good or bad, costs l m. Every factor has
expectation at most 1 while the difference is at most m: a test martingale (Ville), averaged over a grid of x. The other
direction bets -l.

A step has one share, so its counts are all there is to know; steps are never pooled. Assumes that each request goes to green
with probability pi whatever it is: not so when users stick to an arm, where the unit is the user. Of a user only the requests
up to his first failure count (`UnitErrors`), and what is random about them is whose that failure is: until then nobody need
know the user's arm, so his requests are bets at the chance with which it was drawn (`shadow.draws`), however many he makes.
Pure Python: the grid has 28 points, and this is asked for four times a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

# ln theta, the grid of shadow.live: 3 % to 17-fold, by factors of sqrt(2); small ones get less weight.
_LOG_RATIOS: Final = tuple(0.03125 * 2.0 ** (0.5 * step) for step in range(14))
_ROOTS: Final = tuple(math.sqrt(x) for x in _LOG_RATIOS)
_RATIO_WEIGHTS: Final = tuple(root / sum(_ROOTS) for root in _ROOTS)
# Stakes for "not worse" as fractions of the largest that cannot go bankrupt: near 1, where runs without an error live, then
# down by factors of sqrt(2). Their weights imitate a uniform prior, as in shadow.paired.
_STAKES: Final = (0.999, 0.97, 0.92, 0.82, *(0.7 * 2.0 ** (-0.5 * step) for step in range(20)))
_CUTS: Final = (1.0, *(0.5 * (a + b) for a, b in pairwise(_STAKES)), 0.0)
_STAKE_WEIGHTS: Final = tuple(a - b for a, b in pairwise(_CUTS))
_HALVINGS: Final = 40


@dataclass(frozen=True, slots=True)
class StepErrors:
    """What was counted in one step. `share` is green's, strictly between 0 and 1; requests are those each arm was tried for.

    `shared_errors` is how many of blue's errors may be on requests that green had failed before (a request that no arm can
    answer): they are no evidence about either.
    """

    share: float
    green_requests: int
    green_errors: int
    blue_requests: int
    blue_errors: int
    shared_errors: int = 0

    @property
    def requests(self) -> int:
        """Requests of both arms."""
        return self.green_requests + self.blue_requests

    @property
    def difference(self) -> float | None:
        """Green's error rate less blue's; None before either arm was asked."""
        if not self.green_requests or not self.blue_requests:
            return None
        return self.green_errors / self.green_requests - self.blue_errors / self.blue_requests

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class UnitErrors:
    """Users who keep their arm, all those who were drawn at one `chance` of green: their requests up to and with each one's
    first failure, and whose those failures were.
    """

    chance: float
    requests: int
    green_errors: int
    blue_errors: int


def log_e_units_worse(units: Sequence[UnitErrors], margin: float) -> float:
    """Evidence, as ln E, that users meet a failure more often at green than at blue by more than `margin` for each request.

    Rejects H0: at every request of a user who has met no failure yet, green fails with a probability that is at most blue's
    plus the margin. The bets are those of `log_e_worse`, each at its own chance, so a ramp may move the share in between. Where
    green is worse those left without a failure are rather blue's users, and the chance that is reckoned with is too large: that
    can only speak for green.
    """
    growth = []
    for x in _LOG_RATIOS:
        bets = ((one, _stake(one.chance, x)) for one in units)
        growth.append(sum(_growth(u.chance, (u.green_errors, u.blue_errors, _well(u)), stake, margin) for u, stake in bets))
    return _log_mean(growth, _RATIO_WEIGHTS)


def units_difference(units: Sequence[UnitErrors]) -> float | None:
    """Green's rate of first failures less blue's, for each request, by inverse propensity; None before any request."""
    requests = sum(one.requests for one in units)
    scores = sum(one.green_errors / one.chance - one.blue_errors / (1.0 - one.chance) for one in units)
    return scores / requests if requests else None


def units_lower(units: Sequence[UnitErrors], alpha: float) -> float:
    """One-sided lower confidence bound on that difference, within [-0.2, 0.2]."""
    return _bound(lambda margin: log_e_units_worse(units, margin) >= -math.log(alpha), kept=0.2, limit=-0.2)


def log_e_worse(step: StepErrors, margin: float) -> float:
    """Evidence, as ln E, that green's error rate exceeds blue's by more than `margin`; rejects H0: difference <= margin.

    `margin` lies in (-0.2, 0.2]. All of blue's errors count as its own, which can only speak for green.
    """
    counts = (step.green_errors, step.blue_errors, _fine(step))
    growth = [_growth(step.share, counts, _stake(step.share, x), margin) for x in _LOG_RATIOS]
    return _log_mean(growth, _RATIO_WEIGHTS)


def log_e_not_worse(step: StepErrors, margin: float) -> float:
    """Evidence, as ln E, that green's error rate exceeds blue's by less than `margin`; rejects H0: difference >= margin.

    As many of blue's errors as may be shared count for neither arm, which can only speak against green.
    """
    own = max(step.blue_errors - step.shared_errors, 0)
    most = 1.0 / (1.0 / step.share - margin)
    counts = (step.green_errors, own, _fine(step) + step.blue_errors - own)
    return _log_mean([_growth(step.share, counts, -stake * most, margin) for stake in _STAKES], _STAKE_WEIGHTS)


def lower(step: StepErrors, alpha: float) -> float:
    """One-sided lower confidence bound on the difference of the error rates, within [-0.2, 0.2]."""
    return _bound(lambda margin: log_e_worse(step, margin) >= -math.log(alpha), kept=0.2, limit=-0.2)


def upper(step: StepErrors, alpha: float) -> float:
    """One-sided upper confidence bound on the difference of the error rates, within [-0.2, 0.2]."""
    return _bound(lambda margin: log_e_not_worse(step, margin) >= -math.log(alpha), kept=-0.2, limit=0.2)


def more_requests(step: StepErrors, margin: float, alpha: float) -> int | None:
    """About how many more requests of green until it is shown to be not worse, errors going on as they are; None: never.

    The present rates are drawn a little towards the margin, so that early luck does not promise a quick end.
    """
    if step.difference is None:
        return None
    bar = -math.log(alpha)
    green = (step.green_errors + margin) / (step.green_requests + 1.0)
    blue = step.blue_errors / step.blue_requests
    if green - blue >= margin:
        return None
    per_green = (1.0 - step.share) / step.share  # requests of blue for each of green

    def enough(more: float) -> bool:
        after = StepErrors(
            step.share,
            round(step.green_requests + more),
            round(step.green_errors + more * green),
            round(step.blue_requests + more * per_green),
            round(step.blue_errors + more * per_green * blue),
            step.shared_errors,
        )
        return log_e_not_worse(after, margin) >= bar

    if enough(0.0):
        return 0
    high = 16
    while not enough(high):
        high *= 2
        if high > 1 << 32:
            return None
    low = high // 2
    while high - low > max(high // 50, 1):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _fine(step: StepErrors) -> int:
    return max(step.requests - step.green_errors - step.blue_errors, 0)


def _well(units: UnitErrors) -> int:
    return max(units.requests - units.green_errors - units.blue_errors, 0)


def _stake(share: float, log_ratio: float) -> float:
    """What the likelihood of a ratio of error rates bets on Z, at a share of green."""
    odds = math.expm1(log_ratio)
    return share * (1.0 - share) * odds / (1.0 + share * odds)


def _growth(share: float, counts: tuple[int, int, int], stake: float, margin: float) -> float:
    """Logarithm of the fortune after so many requests, betting `stake` (of either sign) on Z - margin; `counts` are those
    that failed at green, at blue, and the others.
    """
    gains = (stake * (1.0 / share - margin), -stake * (1.0 / (1.0 - share) + margin), -stake * margin)
    total = 0.0
    for count, gain in zip(counts, gains, strict=True):
        if count:
            if gain <= -1.0:
                return -math.inf
            total += count * math.log1p(gain)
    return total


def _log_mean(growth: list[float], weights: tuple[float, ...]) -> float:
    most = max(growth)
    if most == -math.inf:
        return -math.inf
    return most + math.log(sum(w * math.exp(g - most) for g, w in zip(growth, weights, strict=True)))


def _bound(rejects: Callable[[float], bool], *, kept: float, limit: float) -> float:
    """Where a monotone test turns; the rejected end of the last bracket, or `limit` where even that is kept."""
    if rejects(kept):
        return kept
    if not rejects(limit):
        return limit
    for _ in range(_HALVINGS):
        middle = 0.5 * (kept + limit)
        kept, limit = (kept, middle) if rejects(middle) else (middle, limit)
    return limit
