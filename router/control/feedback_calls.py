"""`POST /v1/feedback`: late ground truth, joined to the prediction log.

A small body is a JSON list, a large one CSV or JSON lines, read line by line. Rows are joined some thousands at a time, each
batch in a transaction of its own with a pause after it: the shadow writes to the same store and must come in between. So a
call that breaks off half way has joined what it had read; sending the same text again joins the rest and counts those as
duplicates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from router.control.auth import BODY_LIMIT
from router.control.problems import Json, Problem
from router.feedback import FeedbackError, Rejected, RowReader, TextRows, json_rows
from router.store.exposures import ExposureLog, FeedbackRow
from router.unit_names import UnitNames

FEEDBACK_PATH: Final = "/v1/feedback"
FEEDBACK_LIMIT: Final = 64 << 20
KINDS: Final = {
    "text/csv": "csv",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/x-jsonlines": "ndjson",
}
MAX_REPORTED: Final = 100  # rejected rows that are told with their line; more are only counted
_BATCH: Final = 5_000
_PIECE: Final = 1 << 20  # bytes of a text that are cut into lines at a time
_LONGEST_PAUSE: Final = 0.05

_ROW_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "request_id": {"type": "string", "description": "As x-request-id of the answer gave it."},
        "unit": {"type": "string", "description": "Or the split key: its newest exposure is meant."},
        "at": {"type": "number", "description": "With unit: the newest exposure until then (seconds since the epoch)."},
        "label": {"description": "What was true."},
        "reward": {"type": "number", "description": "What the answer was worth."},
    },
}
_BODY_SCHEMA: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "array", "items": _ROW_SCHEMA}},
            "text/csv": {"schema": {"type": "string"}},
            "application/x-ndjson": {"schema": {"type": "string"}},
        },
    }
}


def feedback_routes(log: ExposureLog, names: UnitNames, now: Callable[[], float] = time.time) -> APIRouter:
    """`/v1/feedback`. Give the application `{FEEDBACK_PATH: FEEDBACK_LIMIT}` as a body limit."""
    routes = APIRouter(tags=["feedback"])

    @routes.post(FEEDBACK_PATH, openapi_extra=_BODY_SCHEMA)
    async def feedback(request: Request) -> Json:
        """Labels and rewards for requests that were answered, as a JSON list (up to 1 MiB), CSV or JSON lines (64 MiB).

        Answers how many rows were `joined`, `replaced` (another value than before), `duplicates` (nothing new), `unknown` (no
        such request in the log; `kept` of them wait for it), and `rejected`, the first hundred with line and reason.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await request.body()
        request_id = request.headers.get("x-request-id")
        if kind == "application/json":
            if len(body) > BODY_LIMIT:
                text = f"a JSON list may be at most {BODY_LIMIT} bytes long; send more rows as text/csv or application/x-ndjson"
                return Problem(413, text, request_id=request_id)
        elif kind not in KINDS:
            text = f"send application/json, text/csv or application/x-ndjson, not {kind or 'a body without Content-Type'}"
            return Problem(415, text, request_id=request_id)
        return Json(await run_in_threadpool(take_feedback, log, names, kind, body, now))

    return routes


def take_feedback(log: ExposureLog, names: UnitNames, kind: str, body: bytes, now: Callable[[], float]) -> dict[str, Any]:
    """Read and join a whole text of a content type. Returns the call's answer; raises FeedbackError, Unavailable."""
    reader = RowReader(names)
    rows = json_rows(body, reader) if kind == "application/json" else _text_rows(TextRows(KINDS[kind], reader), body)
    taken = _Taken(log, now)
    taken.take(rows)
    if not taken.rows:
        raise FeedbackError("there is no row in the body")
    return taken.answer()


def _text_rows(text: TextRows, body: bytes) -> Iterator[FeedbackRow | Rejected]:
    for at in range(0, len(body), _PIECE):
        yield from text.feed(body[at : at + _PIECE])
    yield from text.finish()


class _Taken:
    """What became of the rows so far."""

    def __init__(self, log: ExposureLog, now: Callable[[], float]) -> None:
        self._log, self._now = log, now
        self._batch: dict[tuple[str | None, str | None, float], FeedbackRow] = {}
        self.rows = self._joined = self._unknown = self._duplicates = self._replaced = self._kept = self._refused = 0
        self._told: list[dict[str, Any]] = []

    def take(self, rows: Iterable[FeedbackRow | Rejected]) -> None:
        batch = self._batch
        for row in rows:
            self.rows += 1
            if isinstance(row, tuple):
                self._refused += 1
                if len(self._told) < MAX_REPORTED:
                    self._told.append({"line": row[0], "why": row[1]})
                continue
            key = (row.request_id, row.unit, row.unit_at)
            before = batch.get(key)
            batch[key] = row if before is None else self._merged(before, row)
            if len(batch) >= _BATCH:
                self._join()
        self._join()

    def _merged(self, before: FeedbackRow, row: FeedbackRow) -> FeedbackRow:
        """Two rows of one text about the same request: the later value holds."""
        label = before.label if row.label is None else row.label
        reward = before.reward if row.reward is None else row.reward
        if (label, reward) == (before.label, before.reward):
            self._duplicates += 1
        elif before.label not in (None, label) or before.reward not in (None, reward):
            self._replaced += 1
        else:
            self._joined += 1
        return FeedbackRow(before.line, row.request_id, row.unit, row.unit_at, label, reward)

    def _join(self) -> None:
        if not self._batch:
            return
        begin = time.perf_counter()
        done = self._log.join(list(self._batch.values()), self._now())
        spent = time.perf_counter() - begin
        self._batch.clear()
        self._joined += done.joined
        self._unknown += done.unknown
        self._duplicates += done.duplicates
        self._replaced += done.replaced
        self._kept += done.kept
        # Whoever waits for the write lock asks now and then and is served by no queue: leave a gap that can be hit.
        time.sleep(min(spent / 2, _LONGEST_PAUSE))

    def answer(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "joined": self._joined,
            "replaced": self._replaced,
            "duplicates": self._duplicates,
            "unknown": self._unknown,
            "kept": self._kept,
            "rejected_rows": self._refused,
            "rejected": self._told,
        }
