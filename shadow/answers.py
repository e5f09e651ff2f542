"""One side of an observation, read: its predictions, or why there are none and whose fault that is.

An arm has *served* a request when its answer is whole, 2xx, and carries no error inside. It *failed* when there was no answer,
a 5xx, or an error inside a 2xx. Between the two lies the refusal (3xx, 4xx): an answer that says no. Who is to blame follows
from both sides: an arm is blamed only where the other one served the same request. So a refusal of what blue serves counts
against green like a crash does (a wrong model name answers 404 to everything), and a 500 for a request that blue refuses with
400 counts against nobody, since many servers answer 500 to what is the client's mistake.
"""

from __future__ import annotations

from enum import StrEnum

from models.predictions.decode import read_response
from models.predictions.prediction import Decoded, InBandError, Options, Reason, Unreadable, Wire
from models.record import record
from shadow.observation import Observation, Outcome


class Blame(StrEnum):
    """Who did not do its part in a pair."""

    NOBODY = "nobody"  # both served
    GREEN = "green"  # green did not serve what blue served
    BLUE = "blue"
    BOTH = "both"  # neither served, and at least one of them failed
    REFUSED = "refused"  # both refused: the client's mistake


@record
class Reading:
    """One answer, read. `trouble` says in a few words why the arm did not serve the request; empty when it did."""

    answer: Decoded | Unreadable
    served: bool
    failed: bool
    trouble: str = ""


def read(observation: Observation, outcome: Outcome, options: Options) -> Reading:
    """Read the answer of one side. Never raises, whatever the bytes."""
    failure = outcome.failure
    if failure == "too large":  # a bound of the mirror's, no fault of the server's
        return Reading(Unreadable(Reason.TOO_LARGE), served=200 <= outcome.status < 300, failed=False)
    if failure is not None:
        return Reading(Unreadable(Reason.STATUS, failure), served=False, failed=True, trouble=failure)
    answer = read_response(wire(observation, outcome), options)
    if not 200 <= outcome.status < 300:
        return Reading(answer, served=False, failed=outcome.status >= 500, trouble=str(outcome.status))
    if isinstance(answer, InBandError):
        return Reading(answer, served=False, failed=True, trouble=f"error inside a {outcome.status}: {answer.detail[:100]}")
    return Reading(answer, served=True, failed=False)


def wire(observation: Observation, outcome: Outcome) -> Wire:
    """The request with one side's answer, as the decoders take it."""
    return Wire(
        observation.method,
        observation.path,
        observation.request_headers,
        observation.request_body,
        outcome.status,
        outcome.headers,
        outcome.body,
        outcome.truncated,
    )


def blame(blue: Reading, green: Reading) -> Blame:
    """Who did not do its part; see the module."""
    if blue.served and green.served:
        return Blame.NOBODY
    if blue.served:
        return Blame.GREEN
    if green.served:
        return Blame.BLUE
    return Blame.BOTH if blue.failed or green.failed else Blame.REFUSED


def is_client_retry(observation: Observation) -> bool:
    """Whether the client says that this request repeats one it sent before (`x-stainless-retry-count`)."""
    count = observation.request_headers.get("x-stainless-retry-count")
    return count is not None and count.strip() not in ("", "0")
