from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.reference.artifact import load
from models.reference.train import ALL, HELD_OUT_SHARE, SWAPPED, TrainedModel, traffic, train, versions


def predictions(directory: Path, dataset: str, version: str) -> np.ndarray:
    rows, _ = traffic(dataset)
    return load(directory / f"{dataset}-{version}.skops").answer(np.array(rows), "predict")


def score(directory: Path, dataset: str, version: str) -> float:
    return load(directory / f"{dataset}-{version}.skops").card.score


def test_every_version_of_every_data_set_is_on_disk_and_nothing_else(reference_models: Path) -> None:
    expected = {f"{d}-{v}.{kind}" for d in ALL for v in versions(d) for kind in ("skops", "json")}
    assert {path.name for path in reference_models.iterdir()} == expected
    assert versions("digits") == ("blue", "green", "green-third", "green-swapped")
    assert versions("diabetes") == ("blue", "green", "green-third")


@pytest.mark.parametrize("dataset", ALL)
def test_the_score_on_the_card_is_that_on_the_traffic(reference_models: Path, dataset: str) -> None:
    _, truth = traffic(dataset)
    for version in versions(dataset):
        found = predictions(reference_models, dataset, version)
        if dataset == "diabetes":
            error = np.array(truth) - found
            expected = 1 - float(error @ error) / float(np.var(truth) * len(truth))
        else:
            expected = float(np.mean(found == truth))
        assert score(reference_models, dataset, version) == pytest.approx(expected)


@pytest.mark.parametrize("dataset", ALL)
def test_green_is_at_least_as_good_as_blue(reference_models: Path, dataset: str) -> None:
    assert score(reference_models, dataset, "green") >= score(reference_models, dataset, "blue")


@pytest.mark.parametrize("dataset", ALL)
def test_a_third_of_the_rows_makes_a_worse_model(reference_models: Path, dataset: str) -> None:
    green = load(reference_models / f"{dataset}-green.skops").card
    third = load(reference_models / f"{dataset}-green-third.skops").card
    assert third.n_train == green.n_train // 3
    assert third.score < green.score - 0.015
    assert third.score < score(reference_models, dataset, "blue")


def test_green_answers_mostly_like_blue_and_the_bad_ones_visibly_less(reference_models: Path) -> None:
    blue, green, third, swapped = (predictions(reference_models, "digits", v) for v in versions("digits"))
    assert 0.98 < np.mean(green == blue) < 1
    assert 0.90 < np.mean(third == blue) < 0.97
    assert 0.70 < np.mean(swapped == blue) < 0.85


@pytest.mark.parametrize("dataset", sorted(SWAPPED))
def test_swapped_labels_are_wrong_in_two_classes_and_nowhere_else(reference_models: Path, dataset: str) -> None:
    one, other = SWAPPED[dataset]
    green, swapped = (predictions(reference_models, dataset, v) for v in ("green", "green-swapped"))
    exchanged = np.where(green == one, other, np.where(green == other, one, green))
    assert np.mean(swapped == exchanged) > 0.99
    truth = np.array(traffic(dataset)[1])
    for label, instead in ((one, other), (other, one)):
        assert np.mean(swapped[truth == label] == instead) > 0.9
    unaffected = ~np.isin(truth, (one, other))
    if unaffected.any():
        assert np.mean(swapped[unaffected] == truth[unaffected]) > 0.95


@pytest.mark.parametrize(("dataset", "n_rows", "n_features"), [("digits", 1797, 64), ("breast-cancer", 569, 30)])
def test_a_card_of_a_classifier(reference_models: Path, dataset: str, n_rows: int, n_features: int) -> None:
    card = load(reference_models / f"{dataset}-blue.skops").card
    assert (card.name, card.version, card.dataset) == (dataset, "blue", dataset)
    assert (card.task, card.metric, card.outputs) == ("classification", "accuracy", ("predict", "predict_proba"))
    assert card.classes == tuple(range(len(card.class_names)))
    assert (card.n_features, len(set(card.feature_names))) == (n_features, n_features)
    assert card.n_train + card.n_held_out == n_rows
    assert card.n_held_out / n_rows == pytest.approx(HELD_OUT_SHARE, abs=0.01)
    assert {"python", "scikit-learn", "numpy", "skops"} <= card.libraries.keys()


def test_a_card_of_a_regression(reference_models: Path) -> None:
    card = load(reference_models / "diabetes-blue.skops").card
    assert (card.task, card.metric, card.outputs) == ("regression", "r2", ("predict",))
    assert (card.classes, card.class_names) == ((), ())
    assert card.feature_names[:3] == ("age", "sex", "bmi")


def test_no_model_was_fitted_on_a_row_of_the_traffic() -> None:
    from sklearn.datasets import load_diabetes

    rows, truth = traffic("diabetes")
    every = {tuple(row) for row in load_diabetes(scaled=False)["data"].tolist()}
    assert len(every) == 442, "rows are told apart by their values below"
    held_out = {tuple(row) for row in rows}
    assert held_out < every
    assert len(held_out) == len(truth) == 442 - 265  # 265 is what the cards say was fitted


def test_traffic_is_plain_numbers_and_the_same_every_time() -> None:
    rows, truth = traffic("digits")
    assert all(type(value) is float for value in rows[0])
    assert all(type(label) is int for label in truth)
    assert traffic("digits") == (rows, truth)
    assert type(traffic("diabetes")[1][0]) is float


def test_training_again_gives_the_same_model(reference_models: Path, tmp_path: Path) -> None:
    train(tmp_path, ["breast-cancer"])
    rows = np.array(traffic("breast-cancer")[0])
    for version in versions("breast-cancer"):
        first, again = (load(d / f"breast-cancer-{version}.skops") for d in (reference_models, tmp_path))
        assert np.array_equal(first.answer(rows, "predict_proba"), again.answer(rows, "predict_proba"))
        assert first.card.score == again.card.score


def test_progress_is_told_after_each_model_and_each_data_set_is_trained_once(tmp_path: Path) -> None:
    told: list[str] = []

    def progress(name: str) -> None:
        assert (tmp_path / f"{name}.skops").exists()
        assert (tmp_path / f"{name}.json").exists()
        told.append(name)

    trained = train(tmp_path, ["diabetes", "diabetes"], progress)
    assert told == ["diabetes-blue", "diabetes-green", "diabetes-green-third"]
    assert [model.path.stem for model in trained] == told
    assert all(isinstance(model, TrainedModel) and load(model.path).card == model.card for model in trained)


def test_an_unknown_data_set_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data set 'iris'; there are digits, breast-cancer, diabetes"):
        train(tmp_path / "out", ["diabetes", "iris"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="no data set 'iris'"):
        traffic("iris")
