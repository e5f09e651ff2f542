"""The prediction log and the feedback that is joined to it: who met which arm, what came of it, and what was true.

Everything here is set-based: a batch goes to SQLite as one JSON text and each statement works on all of it. That is fast, and
it keeps the interpreter free, since SQLite lets go of it while a statement runs; the shadow writes its batches from a thread.

A value that was joined is never lost by a repetition: the same row again changes nothing, another value for the same request
replaces the old one and is counted as a correction, because an analysis that has read the old value must know. Feedback that
comes before its exposure (or whose exposure was never logged) waits in `pending_feedback`; both sides look for each other
inside a transaction that holds the write lock, so neither can slip past the other.
"""

# ruff: noqa: S608  statements are put together from constants of this module alone

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import Connection

from router.plan import Plan, parse_plan
from router.store.store import Store

# Flags of an exposure.
FELL_BACK: Final = 1  # blue answered, because green failed or was left out by its breaker
RETRY: Final = 2  # the client says that this request repeats an earlier one
KEYED: Final = 4  # the split went by a key: without a unit, this request was never randomised
SCHEME_SHIFT: Final = 8  # above it: a number for the split's key and salt, under which units were drawn

MAX_PENDING: Final = 1_000_000
# Request ids come in no order, so every batch touches pages all over two indexes. With SQLite's own 2 MB of cache and a
# checkpoint every 4 MB, each of them is read and written again and again.
_FOR_BATCHES: Final = ("PRAGMA cache_size = -32768", "PRAGMA wal_autocheckpoint = 8192")
_PRUNE_PIECE: Final = 20_000  # rows removed in one transaction


@dataclass(slots=True)
class ExposureRow:
    """One exchange for the log; see `router.store.schema`. `at` in seconds since the epoch, `latency_ms` in milliseconds.

    Until it is written, what a comparison finds later is filled in.
    """

    request_id: str
    release: int
    revision: int
    share: float
    unit: str | None
    arm: str
    flags: int
    status: int
    error: bool
    latency_ms: float
    at: float
    prediction: Mapping[str, Any] | None
    blue: str | None
    green: str | None


# What both arms of a compared pair decided: request id, blue's words, green's words, summary of the client's own answer.
Decisions = tuple[str, str | None, str | None, Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """One row of feedback, checked: a request's id or a unit's name, and a label (in the words of `shadow.decisions`), a
    reward, or both. `line` is where it stood; `unit_at` the time a unit's feedback is about (seconds since the epoch), 0 for
    none.
    """

    line: int
    request_id: str | None
    unit: str | None
    unit_at: float
    label: str | None
    reward: float | None


# A record as a tuple; `dataclasses.astuple` would copy all of it deeply.
_exposure: Final = attrgetter(*(field.name for field in fields(ExposureRow)))
_feedback: Final = attrgetter(*(field.name for field in fields(FeedbackRow)))


@dataclass(frozen=True, slots=True)
class Joined:
    """What became of a batch of feedback: every row is counted once. `kept`: how many of the unknown ones wait."""

    joined: int = 0
    unknown: int = 0
    duplicates: int = 0
    replaced: int = 0
    kept: int = 0


_EXPOSURE_COLUMNS: Final = (
    'request_id, "release", revision, share, unit, arm, flags, status, error, latency_ms, at, prediction, blue, green'
)
_ADD_EXPOSURES: Final = (
    f"INSERT INTO exposures ({_EXPOSURE_COLUMNS}) SELECT "
    + ", ".join(f"json_extract(value, '$[{i}]')" for i in range(14))
    + " FROM json_each(?) WHERE true ON CONFLICT (request_id) DO NOTHING"
)
_ADD_DECISIONS: Final = """
    UPDATE exposures SET blue = coalesce(d.blue, exposures.blue), green = coalesce(d.green, exposures.green),
        prediction = coalesce(d.prediction, exposures.prediction)
    FROM (
        SELECT json_extract(value, '$[0]') AS request_id, json_extract(value, '$[1]') AS blue,
            json_extract(value, '$[2]') AS green, json_extract(value, '$[3]') AS prediction FROM json_each(?)
    ) AS d WHERE exposures.request_id = d.request_id"""

_INCOMING: Final = """
    CREATE TEMP TABLE IF NOT EXISTS incoming (
        line INTEGER PRIMARY KEY, request_id TEXT, unit TEXT, unit_at FLOAT, label TEXT, reward FLOAT,
        exposure INTEGER, "release" INTEGER, old_label TEXT, old_reward FLOAT)"""
_FILL: Final = (
    "INSERT INTO temp.incoming (line, request_id, unit, unit_at, label, reward) SELECT "
    + ", ".join(f"json_extract(value, '$[{i}]')" for i in range(6))
    + " FROM json_each(?)"
)
_FIND_REQUESTS: Final = """
    UPDATE temp.incoming SET exposure = e.id, "release" = e."release" FROM exposures AS e
    WHERE incoming.request_id = e.request_id"""
# A unit's feedback is about the newest exposure of the unit, or the newest one until the time it names.
_FIND_UNITS: Final = """
    UPDATE temp.incoming SET exposure = (
        SELECT e.id FROM exposures AS e
        WHERE e.unit = incoming.unit AND (incoming.unit_at = 0 OR e.at <= incoming.unit_at) ORDER BY e.id DESC LIMIT 1)
    WHERE unit IS NOT NULL"""
_FIND_RELEASES: Final = """
    UPDATE temp.incoming SET "release" = (SELECT e."release" FROM exposures AS e WHERE e.id = incoming.exposure)
    WHERE unit IS NOT NULL AND exposure IS NOT NULL"""


def _find_old(kind: str) -> tuple[str, str]:
    by_request = f"""UPDATE temp.incoming SET old_{kind} = f.{kind} FROM feedback AS f
        WHERE incoming.request_id IS NOT NULL AND f.exposure = incoming.exposure AND f.kind = '{kind}' AND f.unit IS NULL"""
    by_unit = f"""UPDATE temp.incoming SET old_{kind} = f.{kind} FROM feedback AS f
        WHERE f.unit = incoming.unit AND f.kind = '{kind}' AND f.unit_at = incoming.unit_at
        AND f."release" = incoming."release" """
    return by_request, by_unit


def _put(kind: str, by_unit: bool) -> str:
    target = '(unit, kind, unit_at, "release") WHERE unit IS NOT NULL' if by_unit else "(exposure, kind) WHERE unit IS NULL"
    return f"""INSERT INTO feedback (exposure, "release", kind, unit, unit_at, {kind}, joined, corrections)
        SELECT exposure, "release", '{kind}', unit, unit_at, {kind}, ?, 0 FROM temp.incoming
        WHERE exposure IS NOT NULL AND {kind} IS NOT NULL AND unit IS {"NOT " if by_unit else ""}NULL ORDER BY line
        ON CONFLICT {target} DO UPDATE SET {kind} = excluded.{kind}, corrections = corrections + 1
        WHERE {kind} IS NOT excluded.{kind}"""


def _put_pending(kind: str, by_unit: bool) -> str:
    """Feedback that waited for the exposures after an id. The new exposures lead: few of them, however many wait."""
    on = "p.unit = e.unit AND (p.unit_at = 0 OR e.at <= p.unit_at)" if by_unit else "p.request_id = e.request_id"
    return f"""INSERT INTO feedback (exposure, "release", kind, unit, unit_at, {kind}, joined, corrections)
        SELECT e.id, e."release", '{kind}', p.unit, p.unit_at, p.{kind}, ?, 0
        FROM exposures AS e CROSS JOIN pending_feedback AS p WHERE e.id > ? AND {on} AND p.{kind} IS NOT NULL
        ORDER BY e.id ON CONFLICT DO NOTHING"""


_KINDS: Final = ("label", "reward")
_CHANGED: Final = "((label IS NOT NULL AND old_label IS NOT label) OR (reward IS NOT NULL AND old_reward IS NOT reward))"
_REPLACED: Final = (
    "((label IS NOT NULL AND old_label IS NOT NULL AND old_label IS NOT label)"
    " OR (reward IS NOT NULL AND old_reward IS NOT NULL AND old_reward IS NOT reward))"
)
_COUNT: Final = f"""
    SELECT count(*), count(exposure), count(*) FILTER (WHERE exposure IS NOT NULL AND {_CHANGED}),
           count(*) FILTER (WHERE exposure IS NOT NULL AND {_REPLACED}) FROM temp.incoming"""
_COUNT_CORRECTIONS: Final = f"""
    INSERT INTO experiments ("release", corrections, updated)
    SELECT "release", count(*), 0 FROM temp.incoming WHERE exposure IS NOT NULL AND {_REPLACED} GROUP BY "release"
    ON CONFLICT ("release") DO UPDATE SET corrections = corrections + excluded.corrections"""
_KEEP: Final = """
    INSERT INTO pending_feedback (request_id, unit, unit_at, label, reward, arrived)
    SELECT request_id, unit, unit_at, label, reward, ? FROM temp.incoming WHERE exposure IS NULL AND {which} IS NOT NULL LIMIT ?
    ON CONFLICT ({target}) WHERE {which} IS NOT NULL
    DO UPDATE SET label = coalesce(excluded.label, label), reward = coalesce(excluded.reward, reward), arrived =
    excluded.arrived"""
_EXPOSURES_AFTER: Final = """
    SELECT id, revision, share, unit, arm, flags, error, latency_ms, at FROM exposures
    WHERE id > ? AND id <= ? AND "release" = ? AND share > 0 AND share < 1 ORDER BY id LIMIT ?"""
_FEEDBACK_AFTER: Final = """
    SELECT f.id, f."release", f.label, f.reward, e.revision, e.share, e.unit, e.arm, e.flags, e.blue, e.green
    FROM feedback AS f JOIN exposures AS e ON e.id = f.exposure
    WHERE f.id > ? AND f.joined <= ? ORDER BY f.id LIMIT ?"""
_SCAN: Final = 20_000  # rows of the log that are looked through at a time


class ExposureLog:
    """The log in a store. Safe to use from several threads and processes; every method raises Unavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # --- exposures ----------------------------------------------------------------------------------------------------

    def add(self, rows: Sequence[ExposureRow], decisions: Sequence[Decisions], now: float) -> int:
        """Add exposures, then what was decided about exposures in the log, and join feedback that waited for the new ones.

        Returns how many rows were left out because their request id is in the log already.
        """
        with self._writing() as connection:
            execute = connection.exec_driver_sql
            last = int(execute("SELECT coalesce(max(id), 0) FROM exposures").scalar_one())
            added = 0
            if rows:
                added = execute(_ADD_EXPOSURES, (_json(list(map(_exposure, rows))),)).rowcount
            if decisions:
                execute(_ADD_DECISIONS, (_json(decisions),))
            if added and execute("SELECT EXISTS (SELECT 1 FROM pending_feedback)").scalar():
                _join_pending(connection, last, now)
        return len(rows) - added

    def plan_at(self, revision: int) -> Plan | None:
        """The plan of a revision, as the history has it; None while it has not."""
        with self._store.reading() as connection:
            found = connection.exec_driver_sql("SELECT new_plan FROM history WHERE revision = ?", (revision,)).scalar()
        return parse_plan(json.loads(found)) if found else None

    # --- feedback -----------------------------------------------------------------------------------------------------

    def join(self, rows: Sequence[FeedbackRow], now: float) -> Joined:
        """Join rows of feedback, no two of which may be about the same request, or the same unit and time."""
        if not rows:
            return Joined()
        by_unit = any(row.unit is not None for row in rows)
        text = _json(list(map(_feedback, rows)))
        with self._writing() as connection:
            execute = connection.exec_driver_sql
            execute(_INCOMING)
            try:
                execute(_FILL, (text,))
                execute(_FIND_REQUESTS)
                if by_unit:
                    execute(_FIND_UNITS)
                    execute(_FIND_RELEASES)
                for kind in _KINDS:
                    execute(_find_old(kind)[0])
                    if by_unit:
                        execute(_find_old(kind)[1])
                total, known, changed, replaced = execute(_COUNT).one()
                for kind in _KINDS:
                    execute(_put(kind, False), (now,))
                    if by_unit:
                        execute(_put(kind, True), (now,))
                if replaced:
                    execute(_COUNT_CORRECTIONS)
                kept = _keep(connection, now) if known < total else 0
            finally:
                execute("DELETE FROM temp.incoming")
        return Joined(changed - replaced, total - known, known - changed, replaced, kept)

    # --- what the analysis reads --------------------------------------------------------------------------------------

    def exposures_after(self, last: int, release: int, limit: int) -> tuple[list[tuple[Any, ...]], int]:
        """The next exposures of a release under a split, by id: (id, revision, share, unit, arm, flags, error, latency_ms, at),
        and the id up to which the log has been read with them. At most `limit` rows, out of at most 20,000.
        """
        with self._store.reading() as connection:
            execute = connection.exec_driver_sql
            newest = int(execute("SELECT coalesce(max(id), 0) FROM exposures").scalar_one())
            first = int(execute("SELECT coalesce(min(id), 0) FROM exposures").scalar_one())
            end = min(max(last, first) + _SCAN, newest)
            rows = [tuple(row) for row in execute(_EXPOSURES_AFTER, (last, end, release, limit))]
        return rows, int(rows[-1][0]) if len(rows) == limit else max(end, last)

    def feedback_after(self, last: int, until: float, limit: int) -> list[tuple[Any, ...]]:
        """The next feedback of any release that was joined until a time, by id: (id, release, label, reward, revision, share,
        unit, arm, flags, blue's decision, green's).
        """
        with self._store.reading() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(_FEEDBACK_AFTER, (last, until, limit))]

    def first_exposure(self) -> int:
        """The oldest id in the log; 0 while it is empty."""
        with self._store.reading() as connection:
            return int(connection.exec_driver_sql("SELECT coalesce(min(id), 0) FROM exposures").scalar_one())

    def experiment(self, release: int) -> dict[str, Any] | None:
        """The saved state of a release's analysis; None while there is none."""
        with self._store.reading() as connection:
            found = connection.exec_driver_sql('SELECT state FROM experiments WHERE "release" = ?', (release,)).scalar()
        return json.loads(found) if found else None

    def corrections(self, release: int) -> int:
        """How many values of a release feedback has changed so far."""
        with self._store.reading() as connection:
            query = 'SELECT corrections FROM experiments WHERE "release" = ?'
            return int(connection.exec_driver_sql(query, (release,)).scalar() or 0)

    def save_experiment(self, release: int, state: Mapping[str, Any], now: float) -> None:
        """Keep the state of a release's analysis."""
        with self._store.writing() as connection:
            connection.exec_driver_sql(
                'INSERT INTO experiments ("release", corrections, updated, state) VALUES (?, 0, ?, ?) '
                'ON CONFLICT ("release") DO UPDATE SET updated = excluded.updated, state = excluded.state',
                (release, now, _json(state)),
            )

    # --- bounds -------------------------------------------------------------------------------------------------------

    def prune(self, *, before: float, rows: int, pending_before: float) -> int:
        """Remove exposures older than `before` and all but the newest `rows`, with their feedback, and feedback that has waited
        since before `pending_before` (seconds since the epoch). At most 20,000 exposures in one call; returns how many went.
        """
        with self._store.writing() as connection:
            execute = connection.exec_driver_sql
            execute("DELETE FROM pending_feedback WHERE arrived < ?", (pending_before,))
            first, last = execute("SELECT coalesce(min(id), 0), coalesce(max(id), 0) FROM exposures").one()
            # Ids are in the order of arrival, so what is too old comes first; the search stops at the first row that is not.
            young = execute("SELECT id FROM exposures WHERE at >= ? ORDER BY id LIMIT 1", (before,)).scalar()
            end = max(last + 1 if young is None else int(young), last - rows + 1)
            end = min(end, first + _PRUNE_PIECE)
            if end <= first:
                return 0
            gone = execute("DELETE FROM exposures WHERE id < ?", (end,)).rowcount
            for by_unit in ("NOT ", ""):  # apart, so that each finds its index
                execute(f"DELETE FROM feedback WHERE exposure < ? AND unit IS {by_unit}NULL", (end,))
            return int(gone)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A writing transaction on a connection that is set for batches, and stays so."""
        with self._store.writing() as connection:
            for pragma in _FOR_BATCHES:
                connection.exec_driver_sql(pragma)
            yield connection


def _join_pending(connection: Connection, last: int, now: float) -> None:
    execute = connection.exec_driver_sql
    for kind in _KINDS:
        for by_unit in (False, True):
            execute(_put_pending(kind, by_unit), (now, last))
    execute(
        "DELETE FROM pending_feedback WHERE id IN (SELECT p.id FROM exposures AS e CROSS JOIN pending_feedback AS p "
        "WHERE e.id > ? AND p.request_id = e.request_id)",
        (last,),
    )
    execute(
        "DELETE FROM pending_feedback WHERE id IN (SELECT p.id FROM exposures AS e CROSS JOIN pending_feedback AS p "
        "WHERE e.id > ? AND p.unit = e.unit AND (p.unit_at = 0 OR e.at <= p.unit_at))",
        (last,),
    )


def _keep(connection: Connection, now: float) -> int:
    """Keep what found no exposure, as far as there is room. Returns how many rows."""
    execute = connection.exec_driver_sql
    room = MAX_PENDING - int(execute("SELECT count(*) FROM pending_feedback").scalar_one())
    kept = 0
    for which, target in (("request_id", "request_id"), ("unit", "unit, unit_at")):
        if room > 0:
            done = max(execute(_KEEP.format(which=which, target=target), (now, room)).rowcount, 0)
            room, kept = room - done, kept + done
    return kept


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
