import gzip
import json
import os
import threading

import pytest

from startup_llm.data.json_rows import JsonColumns
from startup_llm.data.row_source import FileOptions, RowSource
from startup_llm.errors import UserError

CSV = "text,label\nhello there,a\ngood bye,b\n"
ROWS = [{"text": "hello there", "label": "a"}, {"text": "good bye", "label": "b"}]


@pytest.fixture
def source(tmp_path):
    def write_source(name, content, **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return RowSource(str(path), "auto", options.pop("piece_rows", 10_000), FileOptions(**options))

    return write_source


def read(source):
    return [row for piece in source.pieces() for row in piece.to_rows()]


def test_a_pipe_is_read_no_further_than_the_next_piece():
    """An endless stream would otherwise fill the memory before the first answer."""
    read_end, write_end = os.pipe()
    source = RowSource(f"/dev/fd/{read_end}", "csv", piece_rows=2)
    assert not source.can_reread
    with os.fdopen(write_end, "wb", buffering=0) as pipe:
        threading.Thread(target=pipe.write, args=(b"text\na\nb\nc\n",)).start()
        first = next(source.pieces())
    assert first.values("text") == ["a", "b"]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_large_file_is_held_in_memory_only_by_pieces(tmp_path, name):
    import tracemalloc

    path = tmp_path / name
    line = "x" * 1000 if name == "a.csv" else json.dumps({"text": "x" * 1000})
    path.write_text("text\n" * (name == "a.csv") + (line + "\n") * 20_000)
    tracemalloc.start()
    rows = sum(len(piece) for piece in RowSource(str(path), piece_rows=100).pieces())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 20_000
    assert peak < 1_500_000


@pytest.mark.parametrize("piece_rows", [1, 2, 3, 10_000])
@pytest.mark.parametrize(
    ("name", "content", "failure"),
    [
        ("a.csv", 'text\na\nb\n"c\n', "the quote opened in line 4 is never closed"),
        ("a.csv", "text\na\n\nb\nc,d\ne\n", "line 5 has 2 fields where the header has 1"),
        ("a.csv", b"text\na\nb\nc\0\n", "a NUL character in line 4"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n{"text"\n', "line 4 is not JSON"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"}\n["c"]\n', "line 3 holds a JSON list"),
    ],
)
def test_the_rows_before_a_broken_one_come_first_and_the_error_names_its_line(
    source, name, content, failure, piece_rows
):
    rows = []
    with pytest.raises(UserError, match=failure):
        rows.extend(row for piece in source(name, content, piece_rows=piece_rows).pieces() for row in piece.to_rows())
    assert rows == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize("piece_rows", [1, 2, 10_000])
def test_a_type_that_clashes_with_an_earlier_piece_s_is_named_by_its_line(source, piece_rows):
    rows = source("a.jsonl", '{"n": null}\n{"n": 1}\n\n{"n": 2.5}\n{"n": "x"}\n', piece_rows=piece_rows)
    with pytest.raises(UserError, match=r"line 5: 'n' is \"x\" \(str\), which does not go with 1 \(int\)"):
        rows.read_table()


def test_pieces_give_the_types_of_the_whole(source):
    lines = [{"n": None}, {"n": [{"a": 1}]}, {"n": []}, {"n": [{"b": "x"}]}, {"m": 1}, {"m": 1.5}]
    table = source("a.jsonl", "\n".join(map(json.dumps, lines)), piece_rows=1).read_table()
    assert table.equals(source("b.jsonl", "\n".join(map(json.dumps, lines))).read_table())
    assert str(table.schema.field("n").type) == "list<item: struct<a: int64, b: string>>"
    assert table["m"].to_pylist() == [None, None, None, None, 1.0, 1.5]


@pytest.mark.parametrize("piece_rows", [1, 2, 10_000])
def test_columns_kept_as_json_text_are_so_in_every_piece_and_lose_nothing(source, piece_rows):
    rows = [
        {"m": "plain", "x": {"a": 1}, "n": None},
        {"m": [{"b": 2}], "x": {"b": 2}},
        {"m": [{"c": 3, "d": None}], "x": "text"},
    ]
    table = source("a.jsonl", "\n".join(map(json.dumps, rows)), piece_rows=piece_rows).read_table(JsonColumns(["m"]))
    assert [json.loads(cell) for cell in table["m"].to_pylist()] == [row["m"] for row in rows]
    assert [json.loads(cell) for cell in table["x"].to_pylist()] == [row["x"] for row in rows]
    assert table.schema.field("m").metadata == {b"json": b"text"}
    assert b"line 3: 'x' is \"text\" (str), which does not go with" in table.schema.field("x").metadata[b"fault"]
    with pytest.raises(UserError, match="line 3: 'x' is"):
        source("a.jsonl", "\n".join(map(json.dumps, rows)), piece_rows=piece_rows).read_table(
            JsonColumns(["m"], ["x"])
        )


@pytest.mark.parametrize(
    ("name", "delimiter", "note"),
    [
        ("a.csv", ";", "columns separated by ';'"),
        ("a.csv", "\t", "columns separated by tabs"),
        ("a.csv", "|", "columns separated by '|'"),
        ("a.tsv", ",", "columns separated by ','"),
        ("a.tsv.gz", ";", "columns separated by ';'"),
    ],
)
def test_the_header_says_what_separates_the_columns(source, name, delimiter, note):
    content = CSV.replace(",", delimiter).encode()
    rows = source(name, gzip.compress(content) if name.endswith(".gz") else content)
    assert read(rows) == ROWS
    assert read(rows) == ROWS
    assert rows.notes == [note]


def test_a_separator_inside_texts_is_not_taken_for_the_columns(source):
    rows = source("a.csv", "id;price,EUR;text\n1;2,50;a | b\n2;3,00;c, d\n")
    assert [row["text"] for row in read(rows)] == ["a | b", "c, d"]
    assert read(source("b.csv", "text,label\na;b;c,x\n")) == [{"text": "a;b;c", "label": "x"}]


@pytest.mark.parametrize("mark", ["sep=;\r\n", '"sep=;"\n', "SEP=;\n"])
def test_the_first_line_of_excel_says_what_separates_the_columns(source, mark):
    rows = source("a.csv", f"{mark}text;label\nhello, there;a\n")
    assert read(rows) == [{"text": "hello, there", "label": "a"}]
    with pytest.raises(UserError, match="line 3 has 1 fields where the header has 2"):
        read(source("a.csv", f"{mark}text;label\nhello, there\n"))


def test_quotes_may_be_plain_characters_and_the_error_says_so(source):
    content = 'text\tlabel\n"not closed\ta\n5 inch screen\tb\n'
    with pytest.raises(UserError, match=r"line 2 is never closed; close it, .* plain characters: --data.quoting none"):
        read(source("a.tsv", content))
    assert [row["text"] for row in read(source("a.tsv", content, quoting="none"))] == ['"not closed', "5 inch screen"]
    with pytest.raises(UserError, match="plain characters: --quoting none"):
        read(source("a.tsv", content, prefix="--"))


TEXTS = {
    "cp1252": "Je n’ai pas reçu ma commande, pouvez-vous vérifier où elle est ? Le colis a été abîmé, déçu",
    "cp1250": "Nie otrzymałem zamówienia, proszę sprawdzić gdzie jest paczka. Chciałbym zwrócić książkę",
    "cp1251": "Я не получил свой заказ, проверьте пожалуйста где он находится",
    "big5": "我還沒有收到我的訂單，請幫我確認它在哪裡。我想要退款，商品已經損壞了",
    "gb18030": "我还没有收到我的订单，请帮我确认它在哪里。我想要退款，商品已经损坏了",
    "shift_jis": "注文した商品がまだ届いていません。どこにあるか確認していただけますか",
    "euc_jp": "注文した商品がまだ届いていません。どこにあるか確認していただけますか",
    "cp949": "주문한 상품을 아직 받지 못했습니다. 어디에 있는지 확인해 주세요",
}


@pytest.mark.parametrize(("encoding", "text"), TEXTS.items(), ids=TEXTS)
def test_an_older_encoding_is_recognised_and_noted(source, encoding, text):
    rows = source("a.csv", f"text;label\nplain;a\n{text};b\n".encode(encoding))
    assert [row["text"] for row in read(rows)] == ["plain", text]
    assert rows.notes[0].startswith("read as ")
    assert rows.notes[0].endswith(" (--data.encoding names another encoding)")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_the_encodings_of_unicode_are_read(source, encoding, name):
    content = CSV if name == "a.csv" else "\n".join(map(json.dumps, ROWS))
    assert read(source(name, content.encode(encoding))) == ROWS


def test_a_named_encoding_is_used_and_an_unknown_or_wrong_one_refused(source):
    content = "text\n£20 – “now”\n".encode("cp1252")
    assert read(source("a.csv", content, encoding="cp1252")) == [{"text": "£20 – “now”"}]
    with pytest.raises(UserError, match=r"encoding 'cp1525' is not known; name it such as utf-8, cp1252"):
        source("a.csv", content, encoding="cp1525")
    with pytest.raises(UserError, match=r"read as big5, in which .* after line \d is no text; name the right"):
        read(source("a.csv", content, encoding="big5"))


def test_utf_8_with_a_broken_byte_is_refused_by_its_line_not_read_as_something_else(source):
    content = "text\n" + "Grüße aus München – ça va\n" * 3
    with pytest.raises(UserError, match="not UTF-8: byte 0xe9 in line 5, character 4; fix the line, or name"):
        read(source("a.csv", content.encode() + b"caf\xe9\n"))


def test_an_encoding_that_is_not_recognised_is_to_be_named(source):
    with pytest.raises(UserError, match=r"not UTF-8 \(line 2: '.*'\), and its encoding is not recognised; name it"):
        read(source("a.csv", b"text\n2 \x80\n"))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        " ".join(map(json.dumps, ROWS)),
        json.dumps({"data": ROWS}),
        json.dumps({"tickets": ROWS, "next_page": None, "count": 2}, indent=1),
        json.dumps({"export of March": ROWS}),
    ],
)
@pytest.mark.parametrize("piece_rows", [1, 10_000])
def test_json_objects_are_rows_however_they_are_laid_out(source, content, piece_rows):
    assert read(source("a.json", content, piece_rows=piece_rows)) == ROWS
    if not content.startswith("{") or ("\n" in content and "tickets" not in content):
        assert read(source("a.jsonl", content, piece_rows=piece_rows)) == ROWS


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "hello"}]},
        {"text": "a", "spans": [{"start": 0}]},
        {"images": [{"id": 1}], "annotations": [{"id": 2}]},
        {"tags": ["a"]},
    ],
)
def test_a_single_object_that_is_a_row_stays_one(source, row):
    assert read(source("a.json", json.dumps(row))) == [row]
    assert read(source("a.jsonl", json.dumps(row))) == [row]


def test_a_broken_document_names_the_line(source):
    with pytest.raises(UserError, match=r"a.json: line 3 is not JSON .*: '\"label\" \"a\"'"):
        read(source("a.json", '[{"text": "a",\n"x": 1,\n"label" "a"\n}]'))
    with pytest.raises(UserError, match="line 4 holds a JSON str"):
        read(source("a.json", '{"text":\n"a"\n}\n"b"'))
