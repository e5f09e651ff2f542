"""A trained model on disk: a skops file and, beside it, a JSON card that says what it is.

Why skops: a pickle runs whatever code it holds when it is opened. A skops file names every type it needs, and a file
that needs a type which neither skops nor `TRUSTED` vouches for is refused before anything in it is built. There is no
fall-back to pickle.
Why a card: a server must know the task, the classes and the feature names before it can answer or refuse a request,
and none of them can be read off a scikit-learn estimator in general. The card holds the SHA-256 of its model file:
two files cannot be replaced in one atomic step, so a crash between the two writes must not leave a card that
describes another model.
Left out: models that were not written by `save`, and any conversion between library versions.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Task = Literal["classification", "regression"]

# Types to accept beyond those that skops itself trusts (the estimators of scikit-learn, NumPy arrays, builtin
# containers). Everything that `models.reference.train` writes is covered by skops, so the list is empty; a type goes
# in by name and with a reason, or not at all.
TRUSTED: tuple[str, ...] = ()


class ModelFileError(Exception):
    """A model or its card cannot be used. The message names the file, what is wrong with it and what to do."""


class UntrustedModelError(ModelFileError):
    """A model file needs types that nobody vouched for. Nothing of it was built."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model file holds.

    `score` is the `metric` on `n_held_out` rows that no version of the model was fitted on. `classes` are the labels
    in the order of the columns of `predict_proba`, `class_names` what they stand for; both are empty for a
    regression. `libraries` are the versions it was trained with.
    """

    name: str
    version: str
    dataset: str
    description: str
    task: Task
    classes: tuple[int, ...]
    class_names: tuple[str, ...]
    n_features: int
    feature_names: tuple[str, ...]
    metric: Literal["accuracy", "r2"]
    score: float
    n_train: int
    n_held_out: int
    libraries: Mapping[str, str]
    sha256: str

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that the model has, the default one first."""
        return ("predict", "predict_proba") if self.task == "classification" else ("predict",)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A fitted estimator with its card."""

    card: ModelCard
    estimator: Any

    def answer(self, rows: NDArray[np.float64], output: str) -> NDArray[Any]:
        """`predict` [n] (INT64 labels or FP64 values) or `predict_proba` FP64 [n, k] of `rows` [n, n_features]."""
        found: NDArray[Any] = getattr(self.estimator, output)(rows)
        return found


def card_path(model_path: Path) -> Path:
    """Where the card of `model_path` is: the same name with `.json`."""
    return model_path.with_suffix(".json")


def save(model_path: Path, estimator: object, card: ModelCard) -> ModelCard:
    """Write the model and then its card, each atomically; the card as written, its `sha256` filled in.

    Raises:
        ModelFileError: the directory cannot be made or written.
    """
    import skops.io

    content = skops.io.dumps(estimator)
    fields = asdict(card) | {"sha256": hashlib.sha256(content).hexdigest()}
    try:
        model_path.parent.mkdir(parents=True, exist_ok=True)
        _replace(model_path, content)
        _replace(card_path(model_path), json.dumps(fields, indent=2, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise ModelFileError(f"cannot write {model_path}: {error.strerror}; choose another directory") from error
    return ModelCard(**fields)


def load(model_path: Path) -> LoadedModel:
    """The model at `model_path`, checked against its card.

    Raises:
        UntrustedModelError: it needs a type that is not trusted.
        ModelFileError: it or its card is missing, unreadable, malformed, or the two do not belong together.
    """
    import skops.io

    if model_path.suffix != ".skops":
        raise ModelFileError(f"{model_path} is not a .skops file; only those are opened, because a pickle runs code")
    card = load_card(model_path)
    content = _read(model_path)
    if hashlib.sha256(content).hexdigest() != card.sha256:
        raise ModelFileError(f"{model_path} is not what {card_path(model_path).name} describes; train it again")
    # Both calls get the bytes that were read above, so that a file replaced in between cannot pass the check of
    # another.
    try:
        untrusted = [name for name in skops.io.get_untrusted_types(data=content) if name not in TRUSTED]
    except Exception as error:  # a damaged archive fails in zipfile, json or skops, each with its own kind of error
        raise ModelFileError(f"{model_path} is not a readable skops file ({error}); train it again") from error
    if untrusted:
        raise UntrustedModelError(
            f"{model_path} needs types that are not trusted: {', '.join(sorted(untrusted))}; it was not opened"
        )
    try:
        estimator = skops.io.loads(content, trusted=list(TRUSTED))
    except Exception as error:
        raise ModelFileError(f"{model_path} cannot be opened ({error}); train it again") from error
    lacking = [output for output in card.outputs if not hasattr(estimator, output)]
    if lacking:
        raise ModelFileError(f"{model_path} holds a {type(estimator).__name__}, which has no {lacking[0]}")
    if getattr(estimator, "n_features_in_", card.n_features) != card.n_features:
        raise ModelFileError(
            f"{model_path} takes {estimator.n_features_in_} features, its card says {card.n_features}; train it again"
        )
    return LoadedModel(card, estimator)


def load_card(model_path: Path) -> ModelCard:
    """The card of `model_path`, without opening the model.

    Raises:
        ModelFileError: it is missing, unreadable or malformed; the first wrong field is named.
    """
    from pydantic import TypeAdapter, ValidationError

    path = card_path(model_path)
    content = _read(path)
    try:
        card = TypeAdapter(ModelCard).validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ModelFileError(f"{path}: {where}: {first['msg']}; train the model again") from error
    if card.task == "classification" and not len(card.classes) == len(card.class_names) > 1:
        raise ModelFileError(f"{path}: classes: there must be two or more, each with a name; train the model again")
    if card.n_features < 1 or len(card.feature_names) != card.n_features:
        raise ModelFileError(f"{path}: feature_names: {card.n_features} are needed; train the model again")
    return card


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelFileError(f"{path} does not exist; write it with: bluegreen model train --out DIR") from error
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}") from error


def _replace(path: Path, content: bytes) -> None:
    """`content` at `path`, whole or not at all: a reader never sees half a file, a crash never leaves one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
