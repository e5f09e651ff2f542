"""Fits the reference models: for each data set one `blue`, and successors to it that are good or bad in a known way.

The data are those that scikit-learn carries, so nothing is fetched. One fixed split keeps 40 % of the rows out of
every fit: they score the models, and `traffic` hands them out as requests, so that what is measured on live traffic
can be checked against what is known offline.

| version       | what it is                                                                                           |
|---------------|------------------------------------------------------------------------------------------------------|
| blue          | the model in production: plain logistic regression, or ridge regression                              |
| green         | a good successor: the same family, better tuned. Scores at least as well and mostly answers the same |
| green-third   | green's recipe on a third of the rows: wrong here and there, on no pattern that a person would spot  |
| green-swapped | green's recipe with the labels of two classes exchanged: right everywhere else (classification only) |

Left out: model selection. The recipes are constants, chosen once so that these statements hold; the tests assert
them. The estimators are small linear ones, because a row must be answered in well under a millisecond.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.reference.artifact import ModelCard, card_path, save

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALL: tuple[str, ...] = ("digits", "breast-cancer", "diabetes")
HELD_OUT_SHARE = 0.4
SEED = 0

# The two labels that `green-swapped` learns the wrong way round, by data set. For the digits two that people confuse
# as well.
SWAPPED: dict[str, tuple[int, int]] = {"digits": (3, 8), "breast-cancer": (0, 1)}


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model on disk: the skops file, the JSON card beside it, and what the card says."""

    path: Path
    card_path: Path
    card: ModelCard


@dataclass(frozen=True, slots=True)
class _Data:
    """A data set, split. Features are FP64 [n, n_features]; targets [n] are labels (INT64) or values (FP64)."""

    train_rows: NDArray[np.float64]
    train_targets: NDArray[Any]
    held_out_rows: NDArray[np.float64]
    held_out_targets: NDArray[Any]
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]


def versions(dataset: str) -> tuple[str, ...]:
    """The versions that `train` fits for `dataset`, in this order.

    Raises:
        ValueError: there is no such data set.
    """
    _require(dataset)
    swapped = ("green-swapped",) if dataset in SWAPPED else ()
    return ("blue", "green", "green-third", *swapped)


def train(
    directory: Path,
    datasets: Sequence[str] = ALL,
    progress: Callable[[str], None] | None = None,
) -> list[TrainedModel]:
    """Fit every version of `datasets` and write each as `<data set>-<version>.skops` with its card into `directory`.

    The same library versions give the same models. `progress` is called with `<data set>-<version>` after each is on
    disk.

    Raises:
        ValueError: an unknown data set.
        ModelFileError: the directory cannot be written.
    """
    planned = [(dataset, version) for dataset in dict.fromkeys(datasets) for version in versions(dataset)]
    trained = []
    for dataset, version in planned:
        trained.append(_train_one(directory, dataset, version))
        if progress is not None:
            progress(f"{dataset}-{version}")
    return trained


def traffic(dataset: str) -> tuple[list[list[float]], list[int] | list[float]]:
    """The held-out rows [n][n_features] of `dataset` and their true labels or values [n]: what no model here has seen.

    Raises:
        ValueError: there is no such data set.
    """
    data = _data(dataset)
    targets: list[int] | list[float] = data.held_out_targets.tolist()
    return data.held_out_rows.tolist(), targets


def _train_one(directory: Path, dataset: str, version: str) -> TrainedModel:
    data = _data(dataset)
    rows, targets = _material(dataset, version, data)
    estimator, description = _recipe(dataset, version)
    from threadpoolctl import threadpool_limits

    # After the recipe, because it limits the libraries that are loaded by now. One thread: on matrices this small
    # BLAS threads spend twenty times the work on waiting for each other, and the order in which they add up changes
    # the last digits from run to run.
    with threadpool_limits(limits=1):
        estimator.fit(rows, targets)
    classifies = bool(data.class_names)
    path = directory / f"{dataset}-{version}.skops"
    card = ModelCard(
        name=dataset,
        version=version,
        dataset=dataset,
        description=description,
        task="classification" if classifies else "regression",
        classes=tuple(estimator.classes_.tolist()) if classifies else (),
        class_names=data.class_names,
        n_features=int(rows.shape[1]),
        feature_names=data.feature_names,
        metric="accuracy" if classifies else "r2",
        score=float(estimator.score(data.held_out_rows, data.held_out_targets)),
        n_train=len(rows),
        n_held_out=len(data.held_out_rows),
        libraries={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("scikit-learn", "numpy", "scipy", "skops")},
        },
        sha256="",
    )
    return TrainedModel(path, card_path(path), save(path, estimator, card))


def _material(dataset: str, version: str, data: _Data) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """The rows and targets that `version` is fitted on: all, a third of them, or all with two labels exchanged."""
    from sklearn.model_selection import train_test_split

    rows, targets = data.train_rows, data.train_targets
    if version == "green-third":
        rows, _, targets, _ = train_test_split(
            rows, targets, train_size=1 / 3, random_state=SEED, stratify=targets if data.class_names else None
        )
    elif version == "green-swapped":
        one, other = SWAPPED[dataset]
        is_one, is_other = targets == one, targets == other
        targets = targets.copy()
        targets[is_one], targets[is_other] = other, one
    return rows, targets


def _recipe(dataset: str, version: str) -> tuple[Any, str]:
    """The unfitted estimator of `version`, and a line that says what it is. All greens of a data set share a recipe."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    is_blue = version == "blue"
    if dataset == "digits":  # pixels are all on one scale (0 to 16) already, so a scaler would only cost time
        strength = 0.1 if is_blue else 0.05
        estimator = LogisticRegression(C=strength, max_iter=1000)
        what = f"logistic regression, C={strength}"
    elif dataset == "breast-cancer":
        strength = 1.0 if is_blue else 0.5
        estimator = make_pipeline(StandardScaler(), LogisticRegression(C=strength))
        what = f"standardised logistic regression, C={strength}"
    elif is_blue:
        estimator = make_pipeline(StandardScaler(), Ridge(alpha=1.0))
        what = "standardised ridge regression, alpha=1"
    else:
        products = PolynomialFeatures(degree=2, interaction_only=True, include_bias=False)
        estimator = make_pipeline(StandardScaler(), products, Ridge(alpha=200.0))
        what = "ridge regression on the features and their products, alpha=200"
    if version == "green-third":
        what += ", on a third of the training rows"
    elif version == "green-swapped":
        what += ", with the labels {} and {} exchanged in training".format(*SWAPPED[dataset])
    return estimator, what


@cache
def _data(dataset: str) -> _Data:
    _require(dataset)
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    if dataset == "digits":
        source = datasets.load_digits()
    elif dataset == "breast-cancer":
        source = datasets.load_breast_cancer()
    else:  # unscaled, as a client would measure them: years, blood pressure, serum values
        source = datasets.load_diabetes(scaled=False)
    class_names = tuple(str(name) for name in source["target_names"]) if dataset in SWAPPED else ()
    train_rows, held_out_rows, train_targets, held_out_targets = train_test_split(
        source["data"].astype("float64"),
        source["target"],
        test_size=HELD_OUT_SHARE,
        random_state=SEED,
        stratify=source["target"] if class_names else None,
    )
    names = tuple(str(name) for name in source["feature_names"])
    return _Data(train_rows, train_targets, held_out_rows, held_out_targets, names, class_names)


def _require(dataset: str) -> None:
    if dataset not in ALL:
        raise ValueError(f"no data set {dataset!r}; there are {', '.join(ALL)}")
