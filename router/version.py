"""The version that runs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """As installed; `0` when run from a source tree that never was."""
    try:
        return version("bluegreen")
    except PackageNotFoundError:
        return "0"
