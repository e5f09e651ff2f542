"""Green judged against blue's own noise.

A model server need not agree with itself: sampling, batching, floating point in another order. So a share of the mirrored
requests goes to blue a second time. For such a request there are three answers: P, blue's to the client; S, blue's second;
C, green's. The question is not "how often does green differ from P" but "does green differ from P more often than blue
itself does". Both are differences from the same P, so they are paired, and only requests on which they part speak: green
differs where blue agrees (worse), or the reverse (better). If green is as good as a second blue, S and C are
exchangeable, and the two are equally likely whatever the request: McNemar's test is exact.

Answers that are alike by degrees (vectors, numbers, text) are compared by how much less similar green is, sim(P,S) -
sim(P,C), a number in [-1, 1], by betting on its mean. A field-by-field threshold on raw minus noise counts, as traffic
comparison tools use, controls no error: with 5 % noise on both sides it cries wolf in a quarter of runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shadow.bounded import Betting
from shadow.forecast import more_for_mcnemar
from shadow.paired import McNemar
from shadow.sequential import Bernoulli, Interval, log_threshold


@dataclass(frozen=True, slots=True)
class SimilarityNoise:
    """How much less similar to P green is than blue's second answer: mean of sim(P,S) - sim(P,C), in [-1, 1].

    `less` and `not_less` are decisions at `margin`: green is shown to lose more similarity than it, or less than it.
    """

    n: int
    mean: float
    interval: Interval
    margin: float
    log_e_less: float
    log_e_not_less: float
    less: bool
    not_less: bool


@dataclass(frozen=True, slots=True)
class NoiseSnapshot:
    """What the noise pairs say at this moment.

    `n` requests with all three answers. `blue_agreement` is the share on which blue agrees with itself, `green_agreement`
    the share, of the same requests, on which green agrees with P; each with its interval. `excess` is how much more often
    green differs than blue does, with its interval. `worse`: that this exceeds 0 is shown (H0: it is <= 0).
    `not_worse`: that it stays below `margin` is shown (H0: it is >= margin). Neither: not enough evidence yet, and
    `more` is about how many further noise pairs the nearer of the two needs (None: cannot be said).
    """

    n: int
    worse_pairs: int
    better_pairs: int
    blue_agreement: float | None
    blue_interval: Interval
    green_agreement: float | None
    green_interval: Interval
    excess: float | None
    excess_interval: Interval
    margin: float
    log_e_worse: float
    log_e_not_worse: float
    worse: bool
    not_worse: bool
    more: int | None
    similarity: SimilarityNoise | None

    def in_words(self) -> str:
        """One or two sentences for a reader who has not read the manual."""
        if not self.n or self.blue_agreement is None or self.excess is None:
            return "Blue has not yet been compared with itself: no noise pairs."
        noise = f"Blue differs from itself on {100 * (1 - self.blue_agreement):.2g} % of {self.n} requests. "
        if self.worse:
            return noise + f"Green differs more often than that, by about {100 * self.excess:.2g} points."
        if self.not_worse:
            return noise + f"Green differs no more often than that, to within {100 * self.margin:.2g} points."
        more = "" if self.more is None else f", about {self.more} more noise pairs"
        return noise + f"Whether green differs more often cannot be said yet{more}."


class NoiseComparison:
    """Running comparison of green's disagreement with blue's own; bounded memory, `update` in a few microseconds.

    `margin` is the excess of disagreement that would be put up with (a rate, such as 0.01), `similarity_margin` the loss
    of similarity; both are fixed beforehand. `alpha` tunes the similarity stakes.
    """

    __slots__ = ("alpha", "blue", "margin", "pairs", "similarity", "similarity_margin")

    def __init__(self, margin: float = 0.01, similarity_margin: float = 0.01, alpha: float = 0.05) -> None:
        if not 0.0 <= margin < 1.0 or not 0.0 <= similarity_margin < 1.0:
            raise ValueError(f"margins {margin}, {similarity_margin}: give what is put up with, from 0 to below 1")
        self.margin, self.similarity_margin, self.alpha = margin, similarity_margin, alpha
        self.pairs = McNemar()
        self.blue = Bernoulli()
        # Differences crowd around 0, which is mapped to 1/2.
        self.similarity = Betting(alpha, spacing="middle", at=(0.5, _to_unit(similarity_margin)))

    def update(
        self,
        green_differs: bool,
        blue_differs: bool,
        green_similarity: float | None = None,
        blue_similarity: float | None = None,
    ) -> None:
        """Adds one noise pair: d_c = [P != C], d_n = [P != S], and where the kind has them sim(P,C), sim(P,S) in [0, 1].

        Raises ValueError when only one similarity is given or one is out of bounds; nothing is counted then.
        """
        if (green_similarity is None) != (blue_similarity is None):
            raise ValueError("give the similarities of both answers or of neither: they are compared in pairs")
        if green_similarity is not None and blue_similarity is not None:
            if not (0.0 <= green_similarity <= 1.0 and 0.0 <= blue_similarity <= 1.0):
                raise ValueError(
                    f"similarities {green_similarity!r} and {blue_similarity!r} must lie in [0, 1]: map a cosine c to (1+c)/2"
                )
            self.similarity.update(_to_unit(blue_similarity - green_similarity))
        self.pairs.update(green_differs, blue_differs)
        self.blue.update(not blue_differs)

    def merge(self, other: NoiseComparison) -> None:
        """Adds another stream's pairs; ValueError when the margins differ."""
        if (self.margin, self.similarity_margin) != (other.margin, other.similarity_margin):
            raise ValueError("only comparisons with the same margins can be joined")
        self.similarity.merge(other.similarity)
        self.pairs.merge(other.pairs)
        self.blue.merge(other.blue)

    @property
    def green(self) -> Bernoulli:
        """Green's agreement with P on the same requests."""
        differs = self.blue.failures - self.pairs.better + self.pairs.worse
        return Bernoulli(self.blue.n - differs, differs)

    def snapshot(self, alpha: float = 0.05) -> NoiseSnapshot:
        """All numbers at level alpha: each decision, and each interval, is wrong at any time with probability <= alpha."""
        pairs, bar = self.pairs, log_threshold(alpha)
        log_e_worse, log_e_not_worse = pairs.log_e_above(0.0), pairs.log_e_below(self.margin)
        to_worse = more_for_mcnemar(pairs.worse, pairs.better, pairs.same, alpha)
        to_not_worse = more_for_mcnemar(pairs.better, pairs.worse, pairs.same, alpha, -self.margin)
        nearer = [more for more in (to_worse, to_not_worse) if more is not None]
        return NoiseSnapshot(
            n=pairs.n,
            worse_pairs=pairs.worse,
            better_pairs=pairs.better,
            blue_agreement=self.blue.rate,
            blue_interval=self.blue.interval(alpha),
            green_agreement=self.green.rate,
            green_interval=self.green.interval(alpha),
            excess=pairs.difference,
            excess_interval=pairs.interval(alpha),
            margin=self.margin,
            log_e_worse=log_e_worse,
            log_e_not_worse=log_e_not_worse,
            worse=log_e_worse >= bar,
            not_worse=log_e_not_worse >= bar,
            more=min(nearer) if nearer else None,
            similarity=self._similarity_snapshot(alpha),
        )

    def _similarity_snapshot(self, alpha: float) -> SimilarityNoise | None:
        bets, bar = self.similarity, log_threshold(alpha)
        if bets.mean is None:
            return None
        at = _to_unit(self.similarity_margin)
        found = bets.interval(alpha)
        above, below = bets.log_e_above(at), bets.log_e_below(at)
        return SimilarityNoise(
            n=bets.n,
            mean=2.0 * bets.mean - 1.0,
            interval=Interval(2.0 * found.low - 1.0, 2.0 * found.high - 1.0),
            margin=self.similarity_margin,
            log_e_less=above,
            log_e_not_less=below,
            less=above >= bar,
            not_less=below >= bar,
        )

    def to_dict(self) -> dict[str, Any]:
        """For a snapshot, as JSON values."""
        return {
            "margin": self.margin,
            "similarity_margin": self.similarity_margin,
            "alpha": self.alpha,
            "pairs": self.pairs.to_dict(),
            "blue": self.blue.to_dict(),
            "similarity": self.similarity.to_dict(),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> NoiseComparison:
        """The inverse of `to_dict`."""
        made = cls(float(state["margin"]), float(state["similarity_margin"]), float(state["alpha"]))
        made.pairs = McNemar.from_dict(state["pairs"])
        made.blue = Bernoulli.from_dict(state["blue"])
        made.similarity = Betting.from_dict(state["similarity"])
        return made


def _to_unit(difference: float) -> float:
    """[-1, 1] onto [0, 1], where betting lives."""
    return 0.5 + 0.5 * difference
