"""How the prediction log names units of randomisation: by a keyed hash of the split key, or plainly when the settings say so.

A split key is often a user's name or address. What the log needs is only that equal keys get equal names, now and when feedback
comes; so it keeps a hash under a secret of this state directory, from which nobody who has the log alone can try out names. The
secret lies in a file beside the store and is made once, by whichever process is first.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from hashlib import blake2b
from pathlib import Path

from router.errors import StartError

SECRET_BYTES = 32
MAX_PLAIN = 200  # characters of a plain name; longer keys are hashed after all


class UnitNames:
    """Gives units their names. `plain`: as they are."""

    __slots__ = ("_plain", "_secret")

    def __init__(self, secret: bytes, *, plain: bool = False) -> None:
        self._secret = secret
        self._plain = plain

    def name(self, key: bytes) -> str:
        """The name of a split key as the data plane reads it: 16 hexadecimal digits, or the key itself as text."""
        if self._plain and len(key) <= MAX_PLAIN:
            return key.decode("utf-8", "backslashreplace")
        return blake2b(key, digest_size=8, key=self._secret).hexdigest()


def unit_names(path: Path, *, plain: bool) -> UnitNames:
    """Names under the secret in the file at `path`, which is made (0600) when it is not there. Raises StartError."""
    try:
        if not path.exists():
            _make(path)
        secret = path.read_bytes()
    except OSError as error:
        raise StartError(f"cannot use the units' secret {path}: {error.strerror}") from None
    if len(secret) != SECRET_BYTES:
        raise StartError(
            f"{path} is not {SECRET_BYTES} bytes long; move it away to have another made (old units get new names)"
        )
    return UnitNames(secret, plain=plain)


def _make(path: Path) -> None:
    """Whole before it has its name, and never in place of another process's: a link fails where a file is."""
    handle, fresh = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # 0600
    try:
        os.write(handle, secrets.token_bytes(SECRET_BYTES))
        os.fsync(handle)
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        os.close(handle)
        os.unlink(fresh)
