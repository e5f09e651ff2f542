"""How many items a request asks about. The forms of MLflow's requests stand in test_predictions_mlflow.py."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.predictions.prediction import Options, Wire
from models.predictions.request import rows_asked


def asked(body, headers=None):
    return rows_asked(Wire("POST", "/", headers or {}, body, 200, {}, b""), Options())


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (b'{"inputs":[{"name":"x","shape":[3,4],"datatype":"FP32","data":[]}]}', 3),
        (b'{"inputs":[{"name":"x","shape": [ 1 ],"datatype":"BYTES","data":["a"]}]}', 1),
        (b'{"inputs":[{"name":"x","shape":[2,4],"datatype":"FP32","parameters":{"binary_data_size":32}}]}' + bytes(32), 2),
        (b'{"instances":[1,2,3]}', 3),
        (b"[[1,2],[3,4]]", 2),
        (b'{"input":"one text"}', 1),
        (b'{"input":["a","b"]}', 2),
        (b'{"inputs":{}}', None),
        (b'{"dataframe_split":{"data":5}}', None),
        (b'{"shape":[4]}', None),
        (b"5", None),
        (b"", None),
        (b"\xff\xfe", None),
    ],
)
def test_rows(body, rows):
    assert asked(body) == rows


def test_compressed_requests():
    body = gzip.compress(b'{"instances":[1,2]}')
    assert asked(body, {"content-encoding": "gzip"}) == 2
    assert asked(body[:-4], {"content-encoding": "gzip"}) is None
    assert asked(body, {"content-encoding": "compress"}) is None


@given(st.binary(max_size=200), st.sampled_from(["text/csv", "application/json", ""]), st.sampled_from(["", "gzip", "br"]))
def test_nothing_escapes(body, content_type, coding):
    rows = asked(body, {"content-type": content_type, "content-encoding": coding})
    assert rows is None or rows >= 0


def test_csv_beyond_what_the_parser_takes():
    assert asked(b"a\n" + b"x" * 200_000, {"content-type": "text/csv"}) is None
