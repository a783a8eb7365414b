"""JSON and YAML from files that anybody may have written: read within limits, or refused in one line."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from startup_llm.errors import UserError, explain_os_error

MAX_EXPANSION = 100
MIN_EXPANDED_BYTES = 1 << 28
MAX_JSON_BYTES = 1 << 30
MAX_YAML_BYTES = 1 << 20
MAX_YAML_NODES = 100_000
MAX_DEPTH = 100
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular_file(path: str | Path, name: str = "") -> None:
    """Refuse what is not a regular file, before anything waits for a pipe or reads a device without an end.

    Args:
        path: An existing path; links are followed.
        name: What the message begins with; default the path.

    Raises:
        UserError: If it is a folder, pipe, socket or device, a link that leads back to itself, or cannot be read.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise UserError(f"{name or path} cannot be read: {explain_os_error(error)}") from None
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "not a regular file")
        raise UserError(f"{name or path} is {kind}, expected a regular file; save its content as one, and name that")


class _LimitedExpansion(io.RawIOBase):
    """A gzip file's content, unless it becomes a hundred times as much as the file."""

    def __init__(self, path: str) -> None:
        self._path, self._size = path, 0
        self._packed = os.stat(path).st_size
        self._stream = gzip.open(path)  # noqa: SIM115

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._stream.readinto(buffer)
        self._size += count
        if self._size > (limit := max(MIN_EXPANDED_BYTES, MAX_EXPANSION * self._packed)):
            raise UserError(
                f"{self._path}: {self._packed:,} bytes expand to more than {limit:,}; "
                "if that is right, decompress the file and name it without .gz"
            )
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def open_gzip(path: str) -> IO[bytes]:
    """Open a gzip file to be read from its beginning to its end, unless it becomes a hundred times as much.

    Raises:
        UserError: While reading, if it expands too far.
    """
    return io.BufferedReader(_LimitedExpansion(path), 1 << 16)


@contextmanager
def explain_broken_gzip(name: str | Path) -> Iterator[None]:
    """Refuse in one line a gzip file that turns out to be broken while it is read.

    Raises:
        UserError: In the place of what decompression raises.
    """
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name}: not a readable gzip file ({error}); compress or copy it again") from None


def read_text(path: Path, encoding: str | None = None) -> str:
    """Read a text file, gzip allowed.

    Args:
        path: The file.
        encoding: Python's name of its encoding; None for UTF-8.

    Raises:
        UserError: If it is not a regular file, no readable gzip file, expands too far, or is not in the encoding.
    """
    check_regular_file(path)
    try:
        with (
            explain_broken_gzip(path),
            open_gzip(str(path)) if path.suffix == ".gz" else path.open("rb") as stream,
        ):
            return stream.read().decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        remedy = "name the right encoding" if encoding else "save it as UTF-8, or name its encoding"
        raise UserError(f"{path}: not {encoding or 'UTF-8'} ({error}); {remedy} with --data.encoding") from None
    except LookupError:
        raise UserError(f"encoding {encoding!r} is not known; name it such as utf-8, cp1252, big5, utf-16") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {explain_os_error(error)}") from None


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: If it is no JSON, is nested too deeply, or has a number of too many digits; the message says where.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at column {error.colno}") from None


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        UserError: If it cannot be read, is no JSON, or is larger or deeper than a file of this package gets.
    """
    with _open_text(path, max_bytes) as file:
        try:
            return json.load(file)
        except RecursionError:
            problem = "it is nested too deeply"
        except ValueError as error:  # text that is not UTF-8 and numbers of too many digits too
            problem = " ".join(str(error).split())
    raise UserError(f"{path} is no JSON file ({problem}); copy it again") from None


def read_json_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UserError: Like `read_json`, or if it holds something else.
    """
    content = read_json(path, max_bytes=max_bytes)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {_name_type(content)}, expected a JSON object; copy it again")
    return content


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        UserError: If it cannot be read, is no YAML or no mapping, or if what its aliases stand for is too much.
    """
    import yaml

    with _open_text(path, MAX_YAML_BYTES) as file:
        try:
            text = file.read()
            _check_size(yaml.parse(text, Loader=yaml.SafeLoader))
            content = yaml.safe_load(text)
        except RecursionError:
            problem = "it is nested too deeply"
        except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
            problem = " ".join(str(error).split())
        else:
            if isinstance(content, dict) and all(isinstance(key, str) for key in content):
                return content
            problem = f"it holds {_name_type(content)}, expected options by name"
    raise UserError(f"{path} is no YAML file of options: {problem}") from None


def _check_size(events: Iterator[Any]) -> None:
    """Count nodes with what aliases stand for, and depth, before anything is built of them."""
    import yaml

    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"the alias *{event.anchor} stands for itself, or for nothing")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        if total > MAX_YAML_NODES or len(open_nodes) > MAX_DEPTH:
            raise ValueError(f"more than {MAX_YAML_NODES:,} values, or nested deeper than {MAX_DEPTH}")


@contextmanager
def _open_text(path: Path, max_bytes: int) -> Iterator[IO[str]]:
    check_regular_file(path)
    try:
        with open(path, encoding="utf-8") as file:
            if (size := os.fstat(file.fileno()).st_size) > max_bytes:
                raise UserError(f"{path} has {size:,} bytes, expected at most {max_bytes:,}; copy it again")
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be read: {explain_os_error(error)}") from None


def _name_type(value: Any) -> str:
    names = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "a truth value"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
