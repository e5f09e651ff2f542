"""Record, replay and backtest: against real servers, with the truth computed beside them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import deployment
import pyarrow.parquet
import pytest

from router import cli
from router import replay as replaying
from router.offline import backtest, replay
from router.recording import Recorded, RecordingError, read_recording
from router.replay import ReplayError

GATES = {"rollout": {"shadow": {"min_pairs": 100}, "gates": {"agreement": {"min": 0.9}, "errors": {"max_increase": 0.05}}}}


class Model:
    """A model server on a thread: answers n with what a function makes of it, and remembers the requests' headers."""

    def __init__(self, label: Callable[[int], Any]) -> None:
        seen: list[dict[str, str]] = []
        self.seen = seen
        self.most_at_once = 0
        busy = 0
        lock = threading.Lock()
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                nonlocal busy
                with lock:
                    busy += 1
                    model.most_at_once = max(model.most_at_once, busy)
                    seen.append({name.lower(): value for name, value in self.headers.items()})
                body = self.rfile.read(int(self.headers["content-length"]))
                answer = label(json.loads(body)["instances"][0])
                status, document = (
                    (answer, {}) if isinstance(answer, int) and answer >= 400 else (200, {"predictions": [answer]})
                )
                content = json.dumps(document).encode()
                with lock:
                    busy -= 1
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(autouse=True)
def _time_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a busy machine: whether a server is there must not depend on it."""
    bounds = replaying._bounds
    monkeypatch.setattr(
        replaying, "_bounds", lambda options, *, twice: replace(bounds(options, twice=twice), connect_timeout=20.0)
    )


@pytest.fixture
def serves() -> Iterator[Callable[[Callable[[int], Any]], Model]]:
    models: list[Model] = []

    def serve(label: Callable[[int], Any]) -> Model:
        models.append(Model(label))
        return models[-1]

    yield serve
    for model in models:
        model.close()


def blue_of(n: int) -> int:
    return n % 10


def recorded(n: int, *, colour: str = "blue", status: int = 200) -> Recorded:
    content = (("Content-Type", "application/json"),)
    return Recorded(
        request_id=f"r{n}",
        started=1000.0 + n,
        colour=colour,
        release=1,
        revision=1,
        method="POST",
        target="/v1/models/m:predict",
        request_headers=(("Host", "models.example"), *content, ("Authorization", "[redacted]"), ("X-Segment", "ab"[n % 2])),
        request_body=json.dumps({"instances": [n]}).encode(),
        status=status,
        response_headers=content,
        response_body=json.dumps({"predictions": [blue_of(n)]}).encode(),
        first_ms=1.0,
        total_ms=2.0,
    )


def recording(count: int) -> list[Recorded]:
    return [recorded(n) for n in range(count)]


# --- backtest -------------------------------------------------------------------------------------------------------------


def test_the_verdict_and_the_counts_are_those_of_the_truth(serves: Any) -> None:
    """Green disagrees on every twentieth request, and where it does the labels say that it is wrong."""
    green = serves(lambda n: blue_of(n) if n % 20 else 99)
    found = backtest(recording(600), green.url, config=GATES, labels={f"r{n}": n % 10 for n in range(300)})
    evidence = found.evidence
    assert (evidence["pairs"], evidence["agreement"]["agreed"], evidence["dropped"]) == (600, 570, 0)
    low, high = evidence["agreement"]["ci"]
    assert low < 0.95 < high
    accuracy = evidence["feedback"]["accuracy"]
    assert (accuracy["n"], accuracy["both_right"], accuracy["blue_only_right"], accuracy["green_only_right"]) == (
        300,
        285,
        15,
        0,
    )
    assert found.verdict["verdict"] == "promote"
    assert found.skipped == {}
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_green_that_differs_too_often_or_fails_is_rolled_back(serves: Any) -> None:
    differs = serves(lambda n: blue_of(n) if n % 3 else 99)
    fails = serves(lambda n: blue_of(n) if n % 5 else 500)
    for green, gate in ((differs, "agreement"), (fails, "errors")):
        verdict = backtest(recording(400), green.url, config=GATES).verdict
        assert verdict["verdict"] == "rollback"
        assert [one["name"] for one in verdict["gates"] if one["state"] == "fail"] == [gate]


def test_a_short_recording_decides_nothing(serves: Any) -> None:
    verdict = backtest(recording(50), serves(blue_of).url, config=GATES).verdict
    assert verdict["verdict"] == "hold"
    assert any("50 more" in reason for reason in verdict["reasons"])


def test_with_the_old_model_at_hand_noise_and_latency_are_measured_too(serves: Any) -> None:
    blue, green = serves(blue_of), serves(blue_of)
    found = backtest(recording(120), green.url, blue=blue.url)
    assert (found.evidence["noise"]["n"], found.evidence["noise"]["agreed"]) == (120, 120)
    assert found.evidence["latency"]["paired"]["n"] == 120
    assert found.verdict["asked"]["default"] is True
    assert found.evidence["agreement"]["floor"] == 0.98  # nothing was named, and that is what holds
    assert len(blue.seen) == len(green.seen) == 120


def test_what_green_answered_then_is_no_yardstick(serves: Any) -> None:
    mixed = [recorded(n, colour="green" if n % 2 else "blue") for n in range(100)]
    found = backtest(mixed, serves(blue_of).url)
    assert (found.evidence["pairs"], found.skipped) == (50, {"answered by green then": 50})


def test_the_candidate_is_asked_as_the_shadow_would_ask(serves: Any) -> None:
    green = serves(blue_of)
    backtest(recording(3), green.url, headers={"authorization": "Bearer mine"})
    for seen in green.seen:
        assert seen["authorization"] == "Bearer mine"
        assert seen["x-bluegreen-shadow"] == "1"
        assert seen["host"] == "models.example"
    assert sorted(seen["x-request-id"] for seen in green.seen) == ["r0", "r1", "r2"]


def test_a_configuration_file_says_how_to_compare_and_judge(serves: Any, tmp_path: Path) -> None:
    config = tmp_path / "bluegreen.yaml"
    config.write_text(
        "blue: {name: v1, servers: [http://127.0.0.1:9]}\nslices: [header:x-segment]\n"
        "rollout: {shadow: {min_pairs: 10}, gates: {slices: {of: agreement, min: 0.8}}}\n"
    )
    green = serves(lambda n: blue_of(n) if n % 2 else 99)
    verdict = backtest(recording(300), green.url, config=config).verdict
    assert verdict["verdict"] == "rollback"
    assert any("header:x-segment = a" in reason for reason in verdict["reasons"])


def test_it_runs_where_a_loop_runs_already(serves: Any) -> None:
    """As in a notebook."""
    green = serves(blue_of)

    async def cell() -> int:
        return int(backtest(recording(20), green.url).evidence["pairs"])

    assert asyncio.run(cell()) == 20


def test_a_broken_recording_ends_it_with_the_line(serves: Any, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("rubbish\n")
    with pytest.raises(RecordingError, match="line 1"):
        backtest(path, serves(blue_of).url)


def test_nothing_to_compare_is_an_error(serves: Any) -> None:
    with pytest.raises(ReplayError, match="it is empty"):
        backtest([], serves(blue_of).url)
    with pytest.raises(ReplayError, match="5 answered by green then"):
        backtest([recorded(n, colour="green") for n in range(5)], serves(blue_of).url)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"green": "127.0.0.1:9"}, "no scheme"),
        ({"headers": {"content-length": "1"}}, "set by the router itself"),
        ({"rate": 0.0}, "rate"),
        ({"in_flight": 0}, "in flight"),
        ({"config": {"rollout": {"gates": {"slices": {"of": "agreement", "min": 0.9}}}}}, "slices"),
    ],
)
def test_bad_options_are_told_in_words(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words):
        backtest(recording(1), **{"green": "http://127.0.0.1:9", **wrong})


# --- replay ---------------------------------------------------------------------------------------------------------------


def test_replay_counts_statuses_against_the_recorded_ones(serves: Any) -> None:
    green = serves(lambda n: 503 if n % 4 == 0 else 1)
    again = [recorded(n, colour="green" if n % 2 else "blue", status=200 if n % 3 else 404) for n in range(120)]
    found = replay(again, green.url).to_dict()
    assert (found["sent"], found["statuses"], found["recorded"]) == (120, {"200": 90, "503": 30}, {"200": 80, "404": 40})
    assert found["same_status"] == sum(n % 3 != 0 and n % 4 != 0 for n in range(120))
    assert found["latency_ms"]["p50"] > 0


def test_replay_at_a_server_that_is_not_there(serves: Any) -> None:
    server = serves(blue_of)
    url = server.url
    server.close()
    found = replay(recording(10), url).to_dict()
    assert (found["statuses"], found["latency_ms"]["p50"]) == ({"connect": 10}, None)


def test_the_rate_and_the_number_at_once_are_kept(serves: Any) -> None:
    green = serves(lambda n: (time.sleep(0.002), 1)[1])
    assert replay(recording(60), green.url, rate=200).seconds >= 59 / 200
    before = len(green.seen)
    replay(recording(60), green.url, in_flight=3)
    assert green.most_at_once <= 16
    assert len(green.seen) - before == 60
    few = serves(lambda n: (time.sleep(0.002), 1)[1])
    replay(recording(60), few.url, in_flight=3)
    assert few.most_at_once <= 3


def test_progress_ends_at_all_of_them(serves: Any) -> None:
    told: list[int] = []
    replay(recording(30), serves(blue_of).url, progress=told.append)
    assert told[-1] == 30
    assert told == sorted(told)


# --- the commands, and recording from a real router -----------------------------------------------------------------------


def bluegreen(*arguments: str) -> tuple[int, str, str]:
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        status = cli.main(arguments)
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    servers = deployment.ColourServers()
    folder = tmp_path_factory.mktemp("recording")
    one = deployment.Deployment(
        folder,
        servers.url("blue"),
        servers.url("green"),
        shadow={"percent": 100, "nice": 0},
        record={"redact": ["header:x-user-id"]},
    )
    one.start()
    one.servers = servers
    yield one
    one.stop()
    servers.close()


def test_exchanges_go_from_clients_into_a_file_and_to_a_candidate(router: Any, tmp_path: Path) -> None:
    file = tmp_path / "exchanges.jsonl"
    control = f"http://127.0.0.1:{router.control_port}"
    over = threading.Event()

    def ask() -> None:
        client = deployment.Client(router.port)
        number = 0
        while not over.wait(0.002):
            number += 1
            client.ask(f"q{number}", authorization="Bearer secret", x_user_id="ann")
        client.close()

    clients = threading.Thread(target=ask)
    clients.start()
    try:
        status, out, err = bluegreen("record", str(file), "--count", "150", "--control", control)
    finally:
        over.set()
        clients.join()
    assert (status, err) == (0, "")
    assert out.startswith("150 exchanges")
    exchanges = list(read_recording(file))
    assert len(exchanges) == 150
    assert "secret" not in file.read_text()
    assert "ann" not in file.read_text()
    for exchange in exchanges:
        assert json.loads(exchange.response_body)["asked"] == json.loads(exchange.request_body)["id"]
    assert list((router.folder / "state" / "run" / "recordings").iterdir()) == []

    status, out, _ = bluegreen("replay", str(file), "--to", router.servers.url("green"), "--json")
    assert (status, json.loads(out)["statuses"]) == (0, {"200": 150})
    status, out, _ = bluegreen("backtest", str(file), "--green", router.servers.url("green"), "--json")
    found = json.loads(out)
    assert (status, found["evidence"]["pairs"], found["evidence"]["agreement"]["rate"]) == (0, 150, 1.0)
    status, out, err = bluegreen("backtest", str(file), "--green", router.servers.url("green"), "--strict")
    assert status == 1
    assert "verdict: hold" in out
    assert err.startswith("bluegreen: the verdict is hold: ")


def test_the_same_as_parquet(router: Any, tmp_path: Path) -> None:
    file = tmp_path / "exchanges.parquet"
    over = threading.Event()

    def ask() -> None:
        client = deployment.Client(router.port)
        number = 0
        while not over.wait(0.002):
            number += 1
            client.ask(f"q{number}", authorization="Bearer secret", x_user_id="ann")
        client.close()

    clients = threading.Thread(target=ask)
    clients.start()
    try:
        status, out, err = bluegreen(
            "record", str(file), "--count", "120", "--json", "--control", f"http://127.0.0.1:{router.control_port}"
        )
    finally:
        over.set()
        clients.join()
    told = json.loads(out)
    assert (status, err, told["exchanges"], told["bytes"]) == (0, "", 120, file.stat().st_size)
    rows = pyarrow.parquet.read_table(file).to_pylist()
    assert len(rows) == 120
    for row in rows:
        assert json.loads(row["response_body"])["asked"] == json.loads(row["request_body"])["id"]
        assert {value for name, value in row["request_headers"] if name.lower() in ("authorization", "x-user-id")} == {
            "[redacted]"
        }
    assert abs(rows[0]["started"].timestamp() - time.time()) < 60

    status, out, _ = bluegreen("replay", str(file), "--to", router.servers.url("green"), "--json")
    assert (status, json.loads(out)["statuses"]) == (0, {"200": 120})
    status, out, _ = bluegreen("backtest", str(file), "--green", router.servers.url("green"), "--json")
    found = json.loads(out)
    assert (status, found["evidence"]["pairs"], found["evidence"]["agreement"]["rate"]) == (0, 120, 1.0)


def test_recording_refuses_what_it_cannot_do_in_one_line(router: Any, tmp_path: Path) -> None:
    control = ("--control", f"http://127.0.0.1:{router.control_port}")
    file = tmp_path / "nothing.jsonl"
    status, _, err = bluegreen("record", str(file), "--seconds", "0.5", *control)
    assert (status, err.count("\n")) == (1, 1)
    assert "no exchange came" in err
    assert not file.exists()
    file.write_text("mine")
    status, _, err = bluegreen("record", str(file), *control)
    assert (status, file.read_text()) == (1, "mine")
    assert "--overwrite" in err
    status, answer = router.post("/v1/recordings", {"exchanges": 10, "seconds": 30.0})
    assert status == 200
    assert router.post("/v1/recordings", {"exchanges": 10, "seconds": 30.0})[0] == 409
    assert router.call("DELETE", f"/v1/recordings/{answer['id']}")[0] == 200
    assert router.get(f"/v1/recordings/{answer['id']}")[0] == 404
    assert router.post("/v1/recordings", {"exchanges": 0})[0] == 422


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("replay", "none.jsonl", "--to", "http://127.0.0.1:9"), 1, "cannot read"),
        (("backtest", "none.jsonl", "--green", "http://127.0.0.1:9"), 1, "cannot read"),
        (("backtest", "{good}", "--green", "nowhere"), 1, "no scheme"),
        (("backtest", "{good}", "--green", "http://127.0.0.1:9", "--policy", "none.yaml"), 1, "none.yaml"),
        (("backtest", "{good}", "--green", "http://127.0.0.1:9", "--labels", "{good}"), 1, "request_id and label"),
        (("replay", "{good}", "--to", "http://127.0.0.1:9", "--header", "nonsense"), 2, "NAME:VALUE"),
    ],
)
def test_commands_say_what_is_wrong(tmp_path: Path, arguments: tuple[str, ...], status: int, words: str) -> None:
    good = tmp_path / "good.jsonl"
    good.write_text("{}\n")
    found, out, err = bluegreen(*(argument.format(good=good) for argument in arguments))
    assert (found, out) == (status, "")
    assert words in err
