"""Exports of annotation tools as they come, turned into rows of text with label, labels or entities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from startup_llm.data.annotation_tools.elements import Labels
from startup_llm.data.annotation_tools.label_studio import is_label_studio, read_label_studio
from startup_llm.data.annotation_tools.prodigy import is_prodigy, read_prodigy
from startup_llm.data.annotation_tools.span_lists import is_span_lists, read_span_lists
from startup_llm.errors import UserError

Row = dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """An annotation tool's export.

    Attributes:
        name: As a note names it.
        recognise: Says whether rows are such an export, by what stands in them.
        read: Turns one row into another; None for one that is not to be learnt. It raises ValueError for what cannot
            be read.
    """

    name: str
    recognise: Callable[[Sequence[Row]], bool]
    read: Callable[[Row], Row | None]


TOOLS = (
    Tool("Label Studio's export", is_label_studio, read_label_studio),
    Tool("Prodigy's export", is_prodigy, read_prodigy),
    Tool("spans or categories as doccano and spaCy write them", is_span_lists, read_span_lists),
)


@dataclass(frozen=True)
class ReadExport:
    """An export's rows.

    Attributes:
        rows: The package's own.
        lines: Line of each in the file.
        note: What was recognised, and how many rows are left out.
    """

    rows: list[Row]
    lines: list[int]
    note: str


def find_tool(rows: Sequence[Row]) -> Tool | None:
    """Return the tool whose export rows are, by what stands in them; None for plain rows."""
    return next((tool for tool in TOOLS if rows and tool.recognise(rows)), None)


def read_export(tool: Tool, numbered: Iterator[tuple[int, Row]], name: str) -> ReadExport:
    """Turn an export's rows into the package's own.

    Args:
        tool: The tool.
        numbered: The rows, each with its line.
        name: The file, for the errors.

    Raises:
        UserError: If an element cannot be read, or no row is left; it names the row and the value.
    """
    rows, lines, count, left_out = [], [], 0, 0
    for count, (line, row) in enumerate(numbered, start=1):  # the last count is the number of rows
        read = _read_row(tool, row, f"{name}: row {count}")
        if read is None:
            left_out += 1
            continue
        rows.append(read)
        lines.append(line)
    if not rows:
        raise UserError(f"{name}: {tool.name}, and none of its {count:,} rows is accepted or annotated; annotate some")
    without = f", without {left_out:,} of {count:,} rows that are not accepted or not annotated" if left_out else ""
    return ReadExport(_name_single_labels(rows), lines, f"read as {tool.name}{without}")


def _read_row(tool: Tool, row: Row, place: str) -> Row | None:
    try:
        return tool.read(row)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from None


def _name_single_labels(rows: list[Row]) -> list[Row]:
    """Write `label` in place of a list where every row has exactly one."""
    for column in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(column) for row in rows]
        if not all(isinstance(value, Labels) for value in values if value is not None):
            continue
        is_single = all(value is None or len(value) == 1 for value in values)
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[column] = value[0] if is_single else list(value)
    return rows
