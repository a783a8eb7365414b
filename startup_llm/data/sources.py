from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.config import DEFAULT_DATASET, AnnotatedData, DataConfig
from startup_llm.data.annotation_tools import find_tool, read_export
from startup_llm.data.annotation_tools.argilla import is_flat
from startup_llm.data.columns import LABEL_NAMES, PAIR_NAMES, TEXT_NAMES
from startup_llm.data.databases import is_address
from startup_llm.data.json_rows import JsonColumns, write_json
from startup_llm.data.row_source import (
    EXTENSIONS,
    NO_READERS,
    FileOptions,
    Reader,
    RowSource,
    list_extensions,
    refuse_download,
)
from startup_llm.errors import UserError, nearest

if TYPE_CHECKING:
    import datasets
    import pyarrow

SPLIT_ALIASES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
READ_NAMES = frozenset((*TEXT_NAMES, *LABEL_NAMES, *(name for pair in PAIR_NAMES for name in pair)))
"""Columns that a task may read by itself: their values have one type."""
_PIECE_ROWS = 4_000


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
    """Sentences about decisions made while loading, to be reported."""
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
        paths = {split: [files] if isinstance(files, str) else list(files) for split, files in given_files.items()}
        notes = _notes_on_replaced_dataset(data, "data.train_file")
        return _load_files(paths, data, notes, readers, JsonColumns(as_json, _list_named_columns(data)))
    name = data.dataset or DEFAULT_DATASET
    shipped = list_shipped_datasets()
    if name in shipped or data.dataset is None:
        return _load_shipped(name)
    return _load_from_hub(name, data, shipped)


def list_shipped_datasets() -> list[str]:
    """Return the names of the datasets that come with the package, sorted."""
    folder = _builtin_folder()
    return sorted(entry.name for entry in folder.iterdir() if (entry / "train.jsonl").is_file())


def _list_named_columns(data: DataConfig) -> set[str]:
    """Return the columns that are read: those that the options ending in _column name, and the well-known ones."""
    values = [value for name, value in vars(data).items() if name.endswith("_column")]
    return {*READ_NAMES, *(name for value in values for name in ([value] if isinstance(value, str) else value or []))}


def read_options(data: DataConfig) -> FileOptions:
    """Return how files are read, as the options of the data say."""
    annotator = data.annotator if isinstance(data, AnnotatedData) else None
    return FileOptions(data.quoting, data.encoding, data.sheet, data.query, annotator)


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _load_files(
    files: Mapping[str, Sequence[str | Path]],
    data: DataConfig,
    notes: list[str],
    readers: Mapping[str, Reader] = NO_READERS,
    json_columns: JsonColumns | None = None,
) -> LoadedData:
    import datasets
    import pyarrow
    from datasets.table import InMemoryTable

    splits, sources, exact, are_exports = {}, [], {}, False
    notes = list(notes)
    for split, paths in files.items():
        tables: list[pyarrow.Table] = []
        records = []
        for path in paths:
            if not is_address(str(path)) and Path(path).is_dir():
                raise UserError(f"{path} is a folder, expected a file; name the folder with --data.data_dir")
            source = RowSource(str(path), "auto", _PIECE_ROWS, read_options(data), readers)
            table = source.read_table(json_columns)
            are_exports |= source.is_export
            notes += [f"{path}: {', '.join(source.notes)}."] if source.notes else []
            is_json = source.format in ("jsonl", "json")
            if tables and not is_json and set(table.column_names) != set(tables[0].column_names):
                raise UserError(
                    f"{path}: columns {', '.join(table.column_names)}, but {paths[0]} of the same split has "
                    f"{', '.join(tables[0].column_names)}; give all files of a split the same columns"
                )
            tables.append(table)
            records.append({"path": str(path), "sha256": _hash_source(path, table), "rows": table.num_rows})
        exact[split], file_notes = _align_json_columns(tables)
        notes += file_notes
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
    if not are_exports and (annotator := read_options(data).annotator) is not None:
        raise UserError(
            f"data.annotator {annotator!r}: {next(iter(files.values()))[0]} is no export of an annotation tool; leave "
            "it out"
        )
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
                table = table.set_column(place, name, write_json(table[name].to_pylist()))
        tables[number] = table
    return exact, [f"A column is kept as JSON text: {fault}." for fault in faults.values()]


def _hash_source(path: str | Path, table: pyarrow.Table) -> str:
    """Return the SHA-256 of a file, or of the rows that an address gave."""
    if not is_address(str(path)):
        return hash_file(path)
    rows = json.dumps(table.to_pylist(), ensure_ascii=False, default=str)
    return hashlib.sha256(rows.encode("utf-8", "surrogatepass")).hexdigest()


def _notes_on_replaced_dataset(data: DataConfig, option: str) -> list[str]:
    if data.dataset is None:
        return []
    return [f"{option} is given, so the dataset {data.dataset} is not used."]


def _load_folder(
    folder: Path, data: DataConfig, readers: Mapping[str, Reader], as_json: Collection[str]
) -> LoadedData:
    """Find the split files of a folder by their names and load them."""
    refuse_download(str(data.data_dir))
    if not folder.is_dir():
        siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise UserError(f"data.data_dir: no such folder: {folder}{nearest(folder.name, siblings)}")
    if data.subset and (folder / data.subset).is_dir():
        folder = folder / data.subset
    known = (*EXTENSIONS, *readers)
    files_of_split: dict[str, list[tuple[Path, re.Match[str]]]] = {}
    for path in sorted(folder.iterdir()):
        match = _match_file_names(known).fullmatch(path.name)
        if match and path.is_file():
            stem = match["stem"].lower()
            files_of_split.setdefault(SPLIT_ALIASES.get(stem, stem), []).append((path, match))
    asked = {split: SPLIT_ALIASES.get(name, name) for split, name in list_asked_splits(data).items()}
    notes = _notes_on_replaced_dataset(data, "data.data_dir")
    for split, name in list(asked.items()):
        if name not in files_of_split:
            notes.append(f"{folder} has no {name} file, so data.{split}_split does not apply to it.")
            del asked[split]
    chosen = choose_splits(asked, list(files_of_split), data)
    if chosen.get("train") not in files_of_split:
        listing = ", ".join(sorted(f"{e.name}/" if e.is_dir() else e.name for e in folder.iterdir())[:20])
        raise UserError(
            f"data.data_dir ({folder}): no train file found, only: {listing or 'nothing'}; expected train.csv, "
            f"validation.csv, test.csv or another of {list_extensions(known)}"
        )
    files = {split: _check_one_file_or_all_shards(folder, files_of_split[name]) for split, name in chosen.items()}
    json_columns = JsonColumns(as_json, _list_named_columns(data))
    return _use_validation_for_hidden_test(_load_files(files, data, notes, readers, json_columns), data)


def _check_one_file_or_all_shards(folder: Path, files: list[tuple[Path, re.Match[str]]]) -> list[Path]:
    paths = [path for path, _ in files]
    first = files[0][1]
    if first["shard"] is None and len(paths) == 1:
        return paths
    if len({(m["stem"], m["shards"], path.name[m.end("shards") :]) for path, m in files if m["shard"]}) == 1 and all(
        m["shard"] for _, m in files
    ):
        missing = sorted(set(range(int(first["shards"]))) - {int(m["shard"]) for _, m in files})
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


def find_split_folders(entries: Iterable[Path]) -> dict[str, Path]:
    """Return the folders among entries that are named as a split is, by split; of several the last."""
    return {
        SPLIT_ALIASES[entry.name.lower()]: entry
        for entry in entries
        if entry.name.lower() in SPLIT_ALIASES and entry.is_dir()
    }


def list_asked_splits(data: DataConfig) -> dict[str, str]:
    """Return the names of the splits that the options name."""
    asked = {"train": data.train_split, "validation": data.validation_split, "test": data.test_split}
    return {split: name for split, name in asked.items() if name}


def choose_splits(asked: dict[str, str], available: list[str], data: DataConfig) -> dict[str, str]:
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
        {split: paths for split, paths in files.items() if split == "train" or paths[0].is_file()}, DataConfig(), []
    )
    sources = [
        record | {"dataset": name, "files": [file | {"path": Path(file["path"]).name} for file in record["files"]]}
        for record in loaded.sources
    ]
    return LoadedData(loaded.splits, loaded.notes, sources)


def _load_from_hub(name: str, data: DataConfig, shipped: list[str]) -> LoadedData:
    import datasets

    refuse_download(name)
    if _match_file_names(EXTENSIONS).fullmatch(name):
        raise UserError(
            f"data.dataset ({name}) is a file name, expected a Hub dataset id; use --data.train_file {name}"
        )
    try:
        everything = datasets.load_dataset(name, data.subset, revision=data.revision)
    except (OSError, ValueError, RuntimeError, TypeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(_explain_hub_error(error, name, data, shipped)) from error
    asked = list_asked_splits(data)
    for split, split_name in asked.items():
        if split_name not in everything:
            raise UserError(
                f"data.{split}_split: {name} has no split {split_name!r}, it has {', '.join(everything)}"
                f"{nearest(split_name, everything)}"
            )
    chosen = choose_splits(asked, list(everything), data)
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
    splits = datasets.DatasetDict()
    for split, split_name in chosen.items():
        dataset = everything[split_name]
        splits[split], new_notes = _read_flat_export(dataset, f"{name} {split_name}", data)
        notes += new_notes
        sources.append(
            {
                "split": split,
                "dataset": name,
                "subset": data.subset,
                "hub_split": split_name,
                "revision": data.revision or _find_commit(dataset),
                "fingerprint": dataset._fingerprint,
                "rows": splits[split].num_rows,
            }
        )
    return _use_validation_for_hidden_test(LoadedData(splits, notes, sources), data)


def _read_flat_export(rows: datasets.Dataset, place: str, data: DataConfig) -> tuple[datasets.Dataset, list[str]]:
    """Return the rows of an annotation tool's records, and a note on them; any other rows as they are."""
    import datasets

    if not is_flat(rows.column_names):
        return rows, []
    tool = find_tool(list(rows.select(range(1))))
    if tool is None:
        return rows, []
    export = read_export(tool, enumerate(rows, start=1), place, read_options(data).annotator)
    return datasets.Dataset.from_list(export.rows), [f"{place}: {export.note}."]


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
    reason = f"The test split's labels are hidden (column {hidden[0]!r} is -1 everywhere)"
    if "validation" in splits:
        splits["test"] = splits.pop("validation")
        sources = [record | {"split": "test"} if record["split"] == "validation" else record for record in sources]
        note = f"{reason}, so the validation split is used as the test and validation rows are cut from train."
    else:
        note = f"{reason}, so it is not used and test rows are cut from train."
    names = {"validation": "test"} if "test" in splits else {}
    json_columns = {
        names.get(split, split): columns for split, columns in loaded.json_columns.items() if split != "test"
    }
    return LoadedData(datasets.DatasetDict(splits), [*loaded.notes, note], sources, json_columns)
