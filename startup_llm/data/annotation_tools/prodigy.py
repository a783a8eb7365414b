"""Prodigy's JSONL (https://prodi.gy/docs/api-interfaces): rejected and ignored rows are not learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from startup_llm.data.annotation_tools.annotators import Annotation
from startup_llm.data.annotation_tools.elements import read_labels, read_spans

ANSWERS = ("accept", "reject", "ignore")
_OWN = ("answer", "tokens", "options", "accept", "spans", "config")
"""What is read, or says how the row was shown."""


def is_prodigy(rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether each row has an answer, and what was asked."""
    return all(row.get("answer") in ANSWERS for row in rows) and any(
        key in row for row in rows for key in ("_input_hash", "_task_hash", "_view_id", "spans", "options", "accept")
    )


def find_prodigy_task(row: dict[str, Any]) -> Any:
    """Return the task that other annotators may have answered too; None where the row does not tell its annotator."""
    return row.get("_task_hash") if _name_annotator(row) else None


def _name_annotator(row: dict[str, Any]) -> tuple[str, ...]:
    names = (row.get(key) for key in ("_annotator_id", "_session_id"))
    return tuple(dict.fromkeys(str(name) for name in names if name))


def read_prodigy(row: dict[str, Any]) -> list[Annotation]:
    """Return the text and meta with its label, labels or entities of a row that was accepted or rejected.

    Raises:
        ValueError: If an answer, a choice or a span cannot be read.
    """
    if row.get("answer") not in ANSWERS:
        raise ValueError(f"'answer' is {row.get('answer')!r}, expected one of {', '.join(ANSWERS)}")
    if row["answer"] != "accept":
        return [Annotation(None, _name_annotator(row))] if row["answer"] == "reject" else []
    read = {key: value for key, value in row.items() if key not in _OWN and not key.startswith("_")}
    if "accept" in row or "options" in row:
        read["label"] = read_labels(row.get("accept") or [], "accept")
    elif "spans" in row:
        read["entities"] = read_spans(row["spans"] or [], "spans")
    elif "label" in row:
        read["label"] = read_labels(row["label"], "label")
    return [Annotation(read, _name_annotator(row))]
