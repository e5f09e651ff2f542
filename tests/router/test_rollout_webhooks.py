"""Webhooks, to a real HTTP server on a real socket that does as it is told."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from router.errors import SettingsError
from router.rollout import webhooks
from router.rollout.policy import Policy
from router.rollout.webhooks import Webhooks, read_secret


class Receiver:
    """Remembers what it is sent; answers with the statuses in `answers` in turn, then with 204."""

    def __init__(self) -> None:
        receiver = self
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.hold = threading.Event()
        self.hold.set()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.hold.wait(60)
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.got) < count:
            assert time.monotonic() < deadline, self.got
            time.sleep(0.005)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.hold.set()
    one.server.shutdown()
    one.server.server_close()


def test_a_message_is_json_and_signed(receiver: Receiver) -> None:
    hooks = Webhooks(b"secret")
    hooks.notify(Policy(notify=(receiver.url,)), {"rollout": 3, "to": "done", "why": "all pass – ü"})
    receiver.wait_for(1)
    headers, body = receiver.got[0]
    assert json.loads(body) == {"type": "rollout", "rollout": 3, "to": "done", "why": "all pass – ü"}
    assert headers["content-type"] == "application/json"
    expected = hmac.new(b"secret", body, hashlib.sha256).hexdigest()
    assert headers["x-bluegreen-signature"] == f"sha256={expected}"
    hooks.close()


def test_without_a_secret_there_is_no_signature(receiver: Receiver) -> None:
    hooks = Webhooks(None)
    hooks.notify(Policy(notify=(receiver.url,)), {"rollout": 1})
    receiver.wait_for(1)
    assert "x-bluegreen-signature" not in receiver.got[0][0]
    hooks.close()


def test_a_refusal_is_asked_again_and_others_go_ahead(receiver: Receiver) -> None:
    hooks = Webhooks(None, first_pause=0.1)
    receiver.answers = [500, 503]
    hooks.notify(Policy(notify=(receiver.url,)), {"rollout": 1})
    receiver.wait_for(1)
    hooks.notify(Policy(notify=(receiver.url,)), {"rollout": 2})
    receiver.wait_for(4)
    order = [json.loads(body)["rollout"] for _, body in receiver.got]
    assert sorted(order) == [1, 1, 2, 2] or sorted(order) == [1, 1, 1, 2]
    assert hooks.dropped == 0
    hooks.close()


def test_after_its_attempts_a_message_is_dropped(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    hooks = Webhooks(None, first_pause=0.01, attempts=3)
    receiver.answers = [500] * 3
    hooks.notify(Policy(notify=(receiver.url,)), {"rollout": 1})
    receiver.wait_for(3)
    hooks.notify(Policy(notify=(receiver.url,)), {"rollout": 2})
    receiver.wait_for(4)
    assert [json.loads(body)["rollout"] for _, body in receiver.got] == [1, 1, 1, 2]
    assert hooks.dropped == 1
    assert "gave up after 3 attempts" in caplog.text
    hooks.close()


def test_nobody_there_and_a_server_that_hangs_hold_nothing_up(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_SECONDS", 0.2)
    hooks = Webhooks(None, first_pause=0.05)
    receiver.hold.clear()
    policy = Policy(notify=("http://127.0.0.1:9/nobody", receiver.url))
    for number in range(50):
        hooks.notify(policy, {"rollout": number})  # returns although nobody has been told yet
    assert receiver.got == []
    receiver.hold.set()
    receiver.wait_for(1)
    hooks.close()


def test_the_line_is_bounded(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "LINE", 3)
    hooks = Webhooks(None)
    receiver.hold.clear()
    for number in range(10):
        hooks.notify(Policy(notify=(receiver.url,)), {"rollout": number})
    assert hooks.dropped >= 6
    receiver.hold.set()
    hooks.close()


def test_where_the_secret_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BLUEGREEN_WEBHOOK_SECRET", raising=False)
    file = tmp_path / "secret"
    file.write_text("from the file\nsecond line\n")
    assert read_secret(None) is None
    assert read_secret(str(file)) == b"from the file"
    monkeypatch.setenv("BLUEGREEN_WEBHOOK_SECRET", "from the environment")
    assert read_secret(str(file)) == b"from the environment"
    monkeypatch.delenv("BLUEGREEN_WEBHOOK_SECRET")
    with pytest.raises(SettingsError, match="cannot read"):
        read_secret(str(tmp_path / "none"))
    file.write_text("\n")
    with pytest.raises(SettingsError, match=r"first line of .* is empty"):
        read_secret(str(file))
