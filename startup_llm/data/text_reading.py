"""How a row's text is made of its columns, in training and in predictions alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from startup_llm.data.cleaned_texts import clean_text, propose_cleaning, read_cleaning
from startup_llm.data.columns import TextColumns, find_columns, list_columns
from startup_llm.errors import UserError, nearest

if TYPE_CHECKING:
    import datasets

    from startup_llm.config import LabelledTextData, TextReadingData

TEXTS = ("text", "text_pair")
_CONTENTS = ("content", "value")
_FIXED_ROLES = ("system", "developer", "tool", "function", "function_call", "observation")
"""Roles in a conversation whose words nobody typed into a mail."""
Data = TypeVar("Data", bound="TextReadingData")


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

    @classmethod
    def of_results(cls, results: Mapping[str, Any]) -> TextReading:
        """Read what a run's `results.json` says of it; a plain checkpoint's are empty."""
        return cls.of_config(results.get("config", {}).get("data", {}))

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
        """Return texts, or conversations, without what is removed."""
        return [self.clean_text(text) for text in texts] if self.kinds else list(texts)

    def clean_text(self, text: Any) -> Any:
        """Return a text, or the messages of a conversation, perhaps as JSON, without what is removed."""
        value = read_conversation(text)
        if not self.kinds or not isinstance(value, list):
            return clean_text(text, self.kinds)
        return [self._clean_message(message) if isinstance(message, Mapping) else message for message in value]

    def _clean_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        is_spoken = message.get("role", message.get("from")) not in _FIXED_ROLES
        return {
            name: clean_text(value, self.kinds) if name in _CONTENTS and is_spoken else value
            for name, value in message.items()
        }

    def read(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        """Return rows, given by column, with their texts made and cleaned.

        Args:
            columns: The joined columns, or text and perhaps text_pair, and what else a row holds.
        """
        if not self.columns or not set(self.columns) <= columns.keys():
            return {name: self.clean(values) if name in TEXTS else values for name, values in columns.items()}
        others = {name: values for name, values in columns.items() if name not in self.columns}
        pair = {name: self.clean(values) for name, values in others.items() if name in TEXTS}
        return {"text": self.join(columns), **others, **pair}


def read_conversation(value: Any) -> Any:
    """Return the messages of a conversation in JSON, as a CSV file holds it; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("[") or not value.rstrip().endswith("]"):
        return value
    try:
        messages = json.loads(value)
    except ValueError:
        return value
    are_messages = messages and all(isinstance(one, dict) and {"role", "from"} & one.keys() for one in messages)
    return messages if are_messages else value


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
    splits, data, notes = join_columns(splits, data)
    named = {*data.label_columns, data.group_column, data.text_pair_column}
    read = splits.remove_columns([name for name in reading.columns if name not in named])
    columns = find_columns(read, data)
    splits, cleaning = clean_columns(splits, [name for name in (columns.text, columns.text_pair) if name], reading)
    return splits, replace(columns, joined=reading.columns, notes=[*notes, *columns.notes, *cleaning])


def join_columns(splits: datasets.DatasetDict, data: Data) -> tuple[datasets.DatasetDict, Data, list[str]]:
    """Make one column of those that `text_column` names, where it names several.

    Returns:
        The splits with that column beside the others, the data with its name, and a note on it.

    Raises:
        UserError: If one of them does not exist, or holds no text.
    """
    import datasets

    reading, column = TextReading.of_config(vars(data)), data.text_column
    if not reading.columns:
        return (
            splits,
            replace(data, text_column=column[0] if isinstance(column, list) and column else column or None),
            [],
        )
    joined = {}
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
    note = f"Text from the columns {', '.join(map(repr, reading.columns))}, each with its name before it."
    return datasets.DatasetDict(joined), replace(data, text_column=reading.name), [note]


def clean_columns(
    splits: datasets.DatasetDict, names: Sequence[str], reading: TextReading
) -> tuple[datasets.DatasetDict, list[str]]:
    """Clean columns of texts, and say so, or what there would be to clean.

    Args:
        splits: The rows.
        names: The columns, the text's first; one that was joined was cleaned then.
        reading: How texts are read.
    """
    import datasets

    notes = propose_cleaning(splits["train"][names[0]], reading.kinds)
    if not reading.kinds:
        return splits, notes
    changed = {}
    for split, rows in splits.items():
        for name in names:
            if name != reading.name and name in rows.column_names:
                feature = rows.features[name]
                rows = rows.remove_columns(name).add_column(name, reading.clean(rows[name]), feature=feature)
        changed[split] = rows
    return datasets.DatasetDict(changed), [describe_cleaning(reading), *notes]


def describe_cleaning(reading: TextReading) -> str:
    """Say what is removed from texts."""
    return f"Removed from the texts: {', '.join(reading.kinds)} (predictions do the same)."
