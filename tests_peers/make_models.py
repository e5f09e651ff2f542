"""Fit two scikit-learn classifiers and save them as a server wants them; run by that server's own interpreter.

    python make_models.py mlserver|mlflow DIRECTORY

Blue is a logistic regression on the digits; green the same on a third of the rows, so that they differ now and then. The rows
that neither has seen go to DIRECTORY/rows.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split


def main(server: str, directory: Path) -> None:
    """Train and save."""
    rows, labels = load_digits(return_X_y=True)
    train_rows, held_out, train_labels, _ = train_test_split(rows, labels, test_size=0.4, random_state=0)
    (directory / "rows.json").write_text(json.dumps(held_out.tolist()))
    for name, share in (("blue", 1), ("green", 3)):
        model = LogisticRegression(max_iter=3000).fit(train_rows[::share], train_labels[::share])
        if server == "mlserver":
            import joblib

            folder = directory / name
            folder.mkdir()
            joblib.dump(model, folder / "model.joblib")
            settings = {
                "name": "digits",
                "implementation": "mlserver_sklearn.SKLearnModel",
                "parameters": {"uri": "./model.joblib", "version": name},
            }
            (folder / "model-settings.json").write_text(json.dumps(settings))
        else:
            import mlflow.sklearn

            mlflow.sklearn.save_model(model, str(directory / name))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
