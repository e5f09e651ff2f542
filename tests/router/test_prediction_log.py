"""From clients' requests to the evidence, over a real router: the log, its units, late labels, and a restart."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from deployment import Client, ColourServers, Deployment

from router.split import bucket
from router.unit_names import unit_names

SPLIT = {"green_percent": 40, "key": "header:x-user-id", "salt": "iris"}
USERS = 60


@pytest.fixture(scope="module")
def servers() -> Iterator[ColourServers]:
    one = ColourServers()
    yield one
    one.close()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory, servers: ColourServers) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("predictions")
    one = Deployment(folder, servers.url("blue"), servers.url("green"), split=SPLIT, shadow={"percent": 50, "nice": 0})
    one.start()
    yield one
    one.stop()


def asked(router: Deployment, times: int, users: int = USERS) -> list[tuple[str, str, str]]:
    """(request id, user, colour) of good answers."""
    client = Client(router.port)
    found = []
    for n in range(times):
        user = f"user-{n % users}"
        status, headers, _ = client.ask(str(n), x_user_id=user)
        assert status == 200
        found.append((headers["x-request-id"], user, headers["x-bluegreen-arm"]))
    client.close()
    return found


def rows(router: Deployment) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(router.folder / "state" / "bluegreen.sqlite", timeout=60)) as raw:
        raw.row_factory = sqlite3.Row
        return [dict(row) for row in raw.execute("SELECT * FROM exposures ORDER BY id")]


def comparable(router: Deployment) -> int:
    """How many labelled requests there are of which the log has the decisions of both arms."""
    with closing(sqlite3.connect(router.folder / "state" / "bluegreen.sqlite", timeout=60)) as raw:
        found = raw.execute(
            "SELECT count(*) FROM feedback AS f JOIN exposures AS e ON e.id = f.exposure "
            "WHERE f.kind = 'label' AND e.blue IS NOT NULL AND e.green IS NOT NULL"
        )
        return int(found.fetchone()[0])


def evidence(router: Deployment) -> dict[str, Any]:
    found: dict[str, Any] = router.get("/v1/evidence")[1]
    return found


@pytest.fixture(scope="module")
def requests(router: Deployment) -> list[tuple[str, str, str]]:
    """Two hundred requests, all of them in the log."""

    def are_logged(made: list[tuple[str, str, str]]) -> bool:
        return {request for request, _, _ in made} <= {row["request_id"] for row in rows(router)}

    def connected() -> bool:
        """Whether every worker has found the shadow: eight connections are those of one worker hardly ever."""
        made = [one for _ in range(8) for one in asked(router, 1)]
        deadline = time.monotonic() + 3
        while not are_logged(made) and time.monotonic() < deadline:
            time.sleep(0.05)
        return are_logged(made)

    router.wait_until(connected)
    for _ in range(4):
        # A shadow that is kept from the processor drops what has waited for too long, and tells so; then they are asked anew.
        made = asked(router, 200)
        with suppress(AssertionError):
            router.wait_until(lambda made=made: are_logged(made), 20)
            return made
    raise AssertionError(f"not all of 200 requests get into the log: {evidence(router)}")


def test_every_request_of_a_split_is_logged_mirrored_or_not(router: Deployment, requests: list[tuple[str, str, str]]) -> None:
    names = unit_names(router.folder / "state" / "unit.secret", plain=False)
    found = {row["request_id"]: row for row in rows(router)}
    for request, user, colour in requests:
        row = found[request]
        assert (row["arm"], row["share"], row["status"], row["error"]) == (colour, 0.4, 200, 0)
        assert row["unit"] == names.name(user.encode())
        assert row["arm"] == ("green" if bucket(user.encode(), b"iris") < 4000 else "blue")
        assert row[row["arm"]] == "same"
        assert row["latency_ms"] > 0
    # Half were mirrored: of those both arms' decisions are known.
    made = {request for request, _, _ in requests}
    router.wait_until(
        lambda: sum(row["blue"] == row["green"] == "same" for row in rows(router) if row["request_id"] in made) > 60
    )


def test_late_labels_become_evidence(router: Deployment, requests: list[tuple[str, str, str]]) -> None:
    router.wait_until(lambda: evidence(router)["experiment"]["sample_ratio"]["n"] >= USERS)
    told = evidence(router)
    green = sum(bucket(f"user-{n}".encode(), b"iris") < 4000 for n in range(USERS))
    assert told["experiment"]["units"] == {"blue": USERS - green, "green": green}
    assert not told["experiment"]["sample_ratio"]["mismatch"]
    right = [{"request_id": request, "label": "same" if n % 4 else "other"} for n, (request, _, _) in enumerate(requests)]
    status, answer = router.post(
        "/v1/feedback", [*right, {"unit": "user-1", "reward": 1}, {"request_id": "nobody", "label": 1}]
    )
    assert status == 200
    assert (answer["joined"], answer["unknown"]) == (201, 1)
    router.wait_until(lambda: evidence(router)["feedback"]["labels"] == 200)
    found = evidence(router)["feedback"]
    assert found["accuracy"]["split"]["n"] == USERS
    assert found["accuracy"]["n"] == found["accuracy"]["both_right"] + found["accuracy"]["both_wrong"] > 60
    assert found["reward"]["n"] == 1
    step = evidence(router)["experiment"]["steps"][-1]
    assert step["blue"]["labels"] + step["green"]["labels"] == 200
    assert step["green"]["accuracy"] == pytest.approx(0.75, abs=0.15)


def test_feedback_may_be_faster_than_the_log(router: Deployment, requests: list[tuple[str, str, str]]) -> None:
    del requests
    before = evidence(router)["feedback"]["labels"]
    fast = asked(router, 20)
    _, answer = router.post("/v1/feedback", [{"request_id": request, "label": "same"} for request, _, _ in fast])
    assert answer["joined"] + answer["unknown"] == 20
    assert answer["kept"] == answer["unknown"]
    router.wait_until(lambda: evidence(router)["feedback"]["labels"] == before + 20)


def test_after_kill_of_everything_nothing_is_counted_twice(router: Deployment, requests: list[tuple[str, str, str]]) -> None:
    del requests
    logged = len(rows(router))
    router.wait_until(lambda: sum(evidence(router)["experiment"]["exposures"].values()) == logged)
    before = evidence(router)["feedback"]
    router.kill_all()
    router.start()
    router.wait_until(lambda: sum(evidence(router)["experiment"]["exposures"].values()) == logged)
    router.wait_until(lambda: evidence(router)["feedback"]["labels"] == before["labels"])
    after = evidence(router)["feedback"]
    # The other arm's decision may have been written too late for the first time, but not for the second.
    assert before["accuracy"]["n"] <= after["accuracy"]["n"] <= comparable(router)
    assert (after["labels"], after["reward"]["n"]) == (before["labels"], before["reward"]["n"])
    assert len(rows(router)) == logged


def test_without_rows_there_is_no_log(servers: ColourServers, tmp_path: Path) -> None:
    router = Deployment(
        tmp_path,
        servers.url("blue"),
        servers.url("green"),
        split=SPLIT,
        shadow={"percent": 100, "nice": 0},
        predictions={"rows": 0},
    )
    router.start()
    try:
        router.wait_until(lambda: asked(router, 4) and evidence(router)["pairs"] > 8)
        assert rows(router) == []
        assert "experiment" not in evidence(router)
    finally:
        router.stop()
