"""From frames to the prediction log: who met which arm, under which plan, and what came of it.

Each frame becomes one row: the unit as the split key names it, the arm that the plan gave the request to, and how it ended. The
arm is the one *meant*, whoever answered in the end: a request that blue answered because green failed, or because green's
breaker was open, stays green's, or a failing green would look as good as blue. With a key that is recomputed from the hash.
While traffic is split the answer is read as well, so that a label can be held against it; for mirrored pairs what both arms
decided comes from the comparison, which has read both.

Rows are gathered and written by a thread twice a second. What cannot be written is kept and tried again, up to a bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from time import monotonic, time
from typing import Final

from models.framing import FramingError, unframed
from models.http1 import HttpError, RequestHead, field_value
from models.http1_response import parse_response
from models.predictions.decode import read_response
from models.predictions.prediction import Decoded, InBandError, Options, Unreadable, Wire
from models.tasks import spawn
from router.errors import PlanError, Unavailable
from router.plan import Plan
from router.proxy.routing import KeyOf, key_reader
from router.split import bucket, green_buckets
from router.store.exposures import FELL_BACK, KEYED, RETRY, SCHEME_SHIFT, Decisions, ExposureLog, ExposureRow
from router.unit_names import UnitNames
from shadow import frame as frames
from shadow.answers import Reading
from shadow.decisions import decision_words, summary
from shadow.fields import MAX_FIELDS, MAX_HEAD, request_head
from shadow.frame import Frame
from shadow.observation import Observation

_log = logging.getLogger("exposures")

WRITE_SECONDS: Final = 0.5
MAX_WAITING: Final = 50_000  # rows that wait to be written; more are lost, and counted
_REVISIONS: Final = 256
_GREEN: Final = 1


@dataclass(frozen=True, slots=True)
class _Assignment:
    """How a plan revision assigns: green's share (0 to 1) in 10,000 `buckets`, and by which key, if any. `scheme` is a number
    for the key and the salt.
    """

    share: float
    buckets: int
    key_of: KeyOf | None
    salt: bytes
    scheme: int

    @classmethod
    def of(cls, plan: Plan) -> _Assignment:
        buckets = green_buckets(plan.split.green_percent) if plan.green is not None else 0
        key, salt = plan.split.key, plan.split.salt.encode()
        scheme = int.from_bytes(blake2b(f"{key}\0".encode() + salt, digest_size=2).digest(), "big") if key is not None else 0
        return cls(buckets / 10_000, buckets, key_reader(key), salt, scheme)


_UNKNOWN: Final = _Assignment(0.0, 0, None, b"", 0)


class Exposures:
    """Gathers rows and writes them. For one event loop; `flush` returns at once, `close` waits."""

    def __init__(self, log: ExposureLog, names: UnitNames, options: Options) -> None:
        self._log = log
        self._names = names
        self._options = options
        self._revisions: OrderedDict[int, _Assignment] = OrderedDict()
        self._rows: list[ExposureRow] = []
        self._places: dict[str, int] = {}  # request id -> its row; of equal ids the first, which is the one that will be kept
        self._decisions: dict[str, Decisions] = {}
        self._task: asyncio.Task[None] | None = None
        self._written_at = 0.0
        self._complained = False
        self.lost = 0  # rows for which there was no room
        self.unreadable = 0  # frames whose head is none
        self.repeated = 0  # rows whose request id was in the log already

    def obey(self, plan: Plan) -> None:
        """Know the plan of a revision."""
        self._remember(plan.revision, _Assignment.of(plan))

    def take(self, frame: Frame) -> None:
        """Make a frame a row."""
        if len(self._rows) >= MAX_WAITING:
            self.lost += 1
            return
        try:
            row = self._row(frame)
        except (HttpError, FramingError, ValueError):
            self.unreadable += 1
        else:
            self._places.setdefault(row.request_id, len(self._rows))
            self._rows.append(row)

    def compared(self, observation: Observation, readings: tuple[Reading, Reading]) -> None:
        """What both arms of a mirrored exchange decided."""
        one, other = readings
        blue = one.answer if one.served and isinstance(one.answer, Decoded) else None
        green = other.answer if other.served and isinstance(other.answer, Decoded) else None
        blue_words = None if blue is None else decision_words(blue)
        green_words = None if green is None else decision_words(green)
        live, words = (green, green_words) if observation.live == "green" else (blue, blue_words)
        told = None if live is None else summary(live, words)
        if told is None and not blue_words and not green_words:
            return
        name = observation.request_id
        place = self._places.get(name)
        if place is not None:
            # Its row has not been written yet: what is added now costs no second statement.
            row = self._rows[place]
            if told is not None:
                row.prediction = told
            if blue_words is not None:
                row.blue = blue_words
            if green_words is not None:
                row.green = green_words
        elif len(self._decisions) < MAX_WAITING:
            self._decisions[name] = (name, blue_words, green_words, told)

    # --- one row ---

    def _row(self, frame: Frame) -> ExposureRow:
        assigned = self._revisions.get(frame.revision) or self._look_up(frame.revision)
        head = request_head(frame.request_head)
        unit, green = None, frame.colour == _GREEN or bool(frame.flags & frames.FELL_BACK)
        flags = RETRY if _is_retry(frame.request_head) else 0
        if assigned.key_of is not None:
            flags |= KEYED | assigned.scheme << SCHEME_SHIFT
            key = assigned.key_of(head, self._request_body(frame, head))
            if key is not None:
                unit = self._names.name(key)
                green = green or bucket(key, assigned.salt) < assigned.buckets
        if green and frame.colour != _GREEN:
            flags |= FELL_BACK
        status = int(frame.response_head[9:12]) if frame.response_head else 0
        error = status >= 500 or status == 0 or bool(flags & FELL_BACK)
        words = told = None
        if 0.0 < assigned.share < 1.0 and frame.response_head:
            answer = self._answer(frame, head)
            if isinstance(answer, Decoded):
                words = decision_words(answer)
                told = summary(answer, words)
            error = error or isinstance(answer, InBandError)
        by_green = frame.colour == _GREEN
        return ExposureRow(
            request_id=frame.request_id.decode("ascii", "replace"),
            release=frame.release,
            revision=frame.revision,
            share=assigned.share,
            unit=unit,
            arm="green" if green else "blue",
            flags=flags,
            status=status,
            error=error,
            latency_ms=round(frame.total_ms, 3),
            at=round(frame.started, 3),
            prediction=told,
            blue=None if by_green else words,
            green=words if by_green else None,
        )

    @staticmethod
    def _request_body(frame: Frame, head: RequestHead) -> bytes:
        return unframed(frame.request_body, head.length) if frame.request_body else b""

    def _answer(self, frame: Frame, head: RequestHead) -> Decoded | Unreadable | None:
        answered = parse_response(frame.response_head, head.method, MAX_HEAD, MAX_FIELDS)
        if answered is None:
            return None
        return read_response(
            Wire(
                head.method.decode("ascii"),
                head.target.decode("ascii"),
                head.fields(),
                self._request_body(frame, head),
                answered.status,
                answered.fields(),
                unframed(frame.response_body, answered.length),
                bool(frame.flags & frames.RESPONSE_CUT),
            ),
            self._options,
        )

    def _look_up(self, revision: int) -> _Assignment:
        """A revision that came and went between two looks at the plan page: the history has it, or soon will."""
        try:
            plan = self._log.plan_at(revision)
        except (Unavailable, PlanError):
            plan = None
        if plan is None:
            return _UNKNOWN
        assigned = _Assignment.of(plan)
        self._remember(revision, assigned)
        return assigned

    def _remember(self, revision: int, assigned: _Assignment) -> None:
        self._revisions[revision] = assigned
        while len(self._revisions) > _REVISIONS:
            self._revisions.popitem(last=False)

    def counts(self) -> dict[str, int]:
        """What did not come into the log since the shadow's start, by reason."""
        return {"lost": self.lost, "unreadable": self.unreadable, "repeated_ids": self.repeated}

    # --- writing ---

    def flush(self) -> None:
        """Begin to write what waits, if it is time and nothing is being written."""
        now = monotonic()
        if now - self._written_at < WRITE_SECONDS or self._task is not None or not (self._rows or self._decisions):
            return
        self._written_at = now
        self._task = spawn(self._write(), "exposures")

    async def close(self) -> None:
        """Write everything, or say what was lost."""
        if self._task is not None:
            await asyncio.wait([self._task])
        if self._rows or self._decisions:
            await self._write()
        if self._rows:
            _log.error("%d rows of the prediction log could not be written", len(self._rows))

    async def _write(self) -> None:
        rows, self._rows, self._places = self._rows, [], {}
        decisions, self._decisions = self._decisions, {}
        try:
            self.repeated += await asyncio.to_thread(self._log.add, rows, list(decisions.values()), time())
            self._complained = False
        except Unavailable as error:
            self._rows = rows + self._rows
            self._places = {}
            for place, row in enumerate(self._rows):
                self._places.setdefault(row.request_id, place)
            self._decisions = {**decisions, **self._decisions}
            if not self._complained:
                _log.error("the prediction log waits: %s", error)
            self._complained = True
        finally:
            self._task = None


def _is_retry(head: bytes) -> bool:
    value = field_value(head, b"x-stainless-retry-count")
    return value is not None and value.strip() not in (b"", b"0")
