import hashlib
import sqlite3

import pytest

from startup_llm.config import DataConfig
from startup_llm.data import databases
from startup_llm.data.row_source import FileOptions, RowSource
from startup_llm.data.sources import load_splits
from startup_llm.errors import UserError

QUERY = "SELECT id, text, label FROM tickets ORDER BY id"
ROWS = [
    {"id": 1, "text": "hello there", "label": "a"},
    {"id": 2, "text": "good bye", "label": None},
    {"id": 3, "text": "late; update", "label": "b"},
]


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "help desk.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE tickets (id INTEGER, text TEXT, label TEXT)")
    connection.executemany("INSERT INTO tickets VALUES (:id, :text, :label)", ROWS)
    connection.commit()
    connection.close()
    return path


@pytest.fixture(params=["file", "address"])
def source(request, database):
    def open_source(query, piece_rows=10_000):
        path = str(database) if request.param == "file" else f"sqlite:///{database}"
        return RowSource(path, "auto", piece_rows, FileOptions(query=query))

    return open_source


def read(source):
    return [row for piece in source.pieces() for row in piece.to_rows()]


@pytest.mark.parametrize("piece_rows", [1, 2, 10_000])
def test_the_rows_of_a_query_are_read_in_pieces(source, piece_rows):
    rows = source(QUERY, piece_rows)
    assert [len(piece) for piece in rows.pieces()] == {1: [1, 1, 1], 2: [2, 1], 10_000: [3]}[piece_rows]
    assert read(rows) == ROWS
    assert rows.read_table().to_pylist() == ROWS


@pytest.mark.parametrize(
    "query",
    [
        "WITH a AS (SELECT * FROM tickets) SELECT text FROM a WHERE text <> 'drop; delete' -- update\n;",
        'SELECT text AS "update" FROM tickets /* insert */',
        "SELECT replace(text, 'a', 'b') AS text FROM tickets",
    ],
)
def test_words_that_write_are_only_meant_outside_of_texts_names_and_comments(source, query):
    assert len(read(source(query))) == 3


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("DELETE FROM tickets", "expected a query that reads"),
        ("INSERT INTO tickets VALUES (4, 'x', 'y') RETURNING id", "expected a query that reads"),
        ("PRAGMA journal_mode=WAL", "expected a query that reads"),
        ("SELECT 1; DROP TABLE tickets", "several statements"),
        ("WITH a AS (SELECT 1) DELETE FROM tickets", "'DELETE' may write"),
        ("SELECT * INTO copy FROM tickets", "'INTO' may write"),
        ("SELECT * FROM tickets FOR UPDATE", "'UPDATE' may write"),
        ("SELECT text, text FROM tickets", "2 columns named 'text'"),
        ("SELECT text FROM tickets WHERE id > 9", "the query gives no rows"),
        ("SELECT text FROM ticket", "no such table: ticket"),
    ],
)
def test_a_query_that_writes_or_gives_nothing_is_refused_and_the_database_stays(source, database, query, message):
    before = hashlib.sha256(database.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=message) as raised:
        read(source(query))
    assert "\n" not in str(raised.value)
    assert hashlib.sha256(database.read_bytes()).hexdigest() == before
    assert [path.name for path in database.parent.iterdir()] == [database.name]


def test_a_write_that_the_words_do_not_show_is_refused_by_the_database(source, database, monkeypatch):
    monkeypatch.setattr(databases, "check_query", lambda *_: None)
    with pytest.raises(UserError, match=r"prohibited|not authorized|readonly|read-only|query_only"):
        read(source("DELETE FROM tickets RETURNING id"))
    assert len(read(source(QUERY))) == 3


def test_a_missing_query_names_the_tables_and_a_query_of_a_file_is_refused(database, tmp_path):
    with pytest.raises(UserError, match=r"is a database \(tables: tickets\); name the rows: --data.query 'SELECT"):
        read(RowSource(str(database)))
    (tmp_path / "a.csv").write_text("text\na\n")
    with pytest.raises(UserError, match=r"--data.query 'SELECT 1': .*a.csv has no tables to ask; leave it out"):
        RowSource(str(tmp_path / "a.csv"), options=FileOptions(query="SELECT 1"))


def test_a_locked_or_broken_database_is_one_clear_line(database, tmp_path, monkeypatch):
    monkeypatch.setattr(databases, "_SECONDS_FOR_A_LOCK", 0.1)
    other = sqlite3.connect(database)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match="the database is locked by another program; close it there"):
        read(RowSource(str(database), options=FileOptions(query=QUERY)))
    other.close()
    (tmp_path / "b.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(UserError, match=r"b.sqlite: the query cannot be read \(file is not a database\)"):
        read(RowSource(str(tmp_path / "b.sqlite"), options=FileOptions(query=QUERY)))


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://jo:hunter2@host/db",
        "postgresql://host/db?user=jo&password=hunter2",
        "mssql://host/?x=UID%3Djo%3BPWD%3Dhunter2",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(address):
    with pytest.raises(UserError, match="set the environment variable STARTUP_LLM_DATABASE_PASSWORD") as raised:
        read(RowSource(address, options=FileOptions(query=QUERY)))
    assert "hunter2" not in str(raised.value)


def test_the_password_comes_from_the_environment(monkeypatch):
    import sqlalchemy

    monkeypatch.setenv(databases.PASSWORD, "hunter2")
    asked = []
    monkeypatch.setattr(sqlalchemy, "create_engine", lambda url: asked.append(url.password) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read(RowSource("postgresql://jo@host/db", options=FileOptions(query=QUERY)))
    assert asked == ["hunter2"]


def test_a_database_is_trained_on_and_recorded_without_a_password(database):
    for path in (str(database), f"sqlite:///{database}"):
        loaded = load_splits(DataConfig(train_file=path, query=QUERY))
        assert loaded.splits["train"]["text"][:] == [row["text"] for row in ROWS]
        record = loaded.sources[0]["files"][0]
        assert (record["path"], record["rows"], len(record["sha256"])) == (path, 3, 64)


def test_an_address_of_a_file_is_refused_with_the_way_out():
    address = "https://example.org/tickets.csv?x=1"
    for data in (DataConfig(train_file=address), DataConfig(dataset=address), DataConfig(data_dir=address)):
        with pytest.raises(UserError, match=r"download it \(curl -L -o tickets.csv '.*'\) and name the file, or"):
            load_splits(data)
