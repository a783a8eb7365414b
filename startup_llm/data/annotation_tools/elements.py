"""What annotations are made of: labels and spans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

START_KEYS = ("start", "start_offset", "begin")
END_KEYS = ("end", "end_offset")
TYPE_KEYS = ("label", "type", "labels", "entity_group", "entity")


class Labels(list):
    """The labels of a row, written as one label where every row has exactly one."""


def read_span(value: Any, column: str) -> dict[str, Any]:
    """Return a span with start, end and label, in characters.

    Args:
        value: An object with start, end and a label, or a list of the three.
        column: Where it stands, for the error.

    Raises:
        ValueError: If it is neither.
    """
    start, end, kind = (None, None, None)
    if isinstance(value, Mapping):
        start, end, kind = (_first(value, keys) for keys in (START_KEYS, END_KEYS, TYPE_KEYS))
        if isinstance(kind, list) and len(kind) == 1:
            kind = kind[0]
    elif isinstance(value, list | tuple) and len(value) == 3:
        start, end, kind = value
    is_whole = all(isinstance(place, int) and not isinstance(place, bool) for place in (start, end))
    if not is_whole or not isinstance(kind, str) or not kind.strip():
        raise ValueError(
            f"{column!r} holds {str(value)[:60]}, expected a span: [start, end, type], or an object with start, end "
            "and label"
        )
    return {"start": start, "end": end, "label": kind}


def read_spans(values: Any, column: str) -> list[dict[str, Any]]:
    """Return the spans of a row, each with start, end and label.

    Raises:
        ValueError: If it is no list of spans.
    """
    if not isinstance(values, list):
        raise ValueError(f"{column!r} holds {str(values)[:60]}, expected a list of spans")
    return [read_span(value, column) for value in values]


def read_labels(values: Any, column: str) -> Labels:
    """Return the labels of a row.

    Raises:
        ValueError: If it is neither a label nor a list of labels.
    """
    values = values if isinstance(values, list) else [values]
    for value in values:
        if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
            raise ValueError(f"{column!r} holds {value!r}, expected the name of a label")
    return Labels(dict.fromkeys(map(str, values)))


def _first(value: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((value[key] for key in keys if value.get(key) is not None), None)
