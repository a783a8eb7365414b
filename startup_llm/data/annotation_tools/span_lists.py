"""Rows of doccano (https://doccano.github.io/doccano) and spaCy (https://spacy.io/api/data-formats).

Spans stand in `label`, `labels`, `entities` or `spans` as `[start, end, type]` or with start_offset and end_offset,
categories in `cats` with a number each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from startup_llm.data.annotation_tools.annotators import Annotation
from startup_llm.data.annotation_tools.elements import Labels, read_spans

COLUMNS = ("label", "labels", "entities", "spans")
_LEAST_CATEGORY = 0.5


def is_span_lists(rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether a row has categories with numbers, or spans in another form than start, end and label."""
    return any(_has_categories(row) or _find_span_column(row) for row in rows)


def _has_categories(row: dict[str, Any]) -> bool:
    cats = row.get("cats")
    return isinstance(cats, dict) and bool(cats) and all(isinstance(value, int | float) for value in cats.values())


def _find_span_column(row: dict[str, Any]) -> str | None:
    if not isinstance(row.get("text", row.get("data")), str):
        return None
    return next((column for column in COLUMNS if _is_other_span(row.get(column))), None)


def _is_other_span(values: Any) -> bool:
    first = values[0] if isinstance(values, list) and values else None
    if isinstance(first, dict):
        return "start_offset" in first
    return isinstance(first, list) and [type(part) for part in first] == [int, int, str]


def read_span_lists(row: dict[str, Any]) -> list[Annotation]:
    """Return a row with its spans in `entities` and its categories in `label`.

    Raises:
        ValueError: If a span or a category cannot be read.
    """
    read = dict(row)
    if "text" not in row and isinstance(row.get("data"), str):
        read["text"] = read.pop("data")
    if "cats" in row:
        cats = row["cats"] or {}
        wrong = next((name for name, value in cats.items() if not isinstance(value, int | float)), None)
        if wrong is not None:
            raise ValueError(f"'cats' holds {wrong}: {cats[wrong]!r}, expected a number from 0 to 1")
        del read["cats"]
        read["label"] = Labels(name for name, value in cats.items() if value >= _LEAST_CATEGORY)
    for column in COLUMNS:
        values = row.get(column)
        if isinstance(values, list) and (not values or isinstance(values[0], list | tuple | dict)):
            del read[column]
            if values or "entities" not in read or not read["entities"]:
                read["entities"] = read_spans(values, column)
    return [Annotation(read)]
