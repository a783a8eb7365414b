"""Label Studio's JSON and JSON-MIN (https://labelstud.io/guide/export): choices and labels of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from startup_llm.data.annotation_tools.annotators import Annotation
from startup_llm.data.annotation_tools.elements import Labels, read_labels, read_spans

_MINIMAL = ("annotation_id", "annotator", "lead_time")


def is_label_studio(rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether each row is a task with annotations, or one as JSON-MIN has it."""
    return all(_is_task(row) for row in rows) or all(all(key in row for key in _MINIMAL) for row in rows)


def _is_task(row: dict[str, Any]) -> bool:
    annotations = row.get("annotations", row.get("completions"))
    return isinstance(row.get("data"), dict) and isinstance(annotations, list)


def read_label_studio(row: dict[str, Any]) -> list[Annotation]:
    """Return a task's data with the label, labels or entities of each annotator.

    Raises:
        ValueError: If an annotation is of another kind.
    """
    if not _is_task(row):
        return [Annotation(_read_minimal(row), _name_annotator(row.get("annotator")))]
    annotations = [one for one in row.get("annotations", row.get("completions")) if not one.get("was_cancelled")]
    return [
        Annotation(
            {**row["data"], **_read_results(one.get("result") or [])},
            _name_annotator(one.get("completed_by")),
            bool(one.get("ground_truth")),
        )
        for one in annotations
    ]


def find_minimal_task(row: dict[str, Any]) -> Any:
    """Return a row's task in JSON-MIN, which has a row for each annotation; None for another."""
    return None if _is_task(row) else row.get("id")


def _name_annotator(annotator: Any) -> tuple[str, ...]:
    """Return the address, the name and the number of an annotator, those that are known."""
    if isinstance(annotator, dict):
        full_name = " ".join(str(annotator[key]) for key in ("first_name", "last_name") if annotator.get(key))
        names = (annotator.get("email"), annotator.get("username"), full_name, annotator.get("id"))
        return tuple(str(name) for name in names if name not in (None, ""))
    return () if annotator is None else (str(annotator),)


def _read_results(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return an annotation's columns: a control of choices each, named label where it is the only one."""
    controls = list(dict.fromkeys(one["from_name"] for one in results if one.get("type") == "choices"))
    read: dict[str, Any] = {}
    for result in results:
        kind, value = result.get("type"), result.get("value") or {}
        if kind == "choices":
            column = "label" if len(controls) == 1 else str(result["from_name"])
            read[column] = Labels([*read.get(column, ()), *read_labels(value.get("choices"), "choices")])
        elif kind in ("labels", "hypertextlabels"):
            read.setdefault("entities", []).extend(read_spans([value], "value"))
        elif kind != "relation":
            raise ValueError(f"a result of type {kind!r}, expected choices or labels of a text")
    if "entities" in read:
        read["entities"].sort(key=lambda span: (span["start"], span["end"], span["label"]))
    return read or {"entities": []}


def _read_minimal(row: dict[str, Any]) -> dict[str, Any]:
    own = (*_MINIMAL, "id", "created_at", "updated_at")
    read = {key: value for key, value in row.items() if key not in own}
    for key, value in list(read.items()):
        if isinstance(value, dict) and "choices" in value:
            read[key] = read_labels(value["choices"], key)
        elif isinstance(value, list) and value and isinstance(value[0], dict) and "labels" in value[0]:
            read["entities"] = read_spans(read.pop(key), key)
    return read
