"""Servers that are not plain http on an IPv4 address: https with every kind of trust, Unix sockets, IPv6, names that move.

Also the client's side of IPv6. Everything is real: handshakes, sockets, and for names a hosts file of the worker's own (a mount
namespace, so that nothing of the machine changes).
"""

from __future__ import annotations

import random
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, Issued
from plane import PATIENT, Client, Router, Upstream, chunked, ok, until

from router import counters as c

GET = b"GET /v1/models HTTP/1.1\r\nHost: models.example\r\n\r\n"
NAME = "models.internal"
LOOPBACK = "127.0.0.1"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody was told to trust."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


Start = Callable[..., Router]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a worker in front of servers; it must have become quiet and have nothing to complain about at the end."""
    routers: list[Router] = []

    def begin(*blue: Upstream | str, trust: dict[str, Any] | None = None, **options: Any) -> Router:
        settings = {
            "timeouts": PATIENT,
            "health": {"interval": 60, "timeout": 10},
            "upstream_tls": {key: str(value) if isinstance(value, Path) else value for key, value in (trust or {}).items()},
            "fallback": {"on": []},
            **options.pop("settings", {}),
        }
        urls = [one if isinstance(one, str) else one.url for one in blue]
        routers.append(Router(tmp_path / f"state{len(routers)}", urls, settings=settings, **options))
        return routers[-1]

    yield begin
    for router in routers:
        router.quiet()
        assert router.complaints() == []
        router.close()


@pytest.fixture
def serving() -> Iterator[Callable[..., Upstream]]:
    servers: list[Upstream] = []

    def serve(**options: Any) -> Upstream:
        servers.append(Upstream(**options))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


# --- https ---


def test_https_server_that_proves_who_it_is(start: Start, serving: Callable[..., Upstream], authority: Authority) -> None:
    server = serving(tls=authority.issues(LOOPBACK).serving())
    body = random.Random(1).randbytes(6 << 20)
    router = start(server, trust={"ca": authority.file})
    with router.client() as client:
        for _ in range(3):
            assert client.asks(GET).status == 200
        assert router.counts.blue(c.OPENED) == 1  # one handshake, kept alive
        assert server.request().header(b"x-forwarded-proto") == b"http"  # what the client spoke, not what we speak
        server.answers(lambda seen: ok(seen.payload[::-1]))
        request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(
            body[: 3 << 20], body[3 << 20 :]
        )
        assert client.asks(request).payload == body[::-1]
    until(lambda: router.counts.blue(c.STATUS + 1) == 4, "all of them are counted")


@pytest.mark.parametrize(
    "problem", ["unknown authority", "another name", "the system's authorities", "only a common name", "not https", "old TLS"]
)
@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated:DeprecationWarning")
def test_https_server_that_does_not(
    start: Start, serving: Callable[..., Upstream], authority: Authority, stranger: Authority, problem: str
) -> None:
    issuer = stranger if problem == "unknown authority" else authority
    context = issuer.issues("other.example" if problem == "another name" else LOOPBACK).serving()
    if problem == "old TLS":
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    settings: dict[str, Any] = {}
    if problem == "not https":  # it waits for the end of a request's head, and says nothing
        settings = {"timeouts": {**PATIENT, "connect": 0.5}, "health": {"interval": 60, "timeout": 0.5}}
        plain = serving()
        url = plain.url.replace("http:", "https:")
    elif problem == "only a common name":
        server = serving(tls=authority.issues("localhost").serving())
        url = server.url  # 127.0.0.1, while the certificate is for localhost
    else:
        server = serving(tls=context)
        url = server.url
    router = start(url, trust={} if problem == "the system's authorities" else {"ca": authority.file}, settings=settings)
    answer = router.asks(GET)
    assert answer.status == 502
    assert answer.problem()
    assert router.counts.blue(c.CONNECT_FAILURES) == 1
    assert router.asks(b"GET /-/readyz HTTP/1.1\r\nHost: a\r\n\r\n").status == 503


def test_what_is_wrong_with_a_servers_certificate_is_told(
    start: Start, serving: Callable[..., Upstream], authority: Authority, stranger: Authority
) -> None:
    router = start(serving(tls=stranger.issues(LOOPBACK).serving()), trust={"ca": authority.file})
    assert "certificate" in router.asks(GET).problem()["detail"]


def test_server_name_setting_decides_which_name_is_proved(
    start: Start, serving: Callable[..., Upstream], authority: Authority
) -> None:
    asked: set[str | None] = set()
    context = authority.issues(NAME).serving()
    context.sni_callback = lambda _sock, name, _context: asked.add(name)
    server = serving(tls=context)
    assert start(server, trust={"ca": authority.file}).asks(GET).status == 502
    assert start(server, trust={"ca": authority.file, "server_name": "wrong.internal"}).asks(GET).status == 502
    assert start(server, trust={"ca": authority.file, "server_name": NAME}).asks(GET).status == 200
    assert asked == {None, "wrong.internal", NAME}  # an address is no server name (RFC 6066, 3)


def test_verification_can_be_turned_off(start: Start, serving: Callable[..., Upstream], stranger: Authority) -> None:
    server = serving(tls=stranger.issues("whoever.example").serving())
    assert start(server, trust={"verify": False}).asks(GET).status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_server_that_demands_a_certificate(
    start: Start,
    serving: Callable[..., Upstream],
    authority: Authority,
    stranger: Authority,
    version: ssl.TLSVersion,
) -> None:
    """In TLS 1.3 a server refuses a client's certificate after the client takes the handshake for done."""
    context = authority.issues(LOOPBACK).serving(clients_of=authority)
    context.minimum_version = context.maximum_version = version
    server = serving(tls=context)

    def trust(issued: Issued | None) -> dict[str, Any]:
        own = {"certificate": issued.certificate, "key": issued.key} if issued else {}
        return {"ca": authority.file, **own}

    assert start(server, trust=trust(None)).asks(GET).status == 502
    assert start(server, trust=trust(stranger.issues("router", client=True))).asks(GET).status == 502
    assert not server.seen
    assert start(server, trust=trust(authority.issues("router", client=True))).asks(GET).status == 200


def test_answer_until_the_close_is_whole_only_with_the_closing_alert(
    start: Start, serving: Callable[..., Upstream], authority: Authority
) -> None:
    """RFC 9112, 9.8: without it whoever can cut the connection can cut the answer."""
    server = serving(tls=authority.issues(LOOPBACK).serving())
    router = start(server, trust={"ca": authority.file})

    def closing(properly: bool) -> Callable[[Any, Any], None]:
        def deed(connection: Any, _seen: Any) -> None:
            connection.send(b"HTTP/1.1 200 OK\r\n\r\nall of it?")
            if properly:
                connection.sock.unwrap().close()
            connection.close()

        return deed

    server.does(closing(True), once=True)
    assert router.asks(GET).payload == b"all of it?"
    server.does(closing(False), once=True)
    with router.client() as client:
        client.sends(GET)
        assert client.reader.through(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        client.is_cut_off()
    until(lambda: router.counts.blue(c.BROKEN) == 1, "it is counted as broken off")


def test_servers_that_fail_in_the_handshake_leave_nothing_behind(
    start: Start, serving: Callable[..., Upstream], authority: Authority
) -> None:
    listener = socket.create_server((LOOPBACK, 0))  # accepts by its backlog and says nothing
    resetting = serving().resets_at_accept()
    with listener:
        silent = f"https://{LOOPBACK}:{listener.getsockname()[1]}"
        router = start(silent, trust={"ca": authority.file}, settings={"timeouts": {**PATIENT, "connect": 0.5}})
        assert router.asks(GET).status == 502
        router.obeys(blue=[resetting.url.replace("http:", "https:")])
        before = router.descriptors
        for _ in range(10):
            assert router.asks(GET).status == 502
        router.empty()
        until(lambda: router.descriptors <= before, "no descriptor is left of them")


def test_sighup_with_a_certificate_that_cannot_be_used_changes_nothing(
    start: Start, serving: Callable[..., Upstream], authority: Authority, tmp_path: Path
) -> None:
    server = serving(tls=authority.issues(LOOPBACK).serving())
    router = start(server, trust={"ca": authority.file})
    router.forgives("settings were not reread")
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate\n")
    router.rereads({"limits": {"body": 10}, "upstream_tls": {"ca": str(broken)}})
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n" + b"x" * 20
    assert router.asks(post).status == 200  # not the new limit with the old certificates


# --- Unix sockets ---


def test_unix_socket(start: Start, serving: Callable[..., Upstream], tmp_path: Path) -> None:
    server = serving(path=str(tmp_path / "model.sock"))
    router = start(server)
    with router.client() as client:
        for _ in range(3):
            assert client.asks(GET).status == 200
    assert router.counts.blue(c.OPENED) == 1
    assert server.request().header(b"host") == b"models.example"
    assert router.asks(b"GET /-/readyz HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
    server.close()
    until(lambda: router.asks(GET).status == 502, "a server that is gone is told")


def test_unix_socket_with_a_health_path(start: Start, serving: Callable[..., Upstream], tmp_path: Path) -> None:
    server = serving(path=str(tmp_path / "model.sock"))
    start(server, settings={"health": {"path": "/v2/health/ready", "interval": 0.1}})
    until(lambda: len(server.seen) > 2, "it is checked")
    assert server.seen[0].line == b"GET /v2/health/ready HTTP/1.1"
    assert server.seen[0].header(b"host") == b"localhost"


# --- IPv6 ---


@needs_ipv6
def test_ipv6_server(start: Start, serving: Callable[..., Upstream]) -> None:
    server = serving(family=socket.AF_INET6)
    assert "[::1]" in server.url
    router = start(server, settings={"health": {"path": "/up", "interval": 0.1}})
    assert router.asks(GET).status == 200
    until(lambda: any(seen.target == b"/up" for seen in server.seen), "it is checked")
    checks = [seen for seen in server.seen if seen.target == b"/up"]
    assert checks[0].header(b"host") == b"[::1]:%d" % server.port


@needs_ipv6
def test_ipv6_https_server(start: Start, serving: Callable[..., Upstream], authority: Authority) -> None:
    right = serving(family=socket.AF_INET6, tls=authority.issues("::1").serving())
    wrong = serving(family=socket.AF_INET6, tls=authority.issues("::2").serving())
    assert start(right, trust={"ca": authority.file}).asks(GET).status == 200
    assert start(wrong, trust={"ca": authority.file}).asks(GET).status == 502


@needs_ipv6
def test_clients_over_ipv6(start: Start, serving: Callable[..., Upstream], authority: Authority) -> None:
    server = serving()
    issued = authority.issues("::1")
    files = {"certificate": str(issued.certificate), "key": str(issued.key)}
    router = start(server, host="::1", settings={"listen_tls": files})
    assert router.asks(GET).status == 200
    assert server.request().header(b"x-forwarded-for") == b"::1"
    with router.tls_client(authority.client(), name="::1") as client:
        assert client.asks(GET).status == 200
    assert server.request(1).header(b"x-forwarded-proto") == b"https"


@needs_ipv6
def test_ipv4_clients_of_a_port_for_both_are_named_by_their_ipv4_address(
    start: Start, serving: Callable[..., Upstream]
) -> None:
    """The kernel tells ::ffff:127.0.0.1 (RFC 4291, 2.5.5.2); who is trusted is configured as 127.0.0.0/8."""
    server = serving()
    router = start(server, host="::", settings={"forwarded": {"trust": ["127.0.0.0/8"]}})
    with Client((LOOPBACK, router.address[1])) as client:
        client.asks(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: https\r\n\r\n")
    assert server.request().header(b"x-forwarded-for") == b"10.1.2.3, 127.0.0.1"
    assert server.request().header(b"x-forwarded-proto") == b"https"


# --- names ---


def own_hosts(hosts: Path) -> list[str]:
    """A command that runs another with this hosts file, without changing anything outside; skips where that is not allowed."""
    command = [
        *("unshare", "--user", "--map-root-user", "--mount"),
        *("sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)),
    ]
    if not shutil.which("unshare") or not shutil.which("getent"):
        pytest.skip("unshare and getent (util-linux, libc-bin) are needed for a hosts file of one's own")
    found = subprocess.run([*command, "getent", "hosts", NAME], capture_output=True, text=True, check=False)
    if not found.stdout.startswith("127.0.0.2"):
        pytest.skip(f"no mount namespace of one's own here: {found.stderr.strip() or found.stdout.strip()}")
    return command


def test_name_is_resolved_again_for_every_new_connection(
    start: Start, serving: Callable[..., Upstream], tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.2 {NAME}\n")
    under = own_hosts(hosts)
    first = serving(host="127.0.0.2").answers(ok(b"first"))
    second = serving(host="127.0.0.3", port=first.port).answers(ok(b"second"))
    router = start(f"http://{NAME}:{first.port}", under=under)
    with router.client() as client:
        assert client.asks(GET).payload == b"first"
        hosts.write_text(f"127.0.0.3 {NAME}\n")
        assert client.asks(GET).payload == b"first"  # the connection that stands is as good as before
        first.drops_connections()
        until(lambda: client.asks(GET).payload == b"second", "a new connection goes where the name points now")
        hosts.write_text("127.0.0.1 localhost\n")
        assert client.asks(GET).payload == b"second"
        second.drops_connections()
        until(lambda: client.asks(GET).status == 502, "a name that is no more")
        hosts.write_text(f"127.0.0.2 {NAME}\n")
        until(lambda: client.asks(GET).payload == b"first", "it comes back by itself")


def test_name_that_has_never_existed_is_a_problem_and_not_a_hang(start: Start) -> None:
    answer = start("http://no-such-host.invalid:80", settings={"timeouts": {**PATIENT, "connect": 2.0}}).asks(GET)
    assert answer.status == 502
    assert answer.problem()


@needs_ipv6
def test_name_with_two_addresses_of_which_one_answers(start: Start, serving: Callable[..., Upstream], tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.2 {NAME}\n")
    under = own_hosts(hosts)
    server = serving(host="127.0.0.2").answers(ok(b"here"))
    hosts.write_text(f"::1 {NAME}\n127.0.0.2 {NAME}\n")
    assert start(f"http://{NAME}:{server.port}", under=under).asks(GET).payload == b"here"
