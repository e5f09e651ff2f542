from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from models.arm import Arm
from router.errors import StartError, Unavailable
from router.plan import Change, Plan, Split, promoted, split_at, written
from router.store import schema
from router.store.migrations import APPLICATION_ID, MIGRATIONS, migrate
from router.store.store import RecordedPair, Store

V1, V2 = Arm("iris-v1", ("http://127.0.0.1:9001",)), Arm("iris-v2", ("http://127.0.0.1:9002",))
FIRST = Plan(1, 1, V1, V2, Split(0.0, "header:x-user-id", "iris"), change=Change("configuration", 100.0, "start", "first"))
SECOND = written(split_at(FIRST, 10), FIRST, Change("ann", 101.0, "split 10", "a try"))
THIRD = written(promoted(SECOND), SECOND, Change("bob", 102.0, "promote", ""))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(tmp_path / "bluegreen.sqlite")
    yield one
    one.close()


def pair(number: int, *, agree: bool, release: int = 1) -> RecordedPair:
    difference = None if agree else f"label {number}"
    return RecordedPair(release, float(number), f"request-{number}", agree, difference, {"number": number, "text": "ü"})


# --- history --------------------------------------------------------------------------------------------------------------


def test_history_keeps_who_when_why_and_both_plans(store: Store) -> None:
    store.add_history(FIRST, None)
    store.add_history(SECOND, FIRST)
    first, second = store.history()
    assert first == {
        **{"id": 1, "when": 100.0, "kind": "plan", "who": "configuration", "action": "start", "why": "first"},
        **{"revision": 1, "old": None, "new": FIRST.to_dict()},
    }
    assert (second["who"], second["why"], second["revision"]) == ("ann", "a try", 2)
    assert (second["old"], second["new"]) == (FIRST.to_dict(), SECOND.to_dict())
    assert store.last_revision() == 2
    assert store.last_plan() == SECOND


def test_an_empty_history(store: Store) -> None:
    assert store.history() == []
    assert store.last_revision() == 0
    assert store.last_plan() is None
    assert store.releases() == []


def test_a_revision_is_recorded_once(store: Store) -> None:
    for _ in range(3):
        store.add_history(FIRST, None)
    store.add_history(replace(FIRST, split=Split(50.0)), None)
    assert [entry["new"] for entry in store.history()] == [FIRST.to_dict()]


def test_pages_of_history(store: Store) -> None:
    plan = FIRST
    store.add_history(plan, None)
    for number in range(2, 11):
        plan = written(plan, plan, Change("ann", float(number), "again", ""))
        store.add_history(plan, None)
    ids = [entry["id"] for entry in store.history()]
    assert [entry["id"] for entry in store.history(limit=3)] == ids[:3]
    assert [entry["id"] for entry in store.history(ids[2], limit=3)] == ids[3:6]
    assert [entry["id"] for entry in store.history(last=3)] == ids[-3:]
    assert [entry["id"] for entry in store.history(ids[8], last=3)] == ids[9:]


def test_other_events_stand_between_the_plans(store: Store) -> None:
    store.add_history(FIRST, None)
    number = store.add_event("rollout", when=100.5, who="ann", action="start", why="", detail={"steps": [1, 5]})
    store.add_history(SECOND, FIRST)
    kinds = [(entry["id"], entry["kind"]) for entry in store.history()]
    assert kinds == [(1, "plan"), (number, "rollout"), (3, "plan")]
    assert store.history()[1]["detail"] == {"steps": [1, 5]}
    assert store.last_revision() == 2


def test_releases_are_recorded_with_the_plans_that_begin_them(store: Store) -> None:
    store.add_history(FIRST, None)
    store.add_history(SECOND, FIRST)
    store.add_history(THIRD, SECOND)
    store.begin_release(replace(THIRD, blue=V1))
    v1 = {"name": "iris-v1", "servers": ["http://127.0.0.1:9001"]}
    v2 = {"name": "iris-v2", "servers": ["http://127.0.0.1:9002"]}
    assert store.releases() == [
        {"release": 1, "began": 100.0, "blue": v1, "green": v2},
        {"release": 2, "began": 102.0, "blue": v2, "green": v1},
    ]


def test_a_release_without_green(store: Store) -> None:
    store.add_history(replace(FIRST, green=None), None)
    assert store.releases()[0]["green"] is None


# --- evidence and pairs ---------------------------------------------------------------------------------------------------


def test_the_newest_snapshot_of_each_release_is_kept(store: Store) -> None:
    assert store.evidence(1) is None
    store.save_evidence(1, {"pairs": 1}, 10.0)
    store.save_evidence(2, {"pairs": 5}, 11.0, state={"sum": 2.5})
    store.save_evidence(1, {"pairs": 2}, 12.0)
    assert store.evidence(1) == ({"pairs": 2}, 12.0)
    assert store.evidence(2) == ({"pairs": 5}, 11.0)
    assert store.evidence_state(2) == {"sum": 2.5}
    assert store.evidence_state(1) is None


def test_what_json_has_no_number_for_becomes_null(store: Store) -> None:
    store.save_evidence(1, {"rate": float("nan"), "ci": [0.0, float("inf")], "deep": {"x": (float("-inf"), 1)}}, 1.0)
    assert store.evidence(1) == ({"rate": None, "ci": [0.0, None], "deep": {"x": [None, 1]}}, 1.0)


def test_pairs_come_newest_first_and_by_kind(store: Store) -> None:
    ids = store.add_pairs([pair(n, agree=n % 2 == 0, release=1 + n // 4) for n in range(6)])
    assert len(set(ids)) == 6
    assert [p["request_id"] for p in store.pairs()] == [f"request-{n}" for n in (5, 4, 3, 2, 1, 0)]
    assert [p["request_id"] for p in store.pairs(1, disagreeing=True)] == ["request-3", "request-1"]
    assert [p["id"] for p in store.pairs(2, limit=1)] == [ids[5]]
    newest = store.pairs(limit=1)[0]
    assert newest["agree"] is False
    assert newest["disagreement"] == "label 5"
    assert newest["content"] == {"number": 5, "text": "ü"}
    assert newest["when"] == 5.0


def test_a_reservoir_replaces_what_it_lets_go(store: Store) -> None:
    ids = store.add_pairs([pair(n, agree=True) for n in range(3)])
    store.add_pairs([pair(7, agree=True)], replacing=[ids[1]])
    assert [p["request_id"] for p in store.pairs()] == ["request-7", "request-2", "request-0"]


def test_pruning_by_age_and_by_number(store: Store) -> None:
    store.add_pairs([pair(n, agree=n % 2 == 0, release=release) for release in (1, 2) for n in range(10)])
    assert store.prune_pairs(before=2.0, disagreements=2, others=3) == 20 - 2 * (2 + 3)
    for release in (1, 2):
        assert [p["request_id"] for p in store.pairs(release)] == [f"request-{n}" for n in (9, 8, 7, 6, 4)]
    assert store.prune_pairs(before=100.0, disagreements=9, others=9) == 10
    assert store.pairs() == []


# --- the file -------------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_there_after_a_kill(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from router.store.store import Store\n"
        "Store(Path(sys.argv[1])).save_evidence(1, {'pairs': 7}, 1.0); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "s.sqlite"
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    again = Store(path)
    assert again.evidence(1) == ({"pairs": 7}, 1.0)
    again.close()


def test_the_file_is_its_owners_alone_and_in_wal_mode(store: Store) -> None:
    store.save_evidence(1, {}, 1.0)
    for suffix in ("", "-wal", "-shm"):
        assert store.path.with_name(store.path.name + suffix).stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(store.path)) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert raw.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert raw.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


def test_migrated_tables_are_the_tables_that_the_program_knows(store: Store) -> None:
    engine = create_engine(f"sqlite:///{store.path}")
    found = inspect(engine)
    assert set(found.get_table_names()) == set(schema.metadata.tables)
    for name, table in schema.metadata.tables.items():
        columns = {column["name"]: column for column in found.get_columns(name)}
        assert set(columns) == set(table.columns.keys()), name
        for column in table.columns:
            assert str(columns[column.name]["type"]) == str(column.type), f"{name}.{column.name}"
            assert columns[column.name]["nullable"] == column.nullable or column.primary_key, f"{name}.{column.name}"
        indexes = {index["name"]: index["column_names"] for index in found.get_indexes(name)}
        assert indexes == {index.name: [c.name for c in index.columns] for index in table.indexes}
    engine.dispose()


def test_an_older_file_is_brought_up_step_by_step_and_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    for steps in range(1, len(MIGRATIONS)):
        migrate(path, MIGRATIONS[:steps])
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("INSERT INTO evidence (release, updated, snapshot) VALUES (1, 5.0, '{\"pairs\": 3}')")
        raw.commit()
    store = Store(path)
    assert store.evidence(1) == ({"pairs": 3}, 5.0)
    store.save_evidence(1, {"pairs": 4}, 6.0)
    store.close()


def test_a_step_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with pytest.raises(StartError, match="cannot use the store"):
        migrate(path, (("CREATE TABLE a (x)",), ("CREATE TABLE b (x)", "CREATE TABLE a (x)")))
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (1,)
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("a",)]


def test_many_processes_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from router.store.store import Store\n"
        "sys.stdin.readline(); Store(Path(sys.argv[1])).save_evidence(int(sys.argv[2]), {}, 1.0)"
    )
    path = tmp_path / "s.sqlite"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(n)], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        assert process.wait(60) == 0, process.stderr.read() if process.stderr else ""
        for end in (process.stdin, process.stderr):
            assert end is not None
            end.close()
    store = Store(path)
    assert all(store.evidence(n) is not None for n in range(3))
    store.close()


def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    Store(path).close()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 3}")
    with pytest.raises(StartError, match=rf"newer bluegreen \(its version is {len(MIGRATIONS) + 3}, this one knows"):
        Store(path)
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 3,)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_text("not a database, but long enough to be taken for the head of one" * 20)
    with pytest.raises(StartError, match=r"cannot use the store .*s\.sqlite: file is not a database; move it away"):
        Store(path)
    with pytest.raises(StartError, match="cannot open the store"):
        Store(tmp_path / "nowhere" / "s.sqlite")


def test_a_locked_file_is_waited_for(store: Store) -> None:
    with closing(sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, lambda: other.execute("COMMIT"))
        release.start()
        store.save_evidence(1, {"pairs": 1}, 1.0)
        release.join()
    assert store.evidence(1) is not None


def test_readers_do_not_wait_for_a_writer(store: Store) -> None:
    store.save_evidence(1, {"pairs": 1}, 1.0)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM evidence")
        assert store.evidence(1) == ({"pairs": 1}, 1.0)
        other.execute("ROLLBACK")


def test_a_store_that_does_not_answer_is_unavailable_and_says_why(store: Store) -> None:
    with closing(sqlite3.connect(store.path)) as other:
        other.execute("DROP TABLE evidence")
    with pytest.raises(Unavailable, match=r"the store .* does not answer: no such table: evidence"):
        store.evidence(1)
    with pytest.raises(Unavailable):
        store.save_evidence(1, {}, 1.0)


def test_threads_may_share_it(store: Store) -> None:
    def work(release: int) -> None:
        for number in range(20):
            store.save_evidence(release, {"number": number}, float(number))
            assert store.evidence(release) == ({"number": number}, float(number))
            store.add_pairs([pair(number, agree=True, release=release)])

    failures: list[BaseException] = []

    def guarded(release: int) -> None:
        try:
            work(release)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(release,)) for release in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.pairs(limit=1000)) == 120
