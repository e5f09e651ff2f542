"""The TLS port accepts by itself: handshakes count among the connections, and their places come back however they end."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, Issued
from plane import PATIENT, Client, Ended, Router, Upstream, until

from router import counters as c

GET = b"GET /v1/models HTTP/1.1\r\nHost: models.example\r\n\r\n"


def settings_of(issued: Issued, *, head: float = 60.0, **limits: int) -> dict[str, Any]:
    return {
        "listen_tls": {"certificate": str(issued.certificate), "key": str(issued.key)},
        "timeouts": {**PATIENT, "head": head},
        "limits": limits,
        "health": {"interval": 60},
    }


@pytest.fixture
def issued(authority: Authority) -> Issued:
    return authority.issues("models.example")


@pytest.fixture
def limited(tmp_path: Path, blue: Upstream, issued: Issued) -> Any:
    """Starts a worker with a TLS port and these limits."""

    @contextlib.contextmanager
    def start(**others: Any) -> Iterator[Router]:
        with Router(tmp_path, blue, settings=settings_of(issued, **others)) as router:
            yield router
            assert router.complaints() == []

    return start


def is_answered(router: Router, context: ssl.SSLContext) -> bool:
    try:
        with router.tls_client(context) as client:
            return client.asks(GET).status == 200
    except (Ended, OSError):
        return False


def connections(router: Router) -> int:
    router.sweeps()
    return router.counts.word(c.CONNECTIONS)


def test_silent_handshakes_fill_the_connections_and_no_more(limited: Any, authority: Authority) -> None:
    with limited(connections=5) as router:
        silent = [Client(router.tls_address) for _ in range(5)]
        until(lambda: connections(router) == 5, "each of them has a place")
        began = time.monotonic()
        with Client(router.tls_address) as sixth:
            assert sixth.is_cut_off()
        assert time.monotonic() - began < 30, "at once, not after the time that a handshake may take"
        with router.client() as plain:  # the limit is one for both ports
            assert plain.asks(GET).status == 503
        until(lambda: router.counts.word(c.REFUSED) == 2, "both are counted")
        silent.pop().closes()
        until(lambda: is_answered(router, authority.client()), "its place is free again")
        for one in silent:
            one.resets()
        until(lambda: connections(router) == 0, "all places are given back")


def test_handshakes_count_for_their_client(limited: Any, authority: Authority) -> None:
    with limited(connections_per_client=3) as router:
        silent = [Client(router.tls_address) for _ in range(3)]
        until(lambda: connections(router) == 3, "each of them has a place")
        with Client(router.tls_address) as fourth:
            assert fourth.is_cut_off()
        for one in silent:
            one.closes()
        until(lambda: is_answered(router, authority.client()), "their places are free again")


def test_a_place_is_taken_once(limited: Any, authority: Authority) -> None:
    """It passes from the handshake to the connection: a client at its limit is not refused by itself."""
    with limited(connections=1, connections_per_client=1) as router:
        for _ in range(3):
            with router.tls_client(authority.client()) as client:
                assert client.asks(GET).status == 200
                assert connections(router) == 1
            until(lambda: connections(router) == 0, "the place is given back")


def test_places_come_back_however_a_handshake_ends(limited: Any, issued: Issued, authority: Authority) -> None:
    with limited() as router:
        out = ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="models.example").do_handshake()
        hello = out.read()
        sent = (b"", b"\x16", hello[:50], hello, b"\x00" * 200, GET)
        for data in sent:
            for leave in (Client.resets, Client.closes):
                leave(Client(router.tls_address).sends(data))
        distrusting = ssl.create_default_context()  # refuses the certificate, with an alert
        with pytest.raises(ssl.SSLCertVerificationError):
            router.tls_client(distrusting)
        with socket.create_connection(router.tls_address) as early:
            early.shutdown(socket.SHUT_WR)
            assert early.recv(100) == b""
        until(lambda: connections(router) == 0, "all places are given back")
        # These stay, until their time is over.
        router.rereads(settings_of(issued, head=0.3))
        left = [Client(router.tls_address) for _ in sent]
        for one, data in zip(left, sent, strict=True):
            with contextlib.suppress(OSError):  # its time may be over already
                one.sends(data)
        assert all(one.is_cut_off() for one in left)
        until(lambda: connections(router) == 0, "all places are given back again")
        until(lambda: is_answered(router, authority.client()), "somebody else is answered")


def test_out_of_descriptors_clients_wait_and_are_served_afterwards(limited: Any, authority: Authority) -> None:
    with limited() as router, contextlib.ExitStack() as open_clients:
        assert is_answered(router, authority.client())
        before = resource.prlimit(router.process.pid, resource.RLIMIT_NOFILE)
        router.forgives("no client can be accepted")
        began = time.monotonic()
        resource.prlimit(router.process.pid, resource.RLIMIT_NOFILE, (router.descriptors, before[1]))
        try:
            # More than there are numbers free below the limit, those of connections that have just ended among them.
            waiting = [open_clients.enter_context(Client(router.tls_address)) for _ in range(20)]
            until(lambda: "Too many open files" in router.log, "it says why nobody is accepted")
        finally:
            resource.prlimit(router.process.pid, resource.RLIMIT_NOFILE, before)
        seconds = time.monotonic() - began
        for client in waiting:
            client.sock = authority.client().wrap_socket(client.sock, server_hostname="models.example")
            client.sock.sendall(GET)
            assert client.sock.recv(12) == b"HTTP/1.1 200"
        assert router.log.count("Too many open files") <= 2 + seconds, "once a second, not at every turn"


def test_limits_and_times_that_sighup_brings_hold_for_handshakes(limited: Any, issued: Issued, authority: Authority) -> None:
    with limited() as router:
        router.rereads(settings_of(issued, connections=1))
        with Client(router.tls_address):
            until(lambda: connections(router) == 1, "it has a place")
            with Client(router.tls_address) as second:
                assert second.is_cut_off()
        until(lambda: connections(router) == 0, "its place is free again")
        router.rereads(settings_of(issued, head=0.3, connections=1))
        with Client(router.tls_address) as silent:
            began = time.monotonic()
            assert silent.is_cut_off()
            assert time.monotonic() - began < 30
        until(lambda: is_answered(router, authority.client()), "its place is free again")


def test_a_drain_waits_for_a_silent_handshake_no_longer_than_for_an_idle_connection(limited: Any) -> None:
    with limited() as router:
        with Client(router.tls_address):
            until(lambda: connections(router) == 1, "it has a place")
            began = time.monotonic()
            router.terminates()
            assert router.process.wait(25) == 0
        assert time.monotonic() - began < 25, "the whole drain may last 30 s"
