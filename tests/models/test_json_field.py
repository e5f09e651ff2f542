"""One field of a JSON text is replaced, and every other byte stays."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.json_field import replace_top_level

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=10
)
objects = st.dictionaries(st.text(max_size=6) | st.sampled_from(["model", "models", "Model"]), documents, max_size=5)


@given(objects, st.text(max_size=12), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_only_the_field_changes(document: dict[str, object], value: str, indent: object, ascii_only: bool) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)  # type: ignore[arg-type]  # None, 1 or a tab
    out = replace_top_level(text.encode("utf-8", "surrogatepass"), "model", value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        assert out is None  # a lone surrogate is not UTF-8
        return
    if "model" not in document:
        assert out is None
        return
    assert out is not None
    assert json.loads(out) == {**document, "model": value}
    before, _, _ = text.partition('"model"')
    assert out.startswith(before.encode())


@given(st.binary(max_size=40) | st.text('{}[]",:model 1tn\\u', max_size=40).map(str.encode))
@settings(max_examples=200)
def test_never_raises_and_never_takes_what_is_no_json(body: bytes) -> None:
    out = replace_top_level(body, "model", "new")
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and "model" in document:
        assert out is not None
        assert json.loads(out)["model"] == "new"
    else:
        assert out is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a"}', b'{"model":"new"}'),
        (b' {\r\n\t"model" : 1.50e+2 , "x":1.0}\n', b' {\r\n\t"model" : "new" , "x":1.0}\n'),
        (b'{"model":{"deep":["model"]},"x":"\\u00e9"}', b'{"model":"new","x":"\\u00e9"}'),
        (b'{"mod\\u0065l":"a"}', b'{"mod\\u0065l":"new"}'),
        (b'{"model":"a","model":"b"}', b'{"model":"new","model":"new"}'),
        (b'{"model":"a"} x', None),
        (b'{"model":"a",}', None),
        (b'{"model":"a"', None),
        (b'{"model" "a"}', None),
        (b'{model:"a"}', None),
        (b'[{"model":"a"}]', None),
        (b"{}", None),
        (b"", None),
        (b"\xef\xbb\xbf" + b'{"model":"a"}', None),
        (b'{"a":{"model":"a"}}', None),
        (b'{"model":' + b"[" * 100_000, None),
    ],
)
def test_table(body: bytes, expected: bytes | None) -> None:
    assert replace_top_level(body, "model", "new") == expected


@pytest.mark.parametrize("value", ["", 'a"b\\c', "é", "\ud800", "line\nbreak"])
def test_any_name_can_be_written(value: str) -> None:
    out = replace_top_level(b'{"model":"a"}', "model", value)
    assert out is not None
    assert json.loads(out) == {"model": value}
