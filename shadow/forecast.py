"""About how many more observations a gate needs, if things go on as they are.

The e-value of a count-based test can be computed for counts that are not there yet. So the answer is the least number of
further observations, arriving at the present rate, that carries the e-value to 1/alpha. The present rate is first drawn a
little towards the gate's threshold (one observation's weight), so that early luck does not promise a quick end. The real
number scatters widely about the answer: the median is about three quarters of it, the 90th percentile one and a half times.
None means that, as things stand, the gate will never be decided in the asked direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from shadow.paired import paired_log_e_above
from shadow.sequential import bernoulli_log_e_above, log_threshold

# Beyond this many the honest answer is "never", at any traffic this router sees.
MOST = 10**12


def more_for_rate(successes: int, failures: int, p0: float, alpha: float) -> int | None:
    """Further observations until H0: rate <= p0 is rejected (`bernoulli_log_e_above`), at the present shrunken rate.

    0 when it already is; None without observations or while the rate is at or below p0. For the other direction swap
    the counts and give 1 - p0.
    """
    n = successes + failures
    bar = log_threshold(alpha)
    rate = (successes + p0) / (n + 1.0)
    if n == 0 or rate <= p0:
        return None
    return _least(lambda m: float(bernoulli_log_e_above(successes + m * rate, failures + m * (1.0 - rate), p0)), bar)


def more_for_mcnemar(worse: int, better: int, same: int, alpha: float, margin: float = 0.0) -> int | None:
    """Further pairs until "P(worse) - P(better) > margin" is shown (H0: <= margin), at the present shares.

    For "not worse by the margin" swap worse and better and give -margin. 0 when it already is; None without pairs or
    while the difference is on the wrong side of the margin.
    """
    n = worse + better + same
    bar = log_threshold(alpha)
    # Half a pair in each direction: shares that are 0 so far do not stay 0 for ever.
    w, b = (worse + 0.5) / (n + 1.0), (better + 0.5) / (n + 1.0)
    if n == 0 or w - b <= margin:
        return None
    if margin == 0.0:
        return _least(lambda m: float(bernoulli_log_e_above(worse + m * w, better + m * b, 0.5)), bar)
    z = 1.0 - w - b
    return _least(lambda m: float(paired_log_e_above(worse + m * w, better + m * b, same + m * z, margin)), bar)


def more_for_interval(n: int, estimate: float, bound: float, threshold: float) -> int | None:
    """Further observations until the interval's end that is now at `bound` passes `threshold`, for any other method.

    The half width |estimate - bound| shrinks nearly as 1/sqrt(n) in every method here. 0 when the bound has passed it
    already; None while the estimate itself is on the wrong side, or there is no bound yet.
    """
    if n <= 0 or not math.isfinite(bound) or not math.isfinite(estimate) or estimate == bound:
        return None
    reach, room = estimate - bound, estimate - threshold
    if reach * room <= 0.0:
        return None
    if abs(room) >= abs(reach):
        return 0
    more = math.ceil(n * ((reach / room) ** 2 - 1.0))
    return more if more <= MOST else None


def _least(log_e_after: Callable[[float], float], bar: float) -> int | None:
    """The least m with log_e_after(m) >= bar, by doubling and halving; None beyond MOST."""
    if log_e_after(0.0) >= bar:
        return 0
    high = 1
    while log_e_after(high) < bar:
        high *= 2
        if high > MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if log_e_after(middle) >= bar:
            high = middle
        else:
            low = middle
    return high
