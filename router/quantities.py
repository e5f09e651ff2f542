"""How the configuration writes durations, sizes and addresses, and the numbers they stand for.

Pure text to number, with no idea of which setting asks; so the same words serve the configuration file and the command line.
Units are spelled out because a bare `64` in a file is a riddle: seconds and bytes are only the fallback for plain numbers.
"""

from __future__ import annotations

import ipaddress
import math
import re

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|[kK]B|MB|GB)")
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 1000, "KB": 1000, "MB": 10**6, "GB": 10**9}
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\.?")


def parse_duration(value: object) -> float:
    """A duration such as `250ms`, `1s`, `10m`, `24h`, `7d`, or a number of seconds, in seconds. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return float(value)
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"must be a duration such as 250ms, 1s, 10m, 24h or 7d, got {value!r}")
    return float(found[1]) * _SECONDS[found[2]]


def parse_size(value: object) -> int:
    """A size such as `32KiB`, `64MiB`, `1MB`, or a whole number of bytes, in bytes. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"must be a size such as 32KiB, 64MiB or 1MB, got {value!r}")
    return round(float(found[1]) * _BYTES[found[2]])


def parse_listen(value: object) -> tuple[str, int]:
    """The host and port of an address to listen on: `127.0.0.1:8000`, `[::1]:8000`, `localhost:8000`. Raises ValueError.

    Port 0 lets the kernel choose a free one.
    """
    if not isinstance(value, str) or ":" not in value:
        raise ValueError(f"must be an address such as 127.0.0.1:8000 or [::1]:8000, got {value!r}")
    host, _, port = value.rpartition(":")
    if not host:
        raise ValueError(f"names no host; to listen on all interfaces write 0.0.0.0:{port} (got {value!r})")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"the port must be a number from 0 to 65535, got {value!r}")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        except ValueError:
            raise ValueError(f"holds no IPv6 address between the brackets, got {value!r}") from None
    if ":" in host:
        raise ValueError(f"write an IPv6 address in brackets, such as [::1]:{port} (got {value!r})")
    if not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is not a host name or address (got {value!r})")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether a host reaches this machine alone: `localhost`, 127.0.0.0/8 or ::1. Names are not resolved."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
