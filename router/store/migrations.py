"""How a store's file comes to have the present tables: an ordered list of steps, each applied once, never edited.

The file's own `PRAGMA user_version` says how many steps it has seen. Each step runs in a transaction that takes the write lock
first (BEGIN IMMEDIATE) and looks at the version again under it; so two processes that open a file at once cannot both apply
one, and a step that was cut off leaves no trace. A file that is newer than this program is refused, not guessed at.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from router.errors import StartError

BUSY_SECONDS = 5.0
APPLICATION_ID = 0x42477265  # "BGre": what `file` and we tell our SQLite files by (sqlite.org/fileformat2.html, 1.3.14)

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE history (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            revision INTEGER UNIQUE,
            at FLOAT NOT NULL,
            kind TEXT NOT NULL,
            who TEXT NOT NULL,
            action TEXT NOT NULL,
            why TEXT NOT NULL,
            old_plan JSON,
            new_plan JSON,
            detail JSON
        )""",
        """CREATE TABLE releases (
            "release" INTEGER NOT NULL PRIMARY KEY,
            began FLOAT NOT NULL,
            blue_name TEXT NOT NULL,
            blue_servers JSON NOT NULL,
            green_name TEXT,
            green_servers JSON
        )""",
        """CREATE TABLE evidence (
            "release" INTEGER NOT NULL PRIMARY KEY,
            updated FLOAT NOT NULL,
            snapshot JSON NOT NULL
        )""",
        """CREATE TABLE pairs (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            "release" INTEGER NOT NULL,
            at FLOAT NOT NULL,
            request_id TEXT NOT NULL,
            agree BOOLEAN NOT NULL,
            disagreement TEXT,
            content JSON NOT NULL
        )""",
        'CREATE INDEX pairs_by_release ON pairs ("release", agree, id)',
        "CREATE INDEX pairs_by_age ON pairs (at)",
    ),
    ("ALTER TABLE evidence ADD COLUMN state JSON",),
    (
        """CREATE TABLE exposures (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            request_id TEXT NOT NULL UNIQUE,
            "release" INTEGER NOT NULL,
            revision INTEGER NOT NULL,
            share FLOAT NOT NULL,
            unit TEXT,
            arm TEXT NOT NULL,
            flags INTEGER NOT NULL,
            status INTEGER NOT NULL,
            error BOOLEAN NOT NULL,
            latency_ms FLOAT NOT NULL,
            at FLOAT NOT NULL,
            prediction JSON,
            blue TEXT,
            green TEXT
        )""",
        "CREATE INDEX exposures_by_unit ON exposures (unit, id) WHERE unit IS NOT NULL",
        """CREATE TABLE feedback (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            exposure INTEGER NOT NULL,
            "release" INTEGER NOT NULL,
            kind TEXT NOT NULL,
            unit TEXT,
            unit_at FLOAT NOT NULL,
            label TEXT,
            reward FLOAT,
            joined FLOAT NOT NULL,
            corrections INTEGER NOT NULL
        )""",
        "CREATE UNIQUE INDEX feedback_by_exposure ON feedback (exposure, kind) WHERE unit IS NULL",
        'CREATE UNIQUE INDEX feedback_by_unit ON feedback (unit, kind, unit_at, "release") WHERE unit IS NOT NULL',
        """CREATE TABLE pending_feedback (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            request_id TEXT,
            unit TEXT,
            unit_at FLOAT NOT NULL,
            label TEXT,
            reward FLOAT,
            arrived FLOAT NOT NULL
        )""",
        "CREATE UNIQUE INDEX pending_by_request ON pending_feedback (request_id) WHERE request_id IS NOT NULL",
        "CREATE UNIQUE INDEX pending_by_unit ON pending_feedback (unit, unit_at) WHERE unit IS NOT NULL",
        """CREATE TABLE experiments (
            "release" INTEGER NOT NULL PRIMARY KEY,
            corrections INTEGER NOT NULL,
            updated FLOAT NOT NULL,
            state JSON
        )""",
    ),
    (
        """CREATE TABLE rollouts (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            "release" INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            state TEXT NOT NULL,
            step INTEGER NOT NULL,
            green_percent FLOAT NOT NULL,
            revision INTEGER NOT NULL,
            who TEXT NOT NULL,
            reason TEXT NOT NULL,
            began FLOAT NOT NULL,
            entered FLOAT NOT NULL,
            clock FLOAT NOT NULL,
            ended FLOAT,
            policy JSON NOT NULL,
            paused_from TEXT,
            by_hand BOOLEAN NOT NULL,
            shadow_before JSON,
            base JSON NOT NULL,
            settled BOOLEAN NOT NULL,
            intent JSON
        )""",
        """CREATE TABLE rollout_moves (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            rollout INTEGER NOT NULL,
            at FLOAT NOT NULL,
            event TEXT NOT NULL,
            from_state TEXT NOT NULL,
            to_state TEXT NOT NULL,
            step INTEGER NOT NULL,
            green_percent FLOAT NOT NULL,
            revision INTEGER NOT NULL,
            who TEXT NOT NULL,
            why TEXT NOT NULL,
            verdict JSON,
            evidence JSON,
            live JSON
        )""",
        "CREATE INDEX rollout_moves_by_rollout ON rollout_moves (rollout, id)",
        """CREATE TABLE rollout_records (
            number INTEGER NOT NULL PRIMARY KEY,
            at FLOAT NOT NULL,
            previous TEXT NOT NULL,
            hash TEXT NOT NULL,
            document TEXT NOT NULL
        )""",
        """CREATE TABLE rollout_controller (
            id INTEGER NOT NULL PRIMARY KEY,
            epoch INTEGER NOT NULL,
            holder TEXT NOT NULL,
            since FLOAT NOT NULL
        )""",
    ),
)


def migrate(path: Path, steps: tuple[tuple[str, ...], ...] = MIGRATIONS) -> None:
    """Make the file at `path` (0600) when it is not there, and bring it to the newest version. Raises StartError."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            _use_wal(connection)
            while (version := _version(connection)) < len(steps):
                _apply(connection, version, steps[version])
    except sqlite3.Error as error:
        raise StartError(f"cannot use the store {path}: {error}; move it away to begin with an empty one") from None
    except OSError as error:
        raise StartError(f"cannot open the store {path}: {error.strerror}") from None
    if version > len(steps):
        raise StartError(
            f"the store {path} was written by a newer bluegreen (its version is {version}, this one knows {len(steps)}); "
            "install that one, or set `state` to another directory"
        )


def _apply(connection: sqlite3.Connection, version: int, step: tuple[str, ...]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _version(connection) == version:
            for statement in step:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to write-ahead logging. SQLite does not wait for its lock here, so this does."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
