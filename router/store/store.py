"""What must outlive a restart and is asked about later: history, releases, evidence, recorded pairs.

SQLAlchemy Core over one SQLite file in WAL mode, so that the shadow writes evidence while control reads it. Nothing here
decides anything, and no traffic waits for it: the plan page rules, the store remembers. Writers take the write lock at the
start of their transaction (BEGIN IMMEDIATE), because SQLite fails a reader that turns writer at once instead of waiting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, delete, event, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError

from router.errors import Unavailable
from router.plan import Plan, parse_plan
from router.store import schema
from router.store.migrations import BUSY_SECONDS, migrate
from shadow.finite import finite


@dataclass(frozen=True, slots=True)
class RecordedPair:
    """One compared pair that is kept whole.

    `when` in seconds since the epoch; `disagreement` says in a few words what differs, None when they agree; `content` holds
    the request, both answers and the difference as JSON values.
    """

    release: int
    when: float
    request_id: str
    agree: bool
    disagreement: str | None
    content: Mapping[str, Any]


# Statements are built once: putting one together costs SQLAlchemy more than SQLite takes to run it.
_ADD_HISTORY = insert(schema.history).on_conflict_do_nothing(index_elements=["revision"])
_ADD_EVENT = insert(schema.history).returning(schema.history.c.id)
_ADD_RELEASE = insert(schema.releases).on_conflict_do_nothing(index_elements=["release"])
_ADD_PAIR = insert(schema.pairs)
_LAST_ID = select(func.last_insert_rowid())
_ADD_EVIDENCE = insert(schema.evidence)
_SAVE_EVIDENCE = _ADD_EVIDENCE.on_conflict_do_update(
    index_elements=["release"],
    set_={name: _ADD_EVIDENCE.excluded[name] for name in ("updated", "snapshot", "state")},
)


class Store:
    """The store of one state directory. Safe to use from several threads and processes; raises Unavailable when it is not."""

    def __init__(self, path: Path) -> None:
        """Open the file, creating or migrating it first. Raises StartError."""
        migrate(path)
        self.path = path
        self._engine = _engine(path)
        self._writing = self._engine.execution_options(immediate=True)

    # --- history ------------------------------------------------------------------------------------------------------

    def add_history(self, plan: Plan, previous: Plan | None) -> None:
        """Record that `plan` followed `previous`, with the release that it begins, if so. Once per revision, however often."""
        change = plan.change
        row = {
            "revision": plan.revision,
            "at": change.when,
            "kind": "plan",
            "who": change.who,
            "action": change.action,
            "why": change.why,
            "old_plan": previous.to_dict() if previous else None,
            "new_plan": plan.to_dict(),
        }
        with self.writing() as connection:
            connection.execute(_ADD_HISTORY, row)
            if previous is None or previous.release != plan.release:
                _begin_release(connection, plan)

    def add_event(self, kind: str, *, when: float, who: str, action: str, why: str, detail: Mapping[str, Any] | None) -> int:
        """Record something that happened beside the plan; `kind` says of what sort. Returns the entry's id."""
        row = {"at": when, "kind": kind, "who": who, "action": action, "why": why, "detail": dict(detail) if detail else None}
        with self.writing() as connection:
            return int(connection.execute(_ADD_EVENT, row).scalar_one())

    def history(self, after: int = 0, limit: int | None = None, last: int | None = None) -> list[dict[str, Any]]:
        """Entries whose id is above `after`, oldest first: the first `limit` of them, or with `last` the newest so many."""
        table = schema.history
        query = select(table).where(table.c.id > after)
        query = query.order_by(table.c.id.desc()).limit(last) if last is not None else query.order_by(table.c.id).limit(limit)
        with self.reading() as connection:
            rows = connection.execute(query).mappings().all()
        entries = [_history_entry(dict(row)) for row in rows]
        return entries[::-1] if last is not None else entries

    def last_revision(self) -> int:
        """The newest revision in the history; 0 while there is none."""
        with self.reading() as connection:
            return int(connection.execute(select(func.max(schema.history.c.revision))).scalar() or 0)

    def last_plan(self) -> Plan | None:
        """The plan of the newest revision in the history; None while there is none. Raises PlanError."""
        table = schema.history
        query = select(table.c.new_plan).where(table.c.revision.is_not(None)).order_by(table.c.revision.desc()).limit(1)
        with self.reading() as connection:
            value = connection.execute(query).scalar()
        return parse_plan(value) if value else None

    def begin_release(self, plan: Plan) -> None:
        """Record which blue and green the plan's release compares. The first plan of a release tells."""
        with self.writing() as connection:
            _begin_release(connection, plan)

    def releases(self) -> list[dict[str, Any]]:
        """Every release, oldest first: `{release, began, blue: {name, servers}, green: {name, servers} or None}`."""
        with self.reading() as connection:
            rows = connection.execute(select(schema.releases).order_by(schema.releases.c.release)).mappings().all()
        return [
            {
                "release": row["release"],
                "began": row["began"],
                "blue": {"name": row["blue_name"], "servers": row["blue_servers"]},
                "green": {"name": row["green_name"], "servers": row["green_servers"]} if row["green_name"] else None,
            }
            for row in rows
        ]

    # --- evidence and pairs -------------------------------------------------------------------------------------------

    def save_evidence(
        self, release: int, snapshot: Mapping[str, Any], now: float, state: Mapping[str, Any] | None = None
    ) -> None:
        """Keep the newest snapshot of a release, and the state to go on from, in place of the ones before."""
        row = {"release": release, "updated": now, "snapshot": dict(snapshot), "state": dict(state) if state else None}
        with self.writing() as connection:
            connection.execute(_SAVE_EVIDENCE, row)

    def evidence(self, release: int) -> tuple[dict[str, Any], float] | None:
        """A release's snapshot and when it was made; None while there is none."""
        table = schema.evidence
        with self.reading() as connection:
            row = connection.execute(select(table.c.snapshot, table.c.updated).where(table.c.release == release)).first()
        return (dict(row[0]), float(row[1])) if row else None

    def evidence_state(self, release: int) -> dict[str, Any] | None:
        """What a release's evidence goes on from after a restart; None while there is nothing."""
        table = schema.evidence
        with self.reading() as connection:
            state = connection.execute(select(table.c.state).where(table.c.release == release)).scalar()
        return dict(state) if state else None

    def add_pairs(self, pairs: Sequence[RecordedPair], replacing: Sequence[int] = ()) -> list[int]:
        """Keep pairs and drop those whose ids are in `replacing` (a reservoir's choice), at once. Returns the new ids."""
        table = schema.pairs
        rows = [
            {
                "release": pair.release,
                "at": pair.when,
                "request_id": pair.request_id,
                "agree": pair.agree,
                "disagreement": pair.disagreement,
                "content": dict(pair.content),
            }
            for pair in pairs
        ]
        with self.writing() as connection:
            if replacing:
                connection.execute(delete(table).where(table.c.id.in_(replacing)))
            if not rows:
                return []
            # In one go: a statement for each that returns its id takes five times as long. The ids are known anyway, since
            # under the write lock AUTOINCREMENT makes each of them the one before and one.
            connection.execute(_ADD_PAIR, rows)
            last = int(connection.execute(_LAST_ID).scalar_one())
            return list(range(last - len(rows) + 1, last + 1))

    def pairs(self, release: int | None = None, *, disagreeing: bool = False, limit: int = 100) -> list[dict[str, Any]]:
        """Recorded pairs, newest first: `{id, release, when, request_id, agree, disagreement, content}`."""
        table = schema.pairs
        query = select(table).order_by(table.c.id.desc()).limit(limit)
        if release is not None:
            query = query.where(table.c.release == release)
        if disagreeing:
            query = query.where(table.c.agree.is_(False))
        with self.reading() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            {
                "id": row["id"],
                "release": row["release"],
                "when": row["at"],
                "request_id": row["request_id"],
                "agree": row["agree"],
                "disagreement": row["disagreement"],
                "content": row["content"],
            }
            for row in rows
        ]

    def prune_pairs(self, *, before: float, disagreements: int, others: int) -> int:
        """Remove pairs older than `before` (seconds since the epoch), and of each release and kind all but the newest so many.

        Returns how many went.
        """
        table = schema.pairs
        newest = func.row_number().over(partition_by=(table.c.release, table.c.agree), order_by=table.c.id.desc())
        ranked = select(table.c.id, table.c.agree, newest.label("rank")).subquery()
        too_many = select(ranked.c.id).where(
            (ranked.c.agree.is_(False) & (ranked.c.rank > disagreements))
            | (ranked.c.agree.is_(True) & (ranked.c.rank > others))
        )
        with self.writing() as connection:
            return int(connection.execute(delete(table).where((table.c.at < before) | table.c.id.in_(too_many))).rowcount)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that reads, for the parts of the store that live in modules of their own. Raises Unavailable."""
        with _translated(self.path), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its start; keep it short. Raises Unavailable."""
        with _translated(self.path), self._writing.begin() as connection:
            yield connection


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's complaints (locked, disk full, read-only) as the one error that callers know."""
    try:
        yield
    except DatabaseError as error:
        raise Unavailable(f"the store {path} does not answer: {error.orig}") from error


def _begin_release(connection: Connection, plan: Plan) -> None:
    row = {
        "release": plan.release,
        "began": plan.change.when,
        "blue_name": plan.blue.name,
        "blue_servers": list(plan.blue.servers),
        "green_name": plan.green.name if plan.green else None,
        "green_servers": list(plan.green.servers) if plan.green else None,
    }
    connection.execute(_ADD_RELEASE, row)


def _history_entry(row: Mapping[str, Any]) -> dict[str, Any]:
    entry = {"id": row["id"], "when": row["at"], **{key: row[key] for key in ("kind", "who", "action", "why")}}
    if row["kind"] == "plan":
        return {**entry, "revision": row["revision"], "old": row["old_plan"], "new": row["new_plan"]}
    return {**entry, "detail": row["detail"]}


def _engine(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        json_serializer=_to_json,
        pool_size=8,
        max_overflow=32,
    )

    @event.listens_for(engine, "connect")
    def _prepare(raw: Any, _record: object) -> None:
        raw.isolation_level = None  # the driver would begin transactions by its own rules; "begin" below does it
        # In WAL mode NORMAL loses at most the last commits when the machine (not the process) stops, and damages nothing.
        raw.execute("PRAGMA synchronous = NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _to_json(value: object) -> str:
    """JSON text. NaN and infinities, which JSON has not, become null."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(finite(value), allow_nan=False, separators=(",", ":"))
