"""Honest baselines: what a model has to beat to be worth its cost. Each task names its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import DatasetDict

    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.metrics import Values

    Baseline = Callable[[DatasetDict, TaskData], Values]
    """From the splits and what is known of their labels to predictions on the test rows."""


def predict_baselines(baselines: Mapping[str, Baseline], data: TaskData) -> dict[str, Values]:
    """Fit each baseline on the training rows and predict the test rows.

    Args:
        baselines: By name, as `Task.baselines` gives them.
        data: The task's rows.

    Returns:
        Predictions per name, in the form that the task's metrics take.
    """
    return {name: predict(data.splits, data) for name, predict in baselines.items()}


def predict_majority(splits: DatasetDict, data: TaskData) -> np.ndarray:
    """Answer with the most frequent class; for a target in numbers, with its mean."""
    from sklearn.dummy import DummyClassifier, DummyRegressor

    model = DummyRegressor() if data.problem_type == "regression" else DummyClassifier(strategy="most_frequent")
    labels = np.asarray(splits["train"]["label"])
    return model.fit(np.zeros((len(labels), 1)), labels).predict(np.zeros((len(splits["test"]), 1)))
