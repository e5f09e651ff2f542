"""What the mirror saw of one exchange: the records between sending (mirror) and judging (evidence).

Nothing is decoded here. Bodies are payloads without chunk framing, content-codings still on. Times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping

from models.record import record


@record
class Outcome:
    """How one server answered one request.

    `failure` is None for a whole answer with any status, else `connect`, `timeout`, `broken` or `too large`, and `status` is 0
    when not even a head came. `first_ms` and `total_ms` count from the moment the request was sent. `gaps_ms` are the times
    between the pieces of a body that came in several (a stream), bounded in number. `truncated`: only the beginning of the body
    was kept.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    first_ms: float
    total_ms: float
    gaps_ms: tuple[float, ...] = ()
    failure: str | None = None
    truncated: bool = False

    @property
    def well(self) -> bool:
        """Whether the server did its part: a whole answer that is not a 5xx."""
        return self.failure is None and self.status < 500


@record
class Observation:
    """One exchange with its twin.

    `live` says which colour the client's own answer came from (`blue` or `green`): that side's Outcome was measured by a
    worker, the other side's by the mirror. `again` is blue's second answer, for a noise pair, and `green_again` then green's
    when its first was the client's: `again` and green's answer that is not the client's were sent by the same loop in the same
    way, so those two latencies are comparable. `revision` is the plan's, `started` seconds since the epoch. `fell_back`: the
    client's own request had been sent to green first, which failed.
    """

    release: int
    revision: int
    request_id: str
    started: float
    method: str
    path: str
    request_headers: Mapping[str, str]
    request_body: bytes
    live: str
    blue: Outcome
    green: Outcome
    again: Outcome | None = None
    fell_back: bool = False
    green_again: Outcome | None = None

    @property
    def mirrored_green(self) -> Outcome | None:
        """Green's answer to the mirror, if there is one."""
        return self.green if self.live == "blue" else self.green_again
