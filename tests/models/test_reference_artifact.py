from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from models.reference.artifact import (
    ModelCard,
    ModelFileError,
    UntrustedModelError,
    card_path,
    load,
    load_card,
    save,
)

ROWS = np.array([[0.0, 1.0], [1.0, 0.0], [0.2, 0.9], [0.8, 0.1]])
CARD = ModelCard(
    name="tiny",
    version="1",
    dataset="four rows",
    description="logistic regression",
    task="classification",
    classes=(0, 1),
    class_names=("left", "right"),
    n_features=2,
    feature_names=("x", "y"),
    metric="accuracy",
    score=1.0,
    n_train=4,
    n_held_out=4,
    libraries={"python": "3"},
    sha256="",
)


def fitted() -> LogisticRegression:
    return LogisticRegression().fit(ROWS, [1, 0, 1, 0])


def written(directory: Path, content: bytes, card: ModelCard = CARD) -> Path:
    """`content` as a model file whose card vouches for it."""
    path = directory / "tiny.skops"
    save(path, fitted(), card)
    path.write_bytes(content)
    fields = json.loads(card_path(path).read_text())
    card_path(path).write_text(json.dumps(fields | {"sha256": hashlib.sha256(content).hexdigest()}))
    return path


def double(rows: Any) -> Any:
    return rows * 2


class RunsWhenOpened:
    """A pickle of this writes the file that it names when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "directory" / "tiny.skops"
    card = save(path, fitted(), CARD)
    loaded = load(path)
    assert loaded.card == card == load_card(path)
    assert replace(card, sha256="") == CARD
    assert np.array_equal(loaded.answer(ROWS, "predict"), fitted().predict(ROWS))
    assert np.array_equal(loaded.answer(ROWS, "predict_proba"), fitted().predict_proba(ROWS))
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny.json", "tiny.skops"]


def test_a_model_with_code_of_its_own_is_not_opened(tmp_path: Path) -> None:
    pipeline = make_pipeline(FunctionTransformer(double), fitted()).fit(ROWS, [1, 0, 1, 0])
    path = tmp_path / "tiny.skops"
    save(path, pipeline, CARD)
    with pytest.raises(UntrustedModelError, match=r"needs types that are not trusted: .*double.*not opened"):
        load(path)


def test_a_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "made-by-the-pickle"
    content = pickle.dumps(RunsWhenOpened(victim))
    with pytest.raises(ModelFileError, match="not a readable skops file"):
        load(written(tmp_path, content))
    assert not victim.exists()
    pickle.loads(content)
    assert victim.exists(), "the pickle was harmless, so the test above showed nothing"


def test_only_skops_files_are_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"not a \.skops file; only those are opened"):
        load(tmp_path / "model.pkl")


def test_a_missing_model_or_card_names_the_file_and_the_command(tmp_path: Path) -> None:
    path = tmp_path / "tiny.skops"
    with pytest.raises(ModelFileError, match=r"tiny\.json does not exist; .*bluegreen model train"):
        load(path)
    save(path, fitted(), CARD)
    path.unlink()
    with pytest.raises(ModelFileError, match=r"tiny\.skops does not exist"):
        load(path)


def test_a_card_beside_another_model_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "tiny.skops"
    save(path, fitted(), CARD)
    path.write_bytes(skops.io.dumps(LogisticRegression(C=2).fit(ROWS, [0, 0, 1, 1])))
    with pytest.raises(ModelFileError, match=r"not what tiny\.json describes"):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.pop("task"), "task: Field required"),
        (lambda fields: fields.update(task="clustering"), "task: Input should be"),
        (lambda fields: fields.update(n_features="two"), "n_features: Input should be a valid integer"),
        (lambda fields: fields.update(feature_names=["x"]), "feature_names: 2 are needed"),
        (lambda fields: fields.update(class_names=["left"]), "classes: there must be two or more"),
    ],
)
def test_a_wrong_card_names_its_first_wrong_field(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "tiny.skops"
    save(path, fitted(), CARD)
    fields = json.loads(card_path(path).read_text())
    change(fields)
    card_path(path).write_text(json.dumps(fields))
    with pytest.raises(ModelFileError, match=rf"tiny\.json: {message}"):
        load(path)


def test_a_card_that_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "tiny.skops"
    save(path, fitted(), CARD)
    card_path(path).write_text("{")
    with pytest.raises(ModelFileError, match="document: Invalid JSON"):
        load(path)


def test_a_card_that_does_not_fit_the_estimator(tmp_path: Path) -> None:
    three = replace(CARD, n_features=3, feature_names=("x", "y", "z"))
    with pytest.raises(ModelFileError, match="takes 2 features, its card says 3"):
        load(written(tmp_path, skops.io.dumps(fitted()), three))
    with pytest.raises(ModelFileError, match="holds a dict, which has no predict"):
        load(written(tmp_path, skops.io.dumps({"a": 1})))


def test_a_failed_write_leaves_no_draft_behind(tmp_path: Path) -> None:
    path = tmp_path / "tiny.skops"
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(ModelFileError, match=r"cannot write .*tiny\.skops"):
        save(path, fitted(), CARD)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.skops"]


@settings(max_examples=60, deadline=None)  # each example writes files to disk
@given(st.binary(max_size=200))
def test_rubbish_is_always_a_clear_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.raises(ModelFileError):
        load(written(Path(directory), content))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_is_a_clear_error_or_still_loads(data: st.DataObject) -> None:
    content = bytearray(skops.io.dumps(fitted()))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as directory:
        try:
            loaded = load(written(Path(directory), bytes(content)))
        except ModelFileError:
            return
        assert loaded.answer(ROWS, "predict").shape == (4,)
