"""Rows that cannot be used: an error, or left out and counted by kind where `data.skip_bad` asks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from startup_llm.errors import UserError

EMPTY_TEXT = "empty text"
NO_TEXT = "value that is no text"
NO_LABEL = "no label"
RARE_LABEL = "label of one row"
UNSEEN_LABEL = "label that training lacks"
FAULTY_TAGS = "faulty tags"
_FEWEST_ROWS_LEFT = 2
_FEWEST_LEFT_SHARE = 0.1
"""Where fewer rows would be left, the fault lies in the file or the options, and leaving them out is not proposed."""
_MOST_NAMED = 5
_SHOWN = 5


class Fault(NamedTuple):
    """What is wrong with a row.

    Attributes:
        row: Its 1-based place; 0 for what is no row, which `where` then names.
        reason: What is wrong, with the value.
        kind: What is counted, such as `EMPTY_TEXT`.
        where: What the place is called where that is not the row's number, such as a line or a file.
    """

    row: int
    reason: str
    kind: str
    where: str = ""


class RowFaultError(UserError):
    """A row that cannot be used, raised where it is read.

    Args:
        message: What is wrong.
        kind: See `Fault`.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class BadRows:
    """Refuses rows that cannot be used, or leaves them out and counts them.

    Args:
        skip_bad: Whether they are left out, as `data.skip_bad` says.

    Attributes:
        notes: A sentence for each place that had some.
        left_out: How many rows were left out, by the kind of their first fault.
    """

    def __init__(self, skip_bad: bool) -> None:
        self.skip_bad = skip_bad
        self.notes: list[str] = []
        self.left_out: Counter[str] = Counter()

    def leave_out(
        self, faults: Sequence[Fault], rows: int, place: str, what: str, *, usable: int | None = None
    ) -> set[int]:
        """Return the 1-based rows to leave out.

        Args:
            faults: What is wrong; a row may have several faults, of which the first counts.
            rows: How many rows there are in all.
            place: The split or the file.
            what: What a row is, in the plural, such as pairs.
            usable: How many rows a run could go on with; default all that have no fault.

        Raises:
            UserError: If there are some and they are not to be left out, or if no row is left.
        """
        if not faults:
            return set()
        first: dict[Any, Fault] = {}
        for fault in sorted(faults, key=lambda fault: fault.row):
            first.setdefault(fault.row or fault.where, fault)
        kinds = Counter(fault.kind for fault in first.values())
        examples = "; ".join(
            f"{fault.where or f'row {fault.row}'}: {fault.reason}" for fault in _choose(first.values())
        )
        more = f"; and {len(first) - _SHOWN:,} more" if len(first) > _SHOWN else ""
        counted = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
        number = f"{len(first):,} of {rows:,} {what}"
        described = f"({counted}): {examples}{more}"
        if usable is None:
            usable = rows - len(first)
        if not self.skip_bad:
            raise UserError(f"{place}: {number} cannot be used {described}; {_propose(usable, rows)}")
        if usable <= 0:
            raise UserError(f"{place}: none of the {rows:,} {what} can be used {described}; fix them")
        self.left_out += kinds
        self.notes.append(f"{place}: {number} were left out {described}.")
        return {fault.row for fault in faults}


def _choose(faults: Iterable[Fault]) -> list[Fault]:
    """Return a few faults in their order, of as many kinds as there are."""
    faults = list(faults)
    kinds = {fault.kind: fault for fault in reversed(faults)}
    chosen = sorted(kinds.values(), key=faults.index)[:_SHOWN]
    chosen += [fault for fault in faults if fault not in chosen][: _SHOWN - len(chosen)]
    return sorted(chosen, key=faults.index)


def _propose(usable: int, rows: int) -> str:
    if usable >= max(_FEWEST_ROWS_LEFT, _FEWEST_LEFT_SHARE * rows):
        return f"fix or delete them, or leave them out ({usable:,} rows stay) with --data.skip_bad true"
    return "fix them: too few others are left to go on with"


def find_column_faults(values: Iterable[Any], name: str) -> list[Fault]:
    """Return the fault of each value of a column that is no text or an empty one.

    Args:
        values: The column's values.
        name: The column's name.
    """
    faults = []
    for row, value in enumerate(values, start=1):
        if value is None or (isinstance(value, str) and not value.strip()):
            faults.append(Fault(row, f"the column {name!r} is empty", EMPTY_TEXT))
        elif not isinstance(value, str):
            faults.append(Fault(row, f"the column {name!r} is no text: {repr(value)[:50]}", NO_TEXT))
    return faults


def list_numbers(numbers: Iterable[Any]) -> str:
    """Write the first few numbers with commas between them."""
    numbers = list(numbers)
    return ", ".join(map(str, numbers[:_MOST_NAMED])) + ", ..." * (len(numbers) > _MOST_NAMED)
