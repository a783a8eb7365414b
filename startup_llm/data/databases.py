"""Rows that a query reads from a database, an SQLite file or what SQLAlchemy reaches; nothing is written to it."""

from __future__ import annotations

import datetime
import decimal
import os
import re
import sqlite3
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from startup_llm.data.delimited import check_header
from startup_llm.errors import UserError

DATABASES = ("db", "sqlite", "sqlite3")
PASSWORD = "STARTUP_LLM_DATABASE_PASSWORD"
"""Environment variable with the password of a database's address, which is written nowhere."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+.\-]*://", re.IGNORECASE)
_NOT_READ = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/", re.DOTALL)
"""Texts, quoted names and comments of a query."""
_WRITES = re.compile(
    r"\b(?:insert|update|delete|merge|drop|alter|create|truncate|grant|revoke|into|call|exec|execute|attach|pragma|copy"
    r"|vacuum|lock)\b",
    re.IGNORECASE,
)
_SECRETS = ("password", "passwd", "pwd", "token", "secret")
_READ_ONLY = {
    "sqlite": "PRAGMA query_only = ON",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
}
"""What makes a connection refuse to write; PostgreSQL has an option of SQLAlchemy's for it."""
_SECONDS_FOR_A_LOCK = 5.0
_READING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}


def is_address(path: str) -> bool:
    """Whether a path is an address, such as https://... or postgresql://..., and no file."""
    return _ADDRESS.match(path) is not None


def check_query(query: str, option: str) -> None:
    """Check that a query is one statement that only reads.

    Raises:
        UserError: If it is not.
    """
    plain = _NOT_READ.sub(" ", query).strip().rstrip(";").strip()
    if not re.match(r"(?:select|with|values)\b|\(", plain, re.IGNORECASE):
        raise UserError(f"{option} {query[:60]!r}: expected a query that reads, such as SELECT text, label FROM rows")
    if ";" in plain:
        raise UserError(f"{option} {query[:60]!r}: several statements; expected one that reads")
    if word := _WRITES.search(plain):
        raise UserError(f"{option} {query[:60]!r}: {word[0]!r} may write; expected a query that only reads")


def check_address(address: str) -> None:
    """Check that the address of a database holds no password.

    Raises:
        UserError: If it does; the error does not repeat it.
    """
    parts = urllib.parse.urlsplit(address)
    words = urllib.parse.unquote_plus(parts.query).lower()
    if ":" in parts.netloc.rpartition("@")[0] or any(f"{word}=" in words for word in _SECRETS):
        raise UserError(
            f"the address of the {parts.scheme} database holds a password, which would be written into the run; leave "
            f"it out, and set the environment variable {PASSWORD}"
        )


def read_query(
    path: str, query: str | None, option: str, piece_rows: int
) -> Iterator[tuple[list[int], list[dict[str, Any]]]]:
    """Yield numbers and rows of up to `piece_rows` rows.

    Args:
        path: An SQLite file, or an address as SQLAlchemy writes it, without a password.
        query: One statement that reads.
        option: What names the query, for the errors.
        piece_rows: Rows in one piece; no more are held in memory, where the database's driver allows it.

    Raises:
        UserError: If the query is missing or may write, the database is locked, cannot be read or reached, SQLAlchemy
            is missing, or there is no row.
    """
    if is_address(path):
        check_address(path)
    if query is None:
        tables = "" if is_address(path) else _list_tables(path)
        raise UserError(f"{path} is a database{tables}; name the rows: {option} 'SELECT text, label FROM ...'")
    check_query(query, option)
    read = _read_address if is_address(path) else _read_file
    start = 0
    for names, rows in read(path, query, piece_rows):
        check_header(path, names)
        numbers = list(range(start + 1, start + len(rows) + 1))
        yield numbers, [dict(zip(names, map(_write_plain, row), strict=True)) for row in rows]
        start += len(rows)
    if start == 0:
        raise UserError(f"{path}: the query gives no rows; expected at least one")


def _read_file(path: str, query: str, piece_rows: int) -> Iterator[tuple[list[str], Sequence[Any]]]:
    connection = _connect(path)
    try:
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY)
        cursor = connection.execute(query)
        names = [column[0] for column in cursor.description]
        while rows := cursor.fetchmany(piece_rows):
            yield names, rows
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise UserError(_explain(path, error)) from None
    finally:
        connection.close()


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{urllib.parse.quote(path)}?mode=ro", uri=True, timeout=_SECONDS_FOR_A_LOCK)


def _list_tables(path: str) -> str:
    connection = _connect(path)
    try:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')").fetchall()
    except sqlite3.Error as error:
        raise UserError(_explain(path, error)) from None
    finally:
        connection.close()
    return f" (tables: {', '.join(name for (name,) in tables) or 'none'})"


def _explain(path: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if "locked" in reason:
        return f"{path}: the database is locked by another program; close it there, or read a copy"
    if "no such table" in reason:
        return f"{path}: {reason}{_list_tables(path)}"
    return f"{path}: the query cannot be read ({reason})"


def _read_address(address: str, query: str, piece_rows: int) -> Iterator[tuple[list[str], Sequence[Any]]]:
    try:
        import sqlalchemy
    except ImportError:
        raise UserError(
            "a database's address is read by SQLAlchemy; pip install 'startup-llm[databases]' and its driver"
        ) from None
    try:
        url = sqlalchemy.make_url(address)
        if password := os.environ.get(PASSWORD):
            url = url.set(password=password)
        with sqlalchemy.create_engine(url).connect() as connection:
            dialect = connection.dialect.name
            if dialect == "postgresql":
                connection = connection.execution_options(postgresql_readonly=True)
            elif command := {"sqlite": "PRAGMA query_only = ON", "mysql": "SET SESSION TRANSACTION READ ONLY"}.get(
                dialect
            ):
                connection.exec_driver_sql(command)
            result = connection.execution_options(stream_results=True).exec_driver_sql(query)
            names = list(result.keys())
            while rows := result.fetchmany(piece_rows):
                yield names, rows
            connection.rollback()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split("\n")[0].split())
        raise UserError(f"{address}: cannot be read ({reason[:200]}); check address, query and {PASSWORD}") from None


def _write_plain(value: Any) -> Any:
    """Write what databases have and JSON has not: dates in ISO 8601, exact numbers as numbers, the rest as text."""
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    return bytes(value) if isinstance(value, memoryview) else str(value)
