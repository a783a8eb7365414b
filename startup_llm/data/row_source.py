"""Rows of a file, of a pipe or of a folder, read in pieces: for training, an audit and predictions alike."""

from __future__ import annotations

import contextlib
import io
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from startup_llm.data.annotation_tools import find_tool, read_export
from startup_llm.data.annotation_tools.argilla import is_flat
from startup_llm.data.databases import DATABASES, is_address, read_query
from startup_llm.data.delimited import DELIMITERS, DelimitedRows, check_header
from startup_llm.data.json_rows import JsonColumns, JsonRows, JsonTables
from startup_llm.data.spreadsheets import SPREADSHEETS, read_spreadsheet
from startup_llm.data.text_lines import UTF_8, Lines, check_encoding, find_encoding, read_mark
from startup_llm.errors import UserError, nearest
from startup_llm.plain_data import check_regular_file, explain_broken_gzip, open_gzip

if TYPE_CHECKING:
    import pyarrow

WRITTEN_EXTENSIONS = ("csv", "tsv", "jsonl", "json", "parquet")
EXTENSIONS = (*WRITTEN_EXTENSIONS, *SPREADSHEETS)
Reader = Callable[[str, str], "pyarrow.Table"]
"""From a file's name and its text to its rows."""
NO_READERS: Mapping[str, Reader] = {}
PIPE = "-"
"""Stands for stdin and stdout."""
_DELIMITER_NAMES = {"\t": "tabs", " ": "blanks"}


def list_extensions(extensions: tuple[str, ...]) -> str:
    """Write the extensions of files that can be read as a message names them."""
    return ", ".join(f".{extension}" for extension in extensions) + ", each also with .gz"


@dataclass(frozen=True)
class FileOptions:
    """How files are read, where they do not say it themselves.

    Attributes:
        quoting: double where "quotes" hold a cell of CSV or TSV together; none where they are plain characters.
        encoding: Of text files; None for UTF-8 or what is recognised.
        sheet: Of a spreadsheet; None for the only one that holds something.
        query: What is read from a database.
        annotator: Whose annotations count alone in an annotation tool's export.
        prefix: What stands before an option's name, for the errors.
    """

    quoting: str = "double"
    encoding: str | None = None
    sheet: str | None = None
    query: str | None = None
    annotator: str | None = None
    prefix: str = "--data."


DEFAULT_OPTIONS = FileOptions()


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a source, in one of three forms.

    Attributes:
        start: Number of rows before these.
        rows: One dict per row, from JSON.
        table: The rows as Arrow, from Parquet.
        cells: The columns, from CSV, TSV and spreadsheets.
        lines: The line of each of `rows`.
    """

    start: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    table: pyarrow.Table | None = None
    cells: dict[str, Sequence[str]] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        if self.table is not None:
            return self.table.num_rows
        return len(next(iter(self.cells.values()))) if self.cells else len(self.rows)

    @property
    def columns(self) -> list[str]:
        """Every column that one of the rows has, in the order of appearance."""
        if self.table is not None:
            return self.table.column_names
        return list(self.cells or dict.fromkeys(name for row in self.rows for name in row))

    def values(self, column: str) -> list[Any]:
        """Return a column; None where a row lacks it."""
        if self.table is not None:
            return self.table[column].to_pylist()
        return list(self.cells[column]) if self.cells else [row.get(column) for row in self.rows]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the rows as dicts."""
        if self.table is not None:
            return self.table.to_pylist()
        names = tuple(self.cells)
        cells = zip(*self.cells.values(), strict=True)
        return [dict(zip(names, row, strict=True)) for row in cells] if names else self.rows

    def number_rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Return the rows as dicts, each with its line, or else its number."""
        rows = self.to_rows()
        return zip(self.lines or itertools.count(self.start + 1), rows, strict=False)

    def first(self, count: int) -> Piece:
        """Return the first `count` rows."""
        table = None if self.table is None else self.table.slice(0, count)
        cells = {name: values[:count] for name, values in self.cells.items()}
        return Piece(self.start, self.rows[:count], table, cells, self.lines[:count])


class RowSource:
    """Rows of a file or of stdin, or the files of a folder, read in pieces.

    Args:
        path: CSV, TSV, JSONL, JSON, Parquet or spreadsheet file, each perhaps with .gz; an SQLite file or the address
            of a database; `-` for stdin; a folder, whose files by their paths are rows with a column `file`.
        row_format: csv, tsv, jsonl, json, parquet; lines (a JSON object, or else the text itself); auto goes by the
            file's extension, and by lines for stdin.
        piece_rows: Rows in one piece.
        options: How the file is read, where it does not say so itself.
        readers: What reads files of further extensions, as a whole.

    Attributes:
        name: The path, or `stdin`: how errors name the source.
        format: What auto stands for, or the given format; folder for a folder.
        folder: From where paths in the rows are read.
        can_reread: Whether the rows can be read twice, as those of a pipe cannot.
        notes: What was recognised without being named, once reading has begun.
        is_export: Whether `read_table` found an annotation tool's export.

    Raises:
        UserError: If the file does not exist or its extension is unknown.
    """

    def __init__(
        self,
        path: str,
        row_format: str = "auto",
        piece_rows: int = 10_000,
        options: FileOptions = DEFAULT_OPTIONS,
        readers: Mapping[str, Reader] = NO_READERS,
    ) -> None:
        self.path, self.piece_rows, self._options, self._readers = path, piece_rows, options, readers
        self.name = "stdin" if path == PIPE else path
        self.notes: list[str] = []
        self.is_export = False
        self._is_gzip = path.lower().endswith(".gz")
        self._encoding = options.encoding
        if options.encoding is not None:
            check_encoding(options.encoding)
        self.format = self._find_format(row_format)
        is_local = path != PIPE and self.format != "address"
        self.folder = (
            Path() if not is_local else Path(path) if self.format == "folder" else Path(path).parent
        ).resolve()
        self.can_reread = path != PIPE and (self.format in ("folder", "address") or Path(path).is_file())
        self._check_options()

    def _find_format(self, row_format: str) -> str:
        if self.path == PIPE:
            return "lines" if row_format == "auto" else row_format
        if is_address(self.path):
            refuse_download(self.path)
            return "address"
        if Path(self.path).is_dir():
            return "folder"
        check_file(Path(self.path))
        known = (*EXTENSIONS, *DATABASES, *self._readers)
        return choose_format(self.path, known) if row_format == "auto" else row_format

    def _check_options(self) -> None:
        if self.format in ("parquet", *SPREADSHEETS) and not self.can_reread:
            kind = "Parquet" if self.format == "parquet" else "a spreadsheet"
            raise UserError(f"{self.name}: {kind} cannot be read from a pipe; name the file")
        for option, value, formats, what in (
            ("sheet", self._options.sheet, SPREADSHEETS, "sheets"),
            ("query", self._options.query, ("address", *DATABASES), "tables to ask"),
        ):
            if value is not None and self.format not in formats:
                raise UserError(f"{self._options.prefix}{option} {value!r}: {self.name} has no {what}; leave it out")

    def pieces(self) -> Iterator[Piece]:
        """Yield the rows in order.

        Where a row is broken, those before it are yielded first.

        Raises:
            UserError: If a row is broken, which the error names by its line; or if a file has no row.
        """
        start = 0
        read = {
            "folder": self._list_files,
            "parquet": self._read_parquet,
            **dict.fromkeys(SPREADSHEETS, self._read_spreadsheet),
            **dict.fromkeys(("address", *DATABASES), self._read_database),
        }.get(self.format, self._read_lines)
        for piece in read():
            yield replace(piece, start=start)
            start += len(piece)

    def read_lines(self) -> list[str]:
        """Return the lines of a text file without their ends; none of an empty file.

        Raises:
            UserError: If it is not text, or its encoding is not known.
        """
        with self._open_lines() as lines:
            return [line.rstrip("\r\n") for line in lines]

    def read_table(self, json_columns: JsonColumns | None = None) -> pyarrow.Table:
        """Read all rows as one table.

        Args:
            json_columns: Columns of a JSON file that may be kept as JSON text; default none.

        Raises:
            UserError: If a row is broken, values of a column have no common type, or there is no row.
        """
        import pyarrow

        typed = JsonTables(self.name, json_columns, {})
        tables = [_build_table(piece, typed) for piece in self._read_exports()]
        while typed.must_begin_anew:  # a column that is kept as JSON text is so in every piece
            typed = JsonTables(self.name, json_columns, typed.written)
            tables = [_build_table(piece, typed) for piece in self._read_exports()]
        try:
            table = pyarrow.concat_tables(tables, promote_options="permissive")
        except pyarrow.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.name}: the values of a column have no common type ({reason}); use one") from error
        for index, column in enumerate(table.schema):
            if column.name in typed.written:
                text = pyarrow.field(column.name, pyarrow.string(), metadata=typed.written[column.name])
                table = table.set_column(index, text, table[column.name].cast(pyarrow.string()))
            elif pyarrow.types.is_dictionary(column.type):
                table = table.set_column(index, column.name, table[column.name].cast(column.type.value_type))
        return table

    def _read_exports(self) -> Iterator[Piece]:
        """Yield the pieces; those of an annotation tool's export become one, of the package's own rows."""
        pieces = self.pieces()
        first = next(pieces, None)
        is_read = first is not None and (bool(first.lines) or (first.table is not None and is_flat(first.columns)))
        tool = find_tool(first.to_rows()) if first is not None and is_read else None
        if first is None or tool is None:
            yield from itertools.chain([first] if first is not None else [], pieces)
            return
        self.is_export = True
        everything = itertools.chain([first], pieces)
        numbered = (pair for piece in everything for pair in piece.number_rows())
        option = f"{self._options.prefix}annotator"
        export = read_export(tool, numbered, self.name, self._options.annotator, option)
        if export.note not in self.notes:
            self.notes.append(export.note)
        yield Piece(0, export.rows, lines=export.lines)

    @contextlib.contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        if self.path == PIPE:
            yield sys.stdin.buffer
            return
        try:
            with (
                explain_broken_gzip(self.name),
                open_gzip(self.path) if self._is_gzip else open(self.path, "rb") as stream,
            ):
                yield cast(IO[bytes], stream)
        except PermissionError:
            raise UserError(f"{self.path} cannot be read: permission denied; change its permissions") from None

    @contextlib.contextmanager
    def _open_lines(self) -> Iterator[Lines]:
        option = f"{self._options.prefix}encoding"
        if self._encoding is None and self.can_reread:
            with self._open() as stream:
                self._encoding = find_encoding(stream, self.name, option)
            if self._encoding != UTF_8:
                self.notes.append(f"read as {self._encoding} ({option} names another encoding)")
        with self._open() as stream:
            if self._encoding is None:  # a pipe says it by its first bytes or not at all
                stream = stream if hasattr(stream, "peek") else io.BufferedReader(stream)  # type: ignore[type-var]
                self._encoding = read_mark(stream.peek(4)[:4]) or UTF_8
            lines = Lines(stream, self.name, self._encoding, option, every_end=self.format in DELIMITERS)
            try:
                yield lines
            finally:
                lines.detach()

    def _read_lines(self) -> Iterator[Piece]:
        is_empty = True
        with self._open_lines() as lines:
            if self.format in self._readers:
                read = self._read_as_whole(lines)
            else:
                read = self._read_delimited(lines) if self.format in DELIMITERS else self._read_json(lines)
            for piece in read:
                is_empty = False
                yield piece
        if is_empty:
            held = f"no text, only white space ({lines.number:,} lines)" if lines.number else "empty (0 bytes)"
            raise UserError(f"{self.name}: {held}, so no rows; expected at least one")

    def _read_as_whole(self, lines: Lines) -> Iterator[Piece]:
        if (text := "".join(lines)).strip():
            table = self._readers[self.format](self.name, text)
            if table.num_rows == 0:
                raise UserError(f"{self.name}: no rows; expected at least one")
            yield Piece(0, table=table)

    def _read_delimited(self, lines: Lines) -> Iterator[Piece]:
        usual, option = DELIMITERS[self.format], f"{self._options.prefix}quoting"
        rows = DelimitedRows(lines, self.name, usual, quoted=self._options.quoting != "none", option=option)
        cells = None
        for cells in rows.read(self.piece_rows):
            note = f"columns separated by {_DELIMITER_NAMES.get(rows.delimiter, repr(rows.delimiter))}"
            if rows.delimiter != usual and note not in self.notes:
                self.notes.append(note)
            yield Piece(0, cells=cells)
        if cells is None and rows.header:
            raise UserError(f"{self.name}: a header ({', '.join(rows.header)}) and no rows; expected at least one row")

    def _read_json(self, lines: Lines) -> Iterator[Piece]:
        source = JsonRows(lines, self.name, texts=self.format == "lines", document=self.format == "json")
        for numbers, rows in source.read(self.piece_rows):
            yield Piece(0, rows, lines=numbers)

    def _list_files(self) -> Iterator[Piece]:
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
        named = (str(path.relative_to(self.folder)) for path in files)
        while rows := [{"file": name} for name in itertools.islice(named, self.piece_rows)]:
            yield Piece(0, rows)

    def _read_spreadsheet(self) -> Iterator[Piece]:
        option = f"{self._options.prefix}sheet"
        with self._open() as stream:
            for cells in read_spreadsheet(stream, self.name, self._options.sheet, option, self.piece_rows):
                yield Piece(0, cells=cells)

    def _read_database(self) -> Iterator[Piece]:
        for numbers, rows in read_query(
            self.path, self._options.query, f"{self._options.prefix}query", self.piece_rows
        ):
            yield Piece(0, rows, lines=numbers)

    def _read_parquet(self) -> Iterator[Piece]:
        import pyarrow
        import pyarrow.parquet

        is_empty = True
        with self._open() as stream, contextlib.ExitStack() as stack:
            try:
                if self._is_gzip:  # Parquet is read from its end, which gzip cannot reach
                    unzipped = stack.enter_context(tempfile.TemporaryFile())
                    shutil.copyfileobj(stream, unzipped)
                    stream = unzipped
                file = pyarrow.parquet.ParquetFile(stream, buffer_size=2**20, pre_buffer=False)
                check_header(self.name, file.schema_arrow.names)
                for batch in file.iter_batches(self.piece_rows):
                    is_empty = False
                    yield Piece(0, table=pyarrow.Table.from_batches([batch]))
            except (pyarrow.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"{self.name}: not a readable Parquet file ({reason}); write or copy it again"
                ) from None
        if is_empty:
            columns = ", ".join(file.schema_arrow.names) or "none"
            raise UserError(f"{self.name}: no rows (columns: {columns}); expected at least one")


def _build_table(piece: Piece, typed: JsonTables) -> pyarrow.Table:
    import pyarrow

    if piece.table is not None:
        return piece.table
    if piece.cells:
        return pyarrow.table({name: pyarrow.array(cells, pyarrow.string()) for name, cells in piece.cells.items()})
    return typed.build(piece.rows, piece.lines)


def choose_format(path: str, extensions: tuple[str, ...] = EXTENSIONS) -> str:
    """Return the format that a file's extension names.

    Raises:
        UserError: If it names none of the extensions.
    """
    extension = path.lower().removesuffix(".gz").rpartition(".")[2]
    if extension not in extensions:
        raise UserError(f"{path}: unknown file type; expected {list_extensions(extensions)}")
    return extension


def refuse_download(address: str) -> None:
    """Refuse the address of a file.

    Raises:
        UserError: If it is one; it says how to get at the rows.
    """
    if address.lower().startswith(("http:", "https:", "ftp:", "s3:", "gs:", "hf:")):
        name = address.partition("?")[0].rstrip("/").rpartition("/")[2] or "FILE"
        raise UserError(
            f"{address}: nothing is downloaded from an address; download it (curl -L -o {name} '{address}') and name "
            "the file, or name a data set of the Hub with --data.dataset OWNER/NAME"
        )


def check_file(path: Path) -> None:
    """Check that a path is a plain file, or what a shell gives for `<(command)`.

    Raises:
        UserError: If it is neither; of a file that is not there it names the nearest.
    """
    if str(path).startswith(("/dev/fd/", "/dev/stdin", "/proc/self/fd/")):
        return
    try:
        path.stat()
    except FileNotFoundError:
        folder = path.parent
        if not folder.is_dir():
            raise UserError(f"no such file: {path} (its folder {folder} does not exist)") from None
        hint = nearest(path.name, [entry.name for entry in folder.iterdir() if entry.is_file()])
        raise UserError(f"no such file: {path}{hint or f' (nothing of a similar name in {folder})'}") from None
    except (OSError, ValueError):  # a link that leads back to itself, a name that is too long
        pass
    check_regular_file(path)
