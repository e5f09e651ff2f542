"""How long both arms take.

A decision needs two times that were measured alike. The live answer was timed by a worker under its own load, its twin by the
mirror in another process: those two are not comparable. So only noise pairs count here, whose two twins the mirror sent
itself, one after the other in random order. Quantiles of both come from histograms, their differences and ratios from two
confidence sequences at half the level; the median of the paired difference, which is much sharper because what both share
cancels, from a sign test. The live times stand beside them for looking.

Left out: gaps between the pieces of a stream have no interval. Those of one answer depend on each other, and no bound here
would hold for them; tokens per second are one number for each answer and have one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from shadow.intervals import rate_intervals
from shadow.observation import Outcome
from shadow.packing import pack_histogram, unpack_histogram
from shadow.paired import McNemar
from shadow.quantiles import PRIOR_WEIGHT, Histogram, SignTest
from shadow.sequential import AsymptoticMean, Interval, log_threshold

LEVELS: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
CURVE: Final = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
# A microsecond to twelve days, in milliseconds.
_EXPONENTS: Final = (-10, 30)

GATHERED: Final = 512
Document = dict[str, Any]


def _histogram(signed: bool = False) -> Histogram:
    return Histogram(signed, *_EXPONENTS)


@lru_cache(maxsize=64)
def quantile_ranks(n: int, p: float, alpha: float) -> tuple[int, int]:
    """`quantiles.order_statistic_ranks` of one n: the same two ranks by halving over whole counts, a hundred times faster.

    ln E(k), the evidence that k of n values at or below a point is not what level p gives, is convex with its least value
    near np, so on each side of it the counts that are refuted begin at one place.
    """
    a, b = PRIOR_WEIGHT * p, PRIOR_WEIGHT * (1.0 - p)
    bar = log_threshold(alpha)
    constant = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b) + math.lgamma(a + b + n)

    def refuted(k: int) -> bool:
        log_beta = math.lgamma(a + k) + math.lgamma(b + n - k) - constant
        return log_beta - k * math.log(p) - (n - k) * math.log1p(-p) >= bar

    low, high = 0, n + 1
    kept, out = math.floor(n * p), 0
    if refuted(0):
        while kept - out > 1:
            middle = (kept + out) // 2
            kept, out = (kept, middle) if refuted(middle) else (middle, out)
        low = out + 1
    kept, out = math.ceil(n * p), n
    if refuted(n):
        while out - kept > 1:
            middle = (kept + out) // 2
            kept, out = (kept, middle) if refuted(middle) else (middle, out)
        high = out
    return low, high


def _bounds(histogram: Histogram, p: float, alpha: float) -> Interval:
    """As `Histogram.quantile_interval` has it."""
    low, high = quantile_ranks(histogram.n, p, alpha)
    return Interval(
        histogram.order_statistic(low).low if low >= 1 else -math.inf if histogram.signed else 0.0,
        histogram.order_statistic(high).high if high <= histogram.n else math.inf,
    )


class ArmPair:
    """One quantity of both arms, a value of each for every pair: quantiles, their differences and ratios."""

    __slots__ = ("blue", "green")

    def __init__(self) -> None:
        self.blue, self.green = _histogram(), _histogram()

    def update(self, blue: float, green: float) -> None:
        """Adds one pair's values, which are finite and not negative."""
        self.blue.update(blue)
        self.green.update(green)

    @property
    def n(self) -> int:
        """Pairs so far."""
        return self.blue.n

    def snapshot(self, alpha: float, unit: str) -> Document:
        """Quantiles of both, and at each level difference and ratio with their intervals; `unit` is part of a key."""
        blue = {name: _bounds(self.blue, p, alpha / 2.0) for name, p in LEVELS.items()} if self.n else {}
        green = {name: _bounds(self.green, p, alpha / 2.0) for name, p in LEVELS.items()} if self.n else {}
        points = {name: (self.blue.quantile(p), self.green.quantile(p)) for name, p in LEVELS.items()}
        differences, ratios = {}, {}
        for name, (b, g) in points.items():
            around_blue, around_green = blue.get(name, Interval(0.0, math.inf)), green.get(name, Interval(0.0, math.inf))
            difference = Interval(around_green.low - around_blue.high, around_green.high - around_blue.low)
            ratio = Interval(
                around_green.low / around_blue.high if around_blue.high > 0.0 else 0.0,
                around_green.high / around_blue.low if around_blue.low > 0.0 else math.inf,
            )
            if b is None or g is None:
                b = g = math.nan
            differences[name] = {"estimate": g - b, "ci": difference.to_json()}
            ratios[name] = {"estimate": g / b if b else None, "ci": ratio.to_json()}
        return {
            "n": self.n,
            "blue": {name: b for name, (b, _) in points.items()},
            "green": {name: g for name, (_, g) in points.items()},
            f"difference{unit}": differences,
            "ratio": ratios,
        }

    def to_dict(self) -> Document:
        """For the state, as JSON values."""
        return {"blue": pack_histogram(self.blue), "green": pack_histogram(self.green)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> ArmPair:
        """The inverse of `to_dict`."""
        made = cls()
        made.blue, made.green = unpack_histogram(state["blue"]), unpack_histogram(state["green"])
        return made


class Latency:
    """Times of a release, in milliseconds. `warm_up` noise pairs at its start are kept apart; `objective_ms` may be None."""

    __slots__ = (
        "differences", "first_byte", "gaps_blue", "gaps_green", "green_over", "live_blue", "live_green", "log_ratio",
        "mirrored_green", "new", "objective_ms", "over", "seen", "signs", "tokens", "total", "warm", "warm_up",
    )  # fmt: skip

    def __init__(self, warm_up: int = 0, objective_ms: float | None = None) -> None:
        self.warm_up, self.objective_ms = warm_up, objective_ms
        self.seen = 0  # pairs, also those within the warm-up
        self.total, self.first_byte, self.warm, self.tokens = ArmPair(), ArmPair(), ArmPair(), ArmPair()
        self.signs = SignTest()
        self.log_ratio = AsymptoticMean()
        self.differences = _histogram(signed=True)
        self.live_blue, self.live_green, self.mirrored_green = _histogram(), _histogram(), _histogram()
        # Times for looking that are added to the first three in one go; every pair brings two of them.
        self.new: tuple[list[float], list[float], list[float]] = [], [], []
        self.gaps_blue, self.gaps_green = _histogram(), _histogram()
        self.over = McNemar()
        self.green_over = 0

    def update_live(self, live: str, blue: Outcome, green: Outcome) -> None:
        """Adds the client's own answer and its twin, for looking only."""
        live_blue, live_green, mirrored_green = self.new
        if live != "blue":
            _gather(live_green, green)
        else:
            _gather(live_blue, blue)
            _gather(mirrored_green, green)
        if len(live_blue) >= GATHERED or len(live_green) >= GATHERED or len(mirrored_green) >= GATHERED:
            self._add_gathered()

    def _add_gathered(self) -> None:
        for histogram, new in zip((self.live_blue, self.live_green, self.mirrored_green), self.new, strict=True):
            histogram.extend(new)
            new.clear()

    def update_objective(self, blue: Outcome, green: Outcome, blue_served: bool, green_served: bool) -> None:
        """Judges a noise pair by the objective; an answer that did not come is over it."""
        if self.objective_ms is None or self.seen < self.warm_up:
            return
        green_over = not green_served or green.total_ms > self.objective_ms
        self.over.update(green_over, not blue_served or blue.total_ms > self.objective_ms)
        self.green_over += green_over

    def update_pair(self, blue: Outcome, green: Outcome) -> None:
        """Adds a noise pair's twins, both served: blue's second answer and green's."""
        if not (_timed(blue) and _timed(green)):
            return
        self.seen += 1
        b, g = blue.total_ms, green.total_ms
        if self.seen <= self.warm_up:
            self.warm.update(b, g)
            return
        self.total.update(b, g)
        self.differences.update(g - b)
        self.signs.update(g - b)
        if b > 0.0 and g > 0.0:
            self.log_ratio.update(math.log(g / b))
        if math.isfinite(blue.first_ms) and math.isfinite(green.first_ms) and blue.first_ms > 0.0 and green.first_ms > 0.0:
            self.first_byte.update(blue.first_ms, green.first_ms)

    def update_stream(self, blue: Outcome, green: Outcome, blue_tokens: int | None, green_tokens: int | None) -> None:
        """Adds what only streamed answers have: gaps between their pieces, and tokens per second after the first."""
        if self.seen <= self.warm_up:
            return
        for histogram, outcome in ((self.gaps_blue, blue), (self.gaps_green, green)):
            for gap in outcome.gaps_ms:
                if 0.0 <= gap < math.inf:
                    histogram.update(gap)
        rates = _tokens_per_second(blue, blue_tokens), _tokens_per_second(green, green_tokens)
        if rates[0] is not None and rates[1] is not None:
            self.tokens.update(rates[0], rates[1])

    def snapshot(self, alpha: float) -> Document:
        """The section `latency` of the evidence."""
        self._add_gathered()
        paired = self.total.snapshot(alpha, "_ms")
        paired["first_byte"] = self.first_byte.snapshot(alpha, "_ms")
        paired["median"] = self._median(alpha)
        mean = self.log_ratio.interval(alpha)
        paired["mean_ratio"] = {
            "estimate": math.exp(self.log_ratio.mean) if self.log_ratio.n else None,
            "ci": Interval(math.exp(mean.low), math.exp(min(mean.high, 700.0)) if mean.high < math.inf else math.inf).to_json(),
        }
        paired["curve"] = {
            "levels": list(CURVE),
            "blue": [self.total.blue.quantile(p) for p in CURVE],
            "green": [self.total.green.quantile(p) for p in CURVE],
            "difference": [self.differences.quantile(p) for p in CURVE],
        }
        return {
            "paired": paired,
            "live": {"blue": _looked_at(self.live_blue), "green": _looked_at(self.live_green)},
            "mirrored": {"green": _looked_at(self.mirrored_green)},
            "warm_up": {
                "n": self.warm.n,
                "of": self.warm_up,
                "blue": _looked_at(self.warm.blue),
                "green": _looked_at(self.warm.green),
            },
            "objective": self._objective(alpha),
            "streams": {
                "gaps_ms": {"blue": _looked_at(self.gaps_blue), "green": _looked_at(self.gaps_green)},
                "tokens_per_second": self.tokens.snapshot(alpha, ""),
            },
        }

    def _median(self, alpha: float) -> Document:
        """The median of green's time less blue's on the same request."""
        slower, faster = self.signs.log_e_above(), self.signs.log_e_below()
        bar = log_threshold(alpha)
        around = _bounds(self.differences, 0.5, alpha) if self.differences.n else Interval(-math.inf, math.inf)
        return {
            "n": self.signs.n,
            "difference_ms": self.differences.quantile(0.5),
            "ci": around.to_json(),
            "slower": self.signs.above.successes,
            "faster": self.signs.below.successes,
            "log_e_slower": slower,
            "log_e_faster": faster,
            "decided": "green is slower" if slower >= bar else "green is faster" if faster >= bar else None,
        }

    def _objective(self, alpha: float) -> Document | None:
        if self.objective_ms is None:
            return None
        n, over = self.over.n, self.over
        green_over, blue_over = self.green_over, self.green_over - over.worse + over.better
        blue_ci, green_ci = rate_intervals([(n - blue_over, blue_over), (n - green_over, green_over)], alpha)
        return {
            "latency_ms": self.objective_ms,
            "n": n,
            "blue": {"within": n - blue_over, "rate": (n - blue_over) / n if n else None, "ci": blue_ci},
            "green": {"within": n - green_over, "rate": (n - green_over) / n if n else None, "ci": green_ci},
            "worse": over.worse,
            "better": over.better,
            "same": over.same,
            "log_e_worse": over.log_e_above(),
        }

    def to_dict(self) -> Document:
        """For the state, as JSON values."""
        self._add_gathered()
        return {
            "seen": self.seen,
            "objective_ms": self.objective_ms,
            "green_over": self.green_over,
            "over": self.over.to_dict(),
            "signs": self.signs.to_dict(),
            "log_ratio": self.log_ratio.to_dict(),
            **{name: getattr(self, name).to_dict() for name in _PAIRS},
            **{name: pack_histogram(getattr(self, name)) for name in _HISTOGRAMS},
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], warm_up: int = 0, objective_ms: float | None = None) -> Latency:
        """The inverse of `to_dict`; the settings are given anew. What was held against another objective is forgotten."""
        made = cls(warm_up, objective_ms)
        made.seen = int(state["seen"])
        if state["objective_ms"] == objective_ms:
            made.green_over, made.over = int(state["green_over"]), McNemar.from_dict(state["over"])
        made.signs = SignTest.from_dict(state["signs"])
        made.log_ratio = AsymptoticMean.from_dict(state["log_ratio"])
        for name in _PAIRS:
            setattr(made, name, ArmPair.from_dict(state[name]))
        for name in _HISTOGRAMS:
            setattr(made, name, unpack_histogram(state[name]))
        return made


_PAIRS: Final = ("total", "first_byte", "warm", "tokens")
_HISTOGRAMS: Final = ("differences", "live_blue", "live_green", "mirrored_green", "gaps_blue", "gaps_green")


def _timed(outcome: Outcome) -> bool:
    # an answer that the mirror cut off was not waited for
    return not outcome.truncated and 0.0 <= outcome.total_ms < math.inf


def _gather(new: list[float], outcome: Outcome) -> None:
    if 0.0 <= outcome.total_ms < math.inf and not outcome.truncated:
        new.append(outcome.total_ms)


def _tokens_per_second(outcome: Outcome, tokens: int | None) -> float | None:
    """The pace after the first token, whose wait is the time to the first byte; None where there is none to measure."""
    seconds = (outcome.total_ms - outcome.first_ms) / 1e3
    if tokens is None or tokens < 2 or not 0.0 < seconds < math.inf:
        return None
    return (tokens - 1) / seconds


def _looked_at(histogram: Histogram) -> Document:
    return {"n": histogram.n, **{name: histogram.quantile(p) for name, p in LEVELS.items()}}
