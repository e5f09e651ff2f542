"""Tells whoever asked to be told of each transition: a POST of JSON, signed, retried, and never waited for.

Messages wait in a bounded line and one thread sends them. A URL that fails is asked again with growing pauses, and while it
is, others go ahead; after the last attempt, or when the line is full, the message is dropped and the log says so. What waits
when the process ends is lost: the history and the promotion records are what is complete.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import threading
from collections.abc import Mapping
from heapq import heappop, heappush
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from router.errors import SettingsError
from router.rollout.policy import Policy

if TYPE_CHECKING:
    import httpx

SIGNATURE: Final = "X-Bluegreen-Signature"
LINE: Final = 1000
ATTEMPTS: Final = 8
FIRST_PAUSE_SECONDS: Final = 0.5  # doubled each time: the last attempt is about a minute after the first
TIMEOUT_SECONDS: Final = 5.0

log = logging.getLogger("rollout")


def read_secret(file: str | None) -> bytes | None:
    """The secret: the environment's BLUEGREEN_WEBHOOK_SECRET, else a file's first line; None: messages are not signed.

    Raises SettingsError when the file cannot be read or holds nothing.
    """
    secret = os.environ.get("BLUEGREEN_WEBHOOK_SECRET", "").encode()
    if secret or file is None:
        return secret or None
    try:
        lines = Path(file).read_bytes().splitlines()
    except OSError as error:
        raise SettingsError(f"rollout.notify_secret_file: cannot read {file}: {error.strerror}") from None
    if not lines or not lines[0].strip():
        raise SettingsError(f"rollout.notify_secret_file: the first line of {file} is empty; it must hold the secret")
    return lines[0].strip()


def signature(secret: bytes, body: bytes) -> str:
    """The value of X-Bluegreen-Signature: HMAC (RFC 2104) with SHA-256 of the body's bytes."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


class Webhooks:
    """Sends messages from a thread of its own, which ends with the process."""

    def __init__(self, secret: bytes | None, *, first_pause: float = FIRST_PAUSE_SECONDS, attempts: int = ATTEMPTS) -> None:
        """`first_pause` in seconds; `attempts` in all for each message and URL."""
        self._secret = secret
        self._first_pause = first_pause
        self._attempts = attempts
        self._line: list[tuple[float, int, int, str, bytes]] = []  # when, order, attempt, URL, body
        self._order = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ended = False
        self.dropped = 0

    def notify(self, policy: Policy, message: Mapping[str, Any]) -> None:
        """Have a message sent to every URL of a policy. Returns at once."""
        if not policy.notify:
            return
        body = json.dumps({"type": "rollout", **message}, separators=(",", ":"), allow_nan=False).encode()
        with self._changed:
            for url in policy.notify:
                self._put(monotonic(), 1, url, body)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Send no more."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(TIMEOUT_SECONDS + 1)

    def _put(self, when: float, attempt: int, url: str, body: bytes) -> None:
        if len(self._line) >= LINE:
            self.dropped += 1
            log.error("the line of webhook messages is full; one to %s is dropped", url)
            return
        self._order += 1
        heappush(self._line, (when, self._order, attempt, url, body))

    def _run(self) -> None:
        import httpx  # a tenth of a second that the start of control need not wait for

        with httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False) as client:
            while True:
                with self._changed:
                    while not self._ended and (not self._line or self._line[0][0] > monotonic()):
                        self._changed.wait(self._line[0][0] - monotonic() if self._line else None)
                    if self._ended:
                        return
                    _, _, attempt, url, body = heappop(self._line)
                self._send(client, attempt, url, body)

    def _send(self, client: httpx.Client, attempt: int, url: str, body: bytes) -> None:
        import httpx

        headers = {"content-type": "application/json", "user-agent": "bluegreen"}
        if self._secret is not None:
            headers[SIGNATURE] = signature(self._secret, body)
        try:
            answer = client.post(url, content=body, headers=headers)
            trouble = None if answer.is_success else f"it answered {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            trouble = str(error) or type(error).__name__
        if trouble is None:
            return
        if attempt >= self._attempts:
            self.dropped += 1
            log.error("the webhook %s could not be told: %s; gave up after %d attempts", url, trouble, attempt)
            return
        pause = self._first_pause * 2 ** (attempt - 1)
        log.warning("the webhook %s could not be told: %s; again in %g s", url, trouble, pause)
        with self._changed:
            self._put(monotonic() + pause, attempt + 1, url, body)
