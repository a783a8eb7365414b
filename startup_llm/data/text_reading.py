"""How a row's text is made of its columns, in training and in predictions alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from startup_llm.data.cleaned_texts import clean_text, propose_cleaning, read_cleaning
from startup_llm.data.columns import TextColumns, find_columns, list_columns
from startup_llm.errors import UserError, nearest

if TYPE_CHECKING:
    import datasets

    from startup_llm.config import LabelledTextData

TEXTS = ("text", "text_pair")


@dataclass(frozen=True)
class TextReading:
    """From a row's columns to its text.

    Attributes:
        columns: Columns that are joined, each with its name; () where one column is the text.
        kinds: What is removed from texts, of `cleaned_texts.KINDS`.
    """

    columns: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    @classmethod
    def of_config(cls, data: Mapping[str, Any]) -> TextReading:
        """Read the section data of a config, such as a run's.

        Raises:
            UserError: If `clean` names something else, or the library for it is missing.
        """
        column, clean = data.get("text_column"), data.get("clean")
        columns = tuple(column) if isinstance(column, (list, tuple)) and len(column) > 1 else ()
        if len(set(columns)) < len(columns):
            raise UserError(f"data.text_column names a column twice: {', '.join(columns)}; name each once")
        return cls(columns, read_cleaning(clean))

    @property
    def name(self) -> str:
        """The joined columns as one."""
        return " + ".join(self.columns)

    def join(self, values: Mapping[str, Sequence[Any]]) -> list[str]:
        """Return the joined text of each row; an empty column is left out, and what is no text is written as one.

        Args:
            values: The values of each of `columns`.
        """
        joined = []
        for row in zip(*(values[name] for name in self.columns), strict=True):
            texts = ["" if value is None else str(clean_text(value, self.kinds)).strip() for value in row]
            joined.append("\n".join(f"{name}: {text}" for name, text in zip(self.columns, texts, strict=True) if text))
        return joined

    def clean(self, texts: Sequence[Any]) -> list[Any]:
        """Return texts without what is removed."""
        return [clean_text(text, self.kinds) for text in texts] if self.kinds else list(texts)

    def read(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        """Return rows, given by column, with their texts made and cleaned.

        Args:
            columns: The joined columns, or text and perhaps text_pair, and what else a row holds.
        """
        if not self.columns or not set(self.columns) <= columns.keys():
            return {name: self.clean(values) if name in TEXTS else values for name, values in columns.items()}
        others = {name: values for name, values in columns.items() if name not in self.columns}
        return {"text": self.join(columns), **others}


AS_IT_STANDS = TextReading()
"""One column is the text, and nothing is removed."""


def prepare_texts(splits: datasets.DatasetDict, data: LabelledTextData) -> tuple[datasets.DatasetDict, TextColumns]:
    """Find the columns of labelled texts, and make and clean the texts as the options say.

    Returns:
        The splits, with the text as one column, and the columns.

    Raises:
        UserError: If a column does not exist, or several could be meant.
    """
    reading = TextReading.of_config(vars(data))
    column = data.text_column
    if not reading.columns:
        data = replace(data, text_column=column[0] if isinstance(column, list) and column else column or None)
        columns = find_columns(splits, data)
    else:
        splits, columns = _join_columns(splits, data, reading)
    cleaned = [name for name in (columns.text, columns.text_pair) if name and name != reading.name]
    notes = propose_cleaning(splits["train"][columns.text], reading.kinds)
    if reading.kinds:
        splits = _replace_columns(splits, dict.fromkeys(cleaned, reading.clean))
        notes = [f"Removed from the texts: {', '.join(reading.kinds)} (predictions do the same).", *notes]
    return splits, replace(columns, notes=[*columns.notes, *notes])


def _join_columns(
    splits: datasets.DatasetDict, data: LabelledTextData, reading: TextReading
) -> tuple[datasets.DatasetDict, TextColumns]:
    import datasets

    joined, read = {}, {}
    named = {*data.label_columns, data.group_column, data.text_pair_column}
    for split, rows in splits.items():
        for name in reading.columns:
            if name not in rows.column_names:
                known = rows.column_names
                raise UserError(
                    f"data.text_column: no column {name!r} in the {split} split, only {list_columns(known, name)}"
                    f"{nearest(name, known)}"
                )
            if not isinstance(rows.features[name], datasets.Value):
                raise UserError(f"data.text_column: the column {name!r} holds {rows.features[name]}, expected text")
        texts = reading.join({name: rows[name] for name in reading.columns})
        joined[split] = rows.add_column(reading.name, texts, feature=datasets.Value("string"))
        read[split] = joined[split].remove_columns([name for name in reading.columns if name not in named])
    columns = find_columns(datasets.DatasetDict(read), replace(data, text_column=reading.name))
    note = f"Text from the columns {', '.join(map(repr, reading.columns))}, each with its name before it."
    return datasets.DatasetDict(joined), replace(columns, joined=reading.columns, notes=[note, *columns.notes])


def _replace_columns(splits: datasets.DatasetDict, changes: Mapping[str, Any]) -> datasets.DatasetDict:
    import datasets

    changed = {}
    for split, rows in splits.items():
        for name, change in changes.items():
            feature = rows.features[name]
            rows = rows.remove_columns(name).add_column(name, change(rows[name]), feature=feature)
        changed[split] = rows
    return datasets.DatasetDict(changed)
