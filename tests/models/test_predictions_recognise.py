"""The protocol is found by path and shape, and the path is believed only when the shape agrees."""

import pytest

from models.predictions import recognise
from models.predictions.prediction import Protocol

OUTPUTS = {"outputs": [{"name": "y", "datatype": "INT64", "shape": [1], "data": [1]}]}
PREDICTIONS = {"predictions": [1]}
CHOICES = {"choices": []}
EMBEDDINGS = {"object": "list", "data": [{"embedding": [1.0]}]}


@pytest.mark.parametrize(
    ("path", "protocol"),
    [
        ("/v2/models/iris/infer", Protocol.OPEN_INFERENCE),
        ("/v2/models/iris/versions/2/infer", Protocol.OPEN_INFERENCE),
        ("/seldon/ns/name/v2/models/iris/infer?x=1", Protocol.OPEN_INFERENCE),
        ("/v2/models/iris/ready", None),
        ("/v2/models/iris/generate", None),
        ("/v1/models/iris:predict", Protocol.V1),
        ("/v1/models/iris/versions/3:predict", Protocol.V1),
        ("/v1/models/iris:explain", None),
        ("/invocations", Protocol.MLFLOW),
        ("/invocations/", Protocol.MLFLOW),
        ("/endpoints/iris/invocations", Protocol.MLFLOW),
        ("/v1/chat/completions", Protocol.OPENAI),
        ("/openai/v1/completions", Protocol.OPENAI),
        ("/v1/embeddings?api-version=1", Protocol.OPENAI),
        ("/predict", None),
        ("", None),
    ],
)
def test_by_path(path, protocol):
    assert recognise.by_path(path) is protocol


@pytest.mark.parametrize(
    ("document", "protocol"),
    [
        (OUTPUTS, Protocol.OPEN_INFERENCE),
        (PREDICTIONS, Protocol.V1),
        ({"outputs": [[1.0]]}, Protocol.V1),
        (CHOICES, Protocol.OPENAI),
        (EMBEDDINGS, Protocol.OPENAI),
        ({"data": [1]}, Protocol.JSON),
        ({"outputs": 5}, Protocol.JSON),
        ([1], Protocol.JSON),
        (None, Protocol.JSON),
        ({}, Protocol.JSON),
    ],
)
def test_by_shape(document, protocol):
    assert recognise.by_shape(document) is protocol


@pytest.mark.parametrize(
    ("path", "document", "found"),
    [
        ("/v2/models/m/infer", OUTPUTS, (Protocol.OPEN_INFERENCE, "path")),
        ("/v2/models/m/infer", PREDICTIONS, (Protocol.V1, "shape")),
        ("/invocations", PREDICTIONS, (Protocol.MLFLOW, "path")),
        ("/invocations", [1], (Protocol.MLFLOW, "path")),
        ("/invocations", CHOICES, (Protocol.OPENAI, "shape")),
        ("/v1/embeddings", {"x": 1}, (Protocol.JSON, "shape")),
        ("/predict", [1], (Protocol.JSON, "shape")),
    ],
)
def test_the_shape_confirms_the_path(path, document, found):
    assert recognise.recognise(path, document) == found
