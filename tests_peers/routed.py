"""A router in front of two real servers, and what its evidence says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVIRONMENTS = Path(__file__).resolve().parents[1] / ".venv-peers"


@dataclass(frozen=True, slots=True)
class Pair:
    """A router with the same server as blue and green behind it. URLs."""

    deployment: Any
    router: str
    blue: str
    green: str

    def evidence(self, pairs: int, seconds: float = 60.0) -> dict[str, Any]:
        """The evidence, as soon as so many pairs are in it (or dropped)."""

        def enough() -> bool:
            document = self.deployment.get("/v1/evidence")[1]
            return bool(document["pairs"] + document["dropped"] >= pairs)

        self.deployment.wait_until(enough, seconds)
        document: dict[str, Any] = self.deployment.get("/v1/evidence")[1]
        return document
