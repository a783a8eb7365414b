"""CSV and TSV, read strictly: every quote that is opened is closed, every row is as wide as the header."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from startup_llm.data.text_lines import LONGEST_LINE, Lines
from startup_llm.errors import UserError

if TYPE_CHECKING:
    import _csv

DELIMITERS = {"csv": ",", "tsv": "\t"}
_OTHER_DELIMITERS = (",", ";", "\t", "|")
_EXCEL_MARK = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)
"""Excel's first line, which says what separates the columns."""


class DelimitedRows:
    """The rows of a CSV or TSV file; cells are strings: nothing is guessed to be a number or missing.

    Args:
        lines: The file's lines.
        name: The file, for the errors.
        delimiter: What separates the columns, unless the header or Excel's first line `sep=;` says otherwise.
        quoted: Whether "quotes" hold a cell together; otherwise they are characters as any other.
        option: What says so, for the errors.

    Attributes:
        delimiter: What separates the columns.
        header: Their names.
    """

    def __init__(self, lines: Lines, name: str, delimiter: str, *, quoted: bool, option: str) -> None:
        self._lines, self._name, self._option = lines, name, option
        self._quoted = quoted
        self.delimiter = delimiter
        self.header: list[str] = []

    def read(self, piece_rows: int) -> Iterator[dict[str, Sequence[str]]]:
        """Yield the columns of up to `piece_rows` rows; where a row is broken, those before it first.

        Raises:
            UserError: If a row is broken or the header refused; it names the line.
        """
        old_limit = csv.field_size_limit(LONGEST_LINE)
        try:
            reader = self._begin()
            while True:
                first = self._lines.number + 1
                self._lines.kept.clear()
                rows, failure = self._take(reader, piece_rows, first)
                if rows:
                    yield dict(zip(self.header, zip(*rows, strict=True), strict=True))
                if failure is not None:
                    raise failure
                if self._lines.number < first:
                    return
        finally:
            csv.field_size_limit(old_limit)

    def _begin(self) -> Iterator[list[str]]:
        """Read the header, and return what reads the rows after it."""
        first = next((line for line in self._lines if line.strip()), None)
        if first is not None and (mark := _EXCEL_MARK.fullmatch(first)):
            self.delimiter = mark[1]
            first = next((line for line in self._lines if line.strip()), None)
        elif first is not None:
            self.delimiter = self._find_delimiter(first)
        begun = [] if first is None else [first]
        reader = self._read_csv(itertools.chain(begun, self._lines), self.delimiter)
        self._lines.kept[:] = begun
        header, failure = self._take(reader, 1, self._lines.number)
        if failure is not None:
            raise failure
        if header:
            self.header = header[0]
            check_header(self._name, self.header)
        return reader

    def _find_delimiter(self, header: str) -> str:
        """Return what cuts the header into most columns, the file's own delimiter where others cut it no finer."""
        return max((self.delimiter, *_OTHER_DELIMITERS), key=lambda delimiter: self._count_columns(header, delimiter))

    def _count_columns(self, header: str, delimiter: str) -> int:
        try:
            return len(next(self._read_csv([header], delimiter)))
        except csv.Error:  # a quote that this delimiter does not end
            return 0

    def _read_csv(self, lines: Iterable[str], delimiter: str) -> _csv.Reader:
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self._quoted else csv.QUOTE_NONE
        return csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)

    def _take(self, reader: Iterator[list[str]], count: int, line: int) -> tuple[list[list[str]], UserError | None]:
        """Return the next rows that are not blank, up to a broken one, and what is wrong with that one."""
        rows: list[list[str]] = []
        failure = None
        try:
            rows.extend(itertools.islice(reader, count))  # keeps the rows before an error
        except csv.Error:
            failure = UserError(self._explain_broken_quote(line))
        except UserError as error:
            failure = error
        rows = [row for row in rows if row]
        width = len(self.header) or len(rows[0]) if rows else 0
        if set(map(len, rows)) - {width}:
            ragged = next(index for index, row in enumerate(rows) if len(row) != width)
            failure = UserError(self._explain_ragged_row(ragged, width, line))
            rows = rows[:ragged]
        return rows, failure

    def _explain_ragged_row(self, index: int, width: int, line: int) -> str:
        reader = self._read_csv(self._lines.kept, self.delimiter)
        start, row = line, []
        for row in reader:
            if row and index == 0:
                break
            index -= bool(row)
            start = line + reader.line_num
        return (
            f"{self._name}: line {start} has {len(row)} fields where the header has {width}; "
            'put "quotes" around a text that holds the separator'
        )

    def _explain_broken_quote(self, first: int) -> str:
        """Walk through the kept lines, from line `first`, to the quote that is never closed before a separator."""
        advice = 'close it, and write a quote inside a quoted text twice (""), or read quotes as plain characters: '
        advice += f"{self._option} none"
        opened_line, at_field_start, quoted, just_closed = first, True, False, False
        for number, line in enumerate(self._lines.kept, start=first):
            for character in line:
                if quoted:
                    if character == '"':
                        quoted, just_closed = False, True
                elif character == '"' and (at_field_start or just_closed):
                    opened_line = number if at_field_start else opened_line
                    quoted, at_field_start, just_closed = True, False, False
                elif just_closed and character not in (self.delimiter, "\r", "\n"):
                    return (
                        f"{self._name}: the quote opened in line {opened_line} is followed by {character!r} "
                        f"where it closes, in line {number}; {advice}"
                    )
                else:
                    at_field_start, just_closed = character in (self.delimiter, "\r", "\n"), False
        return f"{self._name}: the quote opened in line {opened_line} is never closed; {advice}"


def check_header(name: str, header: Sequence[str]) -> None:
    """Refuse a name that two columns share.

    Raises:
        UserError: if there is one.
    """
    repeated = next((column for column in header if header.count(column) > 1), None)
    if repeated is not None:
        raise UserError(
            f"{name}: the header has {header.count(repeated)} columns named {repeated!r}; rename all but one"
        )
