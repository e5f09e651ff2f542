"""A small language for what the mirror sees: `see(blue=label(3), green=label(5))` is an observation."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from shadow.evidence import Evidence, EvidenceOptions
from shadow.observation import Observation, Outcome

_numbers = itertools.count(1)


def answer(body: Any, *, ms: float = 10.0, status: int = 200, **more: Any) -> Outcome:
    """An answer with a JSON body (or bytes as they are) that took `ms` milliseconds."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **more.pop("headers", {})}
    return Outcome(status, headers, data, more.pop("first_ms", 0.8 * ms), ms, **more)


def labels(*values: Any, datatype: str = "INT64", **more: Any) -> Outcome:
    """An Open Inference Protocol answer with one label for each item of the batch."""
    output = {"name": "predict", "shape": [len(values), 1], "datatype": datatype, "data": list(values)}
    return answer({"model_name": "m", "model_version": "1", "outputs": [output]}, **more)


def numbers(*values: float, **more: Any) -> Outcome:
    """The same with one number for each item."""
    return labels(*values, datatype="FP64", **more)


def chat(text: str, **more: Any) -> Outcome:
    """An OpenAI-style chat completion."""
    return answer({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}, **more)


def failed(why: str = "connect", ms: float = 1.0) -> Outcome:
    """No answer."""
    return Outcome(0, {}, b"", 0.0, ms, failure=why)


def see(
    blue: Outcome,
    green: Outcome | None = None,
    again: Outcome | None = None,
    *,
    items: int = 1,
    live: str = "blue",
    **more: Any,
) -> Observation:
    """One observation; green answers like blue when nothing is said of it."""
    request = more.pop("request", {"inputs": [{"name": "x", "shape": [items, 1], "datatype": "FP64", "data": [0.5] * items}]})
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    headers = {"content-type": "application/json", **more.pop("headers", {})}
    return Observation(
        release=1,
        revision=7,
        request_id=more.pop("request_id", f"r{next(_numbers)}"),
        started=1.7e9,
        method="POST",
        path=more.pop("path", "/v2/models/m/infer"),
        request_headers=headers,
        request_body=body,
        live=live,
        blue=blue,
        green=blue if green is None else green,
        again=again,
        **more,
    )


@pytest.fixture(scope="session")
def wire() -> SimpleNamespace:
    """The language: `answer`, `labels`, `numbers`, `chat`, `failed`, `see`."""
    return SimpleNamespace(answer=answer, labels=labels, numbers=numbers, chat=chat, failed=failed, see=see)


@pytest.fixture
def evidence_of() -> Callable[..., Evidence]:
    """Evidence about release 1 that has seen these observations; options by name. A fault of the evidence's own fails the test."""
    made: list[Evidence] = []

    def build(*observations: Observation, **options: Any) -> Evidence:
        evidence = Evidence(1, EvidenceOptions(**options))
        for observation in observations:
            evidence.observe(observation)
        made.append(evidence)
        return evidence

    yield build
    for evidence in made:
        assert evidence.internal_failures == 0, evidence.internal_last
