"""From frames to rows in a real store, and feedback joined to them there."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.predictions.prediction import Options
from router.exposures import Exposures
from router.plan import Plan, parse_plan
from router.split import bucket
from router.store.exposures import FELL_BACK, KEYED, RETRY, ExposureLog, ExposureRow, FeedbackRow, Joined
from router.store.store import Store
from router.unit_names import UnitNames
from shadow import frame as frames
from shadow.answers import read
from shadow.frame import Frame
from shadow.observation import Observation, Outcome

NAMES = UnitNames(b"s" * 32, plain=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(tmp_path / "s.sqlite")
    yield one
    one.close()


def plan(revision: int = 1, percent: float = 50, key: str | None = "header:x-user-id", release: int = 1) -> Plan:
    arm = {"servers": ["http://127.0.0.1:9001"]}
    return parse_plan(
        {
            "revision": revision,
            "release": release,
            "blue": {"name": "v1", **arm},
            "green": {"name": "v2", **arm},
            "split": {"green_percent": percent, "key": key, "salt": "iris"},
        }
    )


def frame(
    request_id: str = "r1",
    *,
    colour: str = "blue",
    user: str | None = "ann",
    flags: int = 0,
    status: int = 200,
    label: object = 2,
    revision: int = 1,
    release: int = 1,
    head: bytes = b"",
) -> Frame:
    body = b'{"instances": [[1.0]]}'
    answer = json.dumps({"predictions": [label]}).encode()
    named = b"" if user is None else b"X-User-Id: %s\r\n" % user.encode()
    return Frame(
        colour=1 if colour == "green" else 0,
        flags=flags,
        release=release,
        revision=revision,
        started=1000.0,
        first_byte_ms=3.0,
        total_ms=4.25,
        request_id=request_id.encode(),
        request_head=b"POST /v1/models/m:predict HTTP/1.1\r\nHost: a\r\n%s%sContent-Length: %d\r\n\r\n"
        % (named, head, len(body)),
        request_body=body,
        response_head=b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(answer)),
        response_body=answer,
    )


def logged(
    store: Store, *taken: Frame, plans: tuple[Plan, ...] = (), gathered: Exposures | None = None
) -> list[dict[str, Any]]:
    exposures = gathered or Exposures(ExposureLog(store), NAMES, Options())
    for one in plans or (plan(),):
        exposures.obey(one)
    for one_frame in taken:
        exposures.take(one_frame)
    asyncio.run(exposures.close())
    return rows(store, "exposures")


def rows(store: Store, table: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(store.path)) as raw:
        raw.row_factory = sqlite3.Row
        return [dict(row) for row in raw.execute(f"SELECT * FROM {table} ORDER BY 1")]


def user_of(arm: str, percent: float = 50) -> str:
    """A user whom the plan gives to an arm."""
    below = (name for n in range(1000) if ((name := f"user-{n}") and bucket(name.encode(), b"iris") < percent * 100))
    above = (name for n in range(1000) if ((name := f"user-{n}") and bucket(name.encode(), b"iris") >= percent * 100))
    return next(below if arm == "green" else above)


# --- frames to rows ---------------------------------------------------------------------------------------------------


def test_a_row_says_who_met_which_arm_and_what_came_of_it(store: Store) -> None:
    user = user_of("green")
    (row,) = logged(store, frame(colour="green", user=user))
    scheme = row.pop("flags")
    assert scheme & 0xFF == KEYED
    assert json.loads(row.pop("prediction")) == {"protocol": "v1", "items": 1, "kind": "labels", "decision": "2"}
    assert row == {
        "id": 1, "request_id": "r1", "release": 1, "revision": 1, "share": 0.5, "unit": user, "arm": "green", "status": 200,
        "error": 0, "latency_ms": 4.25, "at": 1000.0, "blue": None, "green": "2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("told", "arm", "error"),
    [
        ({"colour": "blue", "user": "blue"}, "blue", 0),
        ({"colour": "blue", "user": "blue", "status": 503}, "blue", 1),
        ({"colour": "blue", "user": "blue", "status": 404}, "blue", 0),
        ({"colour": "green", "user": "green", "status": 500}, "green", 1),
        ({"colour": "blue", "user": "green", "flags": frames.FELL_BACK}, "green", 1),
        ({"colour": "blue", "user": "green"}, "green", 1),  # green was left out: its breaker was open
    ],
)
def test_the_arm_is_the_one_that_was_meant_whoever_answered(store: Store, told: dict[str, Any], arm: str, error: int) -> None:
    told["user"] = user_of(told["user"])
    (row,) = logged(store, frame(**told))
    assert (row["arm"], row["error"]) == (arm, error)
    assert bool(row["flags"] & FELL_BACK) == (arm == "green" and told["colour"] == "blue")


def test_by_chance_there_is_no_unit_and_the_flag_tells_who_was_meant(store: Store) -> None:
    taken = frame("a", user=None), frame("b", colour="green"), frame("c", flags=frames.FELL_BACK)
    found = logged(store, *taken, plans=(plan(key=None),))
    assert [(row["unit"], row["arm"], row["flags"], row["error"]) for row in found] == [
        (None, "blue", 0, 0),
        (None, "green", 0, 0),
        (None, "green", FELL_BACK, 1),
    ]


def test_an_error_inside_a_good_answer_is_one(store: Store) -> None:
    taken = frame(user=user_of("blue"))
    body = b'{"error": "out of memory"}'
    broken = Frame(*[getattr(taken, name) if name != "response_body" else body for name in taken.__slots__])
    (row,) = logged(store, broken)
    assert (row["status"], row["error"], row["blue"]) == (200, 1, None)


def test_without_the_key_a_keyed_split_draws_nobody(store: Store) -> None:
    (row,) = logged(store, frame(user=None))
    assert (row["unit"], row["arm"], row["flags"] & KEYED) == (None, "blue", KEYED)


def test_a_clients_retry_is_marked(store: Store) -> None:
    found = logged(
        store, frame("a", head=b"X-Stainless-Retry-Count: 1\r\n"), frame("b", head=b"X-Stainless-Retry-Count: 0\r\n")
    )
    assert [bool(row["flags"] & RETRY) for row in found] == [True, False]


def test_each_frame_goes_by_the_plan_of_its_own_revision(store: Store) -> None:
    taken = frame("a", revision=1), frame("b", revision=2), frame("c", revision=3), frame("d", revision=9)
    store.add_history(plan(3, 25), None)
    found = logged(store, *taken, plans=(plan(1, 50), plan(2, 5)))
    assert [row["share"] for row in found] == [0.5, 0.05, 0.25, 0.0]


def test_another_key_or_salt_is_another_scheme(store: Store) -> None:
    found = logged(store, frame("a", revision=1), frame("b", revision=2), plans=(plan(1), plan(2, key="cookie:u")))
    assert found[0]["flags"] >> 8 != found[1]["flags"] >> 8


def test_frames_that_cannot_be_read_and_repeated_ids_are_counted(store: Store) -> None:
    exposures = Exposures(ExposureLog(store), NAMES, Options())
    broken = frame("b")
    broken = Frame(*[getattr(broken, name) if name != "request_head" else b"rubbish" for name in broken.__slots__])
    found = logged(store, frame("a"), broken, frame("a", status=500), gathered=exposures)
    assert [(row["request_id"], row["status"]) for row in found] == [("a", 200)]
    assert exposures.counts() == {"lost": 0, "unreadable": 1, "repeated_ids": 1}


def observation(request_id: str, blue: object, green: object, live: str = "blue") -> Observation:
    def outcome(label: object) -> Outcome:
        body = json.dumps({"predictions": [label]}).encode()
        return Outcome(200, {"content-type": "application/json"}, body, 1.0, 2.0)

    return Observation(1, 1, request_id, 1000.0, "POST", "/v1/models/m:predict", {}, b"{}", live, outcome(blue), outcome(green))


@pytest.mark.parametrize("late", [False, True])
def test_a_mirrored_exchange_gets_what_both_arms_decided(store: Store, late: bool) -> None:
    exposures = Exposures(ExposureLog(store), NAMES, Options())
    pair = observation("r1", 1, 2)
    readings = tuple(read(pair, side, Options()) for side in (pair.blue, pair.green))
    exposures.obey(plan(percent=0))
    exposures.take(frame("r1"))
    if late:
        asyncio.run(exposures.close())
        assert rows(store, "exposures")[0]["prediction"] is None
    exposures.compared(pair, (readings[0], readings[1]))
    asyncio.run(exposures.close())
    (row,) = rows(store, "exposures")
    assert (row["blue"], row["green"], json.loads(row["prediction"])["decision"]) == ("1", "2", "1")


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=60))
def test_no_frame_stops_the_log(head: bytes, answer: bytes, request_id: bytes) -> None:
    class Nowhere(ExposureLog):
        def __init__(self) -> None:
            pass

    exposures = Exposures(Nowhere(), NAMES, Options())
    exposures.obey(plan())
    exposures.take(Frame(0, 0, 1, 1, 1.0, 1.0, 1.0, request_id, head, b"", answer, b""))


def test_what_the_store_does_not_take_waits_and_is_written_later(store: Store) -> None:
    exposures = Exposures(ExposureLog(store), NAMES, Options())
    exposures.obey(plan())
    exposures.take(frame("a"))
    with closing(sqlite3.connect(store.path)) as raw:
        raw.execute("ALTER TABLE exposures RENAME TO away")
        asyncio.run(exposures.close())
        raw.execute("ALTER TABLE away RENAME TO exposures")
    exposures.take(frame("b"))
    asyncio.run(exposures.close())
    assert [row["request_id"] for row in rows(store, "exposures")] == ["a", "b"]


# --- feedback ---------------------------------------------------------------------------------------------------------


def exposure(request_id: str, *, unit: str | None = None, at: float = 1000.0, release: int = 1) -> ExposureRow:
    return ExposureRow(request_id, release, 1, 0.5, unit, "blue", 0, 200, False, 1.0, at, None, "1", None)


def by_request(request_id: str, label: str | None = None, reward: float | None = None) -> FeedbackRow:
    return FeedbackRow(1, request_id, None, 0.0, label, reward)


def by_unit(unit: str, label: str | None = None, reward: float | None = None, at: float = 0.0) -> FeedbackRow:
    return FeedbackRow(1, None, unit, at, label, reward)


def joined(log: ExposureLog, *given: FeedbackRow) -> tuple[int, ...]:
    numbered = [FeedbackRow(n, *[getattr(row, name) for name in row.__slots__[1:]]) for n, row in enumerate(given, 1)]
    done = log.join(numbered, 5000.0)
    return done.joined, done.replaced, done.duplicates, done.unknown


@pytest.fixture
def log(store: Store) -> ExposureLog:
    return ExposureLog(store)


def test_rows_are_joined_once_however_often_they_come(log: ExposureLog, store: Store) -> None:
    log.add([exposure("a"), exposure("b")], [], 1000.0)
    given = by_request("a", "1", 0.5), by_request("b", "2"), by_request("c", "3")
    assert joined(log, *given) == (2, 0, 0, 1)
    assert joined(log, *given) == (0, 0, 2, 1)
    found = rows(store, "feedback")
    assert [(row["exposure"], row["kind"], row["label"], row["reward"]) for row in found] == [
        (1, "label", "1", None),
        (2, "label", "2", None),
        (1, "reward", None, 0.5),
    ]
    assert len(rows(store, "pending_feedback")) == 1


def test_a_value_that_was_missing_is_joined_and_one_that_differs_replaces(log: ExposureLog, store: Store) -> None:
    log.add([exposure("a")], [], 1000.0)
    assert joined(log, by_request("a", "1")) == (1, 0, 0, 0)
    assert joined(log, by_request("a", None, 0.5)) == (1, 0, 0, 0)
    assert joined(log, by_request("a", "1", 0.5)) == (0, 0, 1, 0)
    assert log.corrections(1) == 0
    assert joined(log, by_request("a", "2", 0.5)) == (0, 1, 0, 0)
    assert log.corrections(1) == 1
    assert [(row["label"], row["reward"], row["corrections"]) for row in rows(store, "feedback")] == [
        ("2", None, 1),
        (None, 0.5, 0),
    ]


def test_a_units_feedback_is_about_its_newest_exposure(log: ExposureLog, store: Store) -> None:
    log.add(
        [exposure("a", unit="u", at=100.0), exposure("b", unit="u", at=200.0), exposure("c", unit="v", at=300.0)], [], 1000.0
    )
    assert joined(log, by_unit("u", None, 1.0), by_unit("u", None, 0.0, at=150.0), by_unit("w", None, 1.0)) == (2, 0, 0, 1)
    assert [(row["exposure"], row["reward"]) for row in rows(store, "feedback")] == [(2, 1.0), (1, 0.0)]
    log.add([exposure("d", unit="u", at=400.0)], [], 1000.0)
    assert joined(log, by_unit("u", None, 1.0)) == (0, 0, 1, 0)  # the same row is the same row, though u came back
    assert joined(log, by_unit("u", None, 0.5)) == (0, 1, 0, 0)
    log.add([exposure("e", unit="u", at=500.0, release=2)], [], 1000.0)
    assert joined(log, by_unit("u", None, 1.0)) == (1, 0, 0, 0)  # another release asks again


def test_feedback_that_is_early_waits_for_its_exposure(log: ExposureLog, store: Store) -> None:
    assert joined(log, by_request("a", "1"), by_unit("u", None, 1.0), by_unit("v", None, 1.0, at=150.0)) == (0, 0, 0, 3)
    assert joined(log, by_request("a", "2", 0.5)) == (0, 0, 0, 1)
    log.add([exposure("a"), exposure("b", unit="u"), exposure("c", unit="v", at=200.0)], [], 1000.0)
    found = rows(store, "feedback")
    assert {(row["exposure"], row["label"], row["reward"]) for row in found} == {(1, "2", None), (1, None, 0.5), (2, None, 1.0)}
    # v's feedback is about the time before its exposure, so it goes on waiting.
    assert [row["unit"] for row in rows(store, "pending_feedback")] == ["v"]


def test_old_rows_go_and_take_their_feedback_along(log: ExposureLog, store: Store) -> None:
    log.add([exposure(f"r{n}", at=float(n), unit="u" if n < 3 else None) for n in range(1, 11)], [], 1000.0)
    assert joined(log, by_request("r1", "1"), by_request("r9", "1"), by_unit("u", "1")) == (3, 0, 0, 0)
    assert log.prune(before=3.0, rows=100, pending_before=0.0) == 2
    assert log.prune(before=3.0, rows=100, pending_before=0.0) == 0
    assert [row["exposure"] for row in rows(store, "feedback")] == [9]
    assert log.prune(before=0.0, rows=4, pending_before=0.0) == 4
    assert [row["request_id"] for row in rows(store, "exposures")] == ["r7", "r8", "r9", "r10"]
    assert log.prune(before=1e9, rows=4, pending_before=0.0) == 4
    assert log.first_exposure() == 0


def test_what_waited_too_long_is_let_go(log: ExposureLog, store: Store) -> None:
    joined(log, by_request("a", "1"))
    log.prune(before=0.0, rows=10, pending_before=4999.0)
    assert len(rows(store, "pending_feedback")) == 1
    log.prune(before=0.0, rows=10, pending_before=5001.0)
    assert rows(store, "pending_feedback") == []


def test_nothing_is_nothing(log: ExposureLog) -> None:
    assert log.join([], 1.0) == Joined()
    assert log.add([], [], 1.0) == 0


KEYS = st.sampled_from(["a", "b", "c", "d"])
VALUES = st.sampled_from([None, "1", "2"])
BATCH = st.dictionaries(KEYS, st.tuples(VALUES, st.sampled_from([None, 0.0, 1.0])).filter(any), max_size=4)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.one_of(KEYS, BATCH), max_size=10))
def test_whatever_the_order_the_log_holds_the_newest_value_of_everything(tmp_path_factory: Any, steps: list[Any]) -> None:
    """Against a dictionary: exposures and feedback in any order, feedback early, late, repeated and corrected."""
    store = Store(tmp_path_factory.mktemp("log") / "s.sqlite")
    log = ExposureLog(store)
    known: set[str] = set()
    truth: dict[str, list[Any]] = {}
    for step in steps:
        if isinstance(step, str):
            known.add(step)
            log.add([exposure(step)], [], 1.0)
            continue
        batch = [by_request(key, label, reward) for key, (label, reward) in step.items()]
        done = joined(log, *batch)
        assert sum(done) == len(batch)
        assert done[3] == len(step.keys() - known)
        for key, values in step.items():
            held = truth.setdefault(key, [None, None])
            truth[key] = [new if new is not None else old for old, new in zip(held, values, strict=True)]
    with closing(sqlite3.connect(store.path)) as raw:
        found = raw.execute(
            "SELECT request_id, kind, f.label, f.reward FROM feedback f JOIN exposures e ON e.id = f.exposure"
        ).fetchall()
    store.close()
    held = {(key, kind): label if kind == "label" else reward for key, kind, label, reward in found}
    wanted = {(key, kind): value for key in known & truth.keys()
              for kind, value in zip(("label", "reward"), truth[key], strict=True) if value is not None}  # fmt: skip
    assert held == wanted
