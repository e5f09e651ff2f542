"""OpenAI-style answers as vLLM, LitServe and others send them."""

import base64
import json
import struct
from array import array

import pytest

from models.predictions.decode import decode_response
from models.predictions.prediction import InBandError, Kind, Options, Protocol, Reason, Unreadable, Wire

CHAT = "/v1/chat/completions"


def read(body, path=CHAT, options=None):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode_response(Wire("POST", path, {}, b"", 200, {"content-type": "application/json"}, body), options or Options())


def chat(*messages, **members):
    choices = [
        {"index": i, "message": {"role": "assistant", **message}, "finish_reason": "stop"} for i, message in enumerate(messages)
    ]
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **members}


VLLM = b"""{"id":"chatcmpl-8c4","object":"chat.completion","created":1730000000,"model":"qwen","choices":[{"index":0,"message":
{"role":"assistant","reasoning_content":null,"content":"Paris.","tool_calls":[]},"logprobs":null,"finish_reason":"stop",
"stop_reason":null}],"usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3,"prompt_tokens_details":null},
"prompt_logprobs":null,"kv_transfer_params":null}"""

LITSERVE = b"""{"id":"chatcmpl-fQ","object":"chat.completion","created":1730000000,"model":"l","choices":[{"index":0,"message":
{"role":"assistant","content":"Paris.","tool_calls":null,"tool_call_id":null,"name":null},"finish_reason":"stop"}],
"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}"""


@pytest.mark.parametrize(("body", "tokens"), [(VLLM, 3), (LITSERVE, 0)])
def test_chat_as_servers_send_it(body, tokens):
    decoded = read(body)
    (item,) = decoded.items
    assert (item.kind, item.value, item.path, item.also) == (Kind.TEXT, "Paris.", "/choices/0/message/content", ())
    assert (decoded.protocol, decoded.recognised, decoded.tokens) == (Protocol.OPENAI, "path", tokens)


def test_choices_come_in_the_order_of_their_index():
    body = chat({"content": "one"}, {"content": "two"})
    body["choices"].reverse()
    assert [item.value for item in read(body).items] == ["one", "two"]


def test_content_in_parts_and_refusals():
    body = chat(
        {"content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]},
        {"content": None, "refusal": "No."},
    )
    assert [item.value for item in read(body).items] == ["ab", "No."]


def test_tool_calls_without_ids_and_with_parsed_arguments():
    call = {"id": "call_8f", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}
    odd = {"id": "call_90", "type": "function", "function": {"name": "weather", "arguments": '{"city":'}}
    (only,) = read(chat({"content": None, "tool_calls": [call, odd]})).items
    assert (only.kind, only.path) == (Kind.JSON, "/choices/0/message/tool_calls")
    assert only.value == [{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "weather", "arguments": '{"city":'}]
    (both,) = read(chat({"content": "Let me see.", "tool_calls": [call]})).items
    assert (both.value, both.also[0].value[0]["name"]) == ("Let me see.", "weather")
    (old,) = read(chat({"content": None, "function_call": {"name": "f", "arguments": "{}"}})).items
    assert old.value == [{"name": "f", "arguments": {}}]


def test_completions():
    body = {
        "id": "cmpl-1",
        "object": "text_completion",
        "choices": [{"index": 0, "text": " Paris", "logprobs": None}],
        "usage": None,
    }
    decoded = read(body, "/v1/completions")
    assert [(item.kind, item.value) for item in decoded.items] == [(Kind.TEXT, " Paris")]
    assert decoded.tokens is None


def test_embeddings_as_numbers_and_as_base64():
    vector = [0.5, -0.25, 3.0]
    packed = base64.b64encode(struct.pack("<3f", *vector)).decode()
    for embedding in (vector, packed):
        body = {
            "object": "list",
            "data": [{"object": "embedding", "index": 1, "embedding": embedding}, {"index": 0, "embedding": [1, 2, 3]}],
        }
        decoded = read(body, "/v1/embeddings")
        assert [(item.kind, item.value) for item in decoded.items] == [
            (Kind.VECTORS, array("d", [1, 2, 3])),
            (Kind.VECTORS, array("d", vector)),
        ]
        assert decoded.recognised == "path"
        assert read(body, "/embed").protocol is Protocol.OPENAI


@pytest.mark.parametrize("embedding", ["no base64!", "AAA", "AAAA", "é", ["a"], [10**400], None, {"a": 1}])
def test_embeddings_that_are_none(embedding):
    body = {"data": [{"embedding": embedding}]}
    with pytest.raises(Unreadable) as refused:
        read(body, "/v1/embeddings")
    assert refused.value.reason is Reason.WRONG_SHAPE


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "out of memory", "type": "server_error", "code": 500}},
        {"error": "out of memory"},
        {"object": "error", "message": "out of memory", "code": 500},
        {"choices": [], "error": {"message": "out of memory"}},
    ],
)
def test_errors_under_status_200(body):
    with pytest.raises(InBandError, match="out of memory") as refused:
        read(body)
    assert (refused.value.reason, refused.value.chunks) == (Reason.IN_BAND_ERROR, 0)


@pytest.mark.parametrize(
    "body",
    [{"choices": ["x"]}, {"choices": [{"index": 0}]}, {"data": [{"embedding": [1]}, 5]}, {"data": []}, [], {"model": "m"}],
)
def test_wrong_shapes(body):
    with pytest.raises(Unreadable) as refused:
        read(body, options=Options(Protocol.OPENAI))
    assert refused.value.reason is Reason.WRONG_SHAPE


def test_other_calls_of_the_same_api_are_plain_json():
    decoded = read({"object": "list", "data": [{"id": "m", "object": "model"}]}, "/v1/models")
    assert decoded.protocol is Protocol.JSON


def test_configured_kinds():
    assert read(chat({"content": '{"a": 1}'}), options=Options(kind=Kind.JSON)).items[0].value == {"a": 1}
    assert read(chat({"content": "{"}), options=Options(kind=Kind.JSON)).items[0].kind is Kind.TEXT
    spam = read(chat({"content": " spam\n"}), options=Options(kind=Kind.LABELS)).items[0]
    assert (spam.kind, spam.value) == (Kind.LABELS, "spam")
