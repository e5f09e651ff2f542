"""The way in: what is refused and why, and that nothing but Unreadable escapes, whatever the bytes."""

import gc
import gzip
import json
import sys
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from models.predictions.decode import decode_response, plain_body, read_response
from models.predictions.prediction import Decoded, Kind, Options, Pointer, Protocol, Reason, Unreadable, Wire
from models.reference.train import traffic


def wire(body=b'{"predictions": [1]}', status=200, path="/v1/models/m:predict", truncated=False, request=b"", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Wire("POST", path, {}, request, status, named, body, truncated)


def refusal(exchange, options=None):
    answer = read_response(exchange, options or Options())
    assert isinstance(answer, Unreadable)
    return answer.reason


@pytest.mark.parametrize("status", [199, 301, 400, 500, 503, 0])
def test_an_answer_that_is_no_success(status):
    assert refusal(wire(status=status)) is Reason.STATUS


@pytest.mark.parametrize("status", [200, 201, 202])
def test_success(status):
    assert read_response(wire(status=status)).items[0].value == 1


@pytest.mark.parametrize(
    "body", [b"\x00" * 100_000, b'{"predictions": ' + b"[" * 50_000, b'{"error": "' + b"x" * 50_000 + b'"}']
)
def test_a_refusal_holds_no_body(body):
    """It is kept; the frames that an exception comes through would keep the body with it until the garbage collector came."""
    gc.collect()
    gc.disable()
    try:
        exchange = wire(body)
        before = sys.getrefcount(body)
        kept = [read_response(exchange) for _ in range(5)]
        assert all(isinstance(answer, Unreadable) for answer in kept)
        assert sys.getrefcount(body) == before
    finally:
        gc.enable()


def test_empty_bodies():
    assert refusal(wire(b"", 204)) is Reason.EMPTY
    assert refusal(wire(b" \r\n")) is Reason.EMPTY
    assert refusal(wire(gzip.compress(b""), content_encoding="gzip")) is Reason.EMPTY
    assert refusal(wire(b"", truncated=True)) is Reason.TRUNCATED


@pytest.mark.parametrize(
    ("coding", "encode"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress), ("zstd", zstandard.compress)],
)
def test_compressed_answers(coding, encode):
    body = b'{"predictions": [1, 2, 3]}'
    exchange = wire(encode(body), content_encoding=coding)
    assert [item.value for item in decode_response(exchange).items] == [1, 2, 3]
    assert plain_body(exchange) == body
    assert refusal(wire(encode(body)[:-3], content_encoding=coding)) in (Reason.TRUNCATED, Reason.ENCODING)
    assert refusal(wire(encode(body)[: len(encode(body)) // 2], content_encoding=coding, truncated=True)) is Reason.TRUNCATED
    assert refusal(exchange, Options(max_decoded=10)) is Reason.TOO_LARGE
    assert refusal(wire(b"[1, 2, 3, 4, 5]"), Options(max_decoded=10)) is Reason.TOO_LARGE


def test_the_same_content_in_other_codings_says_the_same():
    body = json.dumps({"predictions": [[0.25, 0.75]]}).encode()
    plain = decode_response(wire(body))
    assert decode_response(wire(brotli.compress(gzip.compress(body)), content_encoding="gzip, br")) == plain


def test_text():
    decoded = decode_response(wire(b"Paris is the capital.", content_type="text/plain; charset=utf-8"))
    assert (decoded.protocol, decoded.items[0].kind, decoded.items[0].value) == (
        Protocol.TEXT,
        Kind.TEXT,
        "Paris is the capital.",
    )
    assert decode_response(wire(b"[0, 2]", content_type="text/plain")).items[1].value == 2
    assert decode_response(wire(b"spam", content_type="text/plain"), Options(kind=Kind.LABELS)).items[0].kind is Kind.LABELS
    assert decode_response(wire(b"data: x", content_type="text/plain")).items[0].value == "data: x"
    assert decode_response(wire(b"Par", content_type="text/plain", truncated=True)).truncated
    assert refusal(wire(b"Paris", content_type="text/plain"), Options(Protocol.V1)) is Reason.NOT_JSON


@pytest.mark.parametrize(
    "body", [b"<html>Sign in</html>", b"\x89PNG\r\n\x1a\n", b"Internal error", b"{'a': 1}", b"\xff\xfe\xfd"]
)
def test_what_is_no_prediction(body):
    assert refusal(wire(body)) is Reason.NOT_JSON
    assert refusal(wire(body, content_type="application/json")) is Reason.NOT_JSON
    assert refusal(wire(body, truncated=True)) is Reason.TRUNCATED


def test_a_whole_document_in_a_recording_marked_as_cut():
    assert decode_response(wire(b'{"predictions": [1]}', truncated=True)).truncated
    assert refusal(wire(b"12", truncated=True)) is Reason.TRUNCATED


def test_a_refusal_says_why():
    answer = read_response(wire(b"<html>"))
    assert str(answer).startswith("not json: ")
    assert str(Unreadable(Reason.EMPTY)) == "empty"


# --- a real server, over real sockets ---


def served(client, path, document):
    """An exchange with the reference server, as a recorder would have kept it: content-codings still on."""
    request = client.build_request("POST", path, json=document, headers={"accept-encoding": "gzip"})
    response = client.send(request, stream=True)
    body = b"".join(response.iter_raw())
    return Wire("POST", path, dict(request.headers), request.content, response.status_code, dict(response.headers), body)


def test_the_reference_server_says_the_same_in_every_protocol(reference_client):
    rows = traffic("digits")[0][:40]
    tensor = {"name": "x", "shape": [40, 64], "datatype": "FP64", "data": rows}
    both = {"inputs": [tensor], "outputs": [{"name": "predict_proba"}, {"name": "predict"}]}
    exchanges = [
        served(reference_client, "/v2/models/digits/infer", both),
        served(reference_client, "/v2/models/digits/infer", {"inputs": [tensor]}),
        served(reference_client, "/v1/models/digits:predict", {"instances": rows}),
        served(reference_client, "/invocations", {"inputs": rows}),
    ]
    assert exchanges[0].response_headers["content-encoding"] == "gzip"
    answers = [decode_response(exchange) for exchange in exchanges]
    assert [answer.protocol for answer in answers] == ["open-inference", "open-inference", "v1", "mlflow"]
    labels = [[item.value for item in answer.items] for answer in answers]
    assert len(labels[0]) == 40
    assert labels.count(labels[0]) == 4
    for item in answers[0].items:
        assert (item.kind, item.also[0].kind) == (Kind.LABELS, Kind.PROBABILITIES)
    assert refusal(served(reference_client, "/v1/models/digits:predict", {"instances": "x"})) is Reason.STATUS


# --- nothing else escapes ---

SEEDS = [
    b'{"model_name":"m","outputs":[{"name":"y","datatype":"INT64","shape":[2,1],"data":[0,2]}]}',
    b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1,3],"data":[0.1,0.7,0.2]},{"name":"z","shape":["1"],"data":["1"]}]}',
    b'{"outputs":[{"name":"y","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":5}}]}\x01\x00\x00\x00a',
    b'{"predictions":[{"a":1,"b":[0.5,null]},{"a":2,"b":[1,2]}]}',
    b'[{"label":"a","score":0.5},{"label":"b","score":0.5}]',
    b'{"choices":[{"index":0,"message":{"content":"hi","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}],"usage":{}}',
    b'{"data":[{"index":0,"embedding":"AACAPw=="},{"index":1,"embedding":[1,2.5]}]}',
    b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\ndata: {"error":{"message":"x"}}\n\ndata: [DONE]\n\n',
    b'event: error\ndata: x\n\n: c\n\nretry: 5\n\ndata: {"output":"a"}\n\n',
    b'{"output":"a"}\n{"output":1}\n{"token":{"text":"b"}}\n',
    b"plain text tokens",
    b'{"results":[{"index":0,"relevance_score":0.5}]}',
]
NAMES = (
    "outputs predictions choices data shape datatype name parameters binary_data_size content_type embedding index message"
    " content text delta tool_calls function arguments label score error results relevance_score usage a"
).split()
PIECES = [b"null", b"1e999", b"[", b"{}", b'"', b"-1", b"9" * 30, b"\n\n", b"data:", b"\xed\xa0\x80"]
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "content-type": st.sampled_from(
            ["application/json", "text/event-stream", "application/x-ndjson", "text/plain", "", "x"]
        ),
        "content-encoding": st.sampled_from(["", "identity", "gzip", "x"]),
        "inference-header-content-length": st.sampled_from(["0", "78", "79", "80", "5", "-1", "x", ""]),
    },
)
PATHS = st.sampled_from(
    ["/v2/models/m/infer", "/v1/models/m:predict", "/invocations", "/v1/chat/completions", "/v1/embeddings", "/x", ""]
)
OPTIONS = st.builds(
    Options,
    protocol=st.sampled_from(Protocol),
    kind=st.none() | st.sampled_from(Kind),
    pointers=st.sampled_from([(), (), (Pointer("/predictions"),), (Pointer("/a", kind=Kind.RANKED), Pointer("/0"))]),
    max_decoded=st.sampled_from([50, 2**20]),
    max_items=st.sampled_from([1, 1000]),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**310)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["NaN", "12", "INT64", "FP32", "BYTES", "BOOL", "-", "AACAPw==", "[1]"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


def check(exchange, options):
    decoded = read_response(exchange, options)
    if isinstance(decoded, Unreadable):
        assert decoded.reason in Reason
        return
    assert isinstance(decoded, Decoded)
    assert decoded.protocol is not Protocol.AUTO
    assert len(decoded.items) <= options.max_items
    for item in decoded.items:
        for output in (item, *item.also):
            assert output.kind in Kind
        repr(item)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), PATHS, HEADERS, st.booleans(), OPTIONS, st.binary(max_size=60))
def test_random_bytes(body, path, headers, truncated, options, request_body):
    check(Wire("POST", path, headers, request_body, 200, headers, body, truncated), options)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.data(), PATHS, HEADERS, st.booleans(), OPTIONS)
def test_damaged_bodies(seed, data, path, headers, truncated, options):
    body = bytearray(seed)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, max(len(body) - 1, 0)))
        edit = data.draw(st.sampled_from(["set", "cut", "insert", "repeat"]))
        if edit == "set" and body:
            body[at] = data.draw(st.integers(0, 255))
        elif edit == "cut":
            del body[at : at + data.draw(st.integers(1, 8))]
        elif edit == "insert":
            body[at:at] = data.draw(st.sampled_from(PIECES))
        else:
            body[at:at] = body[at : at + 20]
    check(Wire("POST", path, {}, b'{"instances":[1]}', 200, headers, bytes(body), truncated), options)


@settings(max_examples=300, deadline=None)
@given(JSON, PATHS, HEADERS, OPTIONS, st.sampled_from(["document", "lines", "events"]))
def test_any_json_under_the_names_of_every_protocol(document, path, headers, options, form):
    text = json.dumps(document)
    body = {"document": text, "lines": f"{text}\n{text}\n", "events": f"data: {text}\n\ndata: {text}\n\n"}[form].encode()
    check(Wire("POST", path, {}, body, 200, headers, body), options)
