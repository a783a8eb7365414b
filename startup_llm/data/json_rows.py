"""JSON objects as rows: one on each line, over several lines, in a list, or in a list under one key."""

from __future__ import annotations

import bisect
import itertools
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from startup_llm.data.text_lines import Lines
from startup_llm.errors import UserError

if TYPE_CHECKING:
    import pyarrow

Numbered = tuple[list[int], list[dict[str, Any]]]
"""Rows and the number of each: of its line, or of its place in a list."""
_LIST_KEYS = ("data", "rows", "records", "items", "examples", "results", "tickets")
"""Keys under which a document keeps its rows, beside others that describe it."""
_ROW_KEYS = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns")
"""Keys whose list of objects is a single row, a conversation."""
_JSON_FIELD = {b"json": b"text"}
_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"\s*")
_EXPECTED = 'expected one object per line, such as {"text": "...", "label": "..."}'


class JsonRows:
    """The objects of a file as rows, each with the number of its line, or of its place in a list.

    A file whose first line is an object is read line by line; any other is held in memory as a whole.

    Args:
        lines: The file's lines.
        name: The file, for the errors.
        texts: Whether a line that is no object is a row whose `text` it is.
        document: Whether a single object may be a document that keeps its rows under a key.
    """

    def __init__(self, lines: Lines, name: str, *, texts: bool = False, document: bool = False) -> None:
        self._lines, self._name, self._texts, self._document = lines, name, texts, document

    def read(self, piece_rows: int) -> Iterator[Numbered]:
        """Yield the numbers and the rows of up to `piece_rows` rows; where a row is broken, those before it first.

        Raises:
            UserError: If a line is no JSON or no object; it names the line.
        """
        first = next((line for line in self._lines if self._texts or line.strip()), "")
        if not self._texts and _parse_object(first) is None:
            yield from _cut(*self._read_whole("".join([*self._lines.kept, *self._lines])), piece_rows)
            return
        lines = itertools.chain([first] if first else [], self._lines)
        failure = None
        if self._document:
            numbers, rows, failure = self._take(lines, max(piece_rows, 2))
            if failure is None and len(rows) == 1 and (nested_rows := _find_list(rows[0])) is not None:
                numbers, rows = [*range(1, len(nested_rows) + 1)], nested_rows
            yield from _cut(numbers, rows, piece_rows)
        while failure is None:
            numbers, rows, failure = self._take(lines, piece_rows)
            if rows:
                yield numbers, rows
            elif failure is None:
                return
        raise failure

    def _take(self, lines: Iterator[str], count: int) -> tuple[list[int], list[dict[str, Any]], UserError | None]:
        """Return the next rows and their lines up to a broken one, and what is wrong with that one."""
        numbers: list[int] = []
        rows: list[dict[str, Any]] = []
        try:
            for line in lines:
                row = _parse_object(line)
                if row is None:
                    row = self._read_other(line)
                if row is not None:
                    numbers.append(self._lines.number)
                    rows.append(row)
                self._lines.kept.clear()
                if len(rows) == count:
                    break
        except UserError as error:
            return numbers, rows, error
        return numbers, rows, None

    def _read_other(self, line: str) -> dict[str, Any] | None:
        """Read a line that holds no object, or an empty one; None for a blank line."""
        if self._texts:
            return {"text": line.rstrip("\r\n")}
        if not line.strip():
            return None
        try:
            return self._check_object(self._lines.number, json.loads(line))
        except (ValueError, RecursionError) as error:
            raise self._explain(error, self._lines.number, line) from None

    def _read_whole(self, text: str) -> tuple[list[int], list[dict[str, Any]]]:
        """Read a list, or values one after the other, over as many lines as they take."""
        numbers, values, line, counted, place = [], [], 1, 0, _skip_blanks(text, 0)
        while place < len(text):
            line, counted = line + text.count("\n", counted, place), place
            try:
                value, end = _DECODER.raw_decode(text, place)
            except json.JSONDecodeError as error:
                raise self._explain(error, error.lineno, text.split("\n")[error.lineno - 1]) from None
            except (ValueError, RecursionError) as error:
                raise self._explain(error, line, text[place : place + 100]) from None
            numbers.append(line)
            values.append(value)
            place = _skip_blanks(text, end)
        if len(values) == 1:
            found = values[0]
            if self._document and isinstance(found, dict):
                found = _find_list(found)
            rows = [_read_pair(row) for row in found] if isinstance(found, list) else []
            objects = [row for row in rows if isinstance(row, dict)]
            if rows and len(objects) == len(rows):
                return [*range(1, len(objects) + 1)], objects
        return numbers, [self._check_object(line, value) for line, value in zip(numbers, values, strict=True)]

    def _check_object(self, line: int, row: object) -> dict[str, Any]:
        row = _read_pair(row)
        if not isinstance(row, dict):
            raise UserError(f"{self._name}: line {line} holds a JSON {type(row).__name__}; {_EXPECTED}")
        return row

    def _explain(self, error: ValueError | RecursionError, line: int, text: str) -> UserError:
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg} at column {error.colno}"
        else:  # brackets or a number without an end
            reason = "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
        return UserError(f"{self._name}: line {line} is not JSON ({reason}): {text.strip()[:60]!r}; {_EXPECTED}")


def _parse_object(text: str) -> dict[str, Any] | None:
    """Return the object that a text is; None for anything else."""
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and not text[end:].strip() else None


def _read_pair(value: object) -> object:
    """Return spaCy's pair of a text and its annotations as an object; anything else as it is."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict):
        return {"text": value[0], **value[1]}
    return value


def _cut(
    numbers: list[int], rows: list[dict[str, Any]], size: int
) -> Iterator[tuple[list[int], list[dict[str, Any]]]]:
    for start in range(0, len(rows), size):
        yield numbers[start : start + size], rows[start : start + size]


def _skip_blanks(text: str, place: int) -> int:
    return _BLANKS.match(text, place).end()  # it matches nothing too


def _find_list(document: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the rows that a document keeps under its only key, or under a usual one beside plain values."""
    nested = [key for key, value in document.items() if isinstance(value, dict | list) and value]
    if len(nested) != 1 or not ((len(document) == 1 and nested[0] not in _ROW_KEYS) or nested[0] in _LIST_KEYS):
        return None
    rows = document[nested[0]]
    return rows if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else None


@dataclass(frozen=True)
class JsonColumns:
    """Which columns may be kept as JSON text.

    Attributes:
        exact: Those whose lists and objects always are.
        named: Those that are read, whose values have one type; others become JSON text where they have several.
    """

    exact: Collection[str] = ()
    named: Collection[str] = ()


class JsonTables:
    """Tables of JSON rows, piece by piece; a key that a row lacks is missing there.

    Args:
        name: The file, for the errors.
        json_columns: Columns that may be kept as JSON text; None for none.
        written: Columns that are kept as JSON text from the first piece on, with the metadata of their field.

    Attributes:
        written: The same, and those that turned out to be.
        must_begin_anew: Whether one of those was not kept as JSON text in an earlier piece.
    """

    def __init__(self, name: str, json_columns: JsonColumns | None, written: Mapping[str, dict[bytes, bytes]]) -> None:
        self._name, self._json_columns = name, json_columns
        self._first: dict[str, Any] = {}
        self._schema: pyarrow.Schema | None = None
        self.written, self.must_begin_anew = dict(written), False

    def build(self, rows: Sequence[dict[str, Any]], lines: Sequence[int]) -> pyarrow.Table:
        """Build a table of rows, whose types go with those of the tables before.

        Args:
            rows: The objects.
            lines: Line of each, for the errors.

        Raises:
            UserError: If a value does not go with an earlier one of its column.
        """
        import pyarrow

        arrays, fields = [], []
        for column in dict.fromkeys(key for row in rows for key in row):
            values = [row.get(column) for row in rows]
            try:
                arrays.append(self._build_column(column, values, lines))
            except UnicodeEncodeError:
                line = next(line for line, value in zip(lines, values, strict=True) if not _is_encodable(value))
                raise UserError(
                    f"{self._name}: line {line}: {column!r} holds half of a surrogate pair (\\ud800-\\udfff), "
                    "which is no character; write the character itself"
                ) from None
            fields.append(pyarrow.field(column, arrays[-1].type, metadata=self.written.get(column)))
        return pyarrow.table(arrays, schema=pyarrow.schema(fields))

    def _build_column(self, column: str, values: list[Any], lines: Sequence[int]) -> pyarrow.Array:
        import pyarrow

        if column not in self.written:
            exact = () if self._json_columns is None else self._json_columns.exact
            if column in exact and any(isinstance(value, list | dict) for value in values):
                self._keep_as_json(column, _JSON_FIELD)
        if column in self.written:
            return write_json(values)
        first = next((value for value in values if value is not None), None)
        earlier = self._first.setdefault(column, first) if first is not None else None
        try:
            array = pyarrow.array(values)
            new = pyarrow.schema([(column, array.type)])
            schemas = [new] if self._schema is None else [self._schema, new]
            self._schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
        except (pyarrow.ArrowException, OverflowError) as error:
            fault = self._explain_types(column, earlier, values, lines)
            if self._json_columns is None or column in self._json_columns.named:
                raise UserError(f"{fault}; use one type") from error
            self._keep_as_json(column, {b"fault": fault.encode()})
            return write_json(values)
        return array

    def _keep_as_json(self, column: str, metadata: dict[bytes, bytes]) -> None:
        self.written[column] = metadata
        self.must_begin_anew |= column in self._first

    def _explain_types(self, column: str, earlier: object, values: list[Any], lines: Sequence[int]) -> str:
        """Name the first value with which those up to it have no common type."""
        place = bisect.bisect_left(
            range(len(values) - 1), True, key=lambda end: not _have_one_type([earlier, *values[: end + 1]])
        )
        value = values[place]
        return (
            f"{self._name}: line {lines[place]}: {column!r} is {json.dumps(value)[:50]} ({type(value).__name__}), "
            f"which does not go with {json.dumps(earlier)[:60]} ({type(earlier).__name__}) in an earlier row"
        )


def write_json(values: Sequence[Any]) -> pyarrow.Array:
    """Return values as JSON text; a missing one stays missing.

    Raises:
        UnicodeEncodeError: On half of a surrogate pair.
    """
    import pyarrow

    cells = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return pyarrow.array(cells, pyarrow.string())


def _have_one_type(values: list[Any]) -> bool:
    import pyarrow

    try:
        pyarrow.array(values)
    except (pyarrow.ArrowException, OverflowError):
        return False
    return True


def _is_encodable(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
