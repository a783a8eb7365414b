"""CoNLL-U (https://universaldependencies.org/format.html): ten columns, of which the form and the part of speech."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError

if TYPE_CHECKING:
    import pyarrow

_FIELDS = 10
_ID = re.compile(r"\d+([-.]\d+)?")
_FORM, _UPOS, _XPOS = 1, 3, 4


def is_conllu(text: str) -> bool:
    """Return whether the first line that is no comment is a word of CoNLL-U."""
    first = next((line for line in text.split("\n") if line.strip() and not line.startswith("#")), "")
    fields = first.split("\t")
    return len(fields) == _FIELDS and _ID.fullmatch(fields[0]) is not None


def read_conllu(name: str, text: str) -> pyarrow.Table:
    """Read the words of sentences with their parts of speech.

    Words inside a multiword token are read, the token itself and empty nodes are not.

    Args:
        name: The file's name, for errors.
        text: Its content.

    Returns:
        Columns tokens, tags (universal parts of speech) and xpos (those of the language).

    Raises:
        UserError: If a line has not ten columns, no word or no part of speech.
    """
    import pyarrow

    columns: dict[str, list[Any]] = {"tokens": [], "tags": [], "xpos": []}
    is_open = False
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.rstrip("\r")
        if not line.strip():
            is_open = False
            continue
        if line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != _FIELDS or not _ID.fullmatch(fields[0]):
            raise UserError(f"{name}: line {number} is no word of CoNLL-U: {line[:60]!r}; expected ten columns")
        if not fields[0].isdecimal():
            continue
        if not fields[_FORM].strip() or fields[_UPOS] == "_":
            raise UserError(f"{name}: line {number} has no word or no part of speech (UPOS): {line[:60]!r}; add it")
        if not is_open:
            is_open = True
            for values in columns.values():
                values.append([])
        for column, place in (("tokens", _FORM), ("tags", _UPOS), ("xpos", _XPOS)):
            columns[column][-1].append(fields[place])
    return pyarrow.table(columns)
