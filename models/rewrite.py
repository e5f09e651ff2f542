"""A request on its way to an arm: what ends at this hop is taken out, what the arm needs is put in (pure).

Used for live requests and for their twins alike, so that both see an arm in the same way.
"""

from __future__ import annotations

from models.arm import Arm, parse_address
from models.framing import CHUNKED
from models.http1 import RequestHead, field_value, forwarded_fields, replace_field
from models.json_field import replace_top_level


class Rewrite:
    """An arm's rewriting, prepared once. `changes` is False for an arm that takes requests as they come."""

    __slots__ = ("_authority", "_fields", "_path", "changes", "model")

    def __init__(self, arm: Arm) -> None:
        self._path = (arm.path.source.encode(), arm.path.target.encode()) if arm.path else None
        self._fields = tuple((name.encode("ascii"), f"{name}: {value}\r\n".encode("latin-1")) for name, value in arm.headers)
        self._authority = parse_address(arm.servers[0]).authority.encode("ascii")
        self.model = arm.model
        self.changes = bool(self._path or self._fields)

    def head(self, head: RequestHead, own: bytes, *, trusted: bool = False) -> bytes:
        """The head as it goes to this arm, its closing empty line included. `own` are complete lines that the caller adds."""
        if head.passed and not self.changes:
            return b"%s%s\r\n" % (head.passed, own)
        fields = forwarded_fields(head, trusted=trusted)
        line = head.raw[: head.raw.index(b"\r\n") + 2]
        if self._path is not None or not head.minor:
            line = b"%s %s HTTP/1.1\r\n" % (head.method, self._target(head.target))
            if not head.minor:
                own = own.replace(b"via: 1.1 ", b"via: 1.0 ")  # the version of the message received (RFC 9110, 7.6.3)
        if head.host is None and not any(name == b"host" for name, _ in self._fields):
            own += b"Host: %s\r\n" % self._authority  # an HTTP/1.0 client may leave it out, an HTTP/1.1 server may not miss it
        if head.upgrade:
            own += b"Connection: upgrade\r\nUpgrade: %s\r\n" % (field_value(head.raw, b"upgrade") or head.upgrade)
        for name, text in self._fields:
            own = replace_field(own, name, b"")
            fields = replace_field(fields, name, text)
        return b"%s%s%s\r\n" % (line, fields, own)

    def renamed(self, head: RequestHead, own: bytes, payload: bytes, *, trusted: bool = False) -> bytes | None:
        """Head and body with the arm's own model name in an OpenAI-style body; `payload` is without chunk framing.

        None for a body that is not a JSON object with a `model`, or is compressed: it goes as it is, since undoing gzip on the
        way could make a request that the server never agreed to read.
        """
        body = replace_top_level(payload, "model", self.model) if payload and self.model is not None else None
        if body is None:
            return None
        line, _, fields = self.head(head, own, trusted=trusted)[:-2].partition(b"\r\n")
        fields = replace_field(fields, b"content-length", b"Content-Length: %d\r\n" % len(body))
        if head.length == CHUNKED:
            fields = replace_field(replace_field(fields, b"transfer-encoding", b""), b"trailer", b"")
        return b"%s\r\n%s\r\n%s" % (line, fields, body)

    def _target(self, target: bytes) -> bytes:
        """The target with the arm's path prefix; only whole segments match, so `/v1/iris` does not touch `/v1/iris2`."""
        if self._path is None:
            return target
        source, new = self._path
        rest = target[len(source) :]
        if not target.startswith(source) or not (not rest or rest[:1] in b"/?:" or source.endswith(b"/")):
            return target
        if source.endswith(b"/") and not new.endswith(b"/"):
            rest = b"/" + rest if rest else rest
        elif new.endswith(b"/") and rest.startswith(b"/"):
            rest = rest[1:]
        return new + rest
