from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.config import DEFAULT_DATASET, DataConfig
from startup_llm.data.columns import LABEL_NAMES, PAIR_NAMES, TEXT_NAMES
from startup_llm.errors import UserError, explain_os_error, nearest
from startup_llm.plain_data import decompress_gzip, parse_json, read_bytes

if TYPE_CHECKING:
    import datasets
    import pyarrow

EXTENSIONS = ("csv", "tsv", "jsonl", "json", "parquet")
SPLIT_ALIASES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
Reader = Callable[[str, str], "pyarrow.Table"]
"""From a file's name and its text to its rows."""
NO_READERS: Mapping[str, Reader] = {}
READ_NAMES = frozenset((*TEXT_NAMES, *LABEL_NAMES, *(name for pair in PAIR_NAMES for name in pair)))
"""Columns that a task may read by itself: their values have one type."""
_JSON_FIELD = {b"json": b"text"}


def _list_extensions(extensions: tuple[str, ...]) -> str:
    return ", ".join(f".{extension}" for extension in extensions) + ", each also with .gz"


KNOWN_EXTENSIONS = _list_extensions(EXTENSIONS)


@cache
def _match_file_names(extensions: tuple[str, ...]) -> re.Pattern[str]:
    shard = r"(-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?"
    return re.compile(rf"(?P<stem>.+?){shard}\.({'|'.join(extensions)})(\.gz)?", re.IGNORECASE)


@dataclass(frozen=True)
class LoadedData:
    """The splits of a dataset as its source gives them."""

    splits: datasets.DatasetDict
    """Some of train, validation and test, with the source's own columns."""
    notes: list[str]
    """Sentences about decisions made while loading, to be said aloud."""
    sources: list[dict[str, Any]]
    """One record per split: files with sha256 and rows, or Hub id with revision and fingerprint."""
    json_columns: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Split -> its columns among those asked for as JSON whose cells are JSON text, as they stand in the file."""


def load_splits(
    data: DataConfig, readers: Mapping[str, Reader] = NO_READERS, *, as_json: Collection[str] = ()
) -> LoadedData:
    """Load the splits that `data` names: local files, a folder, a shipped dataset or one from the Hub.

    A column of JSON files whose values have several types is kept as JSON text, and a note says so; it is an error
    for a column that is named in `data`, or by whose name a task would read it.

    Args:
        data: Where the rows come from. Files and folders take the place of a dataset named beside them.
        readers: What reads files of further extensions, such as conll.
        as_json: Columns of JSON files whose lists and objects are kept as JSON text: a table would give every object
            of a column the same keys.

    Raises:
        UserError: if a file, folder, dataset, subset or split does not exist or cannot be read.
    """
    named_files = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
    given_files = {split: files for split, files in named_files.items() if files}
    if data.data_dir and given_files:
        split, files = next(iter(given_files.items()))
        raise UserError(
            f"data.data_dir ({data.data_dir}) and data.{split}_file ({files}) are both given; leave one of them out"
        )
    if data.data_dir:
        return _load_folder(Path(data.data_dir), data, readers, as_json)
    if given_files:
        if "train" not in given_files:
            split, files = next(iter(given_files.items()))
            raise UserError(
                f"data.{split}_file ({files}) is given without data.train_file; name the training file too"
            )
        paths = {
            split: [Path(file) for file in ([files] if isinstance(files, str) else files)]
            for split, files in given_files.items()
        }
        notes = _notes_on_replaced_dataset(data, "data.train_file")
        return _load_files(paths, notes, readers, JsonColumns(as_json, _list_named_columns(data)))
    name = data.dataset or DEFAULT_DATASET
    shipped = list_shipped_datasets()
    if name in shipped or data.dataset is None:
        return _load_shipped(name)
    return _load_from_hub(name, data, shipped)


def list_shipped_datasets() -> list[str]:
    """Return the names of the datasets that come with the package, sorted."""
    folder = _builtin_folder()
    return sorted(entry.name for entry in folder.iterdir() if (entry / "train.jsonl").is_file())


@dataclass(frozen=True)
class JsonColumns:
    """Which columns of JSON files may be kept as JSON text.

    Attributes:
        exact: Those whose lists and objects always are.
        named: Those that are read, whose values have one type; others become JSON text where they have several.
    """

    exact: Collection[str] = ()
    named: Collection[str] = READ_NAMES


def _list_named_columns(data: DataConfig) -> set[str]:
    """Return the columns that are read: those that the options ending in _column name, and the well-known ones."""
    values = [value for name, value in vars(data).items() if name.endswith("_column")]
    return {*READ_NAMES, *(name for value in values for name in ([value] if isinstance(value, str) else value or []))}


def read_table(
    name: str,
    content: bytes,
    readers: Mapping[str, Reader] = NO_READERS,
    json_columns: JsonColumns | None = None,
) -> pyarrow.Table:
    """Parse one file's bytes by the extension of its name.

    CSV and TSV cells are strings as they stand in the file: nothing is guessed to be a number or missing.

    Args:
        name: File name or path, for the extension and the errors.
        content: The file's bytes, gzip-compressed where the name ends in .gz.
        readers: What reads files of further extensions.
        json_columns: Columns of a JSON file that may be kept as JSON text; default none.

    Returns:
        A table with at least one row.

    Raises:
        UserError: if the extension is unknown or the content is broken; it names the file and the line.
    """
    known = (*EXTENSIONS, *readers)
    if _match_file_names(known).fullmatch(name.replace("\n", " ")) is None:
        raise UserError(f"{name}: unknown file type; expected {_list_extensions(known)}")
    if not content:
        raise UserError(f"{name}: the file is empty (0 bytes); expected a header and rows")
    extension = name.lower().removesuffix(".gz").rsplit(".", 1)[1]
    if name.lower().endswith(".gz"):
        content = decompress_gzip(name, content)
    if extension in readers:
        table = readers[extension](name, _decode(name, content))
    elif extension == "parquet":
        table = _read_parquet(name, content)
    elif extension in ("csv", "tsv"):
        table = _read_delimited(name, _decode(name, content), "," if extension == "csv" else "\t")
    else:
        text = _decode(name, content)
        rows = _parse_json_document(text) if extension == "json" else None
        lines: Sequence[int] = range(1, len(rows or ()) + 1)
        if rows is None:
            rows, lines = _read_json_lines(name, text)
        table = _build_table(name, rows, lines, json_columns)
    if table.num_rows == 0:
        raise UserError(f"{name}: no rows (columns: {', '.join(table.column_names) or 'none'}); expected at least one")
    return table


def _decode(name: str, content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{name}: UTF-16, expected UTF-8; convert it: iconv -f UTF-16 -t UTF-8 {name} > utf8-copy")
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        try:
            content.decode("cp1252")
            guess = "cp1252"
        except UnicodeDecodeError:
            guess = "latin1"
        raise UserError(
            f"{name}: not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start} (line {line}); it may be "
            f"{guess}, then convert it: iconv -f {guess} -t UTF-8 {name} > utf8-copy"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(
            f"{name}: a NUL character in line {line}; expected UTF-8 text (is it UTF-16 or a binary file?)"
        )
    if not text.strip():
        raise UserError(f"{name}: the file holds no text ({len(content)} bytes of white space); expected rows")
    return text


def _read_delimited(name: str, text: str, delimiter: str) -> pyarrow.Table:
    """Read CSV or TSV strictly: every quote that is opened is closed, every row is as wide as the header."""
    import pyarrow

    old_limit = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [row for row in reader if row]
    except csv.Error:
        raise UserError(_explain_broken_quote(name, text, delimiter)) from None
    finally:
        csv.field_size_limit(old_limit)
    header = rows.pop(0)
    check_header(name, header, delimiter)
    if not rows:
        raise UserError(f"{name}: a header ({', '.join(header)}) and no rows; expected at least one row")
    if set(map(len, rows)) != {len(header)}:
        raise UserError(_explain_ragged_row(name, text, delimiter))
    return pyarrow.table(
        {
            column: pyarrow.array(cells, pyarrow.string())
            for column, cells in zip(header, zip(*rows, strict=True), strict=True)
        }
    )


def check_header(name: str, header: list[str], delimiter: str | None = None) -> None:
    """Refuse a name that two columns share, and a single column that another separator would cut.

    Args:
        name: The file, for the errors.
        header: The columns' names.
        delimiter: What separates them, in CSV and TSV.

    Raises:
        UserError: if the header is refused.
    """
    repeated = next((column for column in header if header.count(column) > 1), None)
    if repeated is not None:
        raise UserError(
            f"{name}: the header has {header.count(repeated)} columns named {repeated!r}; rename all but one"
        )
    if delimiter and len(header) == 1 and (other := next((mark for mark in ";\t|," if mark in header[0]), None)):
        raise UserError(
            f"{name}: the header {header[0]!r} is a single column, separated by {other!r} it seems; "
            f"expected {delimiter!r} between the columns of a {'.csv' if delimiter == ',' else '.tsv'} file"
        )


def _explain_ragged_row(name: str, text: str, delimiter: str) -> str:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    width, line = 0, 1
    for row in reader:
        width = width or len(row)
        if row and len(row) != width:
            break
        line = reader.line_num + 1
    return (
        f"{name}: line {line} has {len(row)} fields where the header has {width}; "
        'put "quotes" around a text that holds the separator'
    )


def _explain_broken_quote(name: str, text: str, delimiter: str) -> str:
    """Walk through the quotes to find the one that is opened and never closed before a separator."""
    opened_line, at_field_start, quoted, just_closed = 1, True, False, False
    advice = 'close it, and write a quote inside a quoted text twice ("")'
    for number, line in enumerate(io.StringIO(text, newline=""), start=1):
        for character in line:
            if quoted:
                if character == '"':
                    quoted, just_closed = False, True
            elif character == '"' and (at_field_start or just_closed):
                opened_line = number if at_field_start else opened_line
                quoted, at_field_start, just_closed = True, False, False
            elif just_closed and character not in (delimiter, "\r", "\n"):
                return (
                    f"{name}: the quote opened in line {opened_line} is followed by {character!r} "
                    f"where it closes, in line {number}; {advice}"
                )
            else:
                at_field_start, just_closed = character in (delimiter, "\r", "\n"), False
    return f"{name}: the quote opened in line {opened_line} is never closed; {advice}"


def _parse_json_document(text: str) -> list[dict[str, Any]] | None:
    """Return the rows of a file that is one JSON document, an object or a list of them; None for anything else."""
    try:
        document = parse_json(text)
    except ValueError:
        return None
    rows = document if isinstance(document, list) else [document]
    return rows if rows and all(isinstance(row, dict) for row in rows) else None


def _read_json_lines(name: str, text: str) -> tuple[list[dict[str, Any]], list[int]]:
    """Read one JSON object per line; return them and their lines."""
    rows, lines = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(
                f"{name}: line {number} is not JSON ({error}): {line.strip()[:60]!r}; expected one object per line"
            ) from error
        if not isinstance(row, dict):
            raise UserError(
                f"{name}: line {number} holds a JSON {type(row).__name__}; "
                'expected one object per line, such as {"text": "...", "label": "..."}'
            )
        rows.append(row)
        lines.append(number)
    return rows, lines


def _build_table(
    name: str, rows: Sequence[dict[str, Any]], lines: Sequence[int], json_columns: JsonColumns | None
) -> pyarrow.Table:
    """Build a table of JSON objects; a key that a row lacks is missing there.

    Args:
        name: The file, for the errors.
        rows: The objects.
        lines: Line of each, for the errors.
        json_columns: Columns that may be kept as JSON text; None for none.
    """
    import pyarrow

    columns, fields = [], []
    for column in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(column) for row in rows]
        try:
            is_exact = json_columns is not None and column in json_columns.exact
            if is_exact and any(isinstance(value, (list, dict)) for value in values):
                found, metadata = _write_json(values), _JSON_FIELD
            else:
                found, metadata = pyarrow.array(values), None
        except UnicodeEncodeError:
            line = next(line for line, value in zip(lines, values, strict=True) if not _is_encodable(value))
            raise UserError(
                f"{name}: line {line}: {column!r} holds half of a surrogate pair (\\ud800-\\udfff), which is no "
                "character; write the character itself"
            ) from None
        except (pyarrow.ArrowException, OverflowError) as error:
            first = next(value for value in values if value is not None)
            line, value = next(
                (line, value) for line, value in zip(lines, values, strict=True) if not _have_one_type(first, value)
            )
            fault = (
                f"{name}: line {line}: {column!r} is {json.dumps(value)[:50]} ({type(value).__name__}), which does "
                f"not go with {json.dumps(first)[:60]} ({type(first).__name__}) in an earlier row"
            )
            if json_columns is None or column in json_columns.named:
                raise UserError(f"{fault}; use one type") from error
            found, metadata = _write_json(values), {b"fault": fault.encode()}
        columns.append(found)
        fields.append(pyarrow.field(column, found.type, metadata=metadata))
    return pyarrow.table(columns, schema=pyarrow.schema(fields))


def _write_json(values: Sequence[Any]) -> pyarrow.Array:
    """Return values as JSON text; a missing one stays missing.

    Raises:
        UnicodeEncodeError: On half of a surrogate pair.
    """
    import pyarrow

    cells = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return pyarrow.array(cells, pyarrow.string())


def _have_one_type(first: object, second: object) -> bool:
    import pyarrow

    try:
        pyarrow.array([first, second])
    except (pyarrow.ArrowException, OverflowError):
        return False
    return True


def _is_encodable(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_parquet(name: str, content: bytes) -> pyarrow.Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name}: not a readable Parquet file ({reason}); write or copy it again") from error
    for index, column in enumerate(table.schema):
        if pyarrow.types.is_dictionary(column.type):
            table = table.set_column(index, column.name, table[column.name].cast(column.type.value_type))
    return table


def _read_bytes(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError as error:
        folder = path.parent
        if not folder.is_dir():
            raise UserError(f"no such file: {path} (its folder {folder} does not exist)") from error
        hint = nearest(path.name, [entry.name for entry in folder.iterdir() if entry.is_file()])
        raise UserError(f"no such file: {path}{hint or f' (nothing of a similar name in {folder})'}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, expected a file; name the folder with --data.data_dir") from error
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: permission denied; change its permissions") from error
    except (OSError, ValueError) as error:  # a name that is too long, links in a circle, a NUL in the name
        raise UserError(f"{path!s:.200} cannot be read: {explain_os_error(error)}") from error


def _load_files(
    files: dict[str, list[Path]],
    notes: list[str],
    readers: Mapping[str, Reader] = NO_READERS,
    json_columns: JsonColumns | None = None,
) -> LoadedData:
    import datasets
    import pyarrow
    from datasets.table import InMemoryTable

    splits, sources, exact = {}, [], {}
    notes = list(notes)
    for split, paths in files.items():
        tables: list[pyarrow.Table] = []
        records = []
        for path in paths:
            content = _read_bytes(path)
            table = read_table(str(path), content, readers, json_columns)
            is_json = path.name.lower().removesuffix(".gz").endswith((".jsonl", ".json"))
            if tables and not is_json and set(table.column_names) != set(tables[0].column_names):
                raise UserError(
                    f"{path}: columns {', '.join(table.column_names)}, but {paths[0]} of the same split has "
                    f"{', '.join(tables[0].column_names)}; give all files of a split the same columns"
                )
            tables.append(table)
            digest = hashlib.sha256(content).hexdigest()
            records.append({"path": str(path), "sha256": digest, "rows": table.num_rows})
        exact[split], told = _align_json_columns(tables)
        notes += told
        try:
            joined = pyarrow.concat_tables(tables, promote_options="permissive")
        except pyarrow.ArrowException as error:
            names = ", ".join(str(path) for path in paths)
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{names}: a column has different types in these files ({reason}); make them alike"
            ) from error
        try:
            splits[split] = datasets.Dataset(InMemoryTable(joined))
        except (ValueError, NotImplementedError, TypeError) as error:
            raise UserError(
                f"{paths[0]}: a column's type is not supported ({error}); save it as text or number"
            ) from error
        sources.append({"split": split, "files": records, "rows": joined.num_rows})
    return LoadedData(datasets.DatasetDict(splits), notes, sources, exact)


def _align_json_columns(tables: list[pyarrow.Table]) -> tuple[frozenset[str], list[str]]:
    """Write a column as JSON text in each of a split's tables where it is so in one; the list is changed.

    Returns:
        The columns that were asked for as JSON, and a note on each other one.
    """
    fields = [field for table in tables for field in table.schema if field.metadata]
    exact = frozenset(field.name for field in fields if b"json" in field.metadata)
    faults = {field.name: field.metadata[b"fault"].decode() for field in fields if b"fault" in field.metadata}
    written = {(number, field.name) for number, table in enumerate(tables) for field in table.schema if field.metadata}
    for number, table in enumerate(tables):
        for name in (*exact, *faults):
            if name in table.column_names and (number, name) not in written:
                place = table.column_names.index(name)
                table = table.set_column(place, name, _write_json(table[name].to_pylist()))
        tables[number] = table
    return exact, [f"A column is kept as JSON text: {fault}." for fault in faults.values()]


def _notes_on_replaced_dataset(data: DataConfig, option: str) -> list[str]:
    if data.dataset is None:
        return []
    return [f"{option} is given, so the dataset {data.dataset} is not used."]


def _load_folder(
    folder: Path, data: DataConfig, readers: Mapping[str, Reader], as_json: Collection[str]
) -> LoadedData:
    """Find the split files of a folder by their names and load them."""
    if not folder.is_dir():
        siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise UserError(f"data.data_dir: no such folder: {folder}{nearest(folder.name, siblings)}")
    if data.subset and (folder / data.subset).is_dir():
        folder = folder / data.subset
    known = (*EXTENSIONS, *readers)
    found: dict[str, list[tuple[Path, re.Match[str]]]] = {}
    for path in sorted(folder.iterdir()):
        match = _match_file_names(known).fullmatch(path.name)
        if match and path.is_file():
            stem = match["stem"].lower()
            found.setdefault(SPLIT_ALIASES.get(stem, stem), []).append((path, match))
    asked = {split: SPLIT_ALIASES.get(name, name) for split, name in _list_asked_splits(data).items()}
    notes = _notes_on_replaced_dataset(data, "data.data_dir")
    for split, name in list(asked.items()):
        if name not in found:
            notes.append(f"{folder} has no {name} file, so data.{split}_split does not apply to it.")
            del asked[split]
    chosen = _choose_splits(asked, list(found), data)
    if chosen.get("train") not in found:
        listing = ", ".join(sorted(f"{e.name}/" if e.is_dir() else e.name for e in folder.iterdir())[:20])
        raise UserError(
            f"data.data_dir ({folder}): no train file found, only: {listing or 'nothing'}; expected train.csv, "
            f"validation.csv, test.csv or another of {_list_extensions(known)}"
        )
    files = {split: _check_one_file_or_all_shards(folder, found[name]) for split, name in chosen.items()}
    json_columns = JsonColumns(as_json, _list_named_columns(data))
    return _use_validation_for_hidden_test(_load_files(files, notes, readers, json_columns), data)


def _check_one_file_or_all_shards(folder: Path, found: list[tuple[Path, re.Match[str]]]) -> list[Path]:
    paths = [path for path, _ in found]
    first = found[0][1]
    if first["shard"] is None and len(paths) == 1:
        return paths
    if len({(m["stem"], m["shards"], path.name[m.end("shards") :]) for path, m in found if m["shard"]}) == 1 and all(
        m["shard"] for _, m in found
    ):
        missing = sorted(set(range(int(first["shards"]))) - {int(m["shard"]) for _, m in found})
        if not missing:
            return paths
        raise UserError(
            f"{folder}: part {missing[0]:05d} of {first['shards']} of {first['stem']} is missing; add it "
            "or name the files with --data.train_file"
        )
    names = ", ".join(path.name for path in paths)
    raise UserError(
        f"{folder}: several files for one split ({names}); remove all but one or name it with --data.train_file"
    )


def _list_asked_splits(data: DataConfig) -> dict[str, str]:
    """Return the names of the splits that the options name."""
    asked = {"train": data.train_split, "validation": data.validation_split, "test": data.test_split}
    return {split: name for split, name in asked.items() if name}


def _choose_splits(asked: dict[str, str], available: list[str], data: DataConfig) -> dict[str, str]:
    """Map train, validation and test to names of available splits; a name asked for is taken as it is.

    A split that serves as the test is not the validation split too, unless both are asked for, which is an error. The
    training rows may be the test rows where both are asked for and nothing is cut from them: there are no others, as
    in a data set that is made to test on.
    """
    chosen = dict(asked)
    for split in ("train", "test", "validation"):
        if split not in chosen and split in available and split not in chosen.values():
            chosen[split] = split
    tests_alone = set(asked) == {"train", "test"} and data.validation_fraction == 0 and "validation" not in chosen
    if len(set(chosen.values())) < len(chosen) and not tests_alone:
        used = ", ".join(f"{split} from {name}" for split, name in chosen.items())
        raise UserError(
            f"one split cannot serve twice ({used}); change data.train_split, validation_split or test_split"
        )
    return {split: chosen[split] for split in ("train", "validation", "test") if split in chosen}


def _builtin_folder() -> Path:
    return Path(__file__).with_name("builtin")


def _load_shipped(name: str) -> LoadedData:
    folder = _builtin_folder() / name
    files = {split: [folder / f"{split}.jsonl"] for split in ("train", "validation", "test")}
    loaded = _load_files(
        {split: paths for split, paths in files.items() if split == "train" or paths[0].is_file()}, []
    )
    sources = [
        record | {"dataset": name, "files": [file | {"path": Path(file["path"]).name} for file in record["files"]]}
        for record in loaded.sources
    ]
    return LoadedData(loaded.splits, loaded.notes, sources)


def _load_from_hub(name: str, data: DataConfig, shipped: list[str]) -> LoadedData:
    import datasets

    if _match_file_names(EXTENSIONS).fullmatch(name):
        raise UserError(
            f"data.dataset ({name}) is a file name, expected a Hub dataset id; use --data.train_file {name}"
        )
    try:
        everything = datasets.load_dataset(name, data.subset, revision=data.revision)
    except (OSError, ValueError, RuntimeError, TypeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(_explain_hub_error(error, name, data, shipped)) from error
    asked = _list_asked_splits(data)
    for split, split_name in asked.items():
        if split_name not in everything:
            raise UserError(
                f"data.{split}_split: {name} has no split {split_name!r}, it has {', '.join(everything)}"
                f"{nearest(split_name, everything)}"
            )
    chosen = _choose_splits(asked, list(everything), data)
    if "train" not in chosen:
        raise UserError(
            f"{name} has no train split, it has {', '.join(everything)}; choose one with --data.train_split"
        )
    notes = []
    if unused := [split_name for split_name in everything if split_name not in chosen.values()]:
        notes.append(
            f"Not used of {name}: {', '.join(unused)} (--data.validation_split and --data.test_split choose)."
        )
    sources = []
    for split, split_name in chosen.items():
        dataset = everything[split_name]
        sources.append(
            {
                "split": split,
                "dataset": name,
                "subset": data.subset,
                "hub_split": split_name,
                "revision": data.revision or _find_commit(dataset),
                "fingerprint": dataset._fingerprint,
                "rows": dataset.num_rows,
            }
        )
    splits = datasets.DatasetDict({split: everything[split_name] for split, split_name in chosen.items()})
    return _use_validation_for_hidden_test(LoadedData(splits, notes, sources), data)


def _find_commit(dataset: datasets.Dataset) -> str | None:
    """Return the Hub commit that a dataset's files were read from, where they came from the Hub."""
    for address in dataset.info.download_checksums or {}:
        if match := re.match(r"hf://datasets/[^@]+@([0-9a-f]{40})", address):
            return match[1]
    return None


def _explain_hub_error(error: Exception, name: str, data: DataConfig, shipped: list[str]) -> str:
    import datasets

    text = " ".join(str(error).split())
    listed = re.search(r"\[.*?\]", text)
    if "BuilderConfig" in text and listed:
        subsets = re.findall(r"'([^']*)'", listed[0])
        hint = nearest(data.subset or "", subsets)
        return f"data.subset: {name} has no subset {data.subset!r}, it has {', '.join(subsets)}{hint}"
    if "Config name is missing" in text and listed:
        subsets = re.findall(r"'([^']*)'", listed[0])
        return f"{name} has several subsets; choose one with --data.subset: {', '.join(subsets)}"
    if "Dataset scripts" in text or "trust_remote_code" in text:
        return f"{name} needs Python code of its own, which is never run; use a Parquet copy with --data.data_dir"
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        if "gated" in text:
            return f"{name} is gated: ask for access on its Hub page, then log in with `hf auth login`"
        if data.revision and "Revision" in text:
            return f"{name} has no revision {data.revision!r}; give a branch, tag or commit of its Hub page"
        return f"no dataset {name} on the Hub or among the shipped ones ({', '.join(shipped)}){nearest(name, shipped)}"
    if isinstance(error, ConnectionError) or "offline" in text.lower():
        return (
            f"the Hub cannot be reached for the dataset {name}, and it is not in the local cache"
            f"{nearest(name, shipped)}; connect to the network, use --data.data_dir, "
            f"or a shipped dataset ({', '.join(shipped)})"
        )
    return f"the dataset {name} cannot be loaded: {text[:300]}"


def _use_validation_for_hidden_test(loaded: LoadedData, data: DataConfig) -> LoadedData:
    """Leave out a test split whose labels are all -1, as GLUE's are; the validation split takes its place."""
    if data.test_split or "test" not in loaded.splits:
        return loaded
    import pyarrow

    test = loaded.splits["test"].with_format("arrow")
    hidden = [
        column
        for column in data.label_columns
        if column in test.column_names
        and not pyarrow.types.is_nested(test[:][column].type)  # tags of words
        and test[:][column].unique().to_pylist() in ([-1], ["-1"])
    ]
    if not hidden:
        return loaded
    import datasets

    splits = {split: dataset for split, dataset in loaded.splits.items() if split != "test"}
    sources = [record for record in loaded.sources if record["split"] != "test"]
    told = f"The test split's labels are hidden (column {hidden[0]!r} is -1 everywhere)"
    if "validation" in splits:
        splits["test"] = splits.pop("validation")
        sources = [record | {"split": "test"} if record["split"] == "validation" else record for record in sources]
        note = f"{told}, so the validation split is used as the test and validation rows are cut from train."
    else:
        note = f"{told}, so it is not used and test rows are cut from train."
    names = {"validation": "test"} if "test" in splits else {}
    json_columns = {names.get(split, split): found for split, found in loaded.json_columns.items() if split != "test"}
    return LoadedData(datasets.DatasetDict(splits), [*loaded.notes, note], sources, json_columns)
