"""Open Inference Protocol v2 as MLServer, KServe and Triton send it, in JSON and with binary tensors."""

import gzip
import json
import math
import struct
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.predictions import open_inference
from models.predictions.decode import decode_response
from models.predictions.prediction import Kind, Options, Protocol, Reason, Unreadable, Wire

PATH = "/v2/models/iris/infer"


def wire(body, path=PATH, request=b"", headers=None, **more):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Wire("POST", path, {"content-type": "application/json"}, request, 200, headers or {}, body, **more)


def answer(*outputs, **members):
    return {"model_name": "iris", "model_version": "v1", "id": "5b8e", "outputs": list(outputs), **members}


def output(name, datatype, shape, data, **members):
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, **members}


def read(body, options=None, **more):
    return decode_response(wire(body, **more), options or Options())


def said(body, **more):
    return [(item.kind, item.value) for item in read(body, **more).items]


def refusal(body, **more):
    with pytest.raises(Unreadable) as refused:
        read(body, **more)
    return refused.value.reason


def binary(document, *tensors):
    """A body of the binary tensor extension and the header that goes with it."""
    head = json.dumps(document).encode()
    return head + b"".join(tensors), {"inference-header-content-length": str(len(head))}


def byte_strings(*values):
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


LABELS = [(Kind.LABELS, 0), (Kind.LABELS, 2)]
THREE = [[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]]

SERVERS = {
    # what the server is, its body, and the predictions in it
    "mlserver": (
        b'{"model_name":"iris","model_version":"v1","id":"9e2","parameters":{},"outputs":[{"name":"predict","shape":[2,1],'
        b'"datatype":"INT64","parameters":{"content_type":"np"},"data":[0,2]}]}',
        LABELS,
    ),
    "kserve with nulls and shape [2]": (
        b'{"model_name":"iris","model_version":null,"id":"9e2","parameters":null,"outputs":[{"name":"output-0","shape":[2],'
        b'"datatype":"INT64","parameters":null,"data":[0,2]}]}',
        LABELS,
    ),
    "triton": (
        b'{"model_name":"simple","model_version":"1","outputs":[{"name":"OUTPUT0","datatype":"INT32","shape":[2,1],"data":[0,2]}]}',
        LABELS,
    ),
    "nested data": (answer(output("predict", "INT64", [2, 1], [[0], [2]])), LABELS),
    "64-bit integers as strings": (answer(output("predict", "INT64", ["2", "1"], ["0", "2"])), LABELS),
    "integers with a point": (answer(output("predict", "INT32", [2], [0.0, 2.0])), LABELS),
    "no shape": (answer({"name": "predict", "datatype": "INT64", "data": [0, 2]}), LABELS),
    "booleans": (answer(output("y", "BOOL", [2, 1], [True, False])), [(Kind.LABELS, True), (Kind.LABELS, False)]),
    "booleans as numbers": (answer(output("y", "BOOL", [2], [1, 0])), [(Kind.LABELS, True), (Kind.LABELS, False)]),
    "class names": (
        answer(output("predict", "BYTES", [2, 1], ["setosa", "virginica"], parameters={"content_type": "str"})),
        [(Kind.LABELS, "setosa"), (Kind.LABELS, "virginica")],
    ),
    "probabilities": (
        answer(output("predict_proba", "FP64", [2, 3], [0.1, 0.7, 0.2, 0.5, 0.25, 0.25])),
        [(Kind.PROBABILITIES, tuple(row)) for row in THREE],
    ),
    "probabilities nested": (
        answer(output("predict_proba", "FP64", [2, 3], THREE)),
        [(Kind.PROBABILITIES, tuple(row)) for row in THREE],
    ),
    "regression": (answer(output("predict", "FP64", [2, 1], [151.3, 90.0])), [(Kind.NUMBERS, 151.3), (Kind.NUMBERS, 90.0)]),
    "regression that JSON wrote whole": (
        answer(output("p", "FP64", [2, 1], [151, 90])),
        [(Kind.NUMBERS, 151.0), (Kind.NUMBERS, 90.0)],
    ),
    "two targets": (answer(output("predict", "FP32", [1, 2], [3.5, -1.0])), [(Kind.NUMBERS, (3.5, -1.0))]),
    "embedding": (
        answer(output("embedding", "FP32", [1, 8], [0.5] * 8)),
        [(Kind.VECTORS, array("d", [0.5] * 8))],
    ),
    "several labels for each": (
        answer(output("y", "INT64", [2, 2], [0, 1, 1, 1])),
        [(Kind.LABELS, (0, 1)), (Kind.LABELS, (1, 1))],
    ),
    "text": (
        answer(output("text_output", "BYTES", [1], ["The quick brown fox jumps over the lazy dog."])),
        [(Kind.TEXT, "The quick brown fox jumps over the lazy dog.")],
    ),
    "JSON in strings": (
        answer(
            output(
                "output", "BYTES", [1, 1], ['{"label": "POSITIVE", "score": 0.99}'], parameters={"content_type": "hg_jsonstr"}
            )
        ),
        [(Kind.JSON, {"label": "POSITIVE", "score": 0.99})],
    ),
    "no items": (answer(output("predict", "INT64", [0, 1], [])), []),
    "no outputs": (b'{"model_name":"m","outputs":[]}', []),
}


@pytest.mark.parametrize(("body", "expected"), SERVERS.values(), ids=SERVERS)
def test_bodies_as_servers_send_them(body, expected):
    assert said(body) == expected


def test_what_was_taken_is_said():
    decoded = read(answer(output("predict", "INT64", [1], [2])))
    assert (decoded.protocol, decoded.recognised) == (Protocol.OPEN_INFERENCE, "path")
    assert (decoded.items[0].path, decoded.items[0].name) == ("/outputs/0/data", "predict")
    assert decoded.raw["outputs"][0]["data"] == [2]
    assert read(answer(output("predict", "INT64", [1], [2])), path="/somewhere").recognised == "shape"
    assert read(answer(output("y", "INT64", [1], [2])), Options(Protocol.OPEN_INFERENCE), path="/x").recognised == "configured"


def test_64_bit_integers_are_exact():
    big = 2**63 - 1
    assert said(answer(output("p", "INT64", [2], [big, -big - 1]))) == [(Kind.LABELS, big), (Kind.LABELS, -big - 1)]
    assert said(answer(output("p", "UINT64", [1], [str(2**64 - 1)]))) == [(Kind.LABELS, 2**64 - 1)]


@pytest.mark.parametrize("spelled", [b"NaN", b'"NaN"', b"null"])
def test_not_a_number_however_it_is_spelled(spelled):
    body = b'{"outputs":[{"name":"p","datatype":"FP32","shape":[2],"data":[%b,-Infinity]}]}' % spelled
    (kind, first), (_, second) = said(body)
    assert kind is Kind.NUMBERS
    assert math.isnan(first)
    assert second == -math.inf


def test_several_outputs_are_one_item_with_its_label_first():
    decoded = read(
        answer(
            output("predict_proba", "FP64", [2, 3], [0.1, 0.7, 0.2, 0.5, 0.25, 0.25]),
            output("predict", "INT64", [2, 1], [1, 0]),
        )
    )
    assert [(item.name, item.value, item.also[0].name, item.also[0].value) for item in decoded.items] == [
        ("predict", 1, "predict_proba", (0.1, 0.7, 0.2)),
        ("predict", 0, "predict_proba", (0.5, 0.25, 0.25)),
    ]


def test_outputs_without_a_common_batch_describe_one_item():
    body = answer(
        output("count", "INT32", [1], [2]), output("boxes", "FP32", [2, 4], [1.5] * 8), output("none", "FP32", [0], [])
    )
    (item,) = read(body).items
    assert (item.kind, item.value) == (Kind.LABELS, 2)
    assert [(other.kind, len(other.value)) for other in item.also] == [(Kind.VECTORS, 8), (Kind.JSON, 0)]


def test_the_request_tells_a_row_from_a_batch():
    body = answer(output("probabilities", "FP32", [3], [0.1, 0.7, 0.2]))
    request = b'{"inputs":[{"name":"x","shape":[%d,4],"datatype":"FP32","data":[]}]}'
    assert said(body, request=request % 1) == [(Kind.PROBABILITIES, (0.1, 0.7, 0.2))]
    assert [kind for kind, _ in said(body, request=request % 3)] == [Kind.NUMBERS] * 3


WRONG = {
    "data does not fill the shape": answer(output("p", "INT64", [2, 1], [0])),
    "a negative dimension": answer(output("p", "INT64", [-1], [0])),
    "a dimension that is no number": answer(output("p", "INT64", ["x"], [0])),
    "shape is a number": answer(output("p", "INT64", 2, [0, 2])),
    "a million dimensions": answer(output("p", "INT64", [1] * 1000, [0])),
    "no data": answer({"name": "p", "datatype": "INT64", "shape": [1]}),
    "data is an object": answer(output("p", "INT64", [1], {"0": 1})),
    "an unknown datatype": answer(output("p", "INT65", [1], [0])),
    "a fraction among integers": answer(output("p", "INT64", [1], [0.5])),
    "text among integers": answer(output("p", "INT64", [1], ["five"])),
    "text among floats": answer(output("p", "FP32", [1], ["five"])),
    "too large for a float": answer(output("p", "FP64", [1], [10**400])),
    "two among booleans": answer(output("p", "BOOL", [1], [2])),
    "an output that is a number": {"outputs": [output("p", "INT64", [1], [0]), 5]},
    "a binary size without tensors": answer(output("p", "INT64", [1], None, parameters={"binary_data_size": 8})),
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_what_does_not_add_up_is_wrong_shape(body):
    assert refusal(body) is Reason.WRONG_SHAPE


def test_configured_protocol_does_not_guess_another():
    assert refusal({"predictions": [1]}, options=Options(Protocol.OPEN_INFERENCE)) is Reason.WRONG_SHAPE


def test_an_enormous_empty_tensor_is_nothing():
    assert said(answer(output("p", "INT64", [10**12, 0], []))) == []


def test_more_items_than_the_bound():
    assert refusal(answer(output("p", "INT64", [5], [0] * 5)), options=Options(max_items=4)) is Reason.TOO_LARGE


TENSORS = {
    "BOOL": (b"\x01\x00", [True, False]),
    "INT8": (struct.pack("<2b", -1, 5), [-1, 5]),
    "UINT8": (struct.pack("<2B", 255, 5), [255, 5]),
    "INT16": (struct.pack("<2h", -2, 5), [-2, 5]),
    "UINT16": (struct.pack("<2H", 65535, 5), [65535, 5]),
    "INT32": (struct.pack("<2i", -3, 5), [-3, 5]),
    "UINT32": (struct.pack("<2I", 2**32 - 1, 5), [2**32 - 1, 5]),
    "INT64": (struct.pack("<2q", -(2**63), 2**63 - 1), [-(2**63), 2**63 - 1]),
    "UINT64": (struct.pack("<2Q", 2**64 - 1, 0), [2**64 - 1, 0]),
    "FP16": (struct.pack("<2e", 1.5, -0.25), [1.5, -0.25]),
    "BF16": (struct.pack("<2H", 0x3FC0, 0xBE80), [1.5, -0.25]),  # the upper halves of the same in FP32
    "FP32": (struct.pack("<2f", 1.5, -0.25), [1.5, -0.25]),
    "FP64": (struct.pack("<2d", 0.1, -0.25), [0.1, -0.25]),
    "BYTES": (byte_strings(b"setosa", "ключ".encode()), ["setosa", "ключ"]),
}


@pytest.mark.parametrize(("datatype", "raw", "values"), [(name, *case) for name, case in TENSORS.items()], ids=TENSORS)
def test_binary_tensors(datatype, raw, values):
    tensor = {"name": "y", "datatype": datatype, "shape": [2, 1], "parameters": {"binary_data_size": len(raw)}}
    body, headers = binary({"model_name": "m", "outputs": [tensor]}, raw)
    decoded = read(body, headers=headers)
    assert [item.value for item in decoded.items] == values
    assert [type(item.value) for item in decoded.items] == [type(value) for value in values]
    compressed = decode_response(wire(gzip.compress(body), headers={**headers, "content-encoding": "gzip"}))
    assert compressed.items == decoded.items  # the header counts uncompressed bytes


def test_binary_and_listed_outputs_side_by_side():
    raw = struct.pack("<6f", 0.25, 0.5, 0.25, 0.5, 0.25, 0.25)
    proba = {"name": "p", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}}
    label = {"name": "y", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}}
    body, headers = binary(answer(proba, output("n", "INT64", [2], [7, 8]), label), raw, byte_strings(b"a", b"b"))
    decoded = read(body, headers=headers)
    assert decoded.recognised in ("header", "path")
    assert [(item.value, [other.value for other in item.also]) for item in decoded.items] == [
        (7, [(0.25, 0.5, 0.25), "a"]),
        (8, [(0.5, 0.25, 0.25), "b"]),
    ]


def test_bytes_that_are_no_utf8_stay_distinct():
    found = []
    for raw in (b"\xff\xfe", b"\xff\xfd"):
        tensor = {"name": "y", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}
        body, headers = binary({"outputs": [tensor]}, byte_strings(raw))
        found.append(read(body, headers=headers).items[0].value)
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("size", "raw", "datatype"),
    [
        (9, bytes(8), "INT64"),  # more than there is
        (7, bytes(7), "INT64"),  # no whole number of elements
        (4, bytes(8), "INT32"),  # bytes left over
        (-1, bytes(8), "INT64"),
        ("8", bytes(8), "INT64"),
        (True, b"\0", "BOOL"),
        (8, struct.pack("<I", 100) + b"abcd", "BYTES"),  # an element beyond its tensor
        (3, b"\1\0\0", "BYTES"),
        (8, bytes(8), "COMPLEX64"),
        (8, bytes(8), None),
    ],
)
def test_binary_tensors_that_do_not_add_up(size, raw, datatype):
    tensor = {"name": "y", "datatype": datatype, "shape": [1], "parameters": {"binary_data_size": size}}
    body, headers = binary({"outputs": [tensor]}, raw)
    assert refusal(body, headers=headers) is Reason.WRONG_SHAPE


@pytest.mark.parametrize("length", ["", "-1", "x", "1e2", "٣", "9" * 30, "1000"])
def test_a_header_length_that_is_no_length(length):
    assert refusal(b'{"outputs":[]}', headers={"inference-header-content-length": length}) is Reason.WRONG_SHAPE


def test_a_cut_binary_body_is_truncated():
    body, headers = binary({"outputs": []}, bytes(8))
    assert refusal(body, headers=headers, truncated=True) is Reason.TRUNCATED


def test_a_configured_kind():
    logits = answer(output("logits", "FP32", [1, 3], [-2.0, 4.0, 0.5]))
    assert said(logits, options=Options(kind=Kind.PROBABILITIES)) == [(Kind.PROBABILITIES, (-2.0, 4.0, 0.5))]
    items = answer(output("items", "INT64", [1, 3], [9, 4, 7]))
    assert said(items, options=Options(kind=Kind.RANKED)) == [(Kind.RANKED, (9, 4, 7))]
    positive = answer(output("p", "FP32", [2], [0.25, 0.75]))
    assert said(positive, options=Options(kind=Kind.PROBABILITIES)) == [
        (Kind.PROBABILITIES, (0.75, 0.25)),
        (Kind.PROBABILITIES, (0.25, 0.75)),
    ]
    assert refusal(items, options=Options(kind=Kind.TEXT)) is Reason.WRONG_KIND
    both = answer(output("y", "INT64", [1], [1]), output("score", "FP32", [1, 3], [-2.0, 4.0, 0.5]))
    (item,) = read(both, Options(kind=Kind.PROBABILITIES)).items  # of several outputs: the one it suits
    assert (item.kind, item.also[0].kind) == (Kind.LABELS, Kind.PROBABILITIES)


_values = st.one_of(
    st.integers(-3, 3), st.floats(0, 1), st.booleans(), st.none(), st.sampled_from(["a", "NaN", "a b c d e f g", "12"])
)
_outputs = st.fixed_dictionaries(
    {
        "datatype": st.sampled_from(["INT64", "FP64", "FP32", "BOOL", "BYTES", "UINT8", "none", None, 3]),
        "shape": st.sampled_from(
            [[1], [1, 1], [1, 2], [1, 3], [2], [3], [True], [1.0], ["1"], [1, 2.0], [1, 1, 2], [], [0], None, 1]
        ),
        "data": st.one_of(
            st.lists(_values, max_size=3),
            st.sampled_from([[0.25, 0.75], [0.2, 0.3, 0.5], [1.0, 2.0], [[0.25, 0.75]], None, "x"]),
        ),
    },
    optional={
        "name": st.sampled_from(["label", "", None, 7]),
        "parameters": st.sampled_from([{}, None, {"content_type": "hg_json"}]),
    },
)


@given(st.lists(st.one_of(_outputs, st.none()), min_size=1, max_size=3), st.sampled_from([None, 1, 2]))
@settings(max_examples=400)
def test_plain_answers_about_one_item_are_read_as_on_the_long_way(outputs, rows):
    def read() -> object:
        try:
            return repr(open_inference.decode({"outputs": outputs}, lambda: rows, Options()))  # NaN is no equal of itself
        except Unreadable as refusal:
            return str(refusal)

    found = read()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(open_inference, "_one_item", lambda _: None)
        assert read() == found
