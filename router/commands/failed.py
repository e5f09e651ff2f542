"""What a command raises when it could not do what was asked.

On its own, so that `cli` can name it without loading the HTTP client.
"""

from __future__ import annotations


class Failed(Exception):
    """The message is one line: what happened, and what to do."""
