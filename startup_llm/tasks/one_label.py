"""What tasks share that give one of several classes to something that is not text: an image, a sound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.tasks.base import Task

if TYPE_CHECKING:
    from datasets import Dataset

    from startup_llm.data.task_data import TaskData


class OneLabel(Task):
    """A row's `label` is one class id; an output is the logits of the classes, shape (classes,)."""

    def metrics(self, data: TaskData) -> tuple[str, ...]:
        """Name the metrics."""
        return ("accuracy", "macro_f1")

    def references(self, rows: Dataset) -> np.ndarray:
        """Return the class ids."""
        return np.asarray(rows["label"])

    def decide(self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData) -> np.ndarray:
        """Take the largest logit."""
        return np.asarray(outputs).argmax(axis=1)

    def read_validation(self, logits: np.ndarray, labels: np.ndarray, data: TaskData) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and what the logits decide."""
        return labels, logits.argmax(axis=1)

    def probabilities(self, outputs: Sequence[np.ndarray], problem_type: str) -> np.ndarray:
        """Return the softmax."""
        from scipy.special import softmax

        return softmax(np.asarray(outputs), axis=1)

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return label and score as the pipeline does."""
        scores = self.probabilities(outputs, "")
        return [
            {"label": config.id2label[int(best)], "score": float(row[best])}
            for row, best in zip(scores, scores.argmax(axis=1), strict=True)
        ]

    def example_answer(self, config: Any) -> dict[str, Any]:
        """Return an answer of the right types."""
        return {"label": config.id2label[0], "score": 1.0}

    def compare_with_pipeline(self, classify: Any, inputs: Iterable[Any], outputs: Sequence[np.ndarray]) -> float:
        """Return the largest difference between a pipeline's raw scores and the model's outputs.

        Args:
            classify: A classification pipeline.
            inputs: What it is asked, one a row.
            outputs: The model's logits, in the order of the pipeline's label ids.
        """
        ids = classify.model.config.label2id
        logits = np.zeros((len(outputs), len(ids)))
        for row, one in enumerate(inputs):
            for score in classify(one, top_k=len(ids), function_to_apply="none"):
                logits[row, ids[score["label"]]] = score["score"]
        return float(np.abs(logits - np.asarray(outputs)).max())
