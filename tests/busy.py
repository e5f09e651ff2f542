"""For what can be judged only where nobody was kept waiting for a processor: a busy machine keeps anybody, for seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_time(seconds: float, attempt: Callable[[], T], tries: int = 5) -> T:
    """What `attempt` returns. Should it fail after more than `seconds`, it is made again, at most so many times in all.

    `seconds` is by far more than it takes by itself, and less than what it must not exceed. A failure in time counts.
    """
    while True:
        tries -= 1
        began = time.monotonic()
        try:
            return attempt()
        except Exception:
            if not tries or time.monotonic() - began < seconds:
                raise
