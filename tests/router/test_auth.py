"""Who may talk to the control API, over a real socket: one process without a token, one with."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from control_process import ControlProcess, Follower, new_state, until

TOKEN = "a-token-for-the-test"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def open_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlProcess]:
    process = ControlProcess(new_state(tmp_path_factory.mktemp("open"))[0])
    yield process
    process.end()


@pytest.fixture(scope="module")
def closed_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlProcess]:
    folder = tmp_path_factory.mktemp("closed")
    (folder / "token").write_text(TOKEN + "\n")
    state, _ = new_state(folder, "blue: {name: a, servers: [http://127.0.0.1:9001]}\ncontrol_token_file: token\n")
    follower = Follower(state, 0)
    process = ControlProcess(state)
    yield process
    follower.stop()
    process.end()


def ask(process: ControlProcess, method: str = "GET", path: str = "/v1/status", **headers: str | None) -> httpx.Response:
    """A request with exactly these headers; None leaves one out that httpx would send."""
    given = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
    content = b'{"to":"blue"}' if method == "POST" else None
    if content:
        given.setdefault("content-type", "application/json")
    with process.client() as client:
        return client.request(method, path, headers=given, content=content)


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])


# --- Host and Origin ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8001", "127.1.2.3:9", "[::1]", "[::1]:8001"]
)
def test_loopback_names_are_answered(open_process: ControlProcess, host: str) -> None:
    assert ask(open_process, host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8001", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0:8001"),
        *("[::2]", "[::1", "[::1]x", "::1", "127.1", "0x7f.0.0.1", "localhost:", "localhost:x", "user@localhost", "localhost/"),
    ],
)
def test_a_name_that_was_pointed_here_is_not(open_process: ControlProcess, host: str) -> None:
    """DNS rebinding: the browser asks 127.0.0.1, but names the page's own host. (`localhost:` alone is a fair spelling.)"""
    answer = ask(open_process, host=host)
    if host == "localhost:":
        assert answer.status_code == 200
    else:
        assert "answers only to its loopback names" in refused(answer, 403)


def test_an_empty_or_missing_host_is_refused(open_process: ControlProcess) -> None:
    for head in (b"GET /v1/status HTTP/1.1\r\nHost:\r\n\r\n", b"GET /v1/status HTTP/1.0\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", open_process.port)) as raw:
            raw.sendall(head)
            assert raw.recv(4096).split()[1] in (b"400", b"403")


def test_the_probes_check_the_host_too(open_process: ControlProcess) -> None:
    refused(ask(open_process, path="/healthz", host="evil.example"), 403)


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "null", "", "http://localhost:1", "https://localhost.evil.example", "file://", "localhost"),
        "http://evil.example:{port}",
    ],
)
def test_pages_of_other_origins_may_change_nothing(open_process: ControlProcess, origin: str) -> None:
    origin = origin.format(port=open_process.port)
    before = ask(open_process, path="/v1/plan").json()
    refused(ask(open_process, "POST", "/v1/switch", origin=origin), 403)
    refused(ask(open_process, "GET", "/v1/status", origin=origin), 403)
    assert ask(open_process, path="/v1/plan").json() == before


def test_the_dashboards_own_origin_may(open_process: ControlProcess) -> None:
    port = open_process.port
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert ask(open_process, "POST", "/v1/switch", host=host, origin=f"http://{host}").status_code == 200
    assert ask(open_process, host="localhost", origin="http://localhost:80").status_code == 200
    assert ask(open_process, host="localhost:443", origin="https://localhost").status_code == 200


def test_a_form_of_another_page_is_no_json(open_process: ControlProcess) -> None:
    """A cross-site form cannot send application/json without asking first (CORS), so anything else is refused."""
    answer = ask(open_process, "POST", "/v1/switch", content_type="text/plain")
    assert "Content-Type: application/json" in refused(answer, 415)


# --- the token ------------------------------------------------------------------------------------------------------------

CALLS = [
    *(("GET", "/v1/status"), ("GET", "/v1/plan"), ("PUT", "/v1/plan"), ("POST", "/v1/switch"), ("GET", "/v1/evidence")),
    *(("GET", "/v1/history"), ("GET", "/v1/pairs"), ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/openapi.json")),
    *(("GET", "/v1/nothing"), ("POST", "/"), ("GET", "/healthz/"), ("GET", "/dashboard/other")),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_every_call_needs_the_token(closed_process: ControlProcess, method: str, path: str) -> None:
    answer = ask(closed_process, method, path)
    assert "BLUEGREEN_TOKEN" in refused(answer, 401)
    assert answer.headers["www-authenticate"] == 'Bearer realm="bluegreen"'


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/dashboard/page.js", "/dashboard/style.css"])
def test_probes_and_the_empty_dashboard_do_not(closed_process: ControlProcess, path: str) -> None:
    answer = ask(closed_process, path=path)
    assert answer.status_code == 200
    assert TOKEN not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_the_token_opens(closed_process: ControlProcess, scheme: str) -> None:
    assert ask(closed_process, authorization=f"{scheme} {TOKEN}").status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN.upper()}",
        "Bearer \xfc",
    ],
)
def test_nothing_else_does(closed_process: ControlProcess, value: str) -> None:
    with socket.create_connection(("127.0.0.1", closed_process.port)) as raw:
        head = f"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: {value}\r\nConnection: close\r\n\r\n"
        raw.sendall(head.encode("latin-1"))
        assert raw.recv(4096).split()[1] == b"401"


def test_the_token_does_not_excuse_a_foreign_host_or_origin(closed_process: ControlProcess) -> None:
    refused(ask(closed_process, host="evil.example", **BEARER), 403)
    refused(ask(closed_process, origin="http://evil.example", **BEARER), 403)


def test_the_history_names_who_came_how(closed_process: ControlProcess) -> None:
    names = {
        "": "token@127.0.0.1",
        "ann": "ann@127.0.0.1",
        "Ann O'Hara <ann@example.com>": "Ann O'Hara <ann@example.com>@127.0.0.1",
        "x" * 101: "token@127.0.0.1",
        "tab\there": "token@127.0.0.1",
    }

    def last() -> dict[str, Any]:
        (entry,) = ask(closed_process, path="/v1/history?last=1", **BEARER).json()["history"]
        return dict(entry)

    for name, expected in names.items():
        assert ask(closed_process, "POST", "/v1/switch", x_bluegreen_user=name, **BEARER).status_code == 200
        until(lambda: last()["revision"] == closed_process.plan().revision)  # the entry may be written a moment later
        assert last()["who"] == expected


def test_the_token_is_written_nowhere(closed_process: ControlProcess) -> None:
    for file in closed_process.state.path.rglob("*"):
        if file.is_file():
            assert TOKEN.encode() not in file.read_bytes(), file


def test_an_address_that_others_reach_takes_any_host_with_the_token(tmp_path_factory: pytest.TempPathFactory) -> None:
    """There the operator's own names are as good as any; what protects it is the token, which no page can know."""
    state, _ = new_state(tmp_path_factory.mktemp("outside"))
    process = ControlProcess(state, environment={"BLUEGREEN_TOKEN": TOKEN}, host="0.0.0.0")
    assert ask(process, host="router.example", **BEARER).status_code == 200
    refused(ask(process, host="router.example"), 401)
    refused(ask(process, host="router.example", origin="http://evil.example", **BEARER), 403)
    process.end()
