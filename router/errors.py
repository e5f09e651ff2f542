"""What the router refuses, and whose fault it was: every refusal carries the HTTP status it is answered with.

The command line prints the same text on one line; so each message says what is wrong and what to do about it.
"""

from __future__ import annotations


class RouterError(Exception):
    """A request to the control side that is answered with a problem document."""

    status = 500
    title = "Router error"


class PlanError(RouterError):
    """The client asked for something that no plan can hold."""

    status = 422
    title = "Not a valid plan"


class PlanConflict(RouterError):
    """The client's idea of the present plan is out of date (RFC 9110, 13.1.1)."""

    status = 412
    title = "The plan has changed"


class Refused(RouterError):
    """The request is well formed, but the present state of the router does not allow it."""

    status = 409
    title = "Refused"


class Unavailable(RouterError):
    """A part of the router that the answer needs is not running."""

    status = 503
    title = "Unavailable"


class SettingsError(Exception):
    """The configuration file is wrong; the message names the key and what to write."""


class StartError(Exception):
    """The router cannot start; the message says why and what to do."""
