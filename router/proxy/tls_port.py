"""The port for clients over TLS: its certificate, and handshakes that count as connections.

An asyncio server knows of a client only when its handshake is over, so the limits on connections would not see those who begin
one and never go on. Here each is accepted by hand and takes its place among the connections first; over a limit it is closed
before a byte of the handshake, which is the costly part, is computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

from models.tasks import spawn
from router.proxy.downstream import Downstream, peer_name
from router.proxy.gateway import DRAIN_GRACE_SECONDS
from router.proxy.options import ListenTls

if TYPE_CHECKING:
    from router.proxy.gateway import Gateway

_log = logging.getLogger("tls")
_BACKLOG: Final = 4096  # as many may wait (router/supervisor.py)
_ACCEPTED_AT_ONCE: Final = 8  # each is a millisecond or two of computing, between which others shall have their turn
_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_SECONDS: Final = 1.0
_SHUTDOWN_SECONDS: Final = 86_400.0  # also for a last answer to leave; the sweep knows better when a client takes nothing


class TlsPort:
    """Accepts clients on a listening socket and shakes hands with those that the limits admit."""

    def __init__(self, sock: socket.socket, certificate: Certificate, gateway: Gateway) -> None:
        """`sock` must be listening and not block; it is closed with the port."""
        self._sock = sock
        self._certificate = certificate
        self._gateway = gateway
        self._open = True
        self._handshakes: set[asyncio.Task[None]] = set()
        self._listen()

    def close(self) -> None:
        """Accept those who wait already, then no more; handshakes that run have as long as an idle connection in a drain."""
        self._open = False
        self._gateway.loop.remove_reader(self._sock.fileno())
        for _ in range(_BACKLOG):
            if not self._accept():
                break
        self._sock.close()
        self._gateway.loop.call_later(DRAIN_GRACE_SECONDS, self._cut_off)

    def _cut_off(self) -> None:
        for handshake in list(self._handshakes):
            handshake.cancel()

    def _listen(self) -> None:
        if self._open:
            self._gateway.loop.add_reader(self._sock.fileno(), self._accept_some)

    def _accept_some(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            if not self._accept():
                return

    def _accept(self) -> bool:
        """Accept one client; False when none waits, or none can be taken now."""
        try:
            sock, address = self._sock.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _RESOURCES:
                return True  # that client is gone already; the next one may be there (accept(2))
            if self._open:
                # Without a pause the socket would report the client who waits for ever.
                _log.error("no client can be accepted for %g s: %s", _PAUSE_SECONDS, error.strerror)
                self._gateway.loop.remove_reader(self._sock.fileno())
                self._gateway.loop.call_later(_PAUSE_SECONDS, self._listen)
            return False
        peer = peer_name(address)
        if self._gateway.take_place(peer):
            sock.setblocking(False)
            handshake = spawn(self._shake_hands(sock, peer), "TLS handshake")
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)
        else:
            sock.close()
        return True

    async def _shake_hands(self, sock: socket.socket, peer: str) -> None:
        gateway = self._gateway
        # A protocol by its methods: see models.upstream.Upstream.
        downstream: Any = Downstream(gateway, b"https", reserved_for=peer)
        try:
            with contextlib.suppress(OSError):  # ssl.SSLError and TimeoutError are among them; whose handshake fails is gone
                await gateway.loop.connect_accepted_socket(
                    lambda: downstream,
                    sock,
                    ssl=self._certificate.context,
                    ssl_handshake_timeout=gateway.timeouts.head,  # a handshake is the beginning of a head
                    ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
                )
        finally:
            # Also when nothing was raised: uvloop returns as if all were well when the client leaves in the middle.
            if downstream.reserved:
                gateway.leave_place(peer)


class Certificate:
    """The certificate of the TLS port; a handshake that begins after a new one is there gets to see the new one.

    The port keeps one context for ever. A new pair goes into a context of its own, to which each handshake is moved as it
    begins: by the server-name callback, which OpenSSL also calls when the client names none. Loading it into the port's context
    would not do: OpenSSL keeps one certificate for each type of key, so an RSA one would stay in force beside the ECDSA one
    that replaced it.
    """

    def __init__(self, files: ListenTls) -> None:
        self._files = files
        self._stamp = self._stamps()
        self.context = self._present = certificate_context(files)
        self.context.sni_callback = self._show

    def reload_if_changed(self) -> None:
        """Load the files again when either has another time or size."""
        if self._stamps() != self._stamp:
            self.reload(self._files)

    def reload(self, files: ListenTls) -> None:
        """Load these files; a pair that cannot be used (one of them not yet replaced) leaves the present one in force."""
        self._files = files
        # Also when it fails: what is broken is told once, and looked at again when it has changed.
        self._stamp = self._stamps()
        try:
            self._present = certificate_context(files)
        except OSError as error:
            _log.error("the certificate was not reloaded: %s", error)
            return
        _log.info("certificate reloaded")

    def _show(self, handshake: ssl.SSLObject, _name: str, context: ssl.SSLContext) -> None:
        if context is not self._present:
            handshake.context = self._present

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        try:
            stats = [os.stat(path) for path in (self._files.certificate, self._files.key)]
        except OSError:
            return ()
        return tuple((s.st_mtime_ns, s.st_size) for s in stats)


def certificate_context(files: ListenTls) -> ssl.SSLContext:
    """A server's context with this certificate: TLS 1.2 at least, HTTP/1.1 alone. Raises OSError (ssl.SSLError among them)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # An empty passphrase, or OpenSSL would ask at the terminal for that of an encrypted key.
    context.load_cert_chain(files.certificate, files.key, password="")
    return context
