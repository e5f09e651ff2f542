"""TLS and the supervisor: the ports of a whole router, workers that come back to them, and certificates that cannot be used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import deployment
import pytest
from certificates import Authority
from plane import Client, Upstream

from models.arm import parse_address
from router.errors import StartError
from router.settings import Settings
from router.state import StateDir
from router.supervisor import Supervisor, check_tls_files

GET = b"GET /v1/models HTTP/1.1\r\nHost: models.example\r\n\r\n"
NAME = "models.example"


def test_both_ports_of_a_whole_router_and_after_a_workers_death(tmp_path: Path, blue: Upstream, authority: Authority) -> None:
    issued = authority.issues(NAME)
    files = {"certificate": str(issued.certificate), "key": str(issued.key)}
    router = deployment.Deployment(tmp_path, blue.url, None, workers=1, listen_tls={"listen": "127.0.0.1:0", **files})
    try:
        router.start()
        router.wait_until(lambda: "https://127.0.0.1:" in router.log)
        said = next(line for line in router.log.splitlines() if "https://" in line)
        address = ("127.0.0.1", parse_address(next(word for word in said.split() if word.startswith("https://"))).port)
        for life in range(2):
            with Client(address, tls=authority.client()) as client:
                assert client.asks(GET).status == 200
            assert router.ask("plain", method="GET")[0] == 200
            if not life:
                (worker,) = router.children("router.run_worker")
                os.kill(worker, signal.SIGKILL)
        assert router.stop() == 0
    finally:
        if router.process is not None:
            router.kill_all()


def test_worker_that_keeps_dying_comes_back_to_the_ports_it_had(tmp_path: Path, authority: Authority) -> None:
    """Its sockets are closed meanwhile, so that its share of the connections goes to others; port 0 must not mean another one."""
    issued = authority.issues(NAME)
    tls = {"listen": "127.0.0.1:0", "certificate": str(issued.certificate), "key": str(issued.key)}
    document = {"listen": "127.0.0.1:0", "control": "127.0.0.1:0", "blue": {"name": "a", "servers": ["http://127.0.0.1:9"]}}
    state = StateDir(tmp_path / "state")
    state.create()
    supervisor = Supervisor(Settings.model_validate({**document, "listen_tls": tls}), state, 2, None)
    supervisor.prepare(reseed=False)
    children = supervisor._children
    try:
        before = [[sock.getsockname() for sock in child.sockets] for child in children]
        assert [len(addresses) for addresses in before] == [0, 1, 2, 2]
        for sock in children[-1].sockets:
            sock.close()
        for child in children:
            supervisor._reopen(child)
        assert [[sock.getsockname() for sock in child.sockets] for child in children] == before
    finally:
        for child in children:
            for sock in child.sockets:
                sock.close()


def test_certificate_that_cannot_be_used_is_told_at_the_start(tmp_path: Path, authority: Authority) -> None:
    """One line and no process, instead of workers that end as soon as they are started."""
    good, other = authority.issues(NAME), authority.issues(NAME)
    files = {"listen": "127.0.0.1:0", "certificate": str(good.certificate), "key": str(other.key)}
    router = deployment.Deployment(tmp_path, "http://127.0.0.1:9", None, listen_tls=files)
    command = [sys.executable, "-P", "-m", "router.cli", "serve", str(router.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    (line,) = (done.stdout + done.stderr).splitlines()
    assert "listen_tls: " in line
    assert "key values mismatch" in line


@pytest.mark.parametrize("what", ["no certificate", "passphrase", "ca", "client certificate"])
def test_which_files_are_refused_at_the_start(tmp_path: Path, authority: Authority, what: str) -> None:
    good, other = authority.issues(NAME), authority.issues(NAME)
    hidden = authority.issues(NAME, passphrase=b"secret")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    blue = {"name": "v1", "servers": ["https://127.0.0.1:9"]}
    certificate, key = {"no certificate": (empty, good.key), "passphrase": (hidden.certificate, hidden.key)}.get(
        what, (good.certificate, good.key)
    )
    upstream = {
        "ca": {"ca": str(empty)},
        "client certificate": {"certificate": str(good.certificate), "key": str(other.key)},
    }.get(what, {})
    tls = {"listen": "127.0.0.1:0", "certificate": str(certificate), "key": str(key)}
    settings = Settings.model_validate({"blue": blue, "listen_tls": tls, "upstream_tls": upstream})
    with pytest.raises(StartError, match="^upstream_tls: " if upstream else "^listen_tls: "):
        check_tls_files(settings)
    good_tls = {"listen": "127.0.0.1:0", "certificate": str(good.certificate), "key": str(good.key)}
    check_tls_files(Settings.model_validate({"blue": blue, "listen_tls": good_tls, "upstream_tls": {"ca": authority.file}}))
