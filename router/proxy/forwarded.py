"""What the router says about the client: X-Forwarded-For, -Proto and -Host, and Via (RFC 9110, 7.6.3).

The X-Forwarded fields of a client that is not trusted are replaced, not added to: whoever may write them could claim any
address (RFC 7239, 8.1).
"""

from __future__ import annotations

import re

from models.http1 import RequestHead

_SCHEME_OR_HOST = re.compile(rb"\r\n(x-forwarded-host|x-forwarded-proto):", re.IGNORECASE)


def connection_fields(peer: str, scheme: bytes) -> bytes:
    """The lines that are the same for every request of a connection."""
    return b"x-forwarded-for: %s\r\nx-forwarded-proto: %s\r\nvia: 1.1 bluegreen\r\n" % (peer.encode(), scheme)


def trusted_fields(head: RequestHead, own: bytes) -> bytes:
    """The same lines for a request of a trusted proxy: our peer joins its list, and what it says of scheme and host stays."""
    present = {name.lower() for name in _SCHEME_OR_HOST.findall(head.raw)}
    out = []
    for line in own.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        if name == b"x-forwarded-for" and head.forwarded_for:
            out.append(b"x-forwarded-for: %s, %s" % (head.forwarded_for, value))
        elif name not in present:
            out.append(line)
    if b"x-forwarded-host" not in present and head.host is not None:
        out.append(b"x-forwarded-host: " + head.host)
    return b"".join(line + b"\r\n" for line in out)
