"""Which pairs are kept whole, to be looked at by a person, and what of them.

Three samples of fixed size: pairs that disagree, pairs in which an arm failed or could not be read, and the others. Each keeps
everything until it is full and is a uniform sample of all it saw from then on (reservoir sampling, Vitter 1985, algorithm R),
so that the first minutes do not stand for the whole release. The draw is a hash of the running number: the samples need no
generator's state and go on exactly after a restart.

What is kept is redacted before it is kept. Credentials in headers are always blanked. Where the operator names JSON pointers, a
body that is not JSON is withheld altogether: it might hold what the pointers were to hide. Nothing here writes anything: the
caller stores what `take` gives, deletes the rows in `forget`, and tells the new rows' ids to `kept`.
"""

from __future__ import annotations

import base64
import codecs
import json
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

from models.predictions import encoding, json_document, json_pointer
from models.predictions.prediction import Unreadable
from shadow.compare import Comparison
from shadow.drift import label_names
from shadow.evidence_options import RecordOptions
from shadow.observation import Observation, Outcome

REDACTED: Final = "[redacted]"
# Of pairs in which an arm failed: they resemble each other more than disagreements do.
MAX_FAILURES: Final = 100
MAX_WAITING: Final = 16 << 20  # bytes of records that wait to be taken; what comes beyond is let go and counted
_CREDENTIALS: Final = frozenset(
    "authorization proxy-authorization cookie set-cookie api-key x-api-key x-auth-token x-goog-api-key".split()
)
_MAX_DECODED: Final = 1 << 20
_MAX_HEADERS: Final = 64
_MAX_VALUE: Final = 1_000
_MAX_WORDS: Final = 200
_MAX_LABELS: Final = 20
_KNOWN: Final = 16  # answers' fields that are remembered

Document = dict[str, Any]


class Reservoir:
    """A uniform sample of a stream, by places. `ids` are the stored rows' ids at each place, 0 while unknown."""

    __slots__ = ("filled", "ids", "seed", "seen", "size")

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self.seen = 0
        self.filled = 0
        self.ids: dict[int, int] = {}

    def place(self) -> int | None:
        """Where the next of the stream goes, or None when it is not in the sample."""
        self.seen += 1
        if self.filled < self.size:
            self.filled += 1
            return self.filled - 1
        drawn = _hashed(self.seed + self.seen) % self.seen
        return drawn if drawn < self.size else None

    def to_dict(self) -> Document:
        """For the state, as JSON values."""
        return {"seen": self.seen, "filled": self.filled, "ids": [self.ids.get(place, 0) for place in range(self.filled)]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `to_dict`, as far as this sample's size reaches; rows beyond it are the store's to prune."""
        self.seen, self.filled = int(state["seen"]), min(int(state["filled"]), self.size)
        self.ids = {place: int(row) for place, row in enumerate(state["ids"][: self.filled]) if row}


class Records:
    """The pairs that are kept of one release."""

    __slots__ = ("_known", "_options", "_pointers", "_redacted_headers", "_release", "_samples", "_taken", "_waiting",
                 "_waiting_bytes", "forget", "let_go")  # fmt: skip

    def __init__(self, release: int, options: RecordOptions) -> None:
        self._release, self._options = release, options
        rules = options.redact
        self._pointers = tuple(rule.removeprefix("json:") for rule in rules if rule.startswith("json:"))
        named = (rule.removeprefix("header:").lower() for rule in rules if rule.startswith("header:"))
        self._redacted_headers = _CREDENTIALS | frozenset(named)
        sizes = {"disagreements": options.disagreements, "failures": min(options.disagreements, MAX_FAILURES),
                 "others": options.others}  # fmt: skip
        self._samples = {name: Reservoir(size, _hashed(release * 3 + i)) for i, (name, size) in enumerate(sizes.items())}
        self._known: dict[int, tuple[Mapping[str, str], dict[str, str]]] = {}
        self._waiting: dict[tuple[str, int], tuple[Document, int]] = {}
        self._waiting_bytes = 0
        self._taken: list[tuple[str, int]] = []
        self.forget: list[int] = []  # ids of rows whose places the last records taken have now
        self.let_go = 0

    def offer(self, observation: Observation, comparison: Comparison | None, trouble: str | None) -> None:
        """A pair, to be kept or not. `trouble` says why it was not compared; None when it was."""
        name = "failures" if trouble is not None else "others" if comparison is None or comparison.agree else "disagreements"
        place = self._samples[name].place()
        if place is None:
            return
        key = (name, place)
        if (before := self._waiting.pop(key, None)) is not None:
            self._waiting_bytes -= before[1]
        most = 4 * min(self._options.body, _MAX_DECODED) + 65_536
        if self._waiting_bytes + most > MAX_WAITING and self._waiting:
            self.let_go += 1
            return
        record = self._record(observation, comparison, trouble)
        size = 4096 + sum(_length(record["content"][part]) for part in ("request", "blue", "green", "again"))
        self._waiting[key] = (record, size)
        self._waiting_bytes += size

    def take(self) -> list[Document]:
        """What came to be kept since the last call, each the fields of a stored pair: `release`, `when`, `request_id`, `agree`,
        `disagreement`, `content`. `forget` then has the ids of the rows that they replace.
        """
        self._taken = list(self._waiting)
        records = [record for record, _ in self._waiting.values()]
        self._waiting.clear()
        self._waiting_bytes = 0
        rows = (self._samples[name].ids.pop(place, 0) for name, place in self._taken)
        self.forget = [row for row in rows if row]
        return records

    def kept(self, ids: Sequence[int]) -> None:
        """The ids under which the records of the last `take` are stored, in its order."""
        for (name, place), row in zip(self._taken, ids, strict=True):
            self._samples[name].ids[place] = row
        self._taken = []

    def snapshot(self) -> Document:
        """The section `records`: how many pairs each sample saw and keeps."""
        samples = {name: {"seen": sample.seen, "kept": sample.filled} for name, sample in self._samples.items()}
        return {**samples, "let_go": self.let_go}

    def to_dict(self) -> Document:
        """For the state, as JSON values; what waits to be taken is not part of it."""
        return {"let_go": self.let_go, **{name: sample.to_dict() for name, sample in self._samples.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `to_dict`."""
        self.let_go = int(state["let_go"])
        for name, sample in self._samples.items():
            sample.restore(state[name])

    # --- one record ---

    def _record(self, observation: Observation, comparison: Comparison | None, trouble: str | None) -> Document:
        again = observation.again
        flags = [
            name
            for name, holds in (
                ("fell back", observation.fell_back),
                ("compared in part", comparison is not None and comparison.partial),
                ("noise pair", again is not None),
            )
            if holds
        ]
        agree = trouble is None and (comparison is None or comparison.agree)
        content: Document = {
            "method": observation.method,
            "path": _writable(observation.path[:2_000]),
            "live": observation.live,
            "revision": observation.revision,
            "flags": flags,
            "request": {
                "headers": self._headers(observation.request_headers),
                "body": self._body(observation.request_body, observation.request_headers, cut=False),
            },
            "blue": self._outcome(observation.blue),
            "green": self._outcome(observation.green),
            "again": None if again is None else self._outcome(again),
            "difference": None if comparison is None else self._difference(comparison),
        }
        words = trouble if trouble is not None else None if agree else self._words(comparison)
        return {
            "release": self._release,
            "when": observation.started if math.isfinite(observation.started) else 0.0,
            "request_id": _writable(observation.request_id[:_MAX_VALUE]),
            "agree": agree,
            "disagreement": None if words is None else _writable(words[:_MAX_WORDS]),
            "content": content,
        }

    def _outcome(self, outcome: Outcome) -> Document:
        return {
            "status": outcome.status,
            "failure": outcome.failure,
            "first_ms": round(outcome.first_ms, 3) if math.isfinite(outcome.first_ms) else None,
            "total_ms": round(outcome.total_ms, 3) if math.isfinite(outcome.total_ms) else None,
            "headers": self._answered(outcome.headers),
            "body": self._body(outcome.body, outcome.headers, cut=outcome.truncated),
        }

    def _answered(self, headers: Mapping[str, str]) -> dict[str, str]:
        """`_headers` of an answer. Equal heads share one mapping (`shadow.fields`), so that most have been written before."""
        known = self._known.get(id(headers))
        if known is None or known[0] is not headers:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            known = self._known[id(headers)] = (headers, self._headers(headers))
        return known[1]

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {
            _writable(name[:_MAX_VALUE]): REDACTED if name.lower() in self._redacted_headers else _writable(value[:_MAX_VALUE])
            for name, value in islice(headers.items(), _MAX_HEADERS)
        }

    def _body(self, body: bytes, headers: Mapping[str, str], *, cut: bool) -> Document:
        """`{bytes, text | base64 | withheld, cut}`; `bytes` is the length as it was sent."""
        kept: Document = {"bytes": len(body), "cut": cut}
        if coding := headers.get("content-encoding"):
            try:
                body = encoding.decode(body, coding, _MAX_DECODED, partial=True)
            except Unreadable:
                if self._pointers:
                    return {**kept, "withheld": "its content-coding could not be undone, so nothing in it could be redacted"}
        if self._pointers and body:
            try:
                document = json_document.load(body) if len(body) <= _MAX_DECODED and not cut else None
            except Unreadable:
                document = None
            if document is None:
                return {**kept, "withheld": "it is not whole JSON, so nothing in it could be redacted"}
            for pointer in self._pointers:
                document = json_pointer.replace(document, pointer, REDACTED)
            body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
        part = body[: self._options.body]
        kept["cut"] = cut or len(part) < len(body)
        try:
            # A character that the cut goes through is left out.
            kept["text"] = codecs.getincrementaldecoder("utf-8")().decode(part) if kept["cut"] else part.decode()
        except UnicodeDecodeError:
            kept["base64"] = base64.b64encode(part).decode("ascii")
        return kept

    def _difference(self, comparison: Comparison) -> Document:
        fields = []
        for field in comparison.fields:
            hidden = self._hides(field.path)
            values = (REDACTED, REDACTED) if hidden else (_shown(field.blue), _shown(field.green))
            fields.append({"path": _writable(field.path), "blue": values[0], "green": values[1]})
        differing = [] if self._pointers else [pair for pair in comparison.labels if pair[0] != pair[1]][:_MAX_LABELS]
        return {
            "reason": None if comparison.reason is None else _writable(comparison.reason),
            "kind": None if comparison.kind is None else str(comparison.kind),
            "similarity": comparison.similarity if math.isfinite(comparison.similarity) else None,
            "items": comparison.items,
            "agreeing": comparison.agreeing,
            "fields": fields,
            "labels": [label_names(pair) for pair in differing],
            "measures": {_writable(name): value for name, value in comparison.measures.items() if math.isfinite(value)},
        }

    def _words(self, comparison: Comparison | None) -> str:
        if comparison is None:
            return "differs"
        reason = comparison.reason or "differs"
        if not comparison.fields or self._hides(comparison.fields[0].path):
            return reason
        first = comparison.fields[0]
        blue, green = (json.dumps(_shown(value), ensure_ascii=False)[:60] for value in (first.blue, first.green))
        return f"{reason}: blue {blue}, green {green}"

    def _hides(self, path: str) -> bool:
        """Whether what stands at a path is, is part of, or contains something that is redacted."""
        return any(_within(path, pointer) or _within(pointer, path) for pointer in self._pointers)


def _length(part: Document | None) -> int:
    """The kept characters of a message's body."""
    body = part["body"] if part is not None else {}
    return len(body.get("text", body.get("base64", "")))


def _within(path: str, pointer: str) -> bool:
    return path == pointer or path.startswith(pointer + "/")


def _shown(value: Any) -> Any:
    """A value of a difference as JSON can write it."""
    if isinstance(value, str):
        return _writable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (dict, list)):
        return _writable(json.dumps(value)[:_MAX_WORDS])
    return value


def _writable(text: str) -> str:
    """Text without the lone surrogates that stand for bytes that are no UTF-8, which nothing could write out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _hashed(number: int) -> int:
    """splitmix64 (Steele, Lea, Flood 2014): 64 bits that look random."""
    z = (number * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)
