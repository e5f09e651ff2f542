"""What is remembered of rollouts: where each is, how it came there, and what it left.

Every write is one transaction, and each begins by looking whether this process still is the one that may act: the controller
that was started last. An older one that was thought dead and wakes up finds another's epoch there and changes nothing
(a fencing token; no clock decides).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from router.errors import RouterError
from router.rollout.records import NO_HASH, canonical, chained
from router.rollout.rollout import Move, Rollout
from router.rollout.states import Event, State
from router.store import schema
from router.store.store import Store


class Superseded(RouterError):
    """Another controller has taken over; this one must not act any more."""

    status = 503
    title = "Superseded"


class RolloutStore:
    """The tables of rollouts in a store. `acquire` before anything is written."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._epoch = -1

    def acquire(self, holder: str, now: float) -> None:
        """Become the one controller that may act. `holder` says who, for people."""
        table = schema.rollout_controller
        with self._store.writing() as connection:
            epoch = int(connection.execute(select(table.c.epoch)).scalar() or 0) + 1
            row = {"id": 1, "epoch": epoch, "holder": holder, "since": now}
            connection.execute(upsert(table).values(row).on_conflict_do_update(index_elements=["id"], set_=row))
        self._epoch = epoch

    # --- the present rollout ------------------------------------------------------------------------------------------

    def newest(self) -> Rollout | None:
        """The newest rollout; None when there never was one."""
        table = schema.rollouts
        with self._store.reading() as connection:
            row = connection.execute(select(table).order_by(table.c.number.desc()).limit(1)).mappings().first()
        return Rollout.from_row(dict(row)) if row else None

    def attempts(self, release: int) -> int:
        """How many rollouts there have been of a release."""
        table = schema.rollouts
        with self._store.reading() as connection:
            return int(connection.execute(select(func.count()).where(table.c.release == release)).scalar_one())

    def create(self, rollout: Rollout, move: Move) -> Rollout:
        """Keep a new rollout with its first move; returns it with its number. Raises Superseded, Unavailable."""
        row = rollout.to_row()
        del row["number"]
        with self._store.writing() as connection:
            self._may_act(connection)
            number = int(connection.execute(insert(schema.rollouts).returning(schema.rollouts.c.number), row).scalar_one())
            _add_move(connection, number, move)
        return replace(rollout, number=number)

    def save(self, rollout: Rollout, move: Move | None = None, record: Mapping[str, Any] | None = None) -> str | None:
        """Keep where a rollout is, with the move that brought it there, and with the record that it leaves when it has ended.

        Returns the record's hash. One transaction: a controller that is killed has made the whole move or none of it. Raises
        Superseded, Unavailable.
        """
        row = rollout.to_row()
        with self._store.writing() as connection:
            self._may_act(connection)
            connection.execute(update(schema.rollouts).where(schema.rollouts.c.number == rollout.number).values(row))
            if move is not None:
                _add_move(connection, rollout.number, move)
            return None if record is None else _add_record(connection, rollout.number, record, rollout.ended or 0.0)

    def moves(self, number: int) -> list[Move]:
        """The moves of a rollout, oldest first."""
        table = schema.rollout_moves
        with self._store.reading() as connection:
            query = select(table).where(table.c.rollout == number).order_by(table.c.id)
            rows = connection.execute(query).mappings().all()
        return [
            Move(
                **{
                    **{key: row[key] for key in row if key not in ("id", "rollout", "event", "from_state", "to_state")},
                    "event": Event(row["event"]),
                    "from_state": State(row["from_state"]),
                    "to_state": State(row["to_state"]),
                }
            )
            for row in rows
        ]

    def changes_after(self, revision: int) -> list[dict[str, Any]]:
        """Who changed the plan after a revision, oldest first: `{revision, when, who, action, why}`."""
        table = schema.history
        query = select(table.c.revision, table.c.at, table.c.who, table.c.action, table.c.why)
        with self._store.reading() as connection:
            rows = connection.execute(query.where(table.c.revision > revision).order_by(table.c.revision)).all()
        return [{"revision": r[0], "when": r[1], "who": r[2], "action": r[3], "why": r[4]} for r in rows]

    def evidence_updated(self, release: int) -> float | None:
        """When the newest snapshot of a release was made; None while there is none."""
        table = schema.evidence
        with self._store.reading() as connection:
            found = connection.execute(select(table.c.updated).where(table.c.release == release)).scalar()
        return None if found is None else float(found)

    # --- records ------------------------------------------------------------------------------------------------------

    def records(self) -> list[dict[str, Any]]:
        """Every record without its document, oldest first: `{number, at, previous, hash}`."""
        table = schema.rollout_records
        with self._store.reading() as connection:
            query = select(table.c.number, table.c.at, table.c.previous, table.c.hash).order_by(table.c.number)
            return [dict(row) for row in connection.execute(query).mappings()]

    def record(self, number: int) -> dict[str, Any] | None:
        """One record with its document; None while there is none."""
        table = schema.rollout_records
        with self._store.reading() as connection:
            row = connection.execute(select(table).where(table.c.number == number)).mappings().first()
        return {**dict(row), "document": json.loads(row["document"])} if row else None

    def _may_act(self, connection: Connection) -> None:
        epoch = connection.execute(select(schema.rollout_controller.c.epoch)).scalar()
        if epoch != self._epoch:
            raise Superseded("another control process has taken over the rollouts of this state directory")


def _add_move(connection: Connection, number: int, move: Move) -> None:
    plain = move.to_dict()
    row = {"rollout": number, "from_state": plain.pop("from"), "to_state": plain.pop("to"), **plain}
    connection.execute(insert(schema.rollout_moves), row)


def _add_record(connection: Connection, number: int, document: Mapping[str, Any], now: float) -> str:
    table = schema.rollout_records
    known = connection.execute(select(table.c.hash).where(table.c.number == number)).scalar()
    if known is not None:
        return str(known)
    newest = select(table.c.hash).order_by(table.c.number.desc()).limit(1)
    previous = str(connection.execute(newest).scalar() or NO_HASH)
    row = {
        "number": number,
        "at": now,
        "previous": previous,
        "hash": chained(previous, document),
        "document": canonical(document),
    }
    connection.execute(insert(table), row)
    return str(row["hash"])
