"""Rows that cannot be used: an error, or left out and counted where `data.skip_bad` asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from startup_llm.errors import UserError

_MOST_NAMED = 5


def find_column_fault(values: Iterable[Any], name: str) -> list[tuple[int, str]]:
    """Return the 1-based row and the fault of each value of a column that is no text or an empty one.

    Args:
        values: The column's values.
        name: The column's name.
    """
    faults = []
    for row, value in enumerate(values, start=1):
        if not isinstance(value, str) or not value.strip():
            shown = "empty" if value is None or isinstance(value, str) else f"no text: {repr(value)[:50]}"
            faults.append((row, f"the column {name!r} is {shown}"))
    return faults


def leave_out(
    faults: Sequence[tuple[int, str]], rows: int, place: str, what: str, *, skip_bad: bool
) -> tuple[set[int], list[str]]:
    """Count the rows that cannot be used, or refuse them.

    Args:
        faults: The 1-based row and what is wrong with it; a row may have several.
        rows: How many there are in all.
        place: The split or the file.
        what: What a row is, in the plural, such as pairs.
        skip_bad: Whether they are left out.

    Returns:
        The rows to leave out, 1-based, and a note where there are any.

    Raises:
        UserError: If there are some and they are not to be left out, or if no other row is left.
    """
    if not faults:
        return set(), []
    (first, fault), numbers = min(faults), sorted({row for row, _ in faults})
    if not skip_bad:
        more = f" (and {len(numbers) - 1:,} more: rows {list_numbers(numbers[1:])})" * (len(numbers) > 1)
        raise UserError(
            f"{place} row {first}: {fault}{more}; fix the rows, or leave them out with --data.skip_bad true"
        )
    if len(numbers) == rows:
        raise UserError(f"{place}: none of the {rows:,} {what} can be used; row {first}: {fault}")
    left_out = list_numbers(numbers)
    return set(numbers), [f"{len(numbers):,} {place} {what} were left out (rows {left_out}; the first: {fault})."]


def list_numbers(numbers: Iterable[Any]) -> str:
    """Write the first few numbers with commas between them."""
    numbers = list(numbers)
    return ", ".join(map(str, numbers[:_MOST_NAMED])) + ", ..." * (len(numbers) > _MOST_NAMED)
