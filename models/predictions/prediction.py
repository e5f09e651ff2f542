"""The records that everything about predictions is said in.

An exchange comes in as `Wire` (bytes as they were sent), goes out as `Decoded` (one `Prediction` for each item of the
batch) or is refused with `Unreadable`, whose reason is one slug out of a closed set, so that a caller can count
refusals by reason. There is no third way: a body that could not be read never turns into an empty or partial answer
that might compare as equal.

Values are plain Python (and `array` for long vectors): this layer is imported by processes that must stay light, so
no numpy. Integers are kept as `int`, exact at any size; NaN and infinities are kept as `float`, whichever way a
server spells them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from models.predictions import json_pointer
from models.record import record

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Label: TypeAlias = "str | int | float | bool | None"

DEFAULT_MAX_DECODED = 64 * 1024 * 1024  # bytes of one body after its content-codings are undone


class Kind(StrEnum):
    """What a prediction is, and so how two of them are compared. The value's type for each is in `Prediction`."""

    LABELS = "labels"
    PROBABILITIES = "probabilities"
    NUMBERS = "numbers"
    VECTORS = "vectors"
    TEXT = "text"
    RANKED = "ranked"
    JSON = "json"


class Protocol(StrEnum):
    """How a server speaks. AUTO is only ever asked for; `Decoded.protocol` names one of the others."""

    AUTO = "auto"
    OPEN_INFERENCE = "open-inference"
    V1 = "v1"
    MLFLOW = "mlflow"
    OPENAI = "openai"
    JSON = "json"
    TEXT = "text"


class Reason(StrEnum):
    """Why a body gave no predictions: a closed set, fit for a counter's label."""

    STATUS = "status"  # the answer is not a 2xx
    EMPTY = "empty"
    TRUNCATED = "truncated"  # cut by the recorder's bound, or ends before its encoding does
    ENCODING = "encoding"  # unknown or broken content-coding
    TOO_LARGE = "too large"  # decodes to more than the bound, or has more items than one comparison may hold
    TOO_DEEP = "too deep"  # nested beyond any prediction
    NOT_JSON = "not json"
    WRONG_SHAPE = "wrong shape"  # JSON, but not what the protocol says
    WRONG_KIND = "wrong kind"  # the configured kind does not fit the value
    POINTER = "pointer not found"
    IN_BAND_ERROR = "in-band error"  # a 2xx that carries an error
    NOTHING = "nothing to compare"  # given by a comparison only: everything in the answer is ignored, or it holds no item


class Unreadable(Exception):
    """The body gave no predictions. `reason` is for counting, `detail` for a person; `str()` gives both."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


class InBandError(Unreadable):
    """A 2xx answer that says inside its body that it failed. It counts as the server's error, not as a decoding
    problem.

    `chunks` is how many stream events came before the error, 0 for an answer that is not a stream.
    """

    def __init__(self, message: str, chunks: int = 0) -> None:
        super().__init__(Reason.IN_BAND_ERROR, message[:500])
        self.chunks = chunks


@record
class Prediction:
    """What a model said about one item of a batch, in one of its outputs.

    The value's type follows from `kind`:

    | kind | value |
    |---|---|
    | labels | one label (`str`, `int`, `float`, `bool`, None), or a tuple of them when the item has several |
    | probabilities | tuple of numbers, one for each class; `classes` names them in the same order when the server does |
    | numbers | one `int` or `float`, or a tuple of them when the item has several |
    | vectors | `array('d')` |
    | text | `str` |
    | ranked | tuple of labels, best first |
    | json | any JSON |

    `path` is the JSON pointer (RFC 6901) to the output in the body (the same for all items of a batch), `name` what
    the server calls it. `also` holds the item's other outputs, when a model has more than one; those have no `also`
    themselves.
    """

    kind: Kind
    value: Any
    path: str = ""
    name: str = ""
    classes: tuple[Label, ...] = ()
    also: tuple[Prediction, ...] = ()

    @property
    def decision(self) -> Label | tuple[Label, ...]:
        """The class that was decided for: the label, or the most probable class; None where the kind decides for
        nothing.
        """
        if self.kind is Kind.LABELS:
            decided: Label | tuple[Label, ...] = self.value
            return decided
        if self.kind is Kind.PROBABILITIES and self.value:
            best = arg_max(self.value)
            return self.classes[best] if self.classes else best
        return None


def arg_max(scores: tuple[float, ...]) -> int:
    """Index of the first largest score; NaN is smaller than everything. `scores` is not empty."""
    best = max(scores)
    if best == best:  # not NaN  # noqa: PLR0124
        return scores.index(best)
    # max() gives NaN only when the first element is one
    return max(range(len(scores)), key=lambda i: float("-inf") if _is_nan(scores[i]) else scores[i])


def _is_nan(score: float) -> bool:
    return isinstance(score, float) and math.isnan(score)  # an integer may be beyond what isnan() takes


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """How a streamed answer came: its dialect, how many events carried data, and whether its own end mark was seen."""

    dialect: str
    chunks: int
    done: bool


@record
class Decoded:
    """The predictions of one answer.

    `recognised` says how the protocol was found: `configured`, `path` or `shape`. `raw` is the answer's JSON, None
    for streams and text. `truncated` marks a stream that was recorded only in part: its predictions are those of the
    kept part. `tokens` is the number of tokens that the server says it generated.
    """

    protocol: Protocol
    recognised: str
    items: tuple[Prediction, ...]
    raw: Json = None
    stream: StreamInfo | None = None
    truncated: bool = False
    tokens: int | None = None


@record
class Wire:
    """One request with its answer, as recorded: header names in lower case, bodies without chunked framing,
    content-codings still on.

    `truncated`: the recorder kept only the beginning of the answer's body.
    """

    method: str
    path: str
    request_headers: Mapping[str, str]
    request_body: bytes
    status: int
    response_headers: Mapping[str, str]
    response_body: bytes
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where in a server's JSON a prediction stands (RFC 6901), what to call it, and its kind when the value does not
    tell.

    Raises ValueError, saying what is wrong, for text that is no JSON pointer.
    """

    at: str
    name: str = ""
    kind: Kind | None = None

    def __post_init__(self) -> None:
        json_pointer.parse(self.at)


@dataclass(frozen=True, slots=True)
class Options:
    """How to read answers.

    `kind` overrides what the value's shape suggests (of an Open Inference Protocol answer with several outputs: in
    those whose datatype suits it). `pointers` says where predictions stand in JSON of no known protocol; each pointer
    is one output. `max_decoded` bounds a body's size in bytes after decoding, `max_items` the items of a batch.
    """

    protocol: Protocol = Protocol.AUTO
    kind: Kind | None = None
    pointers: tuple[Pointer, ...] = ()
    max_decoded: int = DEFAULT_MAX_DECODED
    max_items: int = 20_000


DEFAULT_OPTIONS = Options()
