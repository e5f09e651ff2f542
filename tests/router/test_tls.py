"""Clients over TLS (`listen_tls`), with real handshakes: versions, certificates that change, bodies, keep-alive, leaving."""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from busy import in_time
from certificates import Authority, Issued, put, serial_of
from plane import PATIENT, Client, Router, Seen, Upstream, chunked, ok, until

from router import counters as c

GET = b"GET /v1/models HTTP/1.1\r\nHost: models.example\r\n\r\n"
NAME = "models.example"


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issues(NAME)


@pytest.fixture(scope="module")
def _tls_worker(
    tmp_path_factory: pytest.TempPathFactory, _servers: tuple[Upstream, Upstream], issued: Issued
) -> Iterator[Router]:
    with Router(tmp_path_factory.mktemp("state"), _servers[0], settings=settings_of(issued)) as router:
        yield router
        router.quiet()
        assert router.complaints() == []


@pytest.fixture
def router(_tls_worker: Router, blue: Upstream, green: Upstream) -> Router:
    assert _tls_worker.process.poll() is None, _tls_worker.log
    _tls_worker.begins(blue, green)
    return _tls_worker


def settings_of(issued: Issued, **others: Any) -> dict[str, Any]:
    return {
        "listen_tls": {"certificate": str(issued.certificate), "key": str(issued.key)},
        "timeouts": PATIENT,
        "limits": {"body": 32 << 20},
        "health": {"interval": 60},
        **others,
    }


def shown(router: Router, context: ssl.SSLContext, name: str | None = NAME) -> int:
    """The serial number of the certificate that a new connection gets to see; asserts that it also works."""
    with router.tls_client(context, name=name) as client:
        assert client.asks(GET).status == 200
        return serial_of(client.sock)


# --- handshakes ---


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_accepted(router: Router, authority: Authority, blue: Upstream, version: ssl.TLSVersion) -> None:
    with router.tls_client(authority.client(version)) as client:
        assert client.sock.version() == version.name.replace("_", ".")
        answer = client.asks(GET)
        assert (answer.status, answer.payload, answer.arm) == (200, b"ok", "blue")
    assert blue.request().header(b"x-forwarded-proto") == b"https"


@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated:DeprecationWarning")
def test_tls_1_1_is_refused(router: Router, authority: Authority, issued: Issued) -> None:
    old = authority.client(ssl.TLSVersion.TLSv1_1)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    server = issued.serving()
    server.minimum_version = ssl.TLSVersion.TLSv1_1
    server.set_ciphers("DEFAULT:@SECLEVEL=0")
    if not shakes_hands(old, server):
        pytest.skip("this machine's OpenSSL cannot speak TLS 1.1 at all")
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version|violation of protocol|closed \(EOF\)"):
        router.tls_client(old)
    with router.tls_client(authority.client(ssl.TLSVersion.TLSv1_2)) as client:  # it was the version that was refused
        assert client.asks(GET).status == 200


def shakes_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> bool:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=NAME),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for side in list(sides):
            try:
                side.do_handshake()
                sides.remove(side)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
    return not sides


def test_client_without_server_name_and_one_without_alpn(router: Router, authority: Authority, issued: Issued) -> None:
    nameless = authority.client()
    nameless.check_hostname = False
    assert shown(router, nameless, None) == issued.serial
    modern = authority.client()
    modern.set_alpn_protocols(["h2", "http/1.1"])
    with router.tls_client(modern) as client:
        assert client.sock.selected_alpn_protocol() == "http/1.1"
        assert client.asks(GET).status == 200


def test_plain_http_and_noise_at_the_tls_port(router: Router) -> None:
    for data in (GET, b"\x00" * 200, b"\x16\x03\x01\x00\x05hello"):
        with Client(router.tls_address) as client:
            assert client.sends(data).is_cut_off()


def test_handshake_that_never_ends_is_ended(router: Router, issued: Issued) -> None:
    """A slow handshake is a slow head."""
    with (
        router.reset_to(settings_of(issued, timeouts={**PATIENT, "head": 0.5})),
        Client(router.tls_address) as silent,
        Client(router.tls_address) as slow,
    ):
        slow.sends(hello(router)[:50])
        assert silent.is_cut_off()
        assert slow.is_cut_off()


def hello(router: Router) -> bytes:
    """The first bytes that a client sends."""
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=NAME).do_handshake()
    return out.read()


def test_client_that_leaves_in_the_middle_of_the_handshake(router: Router, authority: Authority) -> None:
    shown(router, authority.client())
    before = router.descriptors
    first = hello(router)
    for size in (0, 1, 50, len(first)):
        for leave in (Client.resets, Client.closes):
            leave(Client(router.tls_address).sends(first[:size]))
    until(lambda: router.descriptors <= before, "their descriptors are given back")
    shown(router, authority.client())


# --- requests ---


def test_keep_alive_pipelining_and_the_closing_alert(router: Router, authority: Authority, blue: Upstream) -> None:
    blue.answers(lambda seen: ok(seen.target))
    with router.tls_client(authority.client()) as client, router.counting() as counted:
        for number in range(3):
            assert client.asks(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number).payload == b"/%d" % number
        client.sends(b"".join(b"GET /p%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(50)))
        assert [client.receives().payload for _ in range(50)] == [b"/p%d" % n for n in range(50)]
        last = client.asks(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (last.payload, last.header(b"connection")) == (b"/last", b"close")
        assert client.closed()  # with close_notify: the client's socket raises without it
    assert counted.blue(c.STATUS + 1) == 54


def test_forwarded_fields_of_a_client_are_not_believed(router: Router, authority: Authority, blue: Upstream) -> None:
    with router.tls_client(authority.client()) as client:
        client.asks(b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Proto: http\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
    seen = blue.request()
    assert seen.values(b"x-forwarded-proto") == [b"https"]
    assert seen.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert seen.values(b"x-forwarded-host") == [b"a.example"]


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_large_bodies_both_ways(router: Router, authority: Authority, blue: Upstream, framing: str) -> None:
    body = random.Random(1).randbytes(12 << 20)
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\n"
    pieces = [body[i : i + 100_000] for i in range(0, len(body), 100_000)]
    if framing == "length":
        blue.answers(lambda seen: ok(seen.payload[::-1]))
        data = head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    else:
        blue.answers(lambda seen: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(seen.payload[::-1]))
        data = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*pieces)
    with router.tls_client(authority.client()) as client:
        answer = client.asks(data)
        assert answer.status == 200
        assert answer.payload == body[::-1]
        assert blue.request().payload == body
        assert client.asks(GET.replace(b"/v1/models", b"/again")).status == 200


def test_refusal_in_the_middle_of_a_body_arrives(router: Router, authority: Authority) -> None:
    """RFC 9112, 9.6: a reset would destroy the answer, which a client that sends all before it reads has not read yet."""
    context = authority.client()

    def refused() -> None:
        with router.tls_client(context) as client:
            client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
            client.sends(*[b"x" * 65536] * 40, pause=0.005)
            answer = client.receives()
            assert (answer.status, answer.header(b"connection")) == (413, b"close")
            assert answer.problem()
            assert client.closed()  # a moment later, with the closing alert

    in_time(1.5, refused)  # two seconds after the refusal the router waits no longer


def test_refusal_waits_for_a_client_that_goes_on_sending_no_longer_than_a_moment(router: Router, authority: Authority) -> None:
    with router.tls_client(authority.client()) as client:
        client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
        with pytest.raises(OSError, match=r"(?i)reset|broken pipe|eof"):
            client.sends(*[b"x" * 65536] * 1000, pause=0.01)
    router.empty()


def test_slow_client_makes_the_worker_hold_no_more_than_a_bound(router: Router, authority: Authority, blue: Upstream) -> None:
    size = 48 << 20
    block = random.Random(2).randbytes(1 << 20)

    def deed(connection: Any, _seen: Seen) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(48):
            connection.send(block)

    blue.does(deed)
    with router.tls_client(authority.client(), receive_buffer=65536) as client:
        before = router.resident
        client.sends(GET)
        time.sleep(0.5)
        assert router.resident - before < 12 << 20
        assert hashlib.sha256(client.receives().payload).digest() == hashlib.sha256(block * 48).digest()


@pytest.mark.parametrize("leave", [Client.resets, Client.closes])
def test_client_that_leaves_before_its_answer(router: Router, authority: Authority, blue: Upstream, leave: Any) -> None:
    blue.hangs()
    with router.counting() as counted:
        client = router.tls_client(authority.client()).sends(GET)
        blue.request()
        leave(client)
        until(lambda: blue.left == 1, "the request at the server is called off")
    assert counted.word(c.CLIENTS_LEFT) == 1


# --- certificates that change ---


@pytest.fixture
def own(tmp_path: Path, blue: Upstream, authority: Authority) -> Iterator[tuple[Router, Issued]]:
    """A worker whose certificate a test may replace."""
    issued = authority.issues(NAME)
    with Router(tmp_path, blue, settings=settings_of(issued)) as router:
        yield router, issued
        assert router.complaints() == []


def test_reloaded_when_the_files_change_without_losing_anybody(own: tuple[Router, Issued], authority: Authority) -> None:
    router, issued = own
    router.forgives("certificate was not reloaded")  # it may be looked at between its own replacement and the key's
    context = authority.client()
    first = issued.serial
    seen: list[int] = []
    failures: list[BaseException] = []
    stop = threading.Event()

    def ask() -> None:
        try:
            while not stop.is_set():
                seen.append(shown(router, context))
        except BaseException as error:
            failures.append(error)

    with router.tls_client(context) as old:
        assert old.asks(GET).status == 200
        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: failures or seen, "a first answer")
        second = authority.issues(NAME)
        issued.becomes(second)
        until(lambda: failures or seen[-1] == second.serial, "the new certificate is shown")
        stop.set()
        asking.join()
        assert not failures
        assert seen[0] == first
        assert set(seen) == {first, second.serial}
        context.check_hostname = False
        assert shown(router, context, None) == second.serial
        # the connection from before goes on under the certificate that it was made with
        assert old.asks(GET).status == 200
        assert serial_of(old.sock) == first


def test_broken_pair_leaves_the_old_one_in_force(own: tuple[Router, Issued], authority: Authority) -> None:
    router, issued = own
    router.forgives("certificate was not reloaded")
    context = authority.client()
    good = issued.certificate.read_bytes(), issued.key.read_bytes()
    hidden = authority.issues(NAME, passphrase=b"secret")
    other = authority.issues(NAME)
    for certificate, key in [
        (other.certificate.read_bytes(), good[1]),  # not (yet) its key
        (good[0], other.key.read_bytes()),
        (b"not a certificate", good[1]),
        (b"", b""),
        (hidden.certificate.read_bytes(), hidden.key.read_bytes()),  # nobody is there to type the passphrase
    ]:
        put(issued.certificate, certificate)
        put(issued.key, key)
        told = router.log.count("not reloaded")
        router.rereads(settings_of(issued))
        assert router.log.count("not reloaded") > told
        assert shown(router, context) == issued.serial
    issued.key.unlink()
    assert shown(router, context) == issued.serial
    issued.becomes(other)
    router.process.send_signal(signal.SIGHUP)
    until(lambda: shown(router, context) == other.serial, "a good pair is taken")


def test_broken_pair_is_told_once_and_not_at_every_look(own: tuple[Router, Issued], authority: Authority) -> None:
    router, issued = own
    router.forgives("certificate was not reloaded")
    put(issued.certificate, b"no certificate")
    until(lambda: "not reloaded" in router.log, "it is told")
    time.sleep(1.5)  # the files are looked at every second
    assert router.log.count("not reloaded") == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("before", "after"), [("rsa", "ec"), ("ec", "rsa")])
def test_certificate_of_another_key_type_replaces_the_old_one_wholly(
    tmp_path: Path, blue: Upstream, authority: Authority, before: str, after: str, version: ssl.TLSVersion
) -> None:
    """OpenSSL keeps a certificate for each key type: one loaded beside the old one would leave that in force for some clients."""
    issued, second = authority.issues(NAME, algorithm=before), authority.issues(NAME, algorithm=after)
    context = authority.client(version)
    with Router(tmp_path, blue, settings=settings_of(issued)) as router:
        assert shown(router, context) == issued.serial
        issued.becomes(second)
        router.rereads(settings_of(issued))
        assert {shown(router, context) for _ in range(3)} == {second.serial}
        if version == ssl.TLSVersion.TLSv1_2:
            context.set_ciphers({"rsa": "aRSA", "ec": "aECDSA"}[before])
            with pytest.raises(ssl.SSLError):
                router.tls_client(context)


def test_sighup_takes_files_at_another_path(own: tuple[Router, Issued], authority: Authority) -> None:
    router, _ = own
    router.forgives("certificate was not reloaded")  # it may be looked at between its own replacement and the key's
    other = authority.issues(NAME)
    router.rereads(settings_of(other))
    assert shown(router, authority.client()) == other.serial
    third = authority.issues(NAME)
    other.becomes(third)
    until(lambda: shown(router, authority.client()) == third.serial, "changes of the new files are seen")


# --- the end ---


def test_drain_finishes_requests_and_handshakes(own: tuple[Router, Issued], authority: Authority, blue: Upstream) -> None:
    router, _ = own
    context = authority.client()
    go = threading.Event()
    blue.does(lambda connection, _seen: (go.wait(60), connection.send(ok(b"late")))[1], once=True)
    with router.tls_client(context) as running, router.tls_client(context) as idle, Client(router.tls_address) as begun:
        running.sends(GET)
        blue.request()
        begun.sends(hello(router)[:5])
        router.terminates()
        until(lambda: router.counts.word(c.DRAINING) == 1, "the drain begins")
        go.set()
        answer = running.receives()
        assert (answer.payload, answer.header(b"connection")) == (b"late", b"close")
        assert running.closed()
        assert idle.closed()
        begun.closes()
    assert router.process.wait(60) == 0


def test_client_that_connected_before_the_drain_gets_its_answer(tmp_path: Path, blue: Upstream, authority: Authority) -> None:
    issued, context = authority.issues(NAME), authority.client()
    for attempt in range(5):
        with (
            Router(tmp_path / str(attempt), blue, settings=settings_of(issued)) as router,
            contextlib.ExitStack() as open_sockets,
        ):
            plain = [open_sockets.enter_context(socket.create_connection(router.tls_address, 60)) for _ in range(5)]
            began = time.monotonic()
            router.terminates()
            try:
                until(lambda router=router: router.counts.word(c.DRAINING) == 1, "the drain begins")
                time.sleep(0.05)  # a client that is an ocean away
                for sock in plain:
                    with context.wrap_socket(sock, server_hostname=NAME) as tls:
                        tls.sendall(GET)
                        assert tls.recv(12) == b"HTTP/1.1 200"
            except (OSError, AssertionError):
                # A drain waits a second for handshakes: whoever got no processor for that long must try again.
                if attempt == 4 or time.monotonic() - began < 0.7:
                    raise
                continue
            assert router.process.wait(60) == 0
            assert router.complaints() == []
            return
