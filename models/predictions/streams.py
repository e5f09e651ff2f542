"""Streamed answers: the five dialects in which servers send them, put back together into one answer.

`sse-done`: server-sent events that end with `[DONE]`. `sse`: the same without it. `unframed`: labelled
text/event-stream, but without `data:` framing. `json-lines`: JSON documents one after another, often without a
Content-Type. And any of them may carry an error under status 200, which is raised as InBandError wherever it stands.
Events are read as the HTML standard says (section 9.2.6), with two leniencies that real servers need: the last event
counts without its blank line, and bytes that are no UTF-8 are kept distinct instead of all becoming U+FFFD.

Chunks of JSON are decoded by their protocol; when each is one piece of text the pieces are one text, otherwise each
chunk adds its items. A stream that the recorder cut gives what its whole events said.
"""

from __future__ import annotations

import re
from typing import Final

from models.predictions import json_document, open_inference, openai, plain_json, recognise, v1
from models.predictions.kinds import Rows
from models.predictions.prediction import (
    Decoded,
    InBandError,
    Json,
    Kind,
    Options,
    Prediction,
    Protocol,
    Reason,
    StreamInfo,
    Unreadable,
)

CONTENT_TYPES: Final = frozenset(
    {
        "text/event-stream",
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
        "application/json-seq",
    }
)
MAX_EVENTS: Final = 200_000
MAX_LINES: Final = 2_000_000
_FIELD: Final = re.compile(r"(?:data|event|id|retry)(?::|$)|:")
_HALF_CHARACTERS: Final = "".join(map(chr, range(0xDC80, 0xDD00)))  # bytes that "surrogateescape" could not decode
_BLANKS: Final = re.compile(r"[ \t\r\n\x1e]*")  # with the record separator of RFC 7464
# Where servers put the next piece of text, the more specific name first: the last event of some repeats the whole
# text beside the last token.
_TEXT_MEMBERS: Final = ("token", "text_output", "delta", "message", "response", "text", "content", "output", "generated_text")


def is_framed(body: bytes) -> bool:
    """Whether the first line that is not blank is a field or a comment of server-sent events."""
    start = body[:4096].decode("utf-8", "replace").lstrip("\ufeff\r\n")
    return _FIELD.match(re.split(r"[\r\n]", start, maxsplit=1)[0]) is not None


def decode(body: bytes, path: str, rows: Rows, options: Options, *, truncated: bool = False) -> Decoded:
    """The predictions of a streamed answer whose content-codings are undone.

    Raises InBandError when the stream carries an error, else Unreadable (`empty`, `truncated`, `not json`, `wrong
    shape`, …).
    """
    json_document.refuse_too_many_values(body)
    text = body.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    if truncated:
        text = text.rstrip(_HALF_CHARACTERS)
        if any(name.startswith(text) for name in ("data:", "event:", "retry:", "id:")):
            raise Unreadable(Reason.TRUNCATED, "cut before the first event's end")
    done = False
    if is_framed(body):
        events, done = _events(text, truncated=truncated)
        dialect = "sse-done" if done else "sse"
        chunks = _documents(events, truncated=truncated)
        if chunks is None:
            _raise_errors_in(events)
            return _text_stream("".join(events), dialect, len(events), done, truncated, options)
    else:
        chunks, dialect = _sequence(text, truncated=truncated), "json-lines"
        if chunks is None:
            return _text_stream(text, "unframed", 1, done, truncated, options)
    for position, chunk in enumerate(chunks):
        json_document.raise_in_band_error(chunk, position)
    protocol, recognised, items = _assembled(chunks, path, rows, options)
    if not items:
        raise Unreadable(Reason.TRUNCATED if truncated else Reason.EMPTY, f"{len(chunks)} events, and no prediction in them")
    counted = [count for chunk in chunks if (count := openai.tokens(chunk)) is not None]
    info = StreamInfo(dialect, len(chunks), done)
    return Decoded(protocol, recognised, items, None, info, truncated, counted[-1] if counted else None)


def sequence_of_documents(body: bytes) -> bool:
    """Whether a body with no telling Content-Type is several JSON objects or arrays, one after another."""
    try:
        json_document.refuse_too_many_values(body)
        chunks = _sequence(body.decode("utf-8", "surrogateescape").removeprefix("\ufeff"), truncated=False)
    except Unreadable:
        return False
    return chunks is not None and len(chunks) > 1


def _events(text: str, *, truncated: bool) -> tuple[list[str], bool]:
    """The data of each event, and whether `[DONE]` ended them. An `event: error` is raised."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    if lines.count("\n") > MAX_LINES:
        raise Unreadable(Reason.TOO_LARGE, f"more than {MAX_LINES} lines of events")
    blocks = lines.split("\n\n")
    if truncated:
        del blocks[-1]  # its end is not there
    found: list[str] = []
    for block in blocks:
        name, data = _event(block)
        if data is None:
            continue
        if data.strip() == "[DONE]":
            return found, True
        if name == "error":
            _raise_named_error(data, len(found))
        found.append(data)
        if len(found) > MAX_EVENTS:
            raise Unreadable(Reason.TOO_LARGE, f"more than {MAX_EVENTS} events")
    return found, False


def _event(block: str) -> tuple[str, str | None]:
    """An event's name and its data, None for a block without data."""
    if block.startswith("data:") and "\n" not in block:
        return "", block[5:].removeprefix(" ")
    name = ""
    lines: list[str] = []
    for line in block.split("\n"):
        field, _, value = line.partition(":")
        if field == "data":
            lines.append(value.removeprefix(" "))
        elif field == "event":
            name = value.removeprefix(" ")
    return name, "\n".join(lines) if lines else None


def _documents(events: list[str], *, truncated: bool) -> list[Json] | None:
    """The events as JSON, or None for a stream of bare text, which the first event tells."""
    chunks: list[Json] = []
    for position, data in enumerate(events):
        if position == 0 and not data.lstrip().startswith(("{", "[")):
            return None
        if not data.strip():
            continue  # keep-alive
        try:
            chunks.append(_load(data))
        except Unreadable as error:
            if position == 0 and error.reason is Reason.NOT_JSON and len(events) > 1:
                return None
            raise Unreadable(error.reason, f"event {position}: {error.detail}") from None
    return chunks


def _sequence(text: str, *, truncated: bool) -> list[Json] | None:
    """Objects and arrays one after another, on lines or not, or None when the text does not begin like that."""
    at = _skip_blanks(text, 0)
    if text[at : at + 1] not in ("{", "["):
        return None
    chunks: list[Json] = []
    while at < len(text):
        try:
            chunk, end = json_document.load_at(text, at)
        except Unreadable as error:
            if error.reason is not Reason.NOT_JSON:
                raise
            if truncated:
                return chunks  # the last one is cut
            if not chunks:
                return None
            raise Unreadable(Reason.NOT_JSON, f"document {len(chunks)} of the stream: {error.detail}") from None
        if not isinstance(chunk, (dict, list)):
            raise Unreadable(Reason.NOT_JSON, f"document {len(chunks)} of the stream is a bare value")
        chunks.append(chunk)
        if len(chunks) > MAX_EVENTS:
            raise Unreadable(Reason.TOO_LARGE, f"more than {MAX_EVENTS} documents")
        at = _skip_blanks(text, end)
    return chunks


def _skip_blanks(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    assert blanks is not None  # it matches the empty string
    return blanks.end()


def _load(data: str) -> Json:
    return json_document.load(data.encode("utf-8", "surrogateescape"))


def _raise_named_error(data: str, position: int) -> None:
    try:
        document = _load(data)
    except Unreadable:
        raise InBandError(data, position) from None
    json_document.raise_in_band_error(document, position)
    raise InBandError(data, position)


def _raise_errors_in(events: list[str]) -> None:
    """Raise the error that stands as JSON among the pieces of a stream of bare text."""
    for position, data in enumerate(events):
        if data.startswith("{") and '"error"' in data:
            try:
                document = _load(data)
            except Unreadable:
                continue
            json_document.raise_in_band_error(document, position)


def _text_stream(text: str, dialect: str, chunks: int, done: bool, truncated: bool, options: Options) -> Decoded:
    if not text.strip():
        raise Unreadable(Reason.EMPTY, "a stream without data")
    if options.pointers or options.protocol not in (Protocol.AUTO, Protocol.TEXT):
        raise Unreadable(Reason.NOT_JSON, "a stream of bare text where JSON is configured")
    info = StreamInfo(dialect, chunks, done)
    return Decoded(Protocol.TEXT, "shape", (Prediction(Kind.TEXT, text),), None, info, truncated)


def _assembled(chunks: list[Json], path: str, rows: Rows, options: Options) -> tuple[Protocol, str, tuple[Prediction, ...]]:
    if options.pointers:
        protocol, recognised = Protocol.JSON, "configured"
    elif options.protocol is Protocol.AUTO:
        # chunks of usage or of keep-alive fit nothing: the first that fits tells
        signs = (recognise.recognise(path, chunk) for chunk in chunks)
        protocol, recognised = next((sign for sign in signs if sign[0] is not Protocol.JSON), (Protocol.JSON, "shape"))
    else:
        protocol, recognised = options.protocol, "configured"
    if protocol is Protocol.OPENAI:
        return protocol, recognised, openai.assemble(chunks, options)
    if protocol is Protocol.JSON and not options.pointers:
        pieces = [piece for chunk in chunks if (piece := _piece(chunk)) is not None]
        if pieces:
            text = "".join(piece for piece, _ in pieces)
            return protocol, recognised, (Prediction(Kind.TEXT, text, pieces[0][1]),)
    decoded: list[tuple[Prediction, ...]] = []
    for chunk in chunks:
        if protocol is Protocol.OPEN_INFERENCE:
            decoded.append(open_inference.decode(chunk, rows, options))
        elif protocol in (Protocol.V1, Protocol.MLFLOW):
            decoded.append(v1.decode(chunk, rows, options))
        else:
            decoded.append(plain_json.decode(chunk, rows, options))
    texts = [open_inference.joined_text(items) for items in decoded]
    if len(texts) > 1 and all(text is not None for text in texts):
        first = decoded[0][0]
        return protocol, recognised, (Prediction(Kind.TEXT, "".join(text or "" for text in texts), first.path, first.name),)
    items = tuple(prediction for group in decoded for prediction in group)
    if len(items) > options.max_items:
        raise Unreadable(Reason.TOO_LARGE, f"{len(items)} items")
    return protocol, recognised, items


def _piece(chunk: Json) -> tuple[str, str] | None:
    """The piece of text in an event of no known protocol, and the pointer to it."""
    if not isinstance(chunk, dict):
        return None
    for name in _TEXT_MEMBERS:
        value = chunk.get(name)
        if isinstance(value, str):
            return value, f"/{name}"
        if isinstance(value, dict):
            for inner in ("text", "content"):
                if isinstance(value.get(inner), str):
                    return str(value[inner]), f"/{name}/{inner}"
    return None
