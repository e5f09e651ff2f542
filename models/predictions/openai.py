"""OpenAI-style servers: chat completions, completions and embeddings, plain and streamed.

The items are the choices (by index) or the embeddings (by index). What a choice says is its text; tool calls, when it
has any, are JSON beside it, without their ids, which are random, and with their arguments parsed, because key order
and blanks in them mean nothing. `usage`, `finish_reason` and log probabilities are not predictions and are left out.
Embeddings come as numbers or as base64 of little-endian FP32.
"""

from __future__ import annotations

import base64
import binascii
import sys
from array import array
from collections.abc import Sequence
from typing import Any, Final

from models.predictions import json_document
from models.predictions.prediction import Json, Kind, Options, Prediction, Reason, Unreadable

_MAX_CHOICES: Final = 1024


def fits(document: Json) -> bool:
    """Whether the document is an answer (or one chunk of a streamed answer) of a chat, completion or embedding call."""
    if type(document) is not dict:
        return False
    if type(document.get("choices")) is list:
        return True
    data = document.get("data")
    return type(data) is list and len(data) > 0 and type(data[0]) is dict and "embedding" in data[0]


def decode(document: Json, options: Options) -> tuple[Prediction, ...]:
    """The predictions of a plain answer. Raises Unreadable (`wrong shape`, `too large`)."""
    if not isinstance(document, dict):
        raise Unreadable(Reason.WRONG_SHAPE, "the answer is not an object")
    choices = document.get("choices")
    if isinstance(choices, list):
        return _choices(choices, options)
    data = document.get("data")
    if isinstance(data, list) and fits(document):
        return _embeddings(data, options)
    raise Unreadable(Reason.WRONG_SHAPE, "neither 'choices' nor 'data' with embeddings")


def tokens(document: Json) -> int | None:
    """How many tokens the server says it generated (`usage.completion_tokens`)."""
    usage = document.get("usage") if isinstance(document, dict) else None
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if type(count) is int and 0 <= count < 1 << 63 else None


def assemble(chunks: Sequence[Json], options: Options) -> tuple[Prediction, ...]:
    """The predictions of a streamed answer, from its chunks: each choice's deltas put together, in the order they came.

    Chunks without choices (usage) add nothing. Raises Unreadable (`wrong shape`, `too large`).
    """
    found: dict[int, _Choice] = {}
    for chunk in chunks:
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        if not isinstance(choices, list):
            continue
        for position, choice in enumerate(choices):
            if not isinstance(choice, dict):
                raise Unreadable(Reason.WRONG_SHAPE, "a streamed choice is not an object")
            index = _index(choice, position)
            if index not in found:
                if len(found) >= _MAX_CHOICES:
                    raise Unreadable(Reason.TOO_LARGE, f"more than {_MAX_CHOICES} choices")
                found[index] = _Choice()
            found[index].add(choice)
    return tuple([found[index].prediction(f"/choices/{index}", options) for index in sorted(found)])


class _Choice:
    """One choice while its deltas come in."""

    __slots__ = ("called", "said")

    def __init__(self) -> None:
        self.said: list[str] = []
        self.called: dict[int, tuple[list[str], list[str]]] = {}  # tool call index -> pieces of the name, of the arguments

    def add(self, choice: dict[str, Json]) -> None:
        if isinstance(text := choice.get("text"), str):  # completions
            self.said.append(text)
        delta = choice.get("delta", choice.get("message"))
        if not isinstance(delta, dict):
            return
        self.said.append(_content(delta))
        calls = delta.get("tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(call, dict) or not isinstance(function, dict):
                continue
            names, arguments = self.called.setdefault(_index(call, position), ([], []))
            if isinstance(name := function.get("name"), str):
                names.append(name)
            if isinstance(argument := function.get("arguments"), str):
                arguments.append(argument)

    def prediction(self, path: str, options: Options) -> Prediction:
        calls: list[Json] = [
            {"name": "".join(names), "arguments": _arguments("".join(arguments))}
            for _, (names, arguments) in sorted(self.called.items())
        ]
        return _said("".join(self.said), calls, path, options)


def _choices(choices: list[Json], options: Options) -> tuple[Prediction, ...]:
    if len(choices) > _MAX_CHOICES:
        raise Unreadable(Reason.TOO_LARGE, f"more than {_MAX_CHOICES} choices")
    found: list[tuple[int, Prediction]] = []
    for position, choice in enumerate(choices):
        if not isinstance(choice, dict):
            raise Unreadable(Reason.WRONG_SHAPE, f"choices[{position}] is not an object")
        index = _index(choice, position)
        path = f"/choices/{position}"
        if isinstance(text := choice.get("text"), str):
            found.append((index, Prediction(Kind.TEXT, text, f"{path}/text")))
            continue
        message = choice.get("message")
        if not isinstance(message, dict):
            raise Unreadable(Reason.WRONG_SHAPE, f"choices[{position}] has neither 'message' nor 'text'")
        found.append((index, _said(_content(message), _tool_calls(message), path, options)))
    found.sort(key=lambda pair: pair[0])
    return tuple([prediction for _, prediction in found])


def _said(text: str, calls: list[Json], path: str, options: Options) -> Prediction:
    content = f"{path}/message/content"
    if options.kind is Kind.JSON and not calls:  # a model that is asked for JSON: compared field by field
        try:
            return Prediction(Kind.JSON, json_document.load(text.encode("utf-8", "surrogatepass")), content, "content")
        except Unreadable:
            return Prediction(Kind.TEXT, text, content, "content")
    if options.kind is Kind.LABELS and not calls:  # a model that is asked for a class
        return Prediction(Kind.LABELS, text.strip(), content, "content")
    if not calls:
        return Prediction(Kind.TEXT, text, content, "content")
    asked = Prediction(Kind.JSON, calls, f"{path}/message/tool_calls", "tool_calls")
    return Prediction(Kind.TEXT, text, content, "content", also=(asked,)) if text else asked


def _content(message: dict[str, Json]) -> str:
    """A message's text: a string, or a list of typed parts; a refusal is what the model said, too."""
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(text for text in texts if isinstance(text, str))
    if not content:
        content = message.get("refusal")
    return content if isinstance(content, str) else ""


def _tool_calls(message: dict[str, Json]) -> list[Json]:
    calls = message.get("tool_calls")
    functions: list[Any] = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    functions.append(message.get("function_call"))  # the older form of the same
    return [
        {"name": function.get("name"), "arguments": _arguments(function.get("arguments"))}
        for function in functions
        if isinstance(function, dict)
    ]


def _arguments(arguments: Json) -> Json:
    if not isinstance(arguments, str):
        return arguments
    try:
        return json_document.load(arguments.encode("utf-8", "surrogatepass"))
    except Unreadable:  # a model may write what is no JSON; then the text is what it asked for
        return arguments


def _index(entry: dict[str, Json], position: int) -> int:
    index = entry.get("index")
    return index if type(index) is int and 0 <= index < 1 << 31 else position


def _embeddings(data: list[Json], options: Options) -> tuple[Prediction, ...]:
    if len(data) > options.max_items:
        raise Unreadable(Reason.TOO_LARGE, f"{len(data)} embeddings")
    found: list[tuple[int, Prediction]] = []
    for position, entry in enumerate(data):
        path = f"/data/{position}/embedding"
        if not isinstance(entry, dict) or "embedding" not in entry:
            raise Unreadable(Reason.WRONG_SHAPE, f"nothing at {path}")
        embedding = entry["embedding"]
        vector = _base64_vector(embedding, path) if isinstance(embedding, str) else _vector(embedding, path)
        found.append((_index(entry, position), Prediction(Kind.VECTORS, vector, path, "embedding")))
    found.sort(key=lambda pair: pair[0])
    return tuple([prediction for _, prediction in found])


def _vector(embedding: Json, path: str) -> array[float]:
    if isinstance(embedding, list):
        try:
            return array("d", embedding)  # type: ignore[arg-type]  # refuses what is no number
        except (TypeError, OverflowError):
            pass
    raise Unreadable(Reason.WRONG_SHAPE, f"{path} is no list of numbers")


def _base64_vector(text: str, path: str) -> array[float]:
    singles = array("f")
    try:
        singles.frombytes(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):  # not base64, not ASCII, or no whole number of elements
        raise Unreadable(Reason.WRONG_SHAPE, f"{path} is no base64 of FP32 numbers") from None
    if sys.byteorder == "big":
        singles.byteswap()
    return array("d", singles)
