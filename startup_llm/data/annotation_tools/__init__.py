"""Exports of annotation tools as they come, turned into rows of text with label, labels or entities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from startup_llm.data.annotation_tools.annotators import (
    AnnotatedRow,
    Annotation,
    Row,
    Task,
    choose_annotations,
)
from startup_llm.data.annotation_tools.argilla import is_argilla, read_argilla
from startup_llm.data.annotation_tools.elements import Labels
from startup_llm.data.annotation_tools.label_studio import find_minimal_task, is_label_studio, read_label_studio
from startup_llm.data.annotation_tools.prodigy import find_prodigy_task, is_prodigy, read_prodigy
from startup_llm.data.annotation_tools.span_lists import is_span_lists, read_span_lists
from startup_llm.errors import UserError


@dataclass(frozen=True)
class Tool:
    """An annotation tool's export.

    Attributes:
        name: As a note names it.
        recognise: Says whether rows are such an export, by what stands in them.
        read: Turns a row into what its annotators say of it, nothing where nobody annotated it. It raises ValueError
            for what cannot be read.
        task: Says what a row shares with other annotators' rows of the same text; None where a row is alone.
    """

    name: str
    recognise: Callable[[Sequence[Row]], bool]
    read: Callable[[Row], list[Annotation]]
    task: Task = lambda row: None


TOOLS = (
    Tool("Label Studio's export", is_label_studio, read_label_studio, find_minimal_task),
    Tool("Prodigy's export", is_prodigy, read_prodigy, find_prodigy_task),
    Tool("Argilla's records", is_argilla, read_argilla),
    Tool("spans or categories as doccano and spaCy write them", is_span_lists, read_span_lists),
)


@dataclass(frozen=True)
class ReadExport:
    """An export's rows.

    Attributes:
        rows: The package's own.
        lines: Line of each in the file.
        note: What was recognised, how many rows are left out, and on how many annotators disagree.
    """

    rows: list[Row]
    lines: list[int]
    note: str


def find_tool(rows: Sequence[Row]) -> Tool | None:
    """Return the tool whose export rows are, by what stands in them; None for plain rows."""
    return next((tool for tool in TOOLS if rows and tool.recognise(rows)), None)


def read_export(
    tool: Tool,
    numbered: Iterable[tuple[int, Row]],
    name: str,
    annotator: str | None = None,
    option: str = "--data.annotator",
) -> ReadExport:
    """Turn an export's rows into the package's own.

    Args:
        tool: The tool.
        numbered: The rows, each with its line.
        name: The file, for the errors.
        annotator: Whose annotations count alone; None for those of all.
        option: What names the annotator, for the errors.

    Raises:
        UserError: If an element cannot be read, annotators disagree, there is no such annotator, or no row is left;
            it names the row and the value.
    """
    tasks: dict[Any, AnnotatedRow] = {}
    for number, (line, row) in enumerate(numbered, start=1):
        task = tool.task(row)
        annotated = tasks.setdefault((number,) if task is None else task, AnnotatedRow(number, line))
        annotated.annotations += _read_row(tool, row, f"{name}: row {number}")
    choice = choose_annotations(list(tasks.values()), name, annotator, option)
    if not choice.rows:
        raise UserError(
            f"{name}: {tool.name}, and none of its {len(tasks):,} rows is accepted or annotated; annotate some"
        )
    note = f"read as {tool.name}"
    if left_out := len(tasks) - len(choice.rows):
        note += f", without {left_out:,} of {len(tasks):,} rows that are not accepted or not annotated"
    if annotator is not None:
        note += f", by the annotator {annotator!r} alone"
    elif choice.disputed:
        note += (
            f", of which annotators disagree on {choice.disputed:,}: the ground truth or else the majority counts "
            f"({option} names one of them)"
        )
    return ReadExport(_name_single_labels(choice.rows), choice.lines, note)


def _read_row(tool: Tool, row: Row, place: str) -> list[Annotation]:
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
