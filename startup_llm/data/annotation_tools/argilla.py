"""Argilla's records (https://docs.argilla.io/latest/how_to_guides/import_export): fields with responses of users.

Records stand in JSON with fields and responses, or flat as `Dataset.records.to_datasets` writes them: a column for
each field, and QUESTION.responses with QUESTION.responses.users and QUESTION.responses.status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from startup_llm.data.annotation_tools.annotators import Annotation
from startup_llm.data.annotation_tools.elements import read_labels, read_spans

RESPONSES = ".responses"
_USERS, _STATUS, _SUGGESTION = ".responses.users", ".responses.status", ".suggestion"
_OWN = (
    "status",
    "_server_id",
    "vectors",
    "suggestions",
    "responses",
    "fields",
    "metadata",
)
_NOT_SUBMITTED = ("draft", "discarded")


def is_argilla(rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether each row is a record."""
    return all(isinstance(row.get("fields"), dict) and isinstance(row.get("responses"), dict) for row in rows) or any(
        is_flat(row) for row in rows
    )


def is_flat(columns: Mapping[str, Any] | Sequence[str]) -> bool:
    """Return whether columns are those of a flat record."""
    return any(name.endswith(RESPONSES) and f"{name}.users" in columns for name in columns)


def read_argilla(row: dict[str, Any]) -> list[Annotation]:
    """Return a record with each user's submitted responses: spans in `entities`, others named as their question.

    Raises:
        ValueError: If a response is neither a text, a number, labels nor spans.
    """
    nested = isinstance(row.get("fields"), dict)
    texts = {**(row.get("metadata") or {}), **row["fields"]} if nested else _read_flat_texts(row)
    by_user: dict[str, dict[str, Any]] = {}
    for question, user, status, value in _list_responses(row, nested=nested):
        if status not in _NOT_SUBMITTED and value is not None:
            column, read = _read_response(question, value)
            by_user.setdefault(user, {})[column] = read
    return [Annotation({**texts, **values}, (user,) if user else ()) for user, values in by_user.items()]


def _read_flat_texts(row: dict[str, Any]) -> dict[str, Any]:
    marks = (RESPONSES, _USERS, _STATUS, _SUGGESTION, f"{_SUGGESTION}.score", f"{_SUGGESTION}.agent")
    return {
        name: value
        for name, value in row.items()
        if name not in _OWN and not name.endswith(marks) and not isinstance(value, list)
    }


def _list_responses(row: dict[str, Any], *, nested: bool) -> list[tuple[str, str, str | None, Any]]:
    """Return question, user, status and value of each response."""
    listed = []
    if nested:
        for question, responses in row["responses"].items():
            for one in responses or []:
                user, status = str(one.get("user_id") or ""), one.get("status")
                listed.append((question, user, status, one.get("value")))
        return listed
    for name in row:
        if name.endswith(RESPONSES) and row[name]:
            values = row[name]
            users, statuses = (row.get(f"{name}.{part}") or [None] * len(values) for part in ("users", "status"))
            question = name.removesuffix(RESPONSES)
            listed += [(question, str(u or ""), s, v) for u, s, v in zip(users, statuses, values, strict=True)]
    return listed


def _read_response(question: str, value: Any) -> tuple[str, Any]:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return question, value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return question, read_labels(value, question)
    if isinstance(value, list) and all(isinstance(part, dict) and "start" in part for part in value):
        return "entities", sorted(
            read_spans(value, question), key=lambda span: (span["start"], span["end"], span["label"])
        )
    raise ValueError(
        f"the response to {question!r} holds {str(value)[:60]}, expected a text, a number, labels or spans"
    )
