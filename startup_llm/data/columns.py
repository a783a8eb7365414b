from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from startup_llm.config import LabelledTextData
from startup_llm.errors import UserError, fold_name, nearest

if TYPE_CHECKING:
    import datasets

PAIR_NAMES = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("text1", "text2"),
)
TEXT_NAMES = (
    "text", "sentence", "message", "review", "query", "utterance", "content", "body", "comment", "tweet", "document",
    "description", "question", "title",
)  # fmt: skip
LABEL_NAMES = (
    "label", "labels", "category", "intent", "class", "target", "sentiment", "topic", "score", "rating", "emotion",
)  # fmt: skip
_ID_NAME = re.compile(r"(.*[_\- ])?(id|idx|index|uuid|guid|row|key)|__index_level_\d+__|unnamed: \d+|", re.IGNORECASE)
_INSPECTED_ROWS = 10_000
FREE_TEXT_CHARACTERS = 15
_MOST_CLASSES = 1_000


class NoLabelColumnError(UserError):
    """No column of the rows looks like a label."""


@dataclass(frozen=True)
class TextColumns:
    """Which columns of a dataset hold what."""

    text: str
    text_pair: str | None
    label: str | list[str]
    group: str | None
    notes: list[str]
    """What was found without being named, to be printed."""
    joined: tuple[str, ...] = ()
    """The columns that `text` is made of, where they are several."""
    label_separator: str | None = None
    """What stood between the labels of a cell, where the label column is a list made of cells."""

    def by_role(self) -> dict[str, str | list[str]]:
        """Return the columns by what they hold, each under its name in the option that names it."""
        roles = {"text": list(self.joined) or self.text, "text_pair": self.text_pair, "label": self.label}
        return {f"{role}_column": column for role, column in roles.items() if column}

    @property
    def first_label(self) -> str:
        """The label column; of several, the first."""
        return self.label if isinstance(self.label, str) else self.label[0]


def find_columns(splits: datasets.DatasetDict, data: LabelledTextData) -> TextColumns:
    """Find the text, text pair, label and group columns: the ones that `data` names, or the only ones that fit.

    Well-known names come first (`text`, `label`, `premise` and `hypothesis`, ...), then the content of the training
    split: one column of free text, one column with few values that is no id.

    Args:
        splits: The loaded splits, `train` among them.
        data: The columns' names, where given.

    Raises:
        UserError: if a named column does not exist, or none or several columns could be meant.
    """
    train = splits["train"]
    label = data.label_column
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    label_columns = [label] if isinstance(label, str) else label or []
    _check_named_columns(train.column_names, data, label_columns)
    named = [data.text_column, data.text_pair_column, data.group_column, *label_columns]
    free = [name for name in train.column_names if name not in named and not _ID_NAME.fullmatch(name)]

    text: Any = data.text_column  # several were joined into one before
    text_pair, choices = data.text_pair_column, []
    if text is None:
        text, guessed_pair = _find_text(train, free, find_pair=text_pair is None)
        text_pair = text_pair or guessed_pair
        choices.append(f"text from column {text!r}")
        if guessed_pair:
            choices.append(f"text pair from column {guessed_pair!r}")
    if not label:
        label = _find_label(train, [column for column in free if column not in (text, text_pair)])
        choices.append(f"label from column {label!r}")
    columns = TextColumns(
        text, text_pair, label, data.group_column, [f"Found {', '.join(choices)}."] if choices else []
    )
    _check_columns_of_splits(splits, columns)
    return columns


def _check_named_columns(columns: list[str], data: LabelledTextData, label_columns: list[str]) -> None:
    """Refuse the name of a column that does not exist, and a column that is named twice."""
    options: list[tuple[str, Any]] = [
        ("text_column", data.text_column),
        ("text_pair_column", data.text_pair_column),
        ("group_column", data.group_column),
        *(("label_column", name) for name in label_columns),
    ]
    for option, name in options:
        if name and name not in columns:
            among = list_columns(columns, name)
            raise UserError(f"data.{option}: no column {name!r} among {among}{nearest(name, columns)}")
    named = [data.text_column, data.text_pair_column, *label_columns]
    repeated = [name for name in named if name and named.count(name) > 1]
    if repeated:
        raise UserError(f"the column {repeated[0]!r} is named twice; text, text pair and labels are different columns")


def _check_columns_of_splits(splits: datasets.DatasetDict, columns: TextColumns) -> None:
    """Refuse a split that lacks a column; groups are needed in the training split alone."""
    labels = [columns.label] if isinstance(columns.label, str) else columns.label
    for split, dataset in splits.items():
        for name in [columns.text, columns.text_pair, *labels, columns.group]:
            if name and name not in dataset.column_names and not (name == columns.group and split != "train"):
                raise UserError(
                    f"the {split} split has no column {name!r}, only {', '.join(dataset.column_names)}; "
                    "give every split the same columns"
                )


def find_text_columns(
    rows: datasets.Dataset,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    option: str = "--data.text_column",
) -> tuple[str, str | None]:
    """Find the columns of rows without labels that hold the text and, for pairs, the second text.

    Args:
        rows: The rows, or the first of them.
        text_column: The text's column, where it is named.
        text_pair_column: The second text's column, where it is named.
        option: What names the text's column, for an error.

    Raises:
        UserError: if the named column does not exist, none or several could be meant, or one is named twice.
    """
    columns = rows.column_names
    if text_column and text_column not in columns:
        raise UserError(
            f"{option}: no column {text_column!r} among {list_columns(columns, text_column)}"
            f"{nearest(text_column, columns)}"
        )
    if text_column:
        if text_column == text_pair_column:
            raise UserError(f"the column {text_column!r} is named twice; text and text pair are different columns")
        return text_column, text_pair_column
    if len(columns) == 1:
        return columns[0], None
    free = [column for column in columns if column != text_pair_column and not _ID_NAME.fullmatch(column)]
    text, found_pair = _find_text(rows, free, find_pair=text_pair_column is None, option=option)
    return text, text_pair_column or found_pair


def _find_text(
    train: datasets.Dataset, free: list[str], *, find_pair: bool, option: str = "--data.text_column"
) -> tuple[str, str | None]:
    by_lower_name = _group_names(free)
    if find_pair:
        for first, second in PAIR_NAMES:
            if len(by_lower_name.get(first, ())) == 1 == len(by_lower_name.get(second, ())):
                return by_lower_name[first][0], by_lower_name[second][0]
    names = ("text",) if "text" in by_lower_name else TEXT_NAMES
    candidates = [column for name in names for column in by_lower_name.get(name, ())]
    candidates = candidates or [column for column in free if _is_free_text(train, column)]
    if len(candidates) == 1:
        return candidates[0], None
    if candidates:
        raise UserError(f"several columns could be the text ({list_columns(candidates)}); choose with {option}")
    raise UserError(f"no text column found among {list_columns(train.column_names)}; name it with {option}")


def _find_label(train: datasets.Dataset, free: list[str]) -> str:
    by_lower_name = _group_names(free)
    first = next((name for name in ("label", "labels") if name in by_lower_name), None)
    names = (first,) if first else LABEL_NAMES
    candidates = [column for name in names for column in by_lower_name.get(name, ())]
    candidates = candidates or [column for column in free if _has_few_values(train, column)]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise UserError(
            f"several columns could be the label ({list_columns(candidates)}); choose with --data.label_column"
        )
    raise NoLabelColumnError(
        f"no label column found among {list_columns(train.column_names)}; name it with --data.label_column"
    )


def _group_names(columns: list[str]) -> dict[str, list[str]]:
    """Return the columns by their names without case and surrounding blanks."""
    groups: dict[str, list[str]] = {}
    for column in columns:
        groups.setdefault(fold_name(column), []).append(column)
    return groups


def list_columns(columns: Sequence[str], asked: str | None = None) -> str:
    """Write the names of columns; in quotes where two, or one and the name asked for, differ by a blank or case."""
    groups = _group_names(list(columns))
    is_alike = asked is not None and fold_name(asked) in groups and asked not in columns
    is_alike |= any(len(group) > 1 for group in groups.values()) or any(name != name.strip() for name in columns)
    return ", ".join(map(repr, columns) if is_alike else columns)


def _inspect(train: datasets.Dataset, column: str) -> list:
    rows = train.select_columns([column]).with_format("arrow")[:_INSPECTED_ROWS][column].to_pylist()
    return [value for value in rows if value not in (None, "")]


def _is_free_text(train: datasets.Dataset, column: str) -> bool:
    values = _inspect(train, column)
    if not values or not isinstance(values[0], str):
        return False
    mean_characters = sum(map(len, values)) / len(values)
    return mean_characters >= FREE_TEXT_CHARACTERS and len(set(values)) > len(values) / 2


def _has_few_values(train: datasets.Dataset, column: str) -> bool:
    values = _inspect(train, column)
    if not values or not isinstance(values[0], str | int):
        return False
    return 2 <= len(set(values)) <= min(_MOST_CLASSES, max(2, len(values) / 2))
