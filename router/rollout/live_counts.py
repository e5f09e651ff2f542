"""What the workers count of live traffic, as a rollout needs it: tries and failures of each arm.

The counter pages count answers by the arm that gave them, and failures by the arm that failed. A request that green failed
and blue answered stands in blue's answers; here it is a try of green. So, for each arm: its tries are its answers, plus its
failures that became no answer of its own, less, for blue, the answers that it gave in green's place. Counts only grow; a step
is judged by their growth since it began.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from router import counters as c
from router.counters import COLOUR_BASE, CounterPage
from router.rollout.live_errors import StepErrors


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over all workers, ever. `fallbacks` and `skipped` are requests of green that blue answered: after a failure, and
    without asking green because its breaker in the data plane was open.
    """

    green_answers: int = 0
    green_server_errors: int = 0
    green_failures: int = 0
    blue_answers: int = 0
    blue_server_errors: int = 0
    blue_failures: int = 0
    fallbacks: int = 0
    skipped: int = 0

    def since(self, base: Counts) -> Counts:
        """The growth since `base`."""
        return Counts(*(getattr(self, name) - getattr(base, name) for name in Counts.__slots__))

    def went_back(self, base: Counts) -> bool:
        """Whether a count is smaller than it was: a page was lost, and growth since `base` means nothing."""
        return any(getattr(self, name) < getattr(base, name) for name in Counts.__slots__)

    @property
    def green_tries(self) -> int:
        """Requests that green was tried for; a failure that is also an answer (a 5xx passed on) is one try."""
        return self.green_answers + max(self.green_failures - self.green_server_errors, 0)

    @property
    def blue_tries(self) -> int:
        """Requests that blue was tried for in the first place."""
        own = self.blue_answers - self.fallbacks - self.skipped
        return max(own + max(self.blue_failures - self.blue_server_errors, 0), 0)

    def step_errors(self, share: float) -> StepErrors:
        """These counts, of one step at green's `share` (0 to 1), for the test of live errors."""
        return StepErrors(
            share,
            self.green_tries,
            min(self.green_failures, self.green_tries),
            max(self.blue_tries, self.blue_failures),
            self.blue_failures,
            shared_errors=min(self.fallbacks, self.blue_failures),
        )


NO_COUNTS = Counts()


def read_counts(pages: Iterable[CounterPage]) -> Counts:
    """The sums of the pages of all workers, ended ones too."""
    blue, green = COLOUR_BASE
    totals = [0] * 8
    for page in pages:
        words = page.words
        # Failures before answers: what is counted between the two reads is then an answer without a failure, not the reverse.
        found = (
            words[green + c.ERRORS],
            words[blue + c.ERRORS],
            words[green + c.FALLBACKS],
            words[green + c.SKIPPED],
            sum(words[green + c.STATUS + 1 : green + c.STATUS + 5]),
            words[green + c.STATUS + 4],
            sum(words[blue + c.STATUS + 1 : blue + c.STATUS + 5]),
            words[blue + c.STATUS + 4],
        )
        totals = [total + part for total, part in zip(totals, found, strict=True)]
    green_failures, blue_failures, fallbacks, skipped, green_answers, green_5xx, blue_answers, blue_5xx = totals
    return Counts(
        green_answers, green_5xx, green_failures, blue_answers, blue_5xx, blue_failures, fallbacks=fallbacks, skipped=skipped
    )
