"""`bluegreen demo`: two real models, served, compared, shifted, broken and switched back, in about a minute."""

from router.demo.story import run

__all__ = ["run"]
