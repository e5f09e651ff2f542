"""Who may talk to the control API: checked before any of its code runs, as plain ASGI around the whole application.

With a token, every call must carry it (RFC 6750), but for the two probes and the dashboard's own files, which hold no data. On
a loopback address a browser on this machine is the danger: any web page may send requests to 127.0.0.1, and one whose name was
re-pointed there may read the answers (DNS rebinding). Both give themselves away, by `Host` and by `Origin`. Bodies are read
whole here, up to a limit, so nothing behind this needs one.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.control.problems import Problem
from router.quantities import is_loopback

BODY_LIMIT = 1 << 20
OPEN_PATHS = frozenset(("/healthz", "/readyz"))
PAGE_PATHS = frozenset(("/", "/dashboard/page.js", "/dashboard/style.css"))
_USER_HEADER = "x-bluegreen-user"


class Guard:
    """ASGI middleware: Host, Origin, token and body size, in that order."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        loopback: bool,
        body_limits: Mapping[str, int] | None = None,
    ) -> None:
        """`loopback`: the control address is one; `body_limits`: bytes for paths that take more than 1 MiB."""
        self._app = app
        self._token = token.encode() if token else None
        self._loopback = loopback
        self._body_limits = dict(body_limits or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # lifespan; there are no websockets here
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None:
            body = await _read(receive, headers, self._body_limits.get(scope["path"], BODY_LIMIT))
            if body is None:
                return  # the client left: half a request must not be acted on
            if isinstance(body, bytes):
                await self._app(scope, _replay(body, receive), send)
                return
            refusal = body
        await refusal(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Problem | None:
        request_id = headers.get("x-request-id")
        if self._loopback:
            host = headers.get("host", "")
            if not is_loopback(_host_name(host)):
                text = f"this address answers only to its loopback names (localhost, 127.0.0.1, [::1]), not to {host!r}"
                return Problem(403, text, request_id=request_id)
        origin = headers.get("origin")
        if origin is not None and not _same_origin(origin, headers.get("host", "")):
            return Problem(403, f"pages of the origin {origin!r} may not use this control API", request_id=request_id)
        if self._token is None or scope["path"] in OPEN_PATHS:
            return None
        if scope["path"] in PAGE_PATHS and scope["method"] in ("GET", "HEAD"):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            scope["bluegreen.token"] = True
            return None
        text = "this call needs the control API's token: Authorization: Bearer TOKEN (the command line reads BLUEGREEN_TOKEN)"
        return Problem(401, text, request_id=request_id, headers={"www-authenticate": 'Bearer realm="bluegreen"'})


def who(request: Request) -> str:
    """Who asks, for the history: the name in `x-bluegreen-user`, which nobody checks, else how they came in; and from where."""
    name = request.headers.get(_USER_HEADER, "").strip()
    if not name or len(name) > 100 or not name.isprintable():
        name = "token" if request.scope.get("bluegreen.token") else "anonymous"
    return f"{name}@{request.client.host if request.client else 'local'}"


def _host_name(host: str) -> str:
    """The name in a `Host` field, without its port; empty for what is none."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        return name if bracket and (not port or port[1:].isdecimal()) else ""
    name, _, port = host.partition(":")
    if port and not port.isdecimal():
        return ""
    try:
        return str(ipaddress.IPv4Address(name))  # the one spelling: 0x7f.1 and its like are refused
    except ValueError:
        return name if name.lower() == "localhost" else ""


def _same_origin(origin: str, host: str) -> bool:
    """Whether a page of `origin` (RFC 6454) came from the host and port that it now asks."""
    scheme, _, authority = origin.partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme)
    return port is not None and authority.lower().removesuffix(port) == host.lower().removesuffix(port)


async def _read(receive: Receive, headers: Headers, limit: int) -> bytes | Problem | None:
    too_large = f"the body may be at most {limit} bytes long"
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        return Problem(413, too_large, headers={"connection": "close"})
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            return Problem(413, too_large, headers={"connection": "close"})
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then whatever comes."""
    told = False

    async def replay() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
