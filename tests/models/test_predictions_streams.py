"""Every stream dialect, as vLLM, LitServe, Triton, Ollama and plain servers send it."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.predictions.decode import decode_response, read_response
from models.predictions.prediction import InBandError, Kind, Options, Pointer, Protocol, Reason, Unreadable, Wire

SSE = {"content-type": "text/event-stream; charset=utf-8"}
CHAT = "/v1/chat/completions"


def read(body, path=CHAT, headers=SSE, options=None, **more):
    body = body if isinstance(body, bytes) else body.encode()
    return decode_response(Wire("POST", path, {}, b'{"stream": true}', 200, headers, body, **more), options or Options())


def chunk(content=None, index=0, **members):
    delta = {} if content is None else {"content": content}
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **members}


def events(*chunks, end="data: [DONE]\n\n", line="\n"):
    return "".join(f"data: {json.dumps(c)}{line}{line}" for c in chunks) + end


USAGE = {"id": "chatcmpl-1", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
FIRST = chunk("")
STREAM = (FIRST, chunk("Pa"), chunk("ris"), chunk())


class TestDialects:
    def test_sse_that_ends_with_done(self):
        decoded = read(events(*STREAM, USAGE))
        assert [(item.kind, item.value) for item in decoded.items] == [(Kind.TEXT, "Paris")]
        assert (decoded.stream.dialect, decoded.stream.chunks, decoded.stream.done) == ("sse-done", 5, True)
        assert (decoded.protocol, decoded.recognised, decoded.tokens) == (Protocol.OPENAI, "path", 2)

    def test_sse_without_done(self):
        decoded = read(events(*STREAM, end=""))
        assert decoded.items[0].value == "Paris"
        assert (decoded.stream.dialect, decoded.stream.done) == ("sse", False)

    def test_event_stream_without_framing_json(self):
        decoded = read('{"output": "Pa"}{"output": "ris"}', "/predict")
        assert (decoded.items[0].value, decoded.stream.dialect, decoded.stream.chunks) == ("Paris", "json-lines", 2)

    def test_event_stream_without_framing_text(self):
        decoded = read("Paris is the capital.\nOf France.", "/predict")
        assert (decoded.items[0].value, decoded.stream.dialect) == ("Paris is the capital.\nOf France.", "unframed")
        assert decoded.protocol is Protocol.TEXT

    @pytest.mark.parametrize("headers", [{}, {"content-type": "application/json"}, {"content-type": "application/x-ndjson"}])
    def test_json_lines_with_any_content_type(self, headers):
        decoded = read(
            '{"response":"Pa","done":false}\n{"response":"ris","done":false}\n{"response":"","done":true}\n',
            "/api/generate",
            headers,
        )
        assert (decoded.items[0].kind, decoded.items[0].value) == (Kind.TEXT, "Paris")
        assert (decoded.stream.dialect, decoded.stream.chunks) == ("json-lines", 3)

    def test_sse_under_another_content_type(self):
        assert read(events(*STREAM), headers={"content-type": "application/octet-stream"}).items[0].value == "Paris"

    @pytest.mark.parametrize(
        "error",
        [
            'data: {"error": {"message": "CUDA out of memory", "code": 500}}\n\n',
            'data: {"error": "CUDA out of memory"}\n\n',
            'data: {"object": "error", "message": "CUDA out of memory"}\n\n',
            "event: error\ndata: CUDA out of memory\n\n",
            'event: error\ndata: {"error": "CUDA out of memory"}\n\n',
            'event: error\ndata: {"detail": "CUDA out of memory"}\n\n',
        ],
    )
    @pytest.mark.parametrize("before", [0, 2])
    def test_in_band_errors(self, error, before):
        body = events(*STREAM[:before], end="") + error + "data: [DONE]\n\n"
        with pytest.raises(InBandError, match="CUDA out of memory") as refused:
            read(body)
        assert (refused.value.reason, refused.value.chunks) == (Reason.IN_BAND_ERROR, before)

    def test_in_band_errors_in_other_dialects(self):
        for body in ('{"output": "a"}\n{"error": "boom"}\n', 'data: Par\n\ndata: {"error": "boom"}\n\n'):
            with pytest.raises(InBandError, match="boom") as refused:
                read(body, "/predict")
            assert refused.value.chunks == 1


class TestEventStreamSyntax:
    """The HTML standard, section 9.2.6."""

    @pytest.mark.parametrize("line", ["\n", "\r", "\r\n"])
    def test_line_ends(self, line):
        assert read(events(*STREAM, line=line)).items[0].value == "Paris"

    def test_comments_names_ids_and_retry_are_no_data(self):
        body = (
            "\ufeff: ping\n\nretry: 10\n\nevent: completion\nid: 7\ndata: "
            + json.dumps(chunk("Hi"))
            + "\n\n: ping\n\nid: 8\n\n"
        )
        assert read(body).items[0].value == "Hi"

    def test_data_over_several_lines(self):
        assert read('data: {"output":\ndata: "Hi"}\n\n', "/x").items[0].value == "Hi"

    def test_only_one_blank_after_the_colon_is_syntax(self):
        assert read("data:  one\n\ndata: two\n\ndata:three\n\n", "/x").items[0].value == " onetwothree"

    def test_the_last_event_counts_without_its_blank_line(self):
        assert read("data: " + json.dumps(chunk("Hi"))).items[0].value == "Hi"

    def test_what_follows_done_is_not_read(self):
        assert read(events(*STREAM) + 'data: {"error": "late"}\n\n').items[0].value == "Paris"

    def test_bytes_that_are_no_utf8_stay_distinct(self):
        assert read(b"data: \xff\n\n", "/x").items != read(b"data: \xfe\n\n", "/x").items


class TestWhatChunksSay:
    def test_choices_are_kept_apart(self):
        decoded = read(events(chunk("b", 1), chunk("a", 0), chunk("B", 1)))
        assert [item.value for item in decoded.items] == ["a", "bB"]

    def test_tool_calls_are_put_together(self):
        def call(**function):
            return {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "call_1", "function": function}]}}]}

        body = events(call(name="weather", arguments=""), call(arguments='{"city":'), call(arguments='"Paris"}'))
        (item,) = read(body).items
        assert (item.kind, item.value) == (Kind.JSON, [{"name": "weather", "arguments": {"city": "Paris"}}])

    def test_completions(self):
        pieces = [{"object": "text_completion", "choices": [{"index": 0, "text": t}]} for t in (" Pa", "ris")]
        assert read(events(*pieces), "/v1/completions").items[0].value == " Paris"

    def test_plain_and_streamed_say_the_same(self):
        plain = {"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris"}}]}
        one = decode_response(Wire("POST", CHAT, {}, b"", 200, {}, json.dumps(plain).encode()))
        assert one.items == read(events(*STREAM)).items

    def test_triton_and_kserve_generate(self):
        pieces = [{"model_name": "m", "model_version": "1", "text_output": t} for t in ("Pa", "ris")]
        decoded = read(events(*pieces, end=""), "/v2/models/m/generate_stream")
        assert (decoded.items[0].value, decoded.items[0].path, decoded.protocol) == ("Paris", "/text_output", Protocol.JSON)

    def test_text_generation_inference(self):
        pieces = [
            {"index": 1, "token": {"id": 5, "text": "Pa"}, "generated_text": None},
            {"index": 2, "token": {"id": 6, "text": "ris"}, "generated_text": "Paris"},
        ]
        assert read(events(*pieces, end=""), "/generate_stream").items[0].value == "Paris"

    def test_open_inference_texts_are_one_text(self):
        pieces = [{"outputs": [{"name": "output", "datatype": "BYTES", "shape": [1, 1], "data": [t]}]} for t in ("Pa", "ris")]
        decoded = read(events(*pieces, end=""), "/v2/models/m/infer_stream")
        assert [(item.kind, item.value, item.name) for item in decoded.items] == [(Kind.TEXT, "Paris", "output")]
        assert (decoded.protocol, decoded.recognised) == (Protocol.OPEN_INFERENCE, "path")

    def test_chunks_of_predictions_are_items(self):
        assert [item.value for item in read(events({"predictions": [1]}, {"predictions": [2, 3]}, end=""), "/x").items] == [
            1,
            2,
            3,
        ]
        assert [item.value for item in read('{"output": 1}\n{"output": 2}\n', "/x").items] == [1, 2]

    def test_pointers_apply_to_each_chunk(self):
        options = Options(pointers=(Pointer("/a/b"),))
        decoded = read('{"a": {"b": "Pa"}}\n{"a": {"b": "ris"}}\n', "/x", options=options)
        assert (decoded.items[0].kind, decoded.items[0].value, decoded.recognised) == (Kind.TEXT, "Paris", "configured")

    def test_compressed(self):
        body = gzip.compress(events(*STREAM).encode())
        assert read(body, headers={**SSE, "content-encoding": "gzip"}).items[0].value == "Paris"


class TestCutRecordings:
    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_whole_events_of_a_cut_recording_are_a_beginning_of_the_text(self, data):
        body = events(*(chunk(t) for t in ("Der ", "Bär ", "lebt ", "€")), end="").encode()
        kept = body[: data.draw(st.integers(0, len(body)))]
        decoded = read_response(Wire("POST", CHAT, {}, b"", 200, SSE, kept, truncated=True))
        if isinstance(decoded, Unreadable):
            assert decoded.reason is Reason.TRUNCATED
        else:
            assert decoded.truncated
            assert "Der Bär lebt €".startswith(decoded.items[0].value)

    def test_json_lines_and_text(self):
        assert read('{"output": "Pa"}\n{"output": "ri', "/x", truncated=True).items[0].value == "Pa"
        assert read("Par€".encode()[:-1], "/x", truncated=True).items[0].value == "Par"

    def test_an_answer_that_is_no_stream(self):
        for body in ('{"predictions": [1, 2', "12"):
            with pytest.raises(Unreadable) as refused:
                read(body, "/x", {}, truncated=True)
            assert refused.value.reason is Reason.TRUNCATED


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", Reason.EMPTY),
        (": ping\n\n: ping\n\n", Reason.EMPTY),
        ("data: [DONE]\n\n", Reason.EMPTY),
        (events(USAGE), Reason.EMPTY),
        (events(chunk("a"), end="data: {broken\n\n"), Reason.NOT_JSON),
        ('{"output": "a"}\n{"output": \n', Reason.NOT_JSON),
        ('{"output": "a"}\n17\n', Reason.NOT_JSON),
        ('data: {"choices": [5]}\n\n', Reason.WRONG_SHAPE),
        ("data: " + "[" * 100_000 + "\n\n", Reason.TOO_DEEP),
        ("[" * 100_000, Reason.TOO_DEEP),
        ("data: x" + "\n" * 2_000_001, Reason.TOO_LARGE),
        ("data:x\n\n" * 200_001, Reason.TOO_LARGE),
        ("{}" * 200_001, Reason.TOO_LARGE),
    ],
)
def test_what_cannot_be_read(body, reason):
    with pytest.raises(Unreadable) as refused:
        read(body)
    assert refused.value.reason is reason


def test_bare_text_where_json_is_configured():
    with pytest.raises(Unreadable) as refused:
        read("data: hello\n\n", options=Options(Protocol.OPENAI))
    assert refused.value.reason is Reason.NOT_JSON


def test_a_bare_value_under_a_json_content_type_is_no_stream():
    with pytest.raises(Unreadable) as refused:
        read("1\n2\n", "/x", {"content-type": "application/json"})
    assert refused.value.reason is Reason.NOT_JSON
