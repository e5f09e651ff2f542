"""Promotion records: what each finished rollout leaves, chained so that none can be changed or taken away unseen.

A record is one JSON document. Its hash is SHA-256 over the hash before it and the document in one canonical form (sorted keys,
no spaces, ASCII), as in any append-only log; the first follows 64 zeros. Whoever keeps the newest hash elsewhere (a webhook
carries it) can tell that the whole chain is as it was. Nothing is signed: who can write the store can write a whole new chain,
and only a hash that was kept elsewhere gives that away.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from router.rollout.rollout import Move, Rollout
from shadow.finite import finite

NO_HASH: Final = "0" * 64
FORMAT: Final = "bluegreen-rollout-1"
# What is large and says nothing about why: curves and histograms for pictures.
_LEFT_OUT: Final = ("curve", "histogram", "records", "gaps_ms")


def canonical(document: Mapping[str, Any]) -> str:
    """The one text of a document."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def chained(previous: str, document: Mapping[str, Any]) -> str:
    """The hash of a record, 64 hexadecimal digits."""
    return hashlib.sha256(f"{previous}\n{canonical(document)}".encode("ascii")).hexdigest()


def compose(
    rollout: Rollout,
    moves: Iterable[Move],
    *,
    arms: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """The document of a rollout that has ended. `arms` are those it compared; `versions` of the programs that decided."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "number": rollout.number,
        "release": rollout.release,
        "attempt": rollout.attempt,
        "arms": dict(arms),
        "outcome": rollout.state.value,
        "reason": rollout.reason,
        "who": rollout.who,
        "began": rollout.began,
        "ended": rollout.ended,
        "policy": rollout.policy.to_dict(),
        "versions": dict(versions),
        "moves": [move.to_dict() for move in moves],
    }
    return {key: finite(value) for key, value in document.items()}


def trimmed(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """A snapshot of the evidence without what only pictures need."""

    def without(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: without(part) for key, part in value.items() if key not in _LEFT_OUT}
        return value

    return {key: without(part) for key, part in evidence.items() if key not in ("state", *_LEFT_OUT)}


def broken_link(records: Iterable[Mapping[str, Any]]) -> str | None:
    """What is wrong with a chain of records `{number, previous, hash, document}`, oldest first; None: nothing."""
    previous = NO_HASH
    last = 0
    for record in records:
        number, document = int(record["number"]), record["document"]
        if record["previous"] != previous:
            before = f"record {last}" if last else "the beginning"
            return f"record {number} does not follow {before}: a record between them is missing or was changed"
        if record["hash"] != chained(previous, document):
            return f"record {number} is not what it was when it was written: its content does not match its hash"
        if document.get("number") != number:
            return f"record {number} holds the document of rollout {document.get('number')}"
        previous, last = str(record["hash"]), number
    return None
