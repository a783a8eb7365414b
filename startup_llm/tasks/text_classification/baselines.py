"""Honest baselines for labelled texts: a linear model of their words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import DatasetDict

    from startup_llm.data.task_data import TaskData


def join_pairs(rows: Any) -> list[str]:
    """Return each row's text, a pair's two texts joined by a line break."""
    if "text_pair" in rows.column_names:
        return [f"{a}\n{b}" for a, b in zip(rows["text"], rows["text_pair"], strict=True)]
    return list(rows["text"])


def predict_tfidf_linear_svm(splits: DatasetDict, data: TaskData) -> np.ndarray:
    """Answer by TF-IDF over words and word pairs, and a linear support vector machine (Joachims 1998)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC, LinearSVR

    machine = {
        "single_label_classification": LinearSVC,
        "multi_label_classification": lambda: OneVsRestClassifier(LinearSVC()),
        "regression": lambda: LinearSVR(max_iter=10_000),
    }[data.problem_type]()
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), machine)
    model.fit(join_pairs(splits["train"]), np.asarray(splits["train"]["label"]))
    return model.predict(join_pairs(splits["test"]))
