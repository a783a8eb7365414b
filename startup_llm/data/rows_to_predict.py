from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.data.classification import LONGEST_TEXT_BYTES
from startup_llm.data.columns import find_text_columns
from startup_llm.data.row_source import Piece, RowSource
from startup_llm.data.row_target import extend_schema
from startup_llm.data.text_reading import AS_IT_STANDS, TextReading
from startup_llm.errors import UserError, nearest

if TYPE_CHECKING:
    import pyarrow

LIST_COLUMNS = ("messages", "tokens", "words")
"""Where a conversation, or a list of words, is looked for by the tasks that read such."""
FILE_COLUMNS = ("file", "file_name", "path", "text")
"""Where the path of a file is looked for; a pipe's bare lines are a column `text`."""


@dataclass(frozen=True)
class Survey:
    """What is known of a source before the first answer.

    Attributes:
        rows: Their number; None for a pipe.
        columns: Every column that a row has; of a pipe, that a row of the first piece has.
        schema: The columns' Arrow types, where they were asked for.
        note: A sentence about the columns that are read, to be reported.
    """

    rows: int | None
    columns: list[str]
    schema: pyarrow.Schema | None
    note: str


class Questions:
    """The rows of a source that are to be answered, piece by piece.

    Args:
        source: The rows.
        wanted: What a question holds, such as text and text_pair, which may be missing, or question and context.
        find_fault: Says what is wrong with a value, given what it is and itself; None where nothing is.
        columns: The source's columns by what they hold, where they are named.
        trained_columns: The same as the training's config names them, for where none is named here.
        reading: How the run makes its texts; where it joins columns, a question holds these instead of a text.
        files: Whether a question is the path of a file, from the folder of the source.
        skip_bad: Leave rows that cannot be answered without an answer, and count them, instead of refusing them.

    Attributes:
        piece: The rows that were read last.
        skipped: Rows left unanswered so far.

    Raises:
        UserError: If a column is named for what no question holds.
    """

    def __init__(
        self,
        source: RowSource,
        wanted: Sequence[str] = ("text", "text_pair"),
        find_fault: Callable[[str, Any], str | None] = lambda wanted, value: find_text_fault(value),
        *,
        columns: Mapping[str, str] | None = None,
        trained_columns: Mapping[str, str] | None = None,
        reading: TextReading = AS_IT_STANDS,
        files: bool = False,
        skip_bad: bool = False,
    ) -> None:
        self._source, self._wanted, self._fault_of, self._skip_bad = source, wanted, find_fault, skip_bad
        self._asked, self._trained, self._reading = columns or {}, trained_columns or {}, reading
        self._folder = source.folder if files else None
        for name in self._asked:
            if name not in wanted:
                raise UserError(f"columns.{name}: this model reads {', '.join(wanted)}{nearest(name, wanted)}")
        self._failure: UserError | None = None
        self._kinds: dict[str, type] = {}
        self.piece = Piece(0)
        self.skipped = 0

    def survey(self, *, with_schema: bool = False) -> Survey:
        """Find the columns and, where the source can be read twice, check every row.

        Raises:
            UserError: If there are no rows, a column is missing, or a bad row is not to be skipped.
        """
        pieces = self._source.pieces()
        first = next(pieces, None)
        if first is None:
            raise UserError(f"{self._source.name}: no rows; expected at least one")
        self._columns = self._find_columns(first)
        seen = itertools.chain([first], pieces) if self._source.can_reread else [first]
        rows, columns, schema = 0, {}, None
        for piece in seen:
            rows += len(piece)
            columns.update(dict.fromkeys(piece.columns))
            if with_schema:
                schema = extend_schema(schema, piece, self._source.name)
            if self._source.can_reread and not self._skip_bad and (faults := self._find_faults(piece)):
                raise faults[min(faults)]
        self._pieces: Iterator[Piece] = (
            self._source.pieces() if self._source.can_reread else itertools.chain([first], pieces)
        )
        note = ", ".join(f"{name.replace('_', ' ')} from column {column!r}" for name, column in self._columns.items())
        return Survey(rows if self._source.can_reread else None, list(columns), schema, note)

    def read(self) -> dict[str, list[Any]] | None:
        """Read the next piece and return its questions as columns; None at the end.

        Raises:
            UserError: If a row is bad and not to be skipped; the rows before it have been returned by then.
        """
        if self._failure is not None:
            raise self._failure
        piece = next(self._pieces, None)
        if piece is None:
            return None
        faults = self._find_faults(piece)
        if faults and not self._skip_bad:
            count = min(faults)
            self._failure = faults[count]
            if count == 0:
                raise self._failure
            piece, faults = piece.first(count), {}
        self.piece, self.skipped = piece, self.skipped + len(faults)
        self._is_good = [index not in faults for index in range(len(piece))]
        return {
            name: [value for value, is_good in zip(self._values(piece, column), self._is_good, strict=True) if is_good]
            for name, column in self._columns.items()
        }

    def place(self, answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return one answer per row of `piece`: {} for a row that was skipped."""
        left = iter(answers)
        return [next(left) if is_good else {} for is_good in self._is_good]

    def _find_columns(self, first: Piece) -> dict[str, str]:
        trained = {name: column for name, column in self._trained.items() if column in first.columns}
        known = dict(self._asked) or trained
        joined = self._reading.columns
        if joined and "text" not in self._asked and not set(joined).isdisjoint(first.columns):
            if missing := [column for column in joined if column not in first.columns]:
                raise UserError(
                    f"{self._source.name}: no column {missing[0]!r} among {', '.join(first.columns)}; the run joins "
                    f"{', '.join(joined)}: add it, or name a column with the whole text: --columns.text COLUMN"
                )
            return {**{column: column for column in joined}, **{k: v for k, v in known.items() if k != "text"}}
        for name, column in self._asked.items():
            if column not in first.columns:
                among = f"among {', '.join(first.columns)}{nearest(column, first.columns)}"
                raise UserError(f"columns.{name}: no column {column!r} {among}")
        if self._wanted[0] == "text":
            return self._find_text_columns(first, known)
        return {name: known.get(name) or self._find_column(first, name) for name in self._wanted}

    def _find_text_columns(self, first: Piece, known: Mapping[str, str]) -> dict[str, str]:
        import datasets

        good = {
            column: [value if self._fault_of("text", value) is None else None for value in first.values(column)]
            for column in first.columns
        }
        lists = next((column for column in LIST_COLUMNS if any(good.get(column, ()))), None)
        if lists is not None and (lists == "messages" or any(isinstance(value, list) for value in good[lists])):
            known = {"text": lists, **known}
        texts = {
            column: [cell if isinstance(cell, str) else None for cell in values] for column, values in good.items()
        }
        columns = known.get("text"), known.get("text_pair")
        try:
            text_columns = find_text_columns(datasets.Dataset.from_dict(texts), *columns, option="--columns.text")
        except UserError as error:
            raise UserError(f"{self._source.name}: {error}") from None
        return {
            name: column
            for name, column in zip(("text", "text_pair"), text_columns, strict=True)
            if column and name in self._wanted
        }

    def _find_column(self, first: Piece, name: str) -> str:
        for column in (name, *(FILE_COLUMNS if self._folder else ())):
            if column in first.columns:
                return column
        if len(first.columns) == 1 == len(self._wanted):
            return first.columns[0]
        among = ", ".join(first.columns)
        raise UserError(f"{self._source.name}: no column {name!r} among {among}; name it: --columns.{name} COLUMN")

    def _values(self, piece: Piece, column: str) -> list[Any]:
        values = piece.values(column) if column in piece.columns else [None] * len(piece)
        if self._folder is None:
            return values
        return [str(self._folder / value) if isinstance(value, str) and value.strip() else value for value in values]

    def _find_faults(self, piece: Piece) -> dict[int, UserError]:
        faults = {}
        for name, column, values in self._read_values(piece):
            for index, value in enumerate(values):
                if index not in faults and (fault := self._fault_of(name, value) or self._find_odd_kind(name, value)):
                    faults[index] = UserError(
                        f"{self._source.name}: row {piece.start + index + 1}: column {column!r} {fault}; fix the "
                        "row, or leave such rows unanswered with --skip_bad"
                    )
        return faults

    def _read_values(self, piece: Piece) -> Iterator[tuple[str, str, Sequence[Any]]]:
        """Yield what a question holds, its column and its values as the model reads them."""
        raw = {name: self._values(piece, column) for name, column in self._columns.items()}
        for name, values in self._reading.read(raw).items():
            yield name, self._columns.get(name, self._reading.name), values

    def _find_odd_kind(self, name: str, value: Any) -> str | None:
        """Return how a value differs from the first good one, as a text does from a conversation."""
        kind = self._kinds.setdefault(name, type(value))
        if isinstance(value, kind):
            return None
        return f"holds {str(value)[:50]} ({type(value).__name__}), which does not go with a {kind.__name__} before it"


def find_file_fault(value: Any) -> str | None:
    """Return why a value is not the path of a file; None where it is."""
    if (fault := find_text_fault(value)) is not None:
        return fault.replace("text", "path")
    return None if Path(value).is_file() else f"names {value}, which is no file"


def find_text_fault(value: Any) -> str | None:
    """Return why a value is no usable text, such as "has no text"; None where it is one."""
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        return "has no text"
    if not isinstance(value, str):
        return f"holds {str(value)[:50]} ({type(value).__name__}), expected text"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "holds half of a surrogate pair (\\ud800-\\udfff), which is no character"
    if size > LONGEST_TEXT_BYTES:
        return f"has a text of {size:,} bytes, the limit is {LONGEST_TEXT_BYTES:,}"
    return None
