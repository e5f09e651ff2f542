"""The control API's token: where it comes from, and what it may look like.

Apart from the settings, because the control process reads it again at its own start and has no other use for their checks. It
is never written to the state directory.
"""

from __future__ import annotations

import os
from pathlib import Path

from router.errors import SettingsError


def read_token(file: Path | str | None) -> str | None:
    """The control API's token: the environment's BLUEGREEN_TOKEN, else the first line of `file`; None where neither is given.

    Raises SettingsError when the file cannot be read or the token could not stand in a header.
    """
    token = os.environ.get("BLUEGREEN_TOKEN") or None
    source = "BLUEGREEN_TOKEN"
    if token is None and file is not None:
        source = str(file)
        try:
            token = (Path(file).read_text(encoding="ascii").splitlines() or [""])[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"control_token_file: cannot read {file}: {getattr(error, 'strerror', 'not ASCII')}") from None
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token):
        raise SettingsError(f"{source}: a token is at least 8 printable ASCII characters without spaces")
    return token
