"""Spreadsheets, read as the CSV file that they would be saved as: each cell is text, a formula is its value.

The sheet is held in memory as a whole, as its formats ask for.
"""

from __future__ import annotations

import html
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

from startup_llm.data.delimited import check_header
from startup_llm.errors import UserError, nearest

if TYPE_CHECKING:
    import python_calamine

SPREADSHEETS = ("xlsx", "xlsm", "xls", "ods")
_SPANNING = re.compile(rb'number-(?:columns|rows)-spanned="(?!1")')
_NOT_COMPUTED = re.compile(rb'<c r="([A-Z]+\d+)"[^>]*><f(?:[^>]*/>|[^>]*>[^<]*</f>)(?:<v */>|<v></v>)?</c>')
_LARGEST_WHOLE = 1e15
"""Above it a floating point number no longer shows each whole number."""


def read_spreadsheet(
    stream: IO[bytes], name: str, sheet: str | None, option: str, piece_rows: int
) -> Iterator[dict[str, Sequence[str]]]:
    """Yield the columns of up to `piece_rows` rows of a sheet; its first row that is not blank names them.

    Args:
        stream: The file.
        name: The file, for the errors.
        sheet: Which sheet; None for the only one that holds something.
        option: What names the sheet, for the errors.
        piece_rows: Rows in one piece.

    Raises:
        UserError: If python-calamine is missing, the file or its sheet cannot be read, cells are merged, a formula has
            no stored value, or a column has values and no name.
    """
    try:
        import python_calamine
    except ImportError:
        raise UserError("spreadsheets are read by python-calamine; pip install 'startup-llm[spreadsheets]'") from None
    content = stream.read()
    try:
        book = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(content))
        chosen = _choose_sheet(book, name, sheet, option)
        rows = chosen.to_python()
    except python_calamine.PasswordError:
        raise UserError(f"{name}: protected by a password; save a copy without one") from None
    except python_calamine.CalamineError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: not a readable spreadsheet ({reason}); save or copy it again") from None
    place = f"{name}, sheet {chosen.name!r}"
    _check_merged(chosen, content, place)
    if any("" in row for row in rows):
        _check_formulas(content, book.sheet_names.index(chosen.name), place)
    cells = [[_write_cell(value) for value in row] for row in rows]
    yield from _cut_columns([row for row in cells if any(map(str.strip, row))], place, piece_rows)


def _choose_sheet(
    book: python_calamine.CalamineWorkbook, name: str, sheet: str | None, option: str
) -> python_calamine.CalamineSheet:
    if sheet is not None:
        if sheet not in book.sheet_names:
            names = ", ".join(map(repr, book.sheet_names))
            raise UserError(
                f"{option}: {name} has no sheet {sheet!r}, it has {names}{nearest(sheet, book.sheet_names)}"
            )
        return book.get_sheet_by_name(sheet)
    filled = [filled_sheet for filled_sheet in map(book.get_sheet_by_name, book.sheet_names) if filled_sheet.height]
    if not filled:
        raise UserError(f"{name}: empty, so no rows; expected a row of names and rows below it")
    if len(filled) > 1:
        names = ", ".join(repr(filled_sheet.name) for filled_sheet in filled)
        raise UserError(f"{name} has several sheets ({names}); choose one: {option} {filled[0].name!r}")
    return filled[0]


def _check_merged(sheet: python_calamine.CalamineSheet, content: bytes, place: str) -> None:
    """Refuse merged cells, of which only the first holds a value."""
    advice = "unmerge them, and write the value into each"
    ranges = sheet.merged_cell_ranges
    if ranges:
        (top, left), (bottom, right) = ranges[0]
        corners = f"{_name_column(left)}{top + 1}:{_name_column(right)}{bottom + 1}"
        raise UserError(f"{place}: the cells {corners} are merged; {advice}")
    if ranges is None and zipfile.is_zipfile(io.BytesIO(content)):  # ODS, of which calamine does not say it
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            tables = archive.read("content.xml").split(b"<table:table ")[1:]
        mark = f'table:name="{html.escape(sheet.name, quote=False)}"'.encode()
        if any(_SPANNING.search(table) for table in tables if mark in table.partition(b">")[0]):
            raise UserError(f"{place}: some cells are merged; {advice}")


def _check_formulas(content: bytes, index: int, place: str) -> None:
    """Refuse XLSX's formulas whose value nothing has computed yet, as in a file that a program wrote."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if "xl/workbook.xml" not in archive.namelist():
            return
        links = re.findall(rb'<sheet [^>]*?r:id="([^"]+)"', archive.read("xl/workbook.xml"))
        relations = re.findall(rb"<Relationship [^>]*>", archive.read("xl/_rels/workbook.xml.rels"))
        target = next((part for part in relations if b'Id="' + links[index] + b'"' in part), b"")
        match = re.search(rb'Target="/?(?:xl/)?([^"]+)"', target)
        path = f"xl/{match[1].decode()}" if match else ""
        formula = _NOT_COMPUTED.search(archive.read(path)) if path in archive.namelist() else None
    if formula:
        raise UserError(
            f"{place}: the formula in {formula[1].decode()} has no value yet; open the file in a spreadsheet program "
            "and save it"
        )


def _cut_columns(rows: list[list[str]], place: str, piece_rows: int) -> Iterator[dict[str, Sequence[str]]]:
    if not rows:
        raise UserError(f"{place}: empty, so no rows; expected a row of names and rows below it")
    header, rows = rows[0], rows[1:]
    columns = [index for index, title in enumerate(header) if title.strip() or any(row[index] for row in rows)]
    if unnamed := [index for index in columns if not header[index].strip()]:
        raise UserError(f"{place}: column {unnamed[0] + 1} has values and no name; name it in the first row")
    names = [header[index] for index in columns]
    check_header(place, names)
    if not rows:
        raise UserError(f"{place}: a header ({', '.join(names)}) and no rows; expected at least one row")
    for start in range(0, len(rows), piece_rows):
        part = rows[start : start + piece_rows]
        yield {name: [row[index] for row in part] for name, index in zip(names, columns, strict=True)}


def _write_cell(value: Any) -> str:
    """Write a cell as a spreadsheet program writes it to CSV; dates in ISO 8601."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_WHOLE:
        return str(int(value))
    return str(value)


def _name_column(index: int) -> str:
    letters = ""
    while index >= 0:
        letters, index = chr(ord("A") + index % 26) + letters, index // 26 - 1
    return letters
