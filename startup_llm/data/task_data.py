from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

NUMBERS = "regression"
"""Problem type of rows with a number each, which the model's single output predicts."""
SEVERAL_LABELS = "multi_label_classification"
"""Problem type of rows that may have several labels, or none."""


@dataclass(frozen=True)
class TaskData:
    """Checked rows of a task.

    Attributes:
        splits: train, validation (unless its fraction is 0) and test, with the task's own columns and `row`, the
            1-based place in the source split, int64. Classification has text, text_pair (where there are pairs) and
            label: int64 class id, float32 vector of 0/1, or float64.
        label_names: Name of each class id or vector place; empty where there are none.
        problem_type: What a label is, as `PretrainedConfig.problem_type`; empty where the rows have no such label.
        notes: Sentences about what was found and decided, to be reported.
        sources: One record per source split: files with sha256 and rows, or Hub id with revision and fingerprint.
        corpus: The texts that test queries search, with id and text; None where nothing is searched.
        unlabelled: The training rows that `data.labels_per_class` leaves out, without their labels; None where it is
            not given.
        out_of_scope: Rows that fit no label, with text, text_pair (where there are pairs), group (the file's name) and
            row: the splits validation, to choose by, and test, to judge by; None where none are given.
        loaded: The splits as they were loaded, where a processor changed them since; None where they are the same.
        source_columns: The source's columns by the option that would name them, such as text_column; empty where the
            task does not keep them.
        left_out: How many rows `data.skip_bad` left out, by what was wrong with them.
    """

    splits: datasets.DatasetDict
    label_names: tuple[str, ...] = ()
    problem_type: str = ""
    notes: list[str] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    unlabelled: datasets.Dataset | None = None
    corpus: datasets.Dataset | None = None
    out_of_scope: datasets.DatasetDict | None = None
    loaded: datasets.DatasetDict | None = None
    source_columns: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def describe(self) -> str:
        """Say how many rows there are and what they are labelled with."""
        rows = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items()) + " rows"
        if shipped := next(
            (source["dataset"] for source in self.sources if {"dataset", "files"} <= source.keys()), None
        ):
            rows = f"the shipped rows {shipped}, not your own: {rows}"
        return f"{rows}; {self.problem_type}, {len(self.label_names)} labels" if self.problem_type else rows


def compute_rows_sha256(dataset: datasets.Dataset) -> str:
    """Return the sha256 of a split's rows in their order, without the column `row`.

    Files, as `datasets.Image` and `datasets.Audio` keep them, count by their bytes, not by their path.

    Args:
        dataset: A split of `TaskData.splits`.
    """
    first = ("text", "text_pair", "label")
    rest = sorted(set(dataset.column_names) - {*first, "row"})
    table = dataset.with_format("arrow")[:]
    columns = [table[name].to_pylist() for name in (*first, *rest) if name in dataset.column_names]
    digest = hashlib.sha256()
    for row in zip(*columns, strict=True):
        digest.update(json.dumps([_plain(value) for value in row]).encode() + b"\n")
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        value = value["bytes"] if isinstance(value["bytes"], bytes) else Path(value["path"]).read_bytes()
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value
