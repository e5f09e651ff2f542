"""Rollouts over the control API and the command line, against a real control process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from control_process import ControlProcess, new_state
from rollout_stage import Stage

from router import cli
from router.commands import rollout_view, tables
from router.commands.rollout import _ranges

CONFIG = """
blue: {name: v1, servers: [http://127.0.0.1:9001]}
green: {name: v2, servers: [http://127.0.0.1:9002]}
shadow: {percent: 100}
rollout:
  shadow: {min_pairs: 100}
  steps: [50, 100]
  hold: 50ms
  bake: 50ms
  gates: {agreement: {min: 0.9}, errors: {max_increase: 0.05}}
"""
LONG = {"steps": [10, 50, 100], "hold": "1h", "gates": {"agreement": {"min": 0.9}, "errors": {"max_increase": 0.05}}}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlProcess]:
    state, _ = new_state(tmp_path_factory.mktemp("rollouts"), CONFIG)
    one = ControlProcess(state)
    yield one
    assert one.end() == 0


@pytest.fixture
def stage(process: ControlProcess) -> Iterator[Stage]:
    one = Stage(process.state)
    yield one
    one.stop()


@pytest.fixture
def api(process: ControlProcess) -> Iterator[httpx.Client]:
    """A client; afterwards there is no rollout any more, and blue has all traffic."""
    with process.client() as client:
        yield client
        client.post("/v1/rollout", json={"action": "abort"})
        client.post("/v1/switch", json={"to": "blue"})


def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def state_is(api: httpx.Client, state: str) -> Callable[[], bool]:
    return lambda: bool(api.get("/v1/rollout").json()["state"] == state)


def post(api: httpx.Client, action: str, **more: Any) -> httpx.Response:
    return api.post("/v1/rollout", json={"action": action, **more})


def bluegreen(process: ControlProcess, *arguments: str) -> tuple[int, str, str]:
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        status = cli.main([*arguments, "--control", process.url])
    return status, out.getvalue(), err.getvalue()


def text_of(shown: Any) -> str:
    """What rich prints, on one line."""
    with redirect_stdout(StringIO()) as out:
        tables.console().print(shown)
    return " ".join(out.getvalue().split())


# --- the API ------------------------------------------------------------------------------------------------------------------


def test_before_the_first_rollout(api: httpx.Client, process: ControlProcess) -> None:
    document = api.get("/v1/rollout").json()
    assert (document["state"], document["step"], document["gates"]) == ("idle", 0, [])
    assert api.get("/v1/status").json()["rollout"] == {"state": "idle"}
    assert api.get("/v1/rollouts").json() == {"rollouts": []}
    refused = post(api, "pause")
    assert refused.status_code == 409
    assert "there has been no rollout" in refused.json()["detail"]
    assert bluegreen(process, "history", "--verify")[:2] == (0, "there is no promotion record yet\n")


def test_a_rollout_from_start_to_done(api: httpx.Client, stage: Stage) -> None:
    document = post(api, "start").json()
    assert document["state"] in ("shadowing", "stepping")
    assert document["policy"]["steps"] == [50.0, 100.0]
    until(state_is(api, "done"))
    document = api.get("/v1/rollout").json()
    assert (document["green_percent"], document["step"], document["hold_left"]) == (100, 2, None)
    records = api.get("/v1/rollouts").json()["rollouts"]
    record = api.get(f"/v1/rollouts/{document['number']}").json()
    assert record["hash"] == records[-1]["hash"]
    assert record["document"]["outcome"] == "done"

    def told() -> list[str]:
        entries = [entry for entry in api.get("/v1/history").json()["history"] if entry["kind"] == "rollout"]
        return [entry["detail"]["to"] for entry in entries if entry["detail"]["rollout"] == document["number"]]

    until(lambda: "done" in told())  # the state says so a moment earlier
    assert told() == ["shadowing", "stepping", "baking", "done"]


def test_while_it_goes_on(api: httpx.Client, stage: Stage) -> None:
    post(api, "start", policy=LONG)
    until(state_is(api, "stepping"))
    until(lambda: "errors_live" in [gate["name"] for gate in api.get("/v1/rollout").json()["gates"]])
    document = api.get("/v1/rollout").json()
    assert document["green_percent"] == 10
    assert 3500 < document["hold_left"] <= 3600
    gates = {gate["name"]: gate for gate in document["gates"]}
    assert set(gates) == {"pairs", "agreement", "errors", "errors_live", "traffic"}
    assert gates["agreement"]["threshold"] == 0.9
    assert gates["agreement"]["ci"][0] > 0.9
    status = api.get("/v1/status").json()["rollout"]
    assert (status["state"], status["step"], status["green_percent"]) == ("stepping", 1, 10)
    judged = api.get("/v1/evidence").json()["verdict"]
    assert judged["verdict"] in ("promote", "hold")
    assert [gate["name"] for gate in judged["gates"]][:3] == ["pairs", "agreement", "errors"]
    assert (judged["asked"]["gates"]["agreement"]["min"], judged["asked"]["default"]) == (0.9, False)
    number = document["number"]
    early = api.get(f"/v1/rollouts/{number}")
    assert early.status_code == 409
    assert "has not ended yet" in early.json()["detail"]
    assert post(api, "start").status_code == 409


def test_a_change_by_hand_pauses_it_and_the_state_says_who(api: httpx.Client, stage: Stage) -> None:
    post(api, "start", policy=LONG)
    until(state_is(api, "stepping"))
    api.post("/v1/split", json={"green_percent": 33}, headers={"x-bluegreen-user": "dan"})
    until(state_is(api, "paused"))
    document = api.get("/v1/rollout").json()
    assert document["reason"].startswith("dan@127.0.0.1 changed the plan by hand: split 33")
    assert (document["by_hand"], document["paused_from"], document["green_percent"]) == (True, "stepping", 33)
    assert post(api, "resume").json()["green_percent"] == 10


def test_a_green_that_turns_bad_goes_back(api: httpx.Client, stage: Stage) -> None:
    post(api, "start", policy=LONG)
    until(state_is(api, "stepping"))
    stage.good = False
    until(state_is(api, "rolled_back"))
    assert stage.plan().split.green_percent == 0
    document = api.get("/v1/rollout").json()
    assert "green answers like blue on 50" in document["reason"]


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"action": "begin"}, 422, "action: must be 'start', 'pause', 'resume' or 'abort'"),
        ({}, 422, "action: is missing"),
        ({"action": "start", "steps": [1]}, 422, "steps: is not a field of this call"),
        ({"action": "start", "policy": {"steps": [5, 1]}}, 422, "steps: must grow"),
        ({"action": "start", "policy": {"stepz": [5]}}, 422, "stepz: unknown key; did you mean steps?"),
        ({"action": "start", "policy": [1]}, 422, "policy: must be an object"),
        ({"action": "start", "policy": {"notify_secret_file": "/etc/passwd"}}, 422, "belongs into the configuration file"),
        ({"action": "start", "policy": {"gates": {"python": "os:getpid"}}}, 409, "only when the configuration file names it"),
        ({"action": "start", "policy": {"gates": {"slices": {}}}}, 409, "there are no slices"),
        ({"action": "resume"}, 409, "so it cannot be resumed"),
        ({"action": "pause", "policy": {}}, 422, "policy: belongs to `start`"),
    ],
)
def test_what_cannot_be_is_a_problem_document_and_changes_nothing(
    api: httpx.Client, body: dict[str, Any], status: int, detail: str
) -> None:
    before = api.get("/v1/plan").json(), api.get("/v1/rollout").json().get("number")
    answer = api.post("/v1/rollout", json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert detail in answer.json()["detail"]
    assert (api.get("/v1/plan").json(), api.get("/v1/rollout").json().get("number")) == before


def test_records_that_are_not_there(api: httpx.Client) -> None:
    missing = api.get("/v1/rollouts/9999")
    assert missing.status_code == 404
    assert "there is no rollout 9999" in missing.json()["detail"]
    assert api.get("/v1/rollouts/0").status_code == 422


# --- the command line ---------------------------------------------------------------------------------------------------------


def test_start_and_watch_until_it_is_done(api: httpx.Client, process: ControlProcess, stage: Stage) -> None:
    stage.users = False  # until it has been seen in its first step: who watches looks twice a second only

    class Screen(StringIO):
        def write(self, text: str) -> int:
            stage.users = stage.users or "stepping" in text
            return super().write(text)

    with redirect_stdout(Screen()) as screen, redirect_stderr(StringIO()) as errors:
        status = cli.main(["rollout", "start", "--watch", "--control", process.url])
    out, err = screen.getvalue(), errors.getvalue()
    assert (status, err) == (0, "")
    assert "stepping, step 1 of 2, green has 50 %" in out
    assert out.splitlines()[-1].endswith("done, green has 100 %: all 4 gates pass")


def test_a_rollout_that_went_back_is_exit_status_1(
    api: httpx.Client, process: ControlProcess, stage: Stage, tmp_path: Path
) -> None:
    stage.good = False
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"rollout: {json.dumps(LONG)}\n")
    status, out, err = bluegreen(process, "rollout", "start", "--policy", str(policy), "--watch")
    assert status == 1
    assert err.startswith("bluegreen: the rollout was rolled back: green answers like blue on 50")
    assert "rolled back" in out


def test_pause_resume_abort_and_status(api: httpx.Client, process: ControlProcess, stage: Stage, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(json.dumps(LONG))
    status, out, _ = bluegreen(process, "rollout", "start", "--policy", str(policy))
    assert status == 0
    assert "has begun" in out
    assert "10, 50, 100 %" in out
    until(state_is(api, "stepping"))
    assert bluegreen(process, "rollout", "pause")[1].endswith(" is paused, green has 10 %\n")
    shown = bluegreen(process, "rollout", "status")[1]
    for text in ("paused", "shadow", "10 %", "agreement", "verdict:", "paused by"):
        assert text in shown
    assert json.loads(bluegreen(process, "rollout", "resume", "--json")[1])["state"] == "stepping"
    status, out, err = bluegreen(process, "rollout", "resume")
    assert (status, out) == (1, "")
    assert "so it cannot be resumed" in err
    assert bluegreen(process, "rollout", "abort")[1].endswith(" is aborted, green has 0 %\n")
    assert json.loads(bluegreen(process, "rollout", "status", "--json")[1])["state"] == "aborted"
    status, out, _ = bluegreen(process, "history", "--verify")
    assert status == 0
    assert "the chain is whole" in out


def test_how_long_it_would_take(api: httpx.Client, process: ControlProcess, stage: Stage) -> None:
    until(lambda: (api.post("/v1/rollout/forecast", json={}).json()["from"]["rates"]["requests"] or 0) > 0)
    before = api.get("/v1/plan").json()
    status, out, _ = bluegreen(process, "rollout", "plan")
    assert status == 0
    for text in ("shadow", "step", "bake", "50 %", "of the simulated rollouts", "requests/s"):
        assert text in out
    assert api.get("/v1/plan").json() == before
    document = json.loads(bluegreen(process, "rollout", "plan", "--json")[1])
    assert [stage["green_percent"] for stage in document["stages"]] == [0.0, 50.0, 100.0]
    assert "asked for, at alpha 0.05: at least 100 pairs; green answers like blue on at least 90 % of them" in out
    document = api.post("/v1/rollout/forecast", json={"policy": {}}).json()
    assert document["asked"]["default"] is True
    assert "asked for by the default gates" in text_of(rollout_view.forecast(document))


def test_the_record_of_a_rollout_as_a_page(
    api: httpx.Client, process: ControlProcess, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    post(api, "start")
    until(state_is(api, "done"))
    number = api.get("/v1/rollout").json()["number"]
    record = api.get(f"/v1/rollouts/{number}").json()
    status, out, err = bluegreen(process, "report", "--rollout", str(number))
    assert (status, err) == (0, "")
    assert out.startswith(f"rollout-{number}.html is written: open it in a browser. ")
    assert "content matches its hash" in out
    page = (tmp_path / f"rollout-{number}.html").read_text()
    for words in (record["hash"], record["previous"], "Green has all traffic", "Next step: green 50 %", "all 4 gates pass"):
        assert words in page
    status, out, _ = bluegreen(process, "report", "--rollout", str(number), "mine.html", "--json")
    told = json.loads(out)
    assert (status, told["file"], told["rollout"], told["outcome"], told["hash"]) == (
        0,
        "mine.html",
        number,
        "done",
        record["hash"],
    )
    assert (told["previous"], told["chain"]["whole"]) == (record["previous"], True)
    assert (tmp_path / "mine.html").exists()


def test_a_rollout_without_a_record_is_one_line_that_says_which_there_are(
    api: httpx.Client, process: ControlProcess, stage: Stage, tmp_path: Path
) -> None:
    post(api, "start", policy=LONG)
    running = api.get("/v1/rollout").json()["number"]
    last = running - 1
    status, out, err = bluegreen(process, "report", "--rollout", str(running), str(tmp_path / "r.html"))
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert f"rollout {running} has not ended yet" in err
    post(api, "abort")
    until(state_is(api, "aborted"))
    status, out, err = bluegreen(process, "report", "--rollout", "4711", str(tmp_path / "r.html"))
    assert (status, out, err.count("\n")) == (1, "", 1)
    there = "is one of 1" if running == 1 else "are records of 1 and 2" if running == 2 else f"are records of 1 to {last + 1}"
    assert err == f"bluegreen: there is no record of a rollout 4711; there {there}\n"
    assert list(tmp_path.iterdir()) == []
    status, _, err = bluegreen(process, "report", "--rollout", "1", str(tmp_path / "no" / "r.html"))
    assert (status, err.count("\n")) == (1, 1)
    assert "cannot write" in err


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([3], "3"),
        ([1, 2], "1 and 2"),
        ([1, 2, 3], "1 to 3"),
        ([1, 3], "1 and 3"),
        ([1, 2, 3, 5, 7, 8], "1 to 3, 5, 7 and 8"),
    ],
)
def test_numbers_in_words(numbers: list[int], words: str) -> None:
    assert _ranges(numbers) == words


def test_a_report_of_nothing_in_particular_needs_a_file(process: ControlProcess) -> None:
    status, out, _ = bluegreen(process, "report")
    assert (status, out) == (2, "")


@pytest.mark.parametrize(
    ("text", "words"),
    [("steps: [1", "is not YAML"), ("rollout: [1]", "rollout: must be a mapping"), ("steps: [3, 1]", "steps: must grow")],
)
def test_a_bad_policy_file_is_one_line(process: ControlProcess, tmp_path: Path, text: str, words: str) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(text)
    status, out, err = bluegreen(process, "rollout", "start", "--policy", str(policy))
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert words in err or "line" in err


@pytest.mark.parametrize("arguments", [("rollout",), ("rollout", "begin"), ("rollout", "start", "--watch", "--json")])
def test_wrong_usage(process: ControlProcess, arguments: tuple[str, ...]) -> None:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        assert cli.main(list(arguments)) == 2


# --- the view -----------------------------------------------------------------------------------------------------------------


def gate(**more: Any) -> dict[str, Any]:
    return {"name": "agreement", "state": "undecided", "estimate": 0.99, "threshold": 0.98, "ci": [0.96, 0.999], **more}


def test_an_interval_closes_in_on_its_threshold() -> None:
    wide, narrow = (rollout_view.interval(gate(ci=ci)).plain for ci in ([0.93, 1.0], [0.985, 0.995]))
    assert wide.count("─") > narrow.count("─")
    assert wide.index("├") < wide.index("┃") < wide.index("●") < wide.index("┤")
    assert narrow.index("┃") < narrow.index("●")
    assert len(wide) == len(narrow)


@pytest.mark.parametrize("more", [{"ci": [None, None]}, {"estimate": None}, {"threshold": None}])
def test_where_there_is_no_interval_there_is_no_picture(more: dict[str, Any]) -> None:
    assert rollout_view.interval(gate(**more)).plain == ""


@pytest.mark.parametrize("ci", [[0.0, None], [None, 1.0], [-5.0, 5.0], [0.98, 0.98]])
def test_any_interval_can_be_drawn(ci: list[float | None]) -> None:
    assert len(rollout_view.interval(gate(ci=ci)).plain) == 28


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0 s"), (4.21, "4.2 s"), (42, "42 s"), (60, "1 min"), (90, "1.5 min"), (1800, "30 min"),
     (3600, "1 h"), (86400, "24 h"), (7 * 86400, "7 d")],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert rollout_view.duration(seconds) == text
