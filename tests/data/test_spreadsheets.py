import datetime
import gzip
import sys
import zipfile

import openpyxl
import pytest

from startup_llm.data.row_source import FileOptions, RowSource
from startup_llm.errors import UserError

HEADER = ["id", "text", "label"]
ROWS = [[1, "hello there", "a"], [2, "good bye", "b"]]


@pytest.fixture
def book(tmp_path):
    """Write sheets by name, and read one."""

    def write_book(sheets, sheet=None, *, name="a.xlsx", merge=None, piece_rows=10_000):
        workbook = openpyxl.Workbook()
        workbook.remove(workbook.active)
        for title, rows in sheets.items():
            page = workbook.create_sheet(title)
            for row in rows:
                page.append(row)
            if merge:
                page.merge_cells(merge)
        path = tmp_path / name
        workbook.save(tmp_path / "plain.xlsx")
        content = (tmp_path / "plain.xlsx").read_bytes()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return RowSource(str(path), "auto", piece_rows, FileOptions(sheet=sheet))

    return write_book


def write_ods(path, table):
    """Write the least that the format's standard asks for (OpenDocument 1.2, part 3)."""
    space = "urn:oasis:names:tc:opendocument:xmlns"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr(
            "META-INF/manifest.xml",
            f'<manifest:manifest xmlns:manifest="{space}:manifest:1.0"><manifest:file-entry manifest:full-path="/" '
            'manifest:media-type="application/vnd.oasis.opendocument.spreadsheet"/></manifest:manifest>',
        )
        archive.writestr(
            "content.xml",
            f'<office:document-content xmlns:office="{space}:office:1.0" xmlns:table="{space}:table:1.0" '
            f'xmlns:text="{space}:text:1.0"><office:body><office:spreadsheet>{table}</office:spreadsheet>'
            "</office:body></office:document-content>",
        )


def write_ods_row(*cells, attributes=""):
    written = "".join(
        f'<table:table-cell office:value-type="string" {attributes}><text:p>{cell}</text:p></table:table-cell>'
        for cell in cells
    )
    return f"<table:table-row>{written}</table:table-row>"


def read(source):
    return [list(row.values()) for piece in source.pieces() for row in piece.to_rows()]


@pytest.mark.parametrize("name", ["a.xlsx", "a.XLSX", "a.xlsx.gz"])
@pytest.mark.parametrize("piece_rows", [1, 10_000])
def test_a_sheet_is_read_as_the_csv_file_that_it_would_be_saved_as(book, name, piece_rows):
    rows = [*ROWS, [3.5, True, None], [datetime.datetime(2024, 1, 2, 10, 30), datetime.date(2024, 1, 3), 1e20]]
    source = book(
        {"Tickets": [[], HEADER, *rows, [], [None, None, "late"]], "Notes": []}, name=name, piece_rows=piece_rows
    )
    assert source.read_table().column_names == HEADER
    assert read(source) == [
        ["1", "hello there", "a"],
        ["2", "good bye", "b"],
        ["3.5", "TRUE", ""],
        ["2024-01-02 10:30:00", "2024-01-03", "1e+20"],
        ["", "", "late"],
    ]


def test_of_several_sheets_one_is_named(book):
    sheets = {"March": [HEADER, *ROWS], "April": [HEADER, ROWS[1]]}
    assert read(book(sheets, "April")) == [["2", "good bye", "b"]]
    with pytest.raises(UserError, match=r"a.xlsx has several sheets \('March', 'April'\); choose one: --data.sheet"):
        read(book(sheets))
    with pytest.raises(UserError, match=r"a.xlsx has no sheet 'april', it has .*did you mean 'April'\?"):
        read(book(sheets, "april"))


@pytest.mark.parametrize(
    ("rows", "merge", "message"),
    [
        ([], None, "a.xlsx: empty, so no rows"),
        ([HEADER], None, r"sheet 'One': a header \(id, text, label\) and no rows"),
        ([["id", "text", "text"], *ROWS], None, "the header has 2 columns named 'text'"),
        ([["id", None, "label"], *ROWS], None, "column 2 has values and no name"),
        ([HEADER, *ROWS], "B2:B3", "sheet 'One': the cells B2:B3 are merged; unmerge them, and write"),
        ([HEADER, [1, "=A1&B1", "a"]], None, "the formula in B2 has no value yet; open the file in a spreadsheet"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(book, rows, merge, message):
    with pytest.raises(UserError, match=message) as raised:
        read(book({"One": rows}, merge=merge))
    assert "\n" not in str(raised.value)


def test_a_formula_is_its_stored_value(book, tmp_path):
    source = book({"One": [["id", "text"], [1, "=A1&B1"]]})
    with zipfile.ZipFile(source.path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    sheet = parts["xl/worksheets/sheet1.xml"]
    assert b"<f>A1&amp;B1</f>" in sheet
    formula, stored = b'<c r="B2"><f>A1&amp;B1</f><v />', b'<c r="B2" t="str"><f>A1&amp;B1</f><v>idtext</v>'
    parts["xl/worksheets/sheet1.xml"] = sheet.replace(formula, stored).replace(
        formula.replace(b" />", b"></v>"), stored
    )
    with zipfile.ZipFile(source.path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert read(RowSource(source.path)) == [["1", "idtext"]]


def test_an_open_document_is_read_and_its_merged_cells_refused(tmp_path):
    rows = write_ods_row("text", "label") + write_ods_row("hello", "a")
    write_ods(tmp_path / "a.ods", f'<table:table table:name="A &amp; B">{rows}</table:table>')
    assert read(RowSource(str(tmp_path / "a.ods"))) == [["hello", "a"]]
    merged = rows + write_ods_row("wide", attributes='table:number-columns-spanned="2"')
    write_ods(tmp_path / "b.ods", f'<table:table table:name="A &amp; B">{merged}</table:table>')
    with pytest.raises(UserError, match=r"b.ods, sheet 'A & B': some cells are merged; unmerge them"):
        read(RowSource(str(tmp_path / "b.ods")))


def test_a_broken_file_a_sheet_of_a_csv_file_and_a_missing_library_are_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "a.xlsx").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"a.xlsx: not a readable spreadsheet \(.*\); save or copy it again"):
        read(RowSource(str(tmp_path / "a.xlsx")))
    (tmp_path / "a.csv").write_text("text\na\n")
    with pytest.raises(UserError, match=r"--data.sheet 'One': .*a.csv has no sheets; leave it out"):
        RowSource(str(tmp_path / "a.csv"), options=FileOptions(sheet="One"))
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(UserError, match=r"read by python-calamine; pip install 'startup-llm\[spreadsheets\]'"):
        read(RowSource(str(tmp_path / "a.xlsx")))
