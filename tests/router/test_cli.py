"""The command line: each command in a process of its own, against a real control process."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from busy import in_time
from control_process import ControlProcess, Follower, new_state, until

from router import cli
from router.store.store import RecordedPair, Store


@dataclass(frozen=True, slots=True)
class Ran:
    status: int
    out: str
    err: str


def bluegreen(*arguments: str, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> Ran:
    """Run the command as its console script does, in this process: another one would take longer than the command."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        for name in list(os.environ):
            if name.startswith("BLUEGREEN_"):
                patch.delenv(name)
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        if folder is not None:
            patch.chdir(folder)
        status = cli.main(arguments)
    return Ran(status, out.getvalue(), err.getvalue())


def in_a_process(*arguments: str, folder: Path | None = None) -> Ran:
    """The same in a process of its own."""
    command = [sys.executable, "-P", "-m", "router.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=folder)
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlProcess]:
    state, _ = new_state(tmp_path_factory.mktemp("cli"))
    follower = Follower(state, 0)
    one = ControlProcess(state)
    yield one
    follower.stop()
    one.end()


@pytest.fixture
def at(process: ControlProcess) -> tuple[str, str]:
    return ("--control", process.url)


def one_line(text: str) -> str:
    assert text.startswith("bluegreen: ")
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return text.removeprefix("bluegreen: ").rstrip()


# --- commands that change something ---------------------------------------------------------------------------------------


def test_switch_split_and_shadow_say_what_holds_now(process: ControlProcess, at: tuple[str, str]) -> None:
    def switch() -> None:
        done = bluegreen("switch", "green", "--reason", "a try", *at)
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith(f"green has all live traffic on every worker (revision {process.plan().revision}, ")

    in_time(1.5, switch)  # a switch waits 2 s for a worker that gets no processor
    assert process.plan().split.green_percent == 100
    assert process.plan().change.why == "a try"
    done = bluegreen("split", "12.5", *at)
    assert done.out == f"green has 12.5 % of live traffic (revision {process.plan().revision})\n"
    assert process.plan().split.green_percent == 12.5
    done = bluegreen("shadow", "100", *at)
    assert done.out == f"100 % of exchanges are mirrored (revision {process.plan().revision})\n"
    assert process.plan().change.action == "shadow 100"


def test_candidate_and_promote(process: ControlProcess, at: tuple[str, str]) -> None:
    done = bluegreen("candidate", "http://127.0.0.1:9100", "http://127.0.0.1:9101", "--name", "v3", *at)
    plan = process.plan()
    assert plan.green is not None
    assert (plan.green.name, len(plan.green.servers)) == ("v3", 2)
    assert done.out == f"green is v3, with 0 % of live traffic (release {plan.release}, revision {plan.revision})\n"
    done = bluegreen("promote", *at)
    assert done.out.startswith("v3 is blue and has all live traffic; iris-v1 waits as green")
    assert process.plan().blue.name == "v3"
    bluegreen("promote", *at)


def test_the_control_option_stands_before_or_after_or_in_the_environment(process: ControlProcess) -> None:
    for arguments, environment in (
        (("--control", process.url, "split", "1", "--json"), {}),
        (("split", "1", "--json", "--control", process.url), {}),
        (("split", "1", "--json"), {"BLUEGREEN_CONTROL": process.url}),
        (("--control", "http://127.0.0.1:1", "split", "1", "--json", "--control", process.url), {}),
    ):
        assert json.loads(bluegreen(*arguments, environment=environment).out) == process.plan().to_dict()


def test_the_history_names_who_typed(process: ControlProcess, at: tuple[str, str]) -> None:
    bluegreen("split", "3", *at, environment={"LOGNAME": "ann"})
    assert process.plan().change.who == "ann@127.0.0.1"


# --- commands that ask ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "key"),
    [("status", "workers"), ("evidence", "verdict"), ("history", "history"), ("pairs", "pairs"), ("switch blue", "recalled")],
)
def test_json_is_one_document_and_nothing_else(at: tuple[str, str], command: str, key: str) -> None:
    done = bluegreen(*command.split(), "--json", *at)
    assert (done.status, done.err) == (0, "")
    assert key in json.loads(done.out)


def test_tables(process: ControlProcess, at: tuple[str, str]) -> None:
    with process.client() as client:
        release = client.put("/v1/arms/green", json={"name": "v4", "servers": ["http://127.0.0.1:9104"]}).json()["release"]
    store = Store(process.state.store)
    rate = {"n": 40, "rate": 0.95, "ci": [0.83, 0.99]}
    times = {"blue": {"p50": 1.25}, "green": {"p50": 1.5}, "difference_ms": {"p50": {"estimate": 0.25, "ci": [0.1, 0.4]}}}
    latency = {"paired": {"n": 40, **times}}
    store.save_evidence(release, {"pairs": 40, "dropped": 2, "agreement": rate, "latency": latency}, 5.0)
    store.add_pairs([RecordedPair(release, 5.0, "request-7", False, "label 0 against 1", {})])
    store.close()
    status = bluegreen("status", *at).out
    for text in ("iris-v1", "v4", "http://127.0.0.1:9104", "100 %", "by header:x-user-id, salt 'iris'", "rollout idle"):
        assert text in status
    evidence = bluegreen("evidence", *at).out
    for text in ("v4 against iris-v1", "0.9500", "0.8300 to 0.9900", "40 pairs compared, 2 sampled", "verdict: hold"):
        assert text in evidence
    assert "+0.10 to +0.40" in evidence
    # The file names no gates: those that hold then are shown.
    shown = " ".join(evidence.split())
    assert (
        "asked for by the default gates, at alpha 0.05: at least 500 pairs; green answers like blue on at least 98 %" in shown
    )
    asked = json.loads(bluegreen("evidence", "--json", *at).out)["verdict"]["asked"]
    assert (asked["default"], asked["gates"]["errors"]) == (True, {"max_increase": 0.005})
    # Whoever asks waits a fifth of a second for an entry that is being written.
    until(lambda: "candidate v4" in bluegreen("history", "--last", "1", *at).out)
    bluegreen("split", "0", "--reason", "the [red] one [/]", *at)
    until(lambda: "the [red] one [/]" in bluegreen("history", "--last", "1", *at).out)
    assert "label 0 against 1" in bluegreen("pairs", "--disagreeing", *at).out


def test_without_a_terminal_there_are_no_colours_and_no_cut_lines(at: tuple[str, str]) -> None:
    for arguments in (("status",), ("history",)):
        done = bluegreen(*arguments, *at, environment={"COLUMNS": "40", "TERM": "xterm-256color"})
        assert "\x1b" not in done.out
        assert "…" not in done.out


@contextmanager
def on_a_terminal(
    command: list[str], environment: Mapping[str, str], **options: Any
) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[bytes]]]:
    """A process with a large pseudo-terminal as its stdout, and what it writes there, piece by piece until it ends."""
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    terminal = {"TERM": "xterm-256color", "COLUMNS": "150", "LINES": "60"}
    master, slave = os.openpty()
    child = subprocess.Popen(command, stdout=slave, env={**inherited, **terminal, **environment}, **options)
    os.close(slave)

    def screen() -> Iterator[bytes]:
        with suppress(OSError):  # EIO: nobody has it open any more
            while select.select([master], [], [], 60)[0] and (piece := os.read(master, 65536)):
                yield piece

    try:
        yield child, screen()
    finally:
        child.kill()
        child.wait()
        os.close(master)


def test_no_color_is_respected_on_a_terminal(process: ControlProcess) -> None:
    """A pseudo-terminal as stdout: styles may come, colours not."""
    outputs = {}
    for name, more in (("plain", {"NO_COLOR": "1"}), ("coloured", {})):
        command = [sys.executable, "-P", "-m", "router.cli", "--control", process.url, "status"]
        with on_a_terminal(command, more) as (child, screen):
            outputs[name] = b"".join(screen)
            assert child.wait(30) == 0
    assert b"\x1b[1;34m" in outputs["coloured"]
    assert b"34m" not in outputs["plain"]
    assert b"iris-v1" in outputs["plain"]


# --- when the router says no ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("split 101", "green_percent: must be a number from 0 to 100, got 101 (422)"),
        ("split 0.001", "green_percent: must be a multiple of 0.01, got 0.001 (422)"),
        ("shadow 100.5", "percent: must be a number from 0 to 100, got 100.5 (422)"),
        ("candidate 127.0.0.1:9", "green.servers: server '127.0.0.1:9' has no scheme: write http://127.0.0.1:9 or"),
        ("candidate http://h --name ?", "green.name: must be 1 to 100 letters"),
    ],
)
def test_a_refusal_is_one_line_and_changes_nothing(
    process: ControlProcess, at: tuple[str, str], command: str, line: str
) -> None:
    before = process.plan()
    done = bluegreen(*command.split(), *at)
    assert (done.status, done.out) == (1, "")
    assert one_line(done.err).startswith(line)
    assert process.plan() == before


def test_an_unreachable_router() -> None:
    url = "http://127.0.0.1:1"
    done = bluegreen("status", "--control", url)
    assert done.status == 1
    expected = f"cannot reach the router at {url}: connection refused; is `bluegreen serve` running there? (--control URL)"
    assert one_line(done.err) == expected


@pytest.mark.parametrize(
    ("url", "line"),
    [
        (
            "127.0.0.1:8001",
            "the control address '127.0.0.1:8001' is not a URL; write for example --control http://127.0.0.1:8001",
        ),
        ("ftp://h", "the control address 'ftp://h' is not a URL"),
        ("http://no-such-host.invalid:1", "cannot reach the router at http://no-such-host.invalid:1: "),
    ],
)
def test_a_wrong_address(url: str, line: str) -> None:
    done = bluegreen("switch", "blue", "--control", url)
    assert done.status == 1
    assert one_line(done.err).startswith(line)


def test_something_else_at_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello")
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        done = bluegreen("status", "--control", f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert done.status == 1
    assert "is not a bluegreen control API: it answered 200 with text/html" in one_line(done.err)


def test_the_token(tmp_path: Path) -> None:
    state, _ = new_state(tmp_path)
    process = ControlProcess(state, environment={"BLUEGREEN_TOKEN": "the-right-token"})
    done = bluegreen("status", "--control", process.url)
    assert (done.status, one_line(done.err)) == (1, f"the router at {process.url} wants its token: set BLUEGREEN_TOKEN to it")
    done = bluegreen("switch", "blue", "--control", process.url, environment={"BLUEGREEN_TOKEN": "the-right-token"})
    assert done.status == 0
    done = bluegreen("status", "--control", process.url, environment={"BLUEGREEN_TOKEN": "line\nbreak"})
    assert done.status == 1
    assert "BLUEGREEN_TOKEN" in one_line(done.err)
    process.end()


# --- wrong usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        *(
            "split abc",
            "split",
            "split nan",
            "split inf",
            "split 1 2",
            "switch purple",
            "switch",
            "candidate",
            "no-such-command",
        ),
        *(
            "pairs --limit 0",
            "history --last x",
            "status --watch --json",
            "check",
            "serve",
            "serve c.yaml --workers 0",
            "--nope",
        ),
        "demo --duration 0",
    ],
)
def test_wrong_usage_is_status_2_and_asks_nobody(command: str) -> None:
    done = bluegreen(*command.split(), environment={"BLUEGREEN_CONTROL": "http://127.0.0.1:1"})
    assert done.status == 2
    assert done.out == ""
    assert "Traceback" not in done.err


def test_help_names_every_command_of_the_contract() -> None:
    done = bluegreen("--help")
    assert done.status == 0
    for command in (
        *("demo", "serve", "check", "status", "switch", "split", "shadow", "candidate", "promote", "evidence", "history"),
        *("pairs", "model"),
    ):
        assert command in done.out


def test_the_command_line_loads_nothing_heavy_before_it_knows_the_command() -> None:
    """What makes a start slow is imports; so they are what is looked at, not the clock."""
    code = "import router.cli, sys; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    heavy = {"numpy", "scipy", "sklearn", "fastapi", "pydantic", "sqlalchemy", "uvicorn", "plotly", "httpx", "yaml", "asyncio"}
    assert loaded & heavy == set()


# --- what needs no router -------------------------------------------------------------------------------------------------

GOOD = "blue: {name: iris-v1, servers: [http://127.0.0.1:9001]}\n"


def test_check_a_good_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(GOOD)
    done = bluegreen("check", "c.yaml", folder=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert done.out == "c.yaml: good. Clients at 127.0.0.1:8000, control at 127.0.0.1:8001; blue iris-v1, no green yet.\n"
    plain = json.loads(bluegreen("check", "c.yaml", "--json", folder=tmp_path).out)
    assert plain["state"] == str(tmp_path / "bluegreen-state")
    assert list(tmp_path.iterdir()) == [tmp_path / "c.yaml"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (GOOD + "wrokers: 3", "c.yaml: wrokers: unknown key; did you mean workers?"),
        (GOOD + "control: 0.0.0.0:8001", "control: 0.0.0.0:8001 can be reached from outside this machine, so it needs a token"),
        ("blue: [", "c.yaml, line 1, column 8: "),
        (GOOD + "split: {green_percent: 101}", "c.yaml: split.green_percent: must be a number from 0 to 100, got 101"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    done = bluegreen("check", "c.yaml", folder=tmp_path)
    assert (done.status, done.out) == (1, "")
    assert one_line(done.err).startswith(line)
    assert list(tmp_path.iterdir()) == [tmp_path / "c.yaml"]


def test_serve_says_the_same_and_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(GOOD + "wrokers: 3")
    done = in_a_process("serve", "c.yaml", folder=tmp_path)
    assert (done.status, done.out) == (1, "")
    assert one_line(done.err) == "c.yaml: wrokers: unknown key; did you mean workers?"
    assert list(tmp_path.iterdir()) == [tmp_path / "c.yaml"]


def test_check_prints_the_schema() -> None:
    assert json.loads(bluegreen("check", "--schema").out)["title"] == "bluegreen configuration"


def test_model_is_the_reference_models_own_command_line() -> None:
    done = bluegreen("model", "--help")
    assert done.status == 0
    assert "train" in done.out
    assert "serve" in done.out
    assert bluegreen("model", "no-such-command").status == 2


def test_somebody_elses_package_is_named_with_its_path(tmp_path: Path) -> None:
    theirs = tmp_path / "models"
    theirs.mkdir()
    (theirs / "__init__.py").touch()
    home = Path(cli.__file__).resolve().parents[1]
    # As with an installed bluegreen behind a user's own `models` on PYTHONPATH; -P keeps the working directory out.
    code = "import sys; from router.cli import main; sys.exit(main(['status']))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{home}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"the package 'models' comes from {theirs / '__init__.py'}, not from bluegreen in {home}" in one_line(done.stderr)


def test_a_reader_who_leaves_is_no_error(process: ControlProcess) -> None:
    with process.client() as client:
        for _ in range(60):
            client.post("/v1/split", json={"green_percent": 0, "reason": "x" * 900})
    command = [sys.executable, "-P", "-m", "router.cli", "--control", process.url, "history", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.read(10)
    child.stdout.close()
    errors = child.stderr.read()
    child.stderr.close()
    assert child.wait(30) == 1
    assert errors == b""


def test_ctrl_c_while_watching_ends_quietly(process: ControlProcess) -> None:
    command = [sys.executable, "-P", "-m", "router.cli", "--control", process.url, "status", "--watch"]
    # As in a terminal, also when the tests run where Ctrl-C is ignored (in the background of a shell, say).
    sane = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with on_a_terminal(command, {}, stderr=subprocess.PIPE, preexec_fn=sane) as (child, screen):
        seen, deadline = b"", time.monotonic() + 60
        while seen.count(b"iris-v1") < 2:  # shown, and shown again: it watches
            assert time.monotonic() < deadline, seen
            seen += next(screen)
        child.send_signal(signal.SIGINT)
        for piece in screen:
            seen += piece
        assert child.stderr is not None
        errors = child.stderr.read()
        child.stderr.close()
        assert child.wait(30) in (0, 130)
    assert b"Traceback" not in errors + seen
