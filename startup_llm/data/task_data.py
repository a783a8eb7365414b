from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class TaskData:
    """Checked rows of a task.

    Attributes:
        splits: train, validation (unless its fraction is 0) and test, with the task's own columns and `row`, the
            1-based place in the source split, int64. Classification has text, text_pair (where there are pairs) and
            label: int64 class id, float32 vector of 0/1, or float64.
        label_names: Name of each class id or vector place; empty where there are none.
        problem_type: What a label is, as `PretrainedConfig.problem_type`.
        notes: Sentences about what was found and decided, to be said aloud.
        sources: One record per source split: files with sha256 and rows, or Hub id with revision and fingerprint.
    """

    splits: datasets.DatasetDict
    label_names: tuple[str, ...]
    problem_type: str
    notes: list[str] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
