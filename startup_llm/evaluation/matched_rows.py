"""Predictions of two models on the same rows, matched by the rows' content and by the labels' names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.evaluation.metrics import Values

LEAST_ROWS = 2
"""Fewest rows that a bootstrap can resample."""

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class OwnRows:
    """The rows that a model was measured on, and its predictions.

    Attributes:
        sha256: Of the rows, as `compute_rows_sha256` gives it.
        keys: What names each row by its content.
        predictions: The model's, in the rows' order.
        labels: Names of class ids and of places of a 0/1 vector; empty where there are none.
    """

    sha256: str
    keys: Sequence[str]
    predictions: Values
    labels: Sequence[str]


@dataclass(frozen=True)
class MatchedPredictions:
    """Another model's predictions for some of the same rows.

    Attributes:
        model: Its name.
        places: Which of our rows they are for, ascending.
        predictions: In the form of our own. A label that is not among ours is an id that no row has.
    """

    model: str
    places: np.ndarray
    predictions: Values


def hash_rows(rows: Dataset, inputs: Sequence[str]) -> list[str]:
    """Return a hash of what a model reads of each row, which tells rows of equal content.

    Args:
        rows: Raw rows.
        inputs: Columns that a model reads; those that the rows lack are left out. Without any, all columns but the
            label and the row's number count.
    """
    names = [name for name in inputs if name in rows.column_names]
    names = names or [name for name in rows.column_names if name not in ("row", "label")]
    table = rows.select_columns(names).with_format("arrow")[:]
    columns = [table[name].to_pylist() for name in names]
    return [
        hashlib.sha256(json.dumps(row, default=repr).encode("utf-8", "surrogatepass")).hexdigest()
        for row in zip(*columns, strict=True)
    ]


def name_predictions(predictions: Values, labels: Sequence[str]) -> list[Any]:
    """Return predictions with names in place of class ids and of the places of a 0/1 vector."""
    values = predictions.tolist() if isinstance(predictions, np.ndarray) else list(predictions)
    if not labels or not values:
        return values
    if all(type(value) is int for value in values):
        return [labels[place] for place in values]
    if all(isinstance(row, list) and len(row) == len(labels) and set(row) <= {0, 1} for row in values):
        return [[name for name, is_true in zip(labels, row, strict=True) if is_true] for row in values]
    return values


def match_predictions(
    model: str, ours: OwnRows, by_row: Mapping[Any, Any], rows: Sequence[Any] | None = None
) -> MatchedPredictions:
    """Return another model's predictions for the rows that both answered.

    Args:
        model: The other model's name.
        ours: Our rows.
        by_row: Its predictions, named as `name_predictions` does, by what names a row.
        rows: What names each of our rows; default their keys.

    Raises:
        UserError: If it answered too few of them to be compared.
    """
    rows = ours.keys if rows is None else rows
    places = np.array([place for place, row in enumerate(rows) if row in by_row], dtype=int)
    if len(places) < LEAST_ROWS:
        raise UserError(
            f"{model} was measured on {len(places)} of the {len(rows):,} texts; a comparison needs {LEAST_ROWS} or "
            "more that both have: measure it on this file too"
        )
    return MatchedPredictions(model, places, _code_predictions([by_row[rows[place]] for place in places], ours))


def _code_predictions(named: list[Any], ours: OwnRows) -> Values:
    """Return named predictions in the form of our own."""
    values, labels = ours.predictions, ours.labels
    if not isinstance(values, np.ndarray):
        return named
    if not labels or values.dtype.kind not in "iu":
        return np.asarray(named)
    ids = {name: place for place, name in enumerate(labels)}
    if values.ndim == 1:
        return np.array([ids.get(name, len(labels)) for name in named], dtype=np.int64)
    vectors = np.zeros((len(named), len(labels)), dtype=values.dtype)
    for vector, names in zip(vectors, named, strict=True):
        vector[[ids[name] for name in names if name in ids]] = 1
    return vectors


def take_rows(values: Values, places: np.ndarray) -> Values:
    """Return the values at some places."""
    return values[places] if isinstance(values, np.ndarray) else [values[place] for place in places]
