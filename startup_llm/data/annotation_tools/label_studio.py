"""Label Studio's JSON and JSON-MIN (https://labelstud.io/guide/export): choices and labels of texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from startup_llm.data.annotation_tools.elements import Labels, read_labels, read_spans

_MINIMAL = ("annotation_id", "annotator", "lead_time")


def is_label_studio(rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether each row is a task with annotations, or one as JSON-MIN has it."""
    return all(_is_task(row) for row in rows) or all(all(key in row for key in _MINIMAL) for row in rows)


def _is_task(row: dict[str, Any]) -> bool:
    annotations = row.get("annotations", row.get("completions"))
    return isinstance(row.get("data"), dict) and isinstance(annotations, list)


def read_label_studio(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a task's data with its label, labels or entities; None for a task without annotation.

    Of several annotators the annotation that is marked as ground truth counts, or else what most of them say.

    Raises:
        ValueError: If annotators disagree, or an annotation is of another kind.
    """
    if not _is_task(row):
        return _read_minimal(row)
    annotations = [one for one in row.get("annotations", row.get("completions")) if not one.get("was_cancelled")]
    if not annotations:
        return None
    true = [one for one in annotations if one.get("ground_truth")]
    read = [_read_results(one.get("result") or []) for one in true or annotations]
    counts = Counter(json.dumps(values, sort_keys=True) for values in read)
    (first, most), *others = counts.most_common()
    if others and others[0][1] == most:
        shown = "; ".join(text[:80] for text, count in counts.items() if count == most)
        raise ValueError(
            f"{len(read)} annotators disagree ({shown}); mark one as ground truth in Label Studio, or add one"
        )
    chosen = next(values for values in read if json.dumps(values, sort_keys=True) == first)
    return {**{key: value for key, value in row["data"].items() if key not in chosen}, **chosen}


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
