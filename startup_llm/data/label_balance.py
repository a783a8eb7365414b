"""How unevenly labels are spread over rows, and weights that make up for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from startup_llm.data.task_data import SEVERAL_LABELS

if TYPE_CHECKING:
    import datasets

    from startup_llm.data.task_data import TaskData

MACRO_F1_RATIO = 10
"""From more than this ratio of the largest class to the smallest on, macro F1 is the primary metric."""
BALANCE_RATIO = 5
"""From this ratio on, balancing the classes is proposed."""

Balance = Literal["none", "weights", "sampling"]


@dataclass(frozen=True)
class LabelCounts:
    """How many rows have each label.

    Attributes:
        names: The labels.
        counts: Rows with each of them, shape (labels,), int64.
        rows: Number of rows.
        unlabelled: Rows without any label.
    """

    names: Sequence[str]
    counts: np.ndarray
    rows: int
    unlabelled: int = 0

    @property
    def largest(self) -> int:
        """Place of the label with the most rows."""
        return int(self.counts.argmax())

    @property
    def smallest(self) -> int:
        """Place of the label with the fewest rows, of those that occur."""
        return int(np.where(self.counts > 0, self.counts, self.rows + 1).argmin())

    @property
    def ratio(self) -> float:
        """Rows of the largest label over those of the smallest; 1 where no label occurs."""
        smallest = self.counts[self.smallest]
        return float(self.counts[self.largest] / smallest) if smallest else 1.0

    def describe(self) -> str:
        """Name the largest and the smallest label with their rows."""
        most, least = self.largest, self.smallest
        return (
            f"{self.counts[most]:,} training rows of {self.names[most]!r}, "
            f"{self.counts[least]:,} of {self.names[least]!r}"
        )


def count_labels(rows: datasets.Dataset, label_names: Sequence[str]) -> LabelCounts:
    """Count the rows of each label.

    Args:
        rows: With a column label of class ids, or of vectors of 0/1.
        label_names: The labels, in the order of their ids or places.
    """
    labels = rows.select_columns(["label"]).with_format("arrow")[:]["label"].combine_chunks()
    if labels.type == "int64":
        counts = np.bincount(labels.to_numpy(), minlength=len(label_names))
        return LabelCounts(label_names, counts, len(rows))
    flags = labels.flatten().to_numpy().reshape(len(labels), len(label_names))
    return LabelCounts(label_names, flags.sum(axis=0).astype(int), len(rows), int((~flags.any(axis=1)).sum()))


def count_training_labels(data: TaskData) -> LabelCounts | None:
    """Count the training rows of each class, or of each of several labels; None where there are no such rows."""
    labelled = data.problem_type in ("single_label_classification", SEVERAL_LABELS) and data.label_names
    return count_labels(data.splits["train"], data.label_names) if labelled and "train" in data.splits else None


def is_skewed(data: TaskData, ratio: float = BALANCE_RATIO) -> bool:
    """Return whether the largest class has at least so many times the training rows of the smallest."""
    counted = count_training_labels(data)
    return counted is not None and counted.ratio >= ratio


def compute_class_weights(counts: np.ndarray) -> np.ndarray:
    """Return the weight of each class's rows in the loss, whose mean over the rows is 1; shape (classes,).

    Rows over classes times the class's rows (King & Zeng 2001, "Logistic Regression in Rare Events Data", section 4.1;
    scikit-learn's `balanced`), so that every class has the same share of the loss. A class without a row has weight 0.
    """
    present = counts > 0
    weights = np.zeros(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights
