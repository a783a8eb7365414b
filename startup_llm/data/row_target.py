from __future__ import annotations

import base64
import contextlib
import csv
import datetime
import gzip
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from startup_llm.data.delimited import DELIMITERS
from startup_llm.data.row_source import PIPE, WRITTEN_EXTENSIONS, Piece, RowSource, choose_format
from startup_llm.errors import UserError
from startup_llm.written_files import NewFile, find_owner

if TYPE_CHECKING:
    import pyarrow


_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"[+\-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+\-]?\d+)?", re.ASCII)


class RowTarget:
    """A file or stdout that takes a source's rows, each with its answer.

    A file is written under another name beside its place and gets its own name when it is whole. A context manager;
    where a pipe breaks off with a `UserError`, the answers so far are kept as `NAME.partial`.

    Args:
        path: CSV, TSV, JSONL or Parquet file, each perhaps with .gz; `-` for stdout.
        row_format: csv, tsv, jsonl or parquet; auto goes by the file's extension; for stdout by the source's format.
        source: Where the rows come from.
        overwrite: Replace an existing file.
        raw: Leave cells of CSV and TSV as they are that a spreadsheet would run.

    Attributes:
        format: What auto stands for, or the given format.

    Raises:
        UserError: If the file cannot be written, exists already, or is the source itself.
    """

    def __init__(
        self, path: str, row_format: str, source: RowSource, *, overwrite: bool = False, raw: bool = False
    ) -> None:
        self.path, self._source, self._raw = path, source, raw
        self._file: NewFile | None = None
        self._writer: _DelimitedWriter | _JsonLinesWriter | _ParquetWriter
        self._streams: list[IO[bytes]] = []
        self._written = 0
        if path == PIPE:
            by_source = source.format if source.format in DELIMITERS else "jsonl"
            self.format = by_source if row_format == "auto" else row_format
            if self.format == "parquet":
                raise UserError("Parquet cannot be written to stdout; name a file, or use --output_format jsonl")
            return
        self.format = _choose_format(path, row_format)
        place = Path(path)
        if not place.parent.is_dir():
            raise UserError(f"the folder of the output {path} does not exist; make it: mkdir -p {place.parent}")
        if place.exists() and source.path != PIPE and place.samefile(source.path):
            raise UserError(f"the output {path} is the input itself; name another file")
        if place.exists() and not place.is_file():
            raise UserError(f"the output {path} is not a file; name a file, or - for stdout")
        if place.exists() and not overwrite:
            raise UserError(f"the output {path} exists already; name another file, or replace it with --overwrite")
        if (owner := find_owner(place)) is not None:
            raise UserError(f"the output {path} is a file of {owner}; name another file")
        if not os.access(place.parent, os.W_OK):
            raise UserError(f"the output {path} cannot be written: permission denied in {place.parent}")

    def open(self, columns: Sequence[str], example: dict[str, Any], schema: pyarrow.Schema | None = None) -> None:
        """Begin to write.

        Args:
            columns: The source's columns.
            example: An answer, for the names and types of the columns that are added.
            schema: Types of the source's columns; needed for Parquet.

        Raises:
            UserError: If the columns leave no name for an answer's field.
        """
        self._names = {name: _free_name(name, columns) for name in example}
        if self.path == PIPE:
            stream = sys.stdout.buffer
        else:
            place = Path(self.path)
            self._file = NewFile(place)
            stream = self._file.stream
            self._streams = [stream]
            if place.name.lower().endswith(".gz"):
                stream = cast(IO[bytes], gzip.GzipFile("", "wb", fileobj=stream, mtime=0))
                self._streams.insert(0, stream)
        if self.format == "parquet":
            self._writer = _ParquetWriter(stream, schema, {self._names[key]: value for key, value in example.items()})
        elif self.format in DELIMITERS:
            with _end_at_broken_pipe():
                names = [*columns, *self._names.values()]
                self._writer = _DelimitedWriter(stream, names, DELIMITERS[self.format], raw=self._raw)
        else:
            self._writer = _JsonLinesWriter(stream)

    def write(self, piece: Piece, answers: Sequence[dict[str, Any]]) -> None:
        """Write a piece's rows with their answers; a row whose answer is {} gets empty fields.

        Raises:
            UserError: If a row has a column that earlier ones had not, or a value of another type.
        """
        added = [{name: answer.get(key) for key, name in self._names.items()} for answer in answers]
        taken = set(self._names.values())
        for number, row in enumerate(piece.rows, start=piece.start + 1):
            if clash := taken & row.keys():
                raise UserError(
                    f"{self._source.name}: row {number} has a column {min(clash)!r}, the answer's own name, which no "
                    "earlier row had; rename it"
                )
        try:
            with _end_at_broken_pipe():
                self._writer.write(piece, added)
                if self.path == PIPE:
                    sys.stdout.flush()
        except _RowError as error:
            raise UserError(f"{self._source.name}: {error}") from None
        self._written += len(piece)

    def __enter__(self) -> RowTarget:
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if self._file is None:
            return
        place = Path(self.path)
        try:
            keep = isinstance(error, UserError) and self._written and not self._source.can_reread
            if keep:
                place = _find_free_name(place.with_name(f"{place.name}.partial"))
            if error_type is None or keep:
                self._close()
                self._file.keep(place)
            if keep:
                raise UserError(f"{error}; the answers to the {self._written:,} rows before are in {place}") from None
        finally:
            self._file.close()

    def _close(self) -> None:
        self._writer.close()
        for stream in self._streams[:-1]:
            stream.close()


def _find_free_name(place: Path) -> Path:
    """Return a name that nothing has: that one, or one with a number."""
    names = [place, *(place.with_name(f"{place.name}.{number}") for number in range(2, 1000))]
    return next((name for name in names if not os.path.lexists(name)), names[-1])


class _RowError(Exception):
    """A row that does not fit; the message lacks the source's name."""


class _DelimitedWriter:
    def __init__(self, stream: IO[bytes], columns: list[str], delimiter: str, *, raw: bool) -> None:
        self._stream, self._columns, self._delimiter, self._raw = stream, columns, delimiter, raw
        self._write([columns])

    def write(self, piece: Piece, answers: list[dict[str, Any]]) -> None:
        rows = [row | answer for row, answer in zip(piece.to_rows(), answers, strict=True)]
        known = set(self._columns)
        for number, row in enumerate(rows, start=piece.start + 1):
            if new := row.keys() - known:
                raise _RowError(
                    f"row {number} has a column {min(new)!r} that the first {piece.start or 'rows'} have not; "
                    "a table cannot take it: use --output_format jsonl"
                )
        self._write([_to_cell(row.get(name)) for name in self._columns] for row in rows)

    def _write(self, rows: Iterable[Sequence[object]]) -> None:
        text = io.StringIO(newline="")
        plain = csv.writer(text, delimiter=self._delimiter, lineterminator="\n")
        quoted = csv.writer(text, delimiter=self._delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
        if not self._raw:
            rows = ([escape_formula(cell) for cell in row] for row in rows)
        for row in rows:  # the csv module leaves a carriage return bare, and then cannot read it
            (quoted if any(isinstance(cell, str) and "\r" in cell for cell in row) else plain).writerow(row)
        self._stream.write(text.getvalue().encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        pass


class _JsonLinesWriter:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, piece: Piece, answers: list[dict[str, Any]]) -> None:
        lines = [_to_json(row | answer) + "\n" for row, answer in zip(piece.to_rows(), answers, strict=True)]
        # half a surrogate pair is no UTF-8; its backslash form is JSON's own escape
        self._stream.write("".join(lines).encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        pass


class _ParquetWriter:
    def __init__(self, stream: IO[bytes], schema: pyarrow.Schema, example: dict[str, Any]) -> None:
        import pyarrow
        import pyarrow.parquet

        self._source_schema = schema
        for name, value in example.items():
            schema = schema.append(pyarrow.field(name, pyarrow.array([value]).type))
        metadata = {key: value for key, value in (schema.metadata or {}).items() if key != b"huggingface"}
        self._schema = schema.with_metadata(metadata)  # datasets lists the columns there, and these are now more
        self._writer = pyarrow.parquet.ParquetWriter(stream, self._schema)

    def write(self, piece: Piece, answers: list[dict[str, Any]]) -> None:
        import pyarrow

        new = [column for column in piece.columns if column not in self._source_schema.names]
        if new:
            raise _RowError(f"a row after row {piece.start} has a column {new[0]!r} that earlier ones have not")
        arrays = []
        for column in self._schema:
            if column.name not in self._source_schema.names:
                values = [answer[column.name] for answer in answers]
            elif piece.table is not None:
                arrays.append(piece.table[column.name])
                continue
            else:
                values = piece.values(column.name)
            try:
                arrays.append(pyarrow.array(values, column.type))
            except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError, TypeError) as error:
                place = f"rows {piece.start + 1} to {piece.start + len(piece)}"
                raise _RowError(f"{place}: column {column.name!r} is not {column.type} throughout ({error})") from None
        self._writer.write_table(pyarrow.table(arrays, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def extend_schema(schema: pyarrow.Schema | None, piece: Piece, source_name: str) -> pyarrow.Schema:
    """Return the Arrow types that hold the values of a piece and those that a schema holds already.

    Args:
        schema: The types so far; None before the first piece.
        piece: More rows.
        source_name: What an error names.

    Raises:
        UserError: If the values of a column have no common type.
    """
    import pyarrow

    if piece.table is not None:
        return piece.table.schema
    schema = schema or pyarrow.schema([])
    try:
        for column in piece.columns:
            schema_of_piece = pyarrow.schema([(column, pyarrow.array(piece.values(column)).type)])
            schema = pyarrow.unify_schemas([schema, schema_of_piece], promote_options="permissive")
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{source_name}: rows {piece.start + 1} to {piece.start + len(piece)}: Parquet cannot hold column "
            f"{column!r} ({reason}); use a .jsonl output"
        ) from None
    return schema


def _choose_format(path: str, row_format: str) -> str:
    if row_format != "auto":
        return row_format
    row_format = choose_format(path, WRITTEN_EXTENSIONS)
    return "jsonl" if row_format == "json" else row_format


@contextlib.contextmanager
def _end_at_broken_pipe() -> Iterator[None]:
    """End the process as SIGPIPE would where the reader of stdout, such as head, has seen enough."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def _free_name(name: str, columns: Sequence[str]) -> str:
    if name not in columns:
        return name
    if f"predicted_{name}" in columns:
        raise UserError(
            f"the input has both columns {name!r} and 'predicted_{name}', which leaves no name for the answer; "
            "rename one of them"
        )
    return f"predicted_{name}"


def _to_cell(value: Any) -> str | int | float | None:
    if isinstance(value, list | dict | bool):
        return _to_json(value)
    return value if value is None or isinstance(value, str | int | float) else _to_plain(value)


def escape_formula(cell: object) -> object:
    """Put a quote before what a spreadsheet would run as a formula (https://owasp.org/www-community/attacks/CSV_Injection).

    A whole number or fraction, with its sign, is none.
    """
    is_formula = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_to_plain)


def _to_plain(value: Any) -> str:
    """Write what Parquet has and JSON has not: dates in ISO 8601, bytes in base64, other things as they print."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)
