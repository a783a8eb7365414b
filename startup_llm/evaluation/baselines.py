"""The honest baselines: what a model has to beat to be worth its cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import DatasetDict


def predict_baselines(names: Sequence[str], splits: DatasetDict, problem_type: str) -> dict[str, np.ndarray]:
    """Fit each baseline on the training rows and predict the test rows.

    Args:
        names: Keys of `BASELINES`.
        splits: `train` and `test` with the columns text, label and perhaps text_pair.
        problem_type: As `PretrainedConfig.problem_type`.

    Returns:
        Predictions per name: class ids, shape (rows,); 0/1, shape (rows, labels); or floats, shape (rows,).
    """
    texts, test = join_pairs(splits["train"]), join_pairs(splits["test"])
    labels = np.asarray(splits["train"]["label"])
    return {name: BASELINES[name](problem_type).fit(texts, labels).predict(test) for name in names}


def join_pairs(rows: Any) -> list[str]:
    """Return each row's text, a pair's two texts joined by a line break."""
    if "text_pair" in rows.column_names:
        return [f"{a}\n{b}" for a, b in zip(rows["text"], rows["text_pair"], strict=True)]
    return list(rows["text"])


def _build_majority(problem_type: str) -> Any:
    """The most frequent class; for a target in numbers, its mean."""
    from sklearn.dummy import DummyClassifier, DummyRegressor

    return DummyRegressor() if problem_type == "regression" else DummyClassifier(strategy="most_frequent")


def _build_tfidf_linear_svm(problem_type: str) -> Any:
    """TF-IDF over words and word pairs, and a linear support vector machine (Joachims 1998)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC, LinearSVR

    model = {
        "single_label_classification": LinearSVC,
        "multi_label_classification": lambda: OneVsRestClassifier(LinearSVC()),
        "regression": lambda: LinearSVR(max_iter=10_000),
    }[problem_type]()
    return make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), model)


BASELINES: dict[str, Callable[[str], Any]] = {"majority": _build_majority, "tfidf-linear-svm": _build_tfidf_linear_svm}
