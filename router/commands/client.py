"""The command line's side of the control API: one request, and every way it can fail in one line.

A failure says what happened and what to do, as the router's own words where it answered with a problem document.
"""

from __future__ import annotations

import getpass
import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from router.commands.failed import Failed
from router.quantities import is_loopback

TIMEOUT_SECONDS = 10.0
UPLOAD_SECONDS = 120.0


class ControlClient:
    """Calls to one control API. Every method raises Failed."""

    def __init__(self, url: str) -> None:
        """`url` such as http://127.0.0.1:8001; the token comes from BLUEGREEN_TOKEN."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Failed(f"the control address {url!r} is not a URL; write for example --control http://127.0.0.1:8001")
        headers = {"accept": "application/json", "x-bluegreen-user": _user()}
        if token := os.environ.get("BLUEGREEN_TOKEN"):
            if not token.isascii() or not token.isprintable():
                raise Failed("BLUEGREEN_TOKEN holds a character that no token has; set it to the router's token")
            headers["authorization"] = f"Bearer {token}"
        try:
            # A proxy from the environment cannot reach this machine's own loopback.
            trust_env = not is_loopback(parts.hostname)
            # Loading the system's certificates takes longer than a switch: only for https. Without them nobody is trusted.
            verify = True if parts.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._http = httpx.Client(
                base_url=url, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=trust_env, verify=verify
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise Failed(f"the control address {url!r} is not a URL: {error}") from None
        self._url = url.rstrip("/")

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer to a GET."""
        return self._call("GET", path, params=params)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a POST of JSON."""
        return self._call("POST", path, json=body)

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a PUT of JSON."""
        return self._call("PUT", path, json=body)

    def upload(self, path: str, content: bytes, kind: str) -> dict[str, Any]:
        """The answer to a POST of a text of a content type, which may take a while."""
        return self._call("POST", path, content=content, headers={"content-type": kind}, timeout=UPLOAD_SECONDS)

    def delete(self, path: str) -> dict[str, Any]:
        """The answer to a DELETE."""
        return self._call("DELETE", path)

    def download(self, path: str, params: Mapping[str, Any]) -> bytes:
        """The answer to a GET of anything but JSON."""
        answer = self._request("GET", path, params=params, timeout=UPLOAD_SECONDS)
        if not answer.is_success:
            self._value(answer)  # raises
        return answer.content

    def _call(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        return self._value(self._request(method, path, **more))

    def _request(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **more)
        except httpx.TimeoutException:
            waited = more.get("timeout", TIMEOUT_SECONDS)
            raise Failed(f"the router at {self._url} did not answer within {waited:g} s; its log may say why") from None
        except httpx.ConnectError as error:
            hint = "is `bluegreen serve` running there? (--control URL)"
            raise Failed(f"cannot reach the router at {self._url}: {_cause(error)}; {hint}") from None
        except httpx.HTTPError as error:
            raise Failed(f"the connection to the router at {self._url} broke: {_cause(error)}; try again") from None

    def _value(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            value = answer.json()
        except ValueError:
            value = None
        if not isinstance(value, dict):
            kind = answer.headers.get("content-type", "no content type")
            raise Failed(
                f"{self._url} is not a bluegreen control API: it answered {answer.status_code} with {kind}; see --control"
            )
        if answer.status_code == 401:
            raise Failed(f"the router at {self._url} wants its token: set BLUEGREEN_TOKEN to it")
        if not answer.is_success:
            detail = " ".join(str(value.get("detail", value)).split())
            raise Failed(f"{detail} ({answer.status_code})")
        return value


def _cause(error: BaseException) -> str:
    """The operating system's words at the bottom of a chain of errors, in lower case."""
    words = str(error)
    for link in _chain(error):
        if isinstance(link, OSError) and link.strerror:
            words = link.strerror
    return words[:1].lower() + words[1:]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _user() -> str:
    """Who types, for the history."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        return ""
    return name if name.isascii() and name.isprintable() else ""
