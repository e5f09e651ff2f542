"""Which protocol an answer speaks, told from the request's path and the answer's shape.

The path says what the client asked for, so it is looked at first; but any server may answer anything at
`/invocations` or `/v1/...`, so it is believed only when the shape agrees. Arms may sit behind a prefix, so paths are
matched at their end. What was taken, and by which sign, goes into the evidence: a guess that nobody can see is a
guess that nobody can correct.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from models.predictions import mlflow, open_inference, openai, v1
from models.predictions.prediction import Json, Protocol

_PATHS: Final = (
    (re.compile(r"/v2/models/[^/]+(?:/versions/[^/]+)?/infer(?:_stream)?$"), Protocol.OPEN_INFERENCE),
    (re.compile(r"/v1/models/[^/:]+(?:/(?:versions|labels)/[^/:]+)?:predict$"), Protocol.V1),
    (re.compile(r"/invocations$"), Protocol.MLFLOW),
    (re.compile(r"/(?:chat/completions|completions|embeddings)$"), Protocol.OPENAI),
)
_FITS: Final[dict[Protocol, Callable[[Json], bool]]] = {
    Protocol.OPEN_INFERENCE: open_inference.fits,
    Protocol.V1: v1.fits,
    Protocol.MLFLOW: mlflow.fits,
    Protocol.OPENAI: openai.fits,
}
# A bare array is "json" by shape: only the path can say that it is MLflow's.
_BY_SHAPE: Final = (Protocol.OPENAI, Protocol.OPEN_INFERENCE, Protocol.V1)


@lru_cache(maxsize=1024)
def by_path(path: str) -> Protocol | None:
    """The protocol whose calls end like this path (its query left aside), or None."""
    path = path.partition("?")[0].rstrip("/")
    return next((protocol for pattern, protocol in _PATHS if pattern.search(path)), None)


def by_shape(document: Json) -> Protocol:
    """The protocol whose answers look like this document; JSON when it is none of them."""
    return next((protocol for protocol in _BY_SHAPE if _FITS[protocol](document)), Protocol.JSON)


def recognise(path: str, document: Json) -> tuple[Protocol, str]:
    """The protocol of an answer and the sign it was known by: `path` (which the shape confirms) or `shape`."""
    protocol = by_path(path)
    if protocol is not None and _FITS[protocol](document):
        return protocol, "path"
    return by_shape(document), "shape"
