"""`POST /v1/feedback` and `bluegreen feedback` against a real control process."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import httpx
import pytest
from control_process import ControlProcess, Follower, new_state

from router import cli
from router.store.exposures import ExposureLog, ExposureRow
from router.store.store import Store
from router.unit_names import unit_names

NOTHING = {"rows": 0, "joined": 0, "replaced": 0, "duplicates": 0, "unknown": 0, "kept": 0, "rejected_rows": 0, "rejected": []}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlProcess]:
    state, _ = new_state(tmp_path_factory.mktemp("feedback"))
    follower = Follower(state, 0)
    one = ControlProcess(state)
    yield one
    follower.stop()
    one.end()


@pytest.fixture(scope="module")
def log(process: ControlProcess) -> Iterator[ExposureLog]:
    """The log beside the process, as the shadow has it open."""
    store = Store(process.state.store)
    yield ExposureLog(store)
    store.close()


@pytest.fixture
def ids(log: ExposureLog, request: pytest.FixtureRequest) -> list[str]:
    """Requests of this test alone, in the log."""
    names = [f"{request.node.name}-{n}".replace("[", "-").replace("]", "") for n in range(10)]
    rows = [ExposureRow(name, 1, 1, 0.5, None, "blue", 0, 200, False, 1.0, 1000.0, None, "1", None) for name in names]
    assert log.add(rows, [], 1000.0) == 0
    return names


def sent(process: ControlProcess, body: object, kind: str = "application/json") -> httpx.Response:
    with process.client() as client:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": kind, "x-request-id": "mine"}
        return client.post("/v1/feedback", content=content, headers=headers, timeout=120)  # it may be tens of thousands of rows


def test_labels_and_rewards_are_joined_by_request_id(process: ControlProcess, ids: list[str]) -> None:
    rows = [{"request_id": ids[0], "label": 2}, {"request_id": ids[1], "reward": 0.7}, {"request_id": "never-1", "label": 1}]
    answer = sent(process, rows)
    assert answer.status_code == 200
    assert answer.json() == {**NOTHING, "rows": 3, "joined": 2, "unknown": 1, "kept": 1}
    assert sent(process, rows).json() == {**NOTHING, "rows": 3, "duplicates": 2, "unknown": 1, "kept": 1}
    rows[0]["label"] = 3
    assert sent(process, rows[:2]).json() == {**NOTHING, "rows": 2, "replaced": 1, "duplicates": 1}


def test_a_unit_is_named_by_its_plain_key(process: ControlProcess, log: ExposureLog) -> None:
    unit = unit_names(process.state.unit_secret, plain=False).name(b"ann@example.com")
    log.add([ExposureRow("by-unit", 1, 1, 0.5, unit, "blue", 0, 200, False, 1.0, 1000.0, None, None, None)], [], 1000.0)
    answer = sent(process, [{"unit": "ann@example.com", "reward": 1}, {"unit": "bob@example.com", "reward": 1}]).json()
    assert answer == {**NOTHING, "rows": 2, "joined": 1, "unknown": 1, "kept": 1}


@pytest.mark.parametrize("kind", ["text/csv; charset=utf-8", "application/x-ndjson"])
def test_bad_rows_are_reported_with_their_line_and_the_rest_is_kept(process: ControlProcess, ids: list[str], kind: str) -> None:
    if kind.startswith("text/csv"):
        body = f"request_id,label\n{ids[0]},1\nrubbish\n{ids[1]},1\n{ids[1]},1\n{ids[1]},2\n".encode()
    else:
        rows = [{}, {"request_id": ids[0], "label": 1}, "rubbish", *({"request_id": ids[1], "label": n} for n in (1, 1, 2))]
        body = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    answer = sent(process, body, kind).json()
    assert (answer["joined"], answer["duplicates"], answer["replaced"]) == (2, 1, 1)
    assert answer["rows"] == answer["joined"] + answer["duplicates"] + answer["replaced"] + answer["rejected_rows"]
    assert answer["rejected"][-1]["line"] == 3


def test_only_the_first_bad_rows_are_told_one_by_one(process: ControlProcess) -> None:
    answer = sent(process, b"x\n" * 5000, "application/x-ndjson").json()
    assert (answer["rows"], answer["rejected_rows"], len(answer["rejected"])) == (5000, 5000, 100)


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"{}", "application/json", 422, "must be a JSON list"),
        (b"[", "application/json", 422, "not JSON"),
        (b"[]", "application/json", 422, "no row"),
        (b"", "text/csv", 422, "first line names the columns"),
        (b"a,b\n1,2\n", "text/csv", 422, "first line must name the columns"),
        (b"request_id,label\n", "text/csv", 422, "no row"),
        (b"x" * 100_000, "application/x-ndjson", 422, "one row per line"),
        (b"[]", "application/octet-stream", 415, "send application/json, text/csv"),
        (b"[" + b" " * (1 << 20) + b"]", "application/json", 413, "send more rows as text/csv"),
    ],
)
def test_what_cannot_be_feedback_at_all_is_a_problem_document(
    process: ControlProcess, body: bytes, kind: str, status: int, words: str
) -> None:
    answer = sent(process, body, kind)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert words in answer.json()["detail"]


def test_a_text_may_be_larger_than_other_bodies_but_not_endless(process: ControlProcess, ids: list[str]) -> None:
    body = b"request_id,label,note\n" + b"".join(f"{ids[0]},1,{n:0200d}\n".encode() for n in range(10_000))
    assert len(body) > 2 << 20
    answer = sent(process, body, "text/csv").json()
    assert (answer["rows"], answer["joined"], answer["duplicates"]) == (10_000, 1, 9_999)
    with closing(socket.create_connection(("127.0.0.1", process.port), timeout=60)) as raw:
        raw.sendall(
            b"POST /v1/feedback HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: 68157440\r\n\r\n"
        )
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_the_log_is_written_while_feedback_comes_in_bulk(process: ControlProcess, log: ExposureLog) -> None:
    """Neither side waits so long for the other that it gives up, and what comes during the call is joined all the same."""
    names = [f"bulk-{n}" for n in range(40_000)]
    rows = [ExposureRow(name, 1, 1, 0.5, None, "blue", 0, 200, False, 1.0, 1000.0, None, "1", None) for name in names]
    log.add(rows[:30_000], [], 1000.0)
    body = b"request_id,label\n" + b"".join(f"{name},1\n".encode() for name in names)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(sent, process, body, "text/csv")
        for at in range(30_000, 40_000, 500):
            log.add(rows[at : at + 500], [], 1000.0)
        answer = call.result().json()
    assert (answer["rows"], answer["joined"] + answer["unknown"]) == (40_000, 40_000)
    assert answer["joined"] >= 30_000
    again = sent(process, body, "text/csv").json()
    assert (again["duplicates"], again["unknown"]) == (40_000, 0)


# --- the command ------------------------------------------------------------------------------------------------------


def bluegreen(process: ControlProcess, *arguments: str) -> tuple[int, str, str]:
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        status = cli.main([*arguments, "--control", process.url])
    return status, out.getvalue(), err.getvalue()


def test_the_command_sends_a_file_and_tells_what_became_of_it(process: ControlProcess, ids: list[str], tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(f"request_id,label\n{ids[0]},1\n{ids[1]},2\nrubbish\nnobody-1,1\n")
    status, out, err = bluegreen(process, "feedback", str(file))
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "4 rows: 2 joined, 1 of unknown requests, 1 rejected"
    assert out.splitlines()[-1] == "line 4: has 1 fields, but the first line names 2 columns"
    status, out, _ = bluegreen(process, "feedback", str(file), "--json")
    assert json.loads(out)["duplicates"] == 2


def test_a_json_list_goes_as_well(process: ControlProcess, ids: list[str], tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    file.write_text(json.dumps([{"request_id": name, "reward": 0.5} for name in ids]))
    assert bluegreen(process, "feedback", str(file))[1] == "10 rows: 10 joined\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no row"),
        ("a,b\n1,2\n", "first line must name the columns"),
        ("request_id,label\nrubbish\n", "no row could be used; line 2 has 1 fields"),
        ("[1, ", "begins like a JSON list"),
    ],
)
def test_a_file_of_which_nothing_can_be_used_is_an_error(
    process: ControlProcess, tmp_path: Path, content: str, words: str
) -> None:
    file = tmp_path / "feedback.txt"
    file.write_text(content)
    status, out, err = bluegreen(process, "feedback", str(file))
    assert (status, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_file_that_is_not_there_is_an_error(process: ControlProcess, tmp_path: Path) -> None:
    status, _, err = bluegreen(process, "feedback", str(tmp_path / "nothing.csv"))
    assert (status, err) == (1, f"bluegreen: cannot read {tmp_path / 'nothing.csv'}: No such file or directory\n")
