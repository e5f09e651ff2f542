"""An exchange's bytes -> its predictions: the way in to this package.

The steps, cheapest first: status, content-codings, then what the body is (a stream, JSON with binary tensors, JSON,
text), then the protocol. The Content-Type is believed where it names a stream or plain text; everything else is tried
as JSON, because the best-known clients and servers send none. A body that is none of these is refused, with the
reason that is nearest to what is wrong with it.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Final

from models.predictions import encoding, json_document, mlflow, open_inference, openai, plain_json, recognise, streams, v1
from models.predictions.kinds import Rows
from models.predictions.prediction import (
    DEFAULT_OPTIONS,
    Decoded,
    Json,
    Kind,
    Options,
    Prediction,
    Protocol,
    Reason,
    Unreadable,
    Wire,
)
from models.predictions.request import rows_asked

# Looking up a member of an enumeration takes longer than most of what is done with it here.
_AUTO: Final = Protocol.AUTO
_OPEN_INFERENCE: Final = Protocol.OPEN_INFERENCE
_OPENAI: Final = Protocol.OPENAI


def decode_response(wire: Wire, options: Options = DEFAULT_OPTIONS) -> Decoded:
    """The predictions in the exchange's answer.

    Raises Unreadable with the reason (InBandError, which is one, when a 2xx carries an error), and nothing else,
    whatever the bytes are.
    """
    if not 200 <= wire.status < 300:
        raise Unreadable(Reason.STATUS, str(wire.status))
    headers = wire.response_headers
    body = wire.response_body
    if "content-encoding" in headers or len(body) > options.max_decoded:
        body = plain_body(wire, options)
    if not body or body.isspace():
        raise Unreadable(Reason.TRUNCATED if wire.truncated else Reason.EMPTY)
    content_type = _media_type(headers.get("content-type", ""))
    rows = partial(rows_asked, wire, options)
    if content_type in streams.CONTENT_TYPES:
        return streams.decode(body, wire.path, rows, options, truncated=wire.truncated)

    header_length = headers.get(open_inference.BINARY_HEADER)
    tensors = b""
    if header_length is not None:
        if wire.truncated:
            raise Unreadable(Reason.TRUNCATED)
        body, tensors = open_inference.split(body, header_length)
    try:
        document = json_document.load(body)
    except Unreadable as error:
        if error.reason is not Reason.NOT_JSON or tensors:
            raise
        return _not_one_document(body, content_type, wire, options, error)
    if wire.truncated and not isinstance(document, (dict, list)):
        raise Unreadable(Reason.TRUNCATED)  # 12 may have been 123; a whole object or array cannot have been cut

    protocol, recognised = options.protocol, "configured"
    if options.pointers:
        protocol = Protocol.JSON
    elif protocol is _AUTO:
        protocol, recognised = (_OPEN_INFERENCE, "header") if tensors else recognise.recognise(wire.path, document)
    if type(document) is dict and ("error" in document or "object" in document):
        json_document.raise_in_band_error(document)
    items = _items(protocol, document, tensors, rows, options)
    if len(items) > options.max_items:
        raise Unreadable(Reason.TOO_LARGE, f"{len(items)} items")
    tokens = openai.tokens(document) if protocol is _OPENAI else None
    return Decoded(protocol, recognised, items, document, None, wire.truncated, tokens)


def read_response(wire: Wire, options: Options = DEFAULT_OPTIONS) -> Decoded | Unreadable:
    """The same, with the refusal as a value: what a comparison takes."""
    try:
        return decode_response(wire, options)
    except Unreadable as refusal:
        # What is returned is kept; the frames it came through hold the body, and it, until a collector looks for such circles.
        refusal.__traceback__ = refusal.__context__ = refusal.__cause__ = None
        return refusal


def plain_body(wire: Wire, options: Options = DEFAULT_OPTIONS) -> bytes:
    """The answer's body with its content-codings undone. Raises Unreadable."""
    coding = wire.response_headers.get("content-encoding")
    if coding or len(wire.response_body) > options.max_decoded:
        return encoding.decode(wire.response_body, coding or "", options.max_decoded, partial=wire.truncated)
    return wire.response_body


@lru_cache(maxsize=64)
def _media_type(content_type: str) -> str:
    """A Content-Type without its parameters: of a few servers there are few."""
    return content_type.partition(";")[0].strip().lower()


def _items(protocol: Protocol, document: Json, tensors: bytes, rows: Rows, options: Options) -> tuple[Prediction, ...]:
    if protocol is _OPEN_INFERENCE:
        return open_inference.decode(document, rows, options, tensors)
    if protocol is Protocol.V1:
        return v1.decode(document, rows, options)
    if protocol is Protocol.MLFLOW:
        return mlflow.decode(document, rows, options)
    if protocol is Protocol.OPENAI:
        return openai.decode(document, options)
    return plain_json.decode(document, rows, options)


def _not_one_document(body: bytes, content_type: str, wire: Wire, options: Options, error: Unreadable) -> Decoded:
    """A body that is not a single JSON document: a stream that does not say so, text, or nothing that can be read."""
    rows = partial(rows_asked, wire, options)
    if content_type != "text/plain" and (streams.is_framed(body) or streams.sequence_of_documents(body)):
        return streams.decode(body, wire.path, rows, options, truncated=wire.truncated)
    if wire.truncated and content_type != "text/plain":
        raise Unreadable(Reason.TRUNCATED)
    if content_type == "text/plain" and options.protocol in (Protocol.AUTO, Protocol.TEXT) and not options.pointers:
        text = body.decode("utf-8", "surrogateescape")
        kind = options.kind if options.kind is Kind.LABELS else Kind.TEXT
        return Decoded(Protocol.TEXT, "content-type", (Prediction(kind, text),), None, None, wire.truncated)
    raise error
