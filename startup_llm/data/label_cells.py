"""Several labels in one cell, such as `billing;refund` or a list written as text."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from startup_llm.errors import UserError

if TYPE_CHECKING:
    import datasets

    from startup_llm.config import LabelledTextData
    from startup_llm.data.columns import TextColumns

JSON = "json"
"""Stands for cells that hold a list as text, as JSON or as Python writes it."""
NONE = "none"
"""Stands for cells that are one label each."""
SEPARATORS = (";", "|", ",")
_HIGH_SHARE = 0.2


@dataclass(frozen=True)
class LabelCells:
    """Cells that may hold several labels.

    Attributes:
        separator: What stands between the labels; `JSON` for lists.
        cells: How many hold it.
        total: How many there are.
        example: One of them.
        are_several: Whether the parts are labels: they stand in other cells too.
    """

    separator: str
    cells: int
    total: int
    example: str
    are_several: bool

    @property
    def option(self) -> str:
        """The option that reads each part as a label."""
        return f"--data.label_separator {self.separator if self.separator == JSON else repr(self.separator)}"

    def describe(self, column: str) -> str:
        """Say what was found in a column."""
        kind = "a list as text" if self.separator == JSON else repr(self.separator)
        return f"{self.cells:,} of {self.total:,} cells of the label column {column!r} hold {kind}: {self.example!r}"


def split_cell(cell: str, separator: str) -> list[str] | None:
    """Return the labels in a cell, each once; None for an empty cell.

    Args:
        cell: The cell.
        separator: What stands between the labels; `JSON` for a list as text.

    Raises:
        ValueError: If a list is expected and the cell holds none.
    """
    if not cell.strip():
        return None
    parts = _read_list(cell) if separator == JSON else cell.split(separator)
    labels = list(dict.fromkeys(part.strip() for part in parts if part.strip()))
    return labels if labels or separator == JSON else None


def _read_list(cell: str) -> list[str]:
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and all(isinstance(part, (str, int)) for part in value):
            return [str(part) for part in value]
    raise ValueError(f"{cell[:60]!r} is no list of labels")


def inspect_cells(cells: Iterable[str]) -> LabelCells | None:
    """Look for what stands between several labels of a cell.

    The parts of a cell are labels if each stands alone in another cell, or where many cells have the separator, if
    each stands in a cell of other parts too. So `billing;refund` holds two labels where `billing` and `refund` are
    labels, while `Food, drinks` is one where neither part is met again.

    Returns:
        The separator that speaks most for several labels; None where no cell holds one.
    """
    counts = Counter(cell.strip() for cell in cells if cell.strip())
    total = sum(counts.values())
    separated = [
        cells
        for separator in (JSON, *SEPARATORS)
        if (cells := _inspect_separator(counts, total, separator)) is not None
    ]
    if separated and separated[0].separator == JSON:
        return separated[0]
    return max(separated, key=lambda cells: (cells.are_several, cells.cells), default=None)


def _inspect_separator(counts: Counter[str], total: int, separator: str) -> LabelCells | None:
    if separator == JSON:
        lists = [cell for cell in counts if cell.startswith("[") and _is_list(cell)]
        several = sum(counts[cell] for cell in lists)
        return LabelCells(JSON, several, total, lists[0], True) if lists and several > total / 2 else None
    split = {cell: labels for cell in counts if separator in cell and (labels := split_cell(cell, separator))}
    composed = {cell: labels for cell, labels in split.items() if len(labels) > 1}
    if not composed:
        return None
    alone = {cell for cell in counts if cell not in composed}
    in_cells = Counter(label for labels in composed.values() for label in labels)
    several = sum(counts[cell] for cell in composed)
    is_often = several >= _HIGH_SHARE * total
    known = {label for label in in_cells if label in alone or (is_often and in_cells[label] > 1)}
    of_known = sum(counts[cell] for cell, labels in composed.items() if known.issuperset(labels))
    example = max(composed, key=lambda cell: (known.issuperset(composed[cell]), counts[cell]))
    return LabelCells(separator, several, total, example, of_known >= several / 2)


def _is_list(cell: str) -> bool:
    try:
        _read_list(cell)
    except ValueError:
        return False
    return True


def find_label_cells(splits: datasets.DatasetDict, columns: TextColumns, data: LabelledTextData) -> LabelCells | None:
    """Look for several labels in the cells of the training split, where no option says how they are read."""
    is_decided = data.label_separator is not None or data.problem_type in ("single_label_classification", "regression")
    if is_decided or not _holds_text(splits["train"], columns.label):
        return None
    return inspect_cells(value for value in splits["train"][columns.label] if value is not None)


def _holds_text(dataset: datasets.Dataset, label: str | list[str]) -> bool:
    return isinstance(label, str) and getattr(dataset.features[label], "dtype", None) in ("string", "large_string")


def decide_label_cells(
    splits: datasets.DatasetDict, columns: TextColumns, data: LabelledTextData
) -> tuple[datasets.DatasetDict, TextColumns, list[str]]:
    """Turn cells of several labels into lists, as the options say.

    Returns:
        The splits, the columns with the separator that was used, and notes.

    Raises:
        UserError: If cells hold several labels and no option says so, or an option does not go with the column.
    """
    cells = find_label_cells(splits, columns, data)
    if cells is None:
        if data.label_separator in (None, NONE):
            return splits, columns, []
        return *separate_labels(splits, columns, data.label_separator), []
    if cells.are_several:
        why = "" if cells.separator == JSON else ", whose parts stand in other cells too"
        raise UserError(
            f"{cells.describe(columns.first_label)}{why}; {cells.option} reads several labels from a cell, "
            f"--data.label_separator {NONE} takes a cell as one class"
        )
    note = (
        f"{cells.describe(columns.first_label)}. Each is read as one class, as its parts stand in no other cell "
        f"({cells.option} reads several labels)."
    )
    return splits, columns, [note]


def separate_labels(
    splits: datasets.DatasetDict, columns: TextColumns, separator: str
) -> tuple[datasets.DatasetDict, TextColumns]:
    """Return the splits with lists of labels in place of cells, and the columns with the separator.

    Raises:
        UserError: If the label column holds no text, or a cell no list.
    """
    import datasets

    for split, dataset in splits.items():
        if not _holds_text(dataset, columns.label):
            held = columns.label if isinstance(columns.label, list) else dataset.features[columns.label]
            raise UserError(
                f"data.label_separator {separator!r} is for a column of text; the labels of the {split} split are "
                f"{held}: leave it out"
            )
    separated = {}
    for split, dataset in splits.items():
        labels: list[list[str] | None] = []
        try:
            labels.extend(None if cell is None else split_cell(cell, separator) for cell in dataset[columns.label])
        except ValueError as error:
            raise UserError(
                f"{split} split, row {len(labels) + 1}: {error} in the label column {columns.label!r}; expected one "
                'such as ["a", "b"], as --data.label_separator json says'
            ) from None
        feature = datasets.List(datasets.Value("string"))
        separated[split] = dataset.remove_columns(columns.label).add_column(columns.label, labels, feature=feature)
    return datasets.DatasetDict(separated), replace(columns, label_separator=separator)
