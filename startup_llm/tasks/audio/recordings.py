"""Recordings with a label or a text: folders of classes, metadata files, tables of paths, Hub datasets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.data.bad_rows import BadRows, Fault, find_column_faults
from startup_llm.data.classification import (
    find_missing_labels,
    keep_usable_labels,
    leave_out_unseen_labels,
    read_class_names,
    read_label_names,
)
from startup_llm.data.columns import list_columns
from startup_llm.data.row_source import EXTENSIONS, RowSource
from startup_llm.data.sources import SPLIT_ALIASES, LoadedData, hash_file, load_splits, read_options
from startup_llm.data.splits import handle_overlap, make_splits, read_groups, sample_rows
from startup_llm.data.task_data import TaskData
from startup_llm.errors import UserError, nearest
from startup_llm.tasks.audio.options import LabelledRecordingData, RecordingData, TranscribedRecordingData
from startup_llm.tasks.audio.sound_files import AUDIO_EXTENSIONS, cut_sound, measure_seconds, read_audio

if TYPE_CHECKING:
    import datasets
    import numpy as np

MANIFEST_COLUMN = "audio_filepath"
"""Where NeMo's manifests (https://docs.nvidia.com/nemo-framework) have a recording's path; offset and duration are the
part of it, in seconds."""
AUDIO_COLUMNS = ("audio", "file_name", "file", "path", "audio_path", "wav", MANIFEST_COLUMN)
LABEL_COLUMNS = ("label", "labels", "class", "category", "intent", "keyword")
TEXT_COLUMNS = ("text", "transcription", "transcript", "sentence", "normalized_text", "target")


def load_labelled_recordings(data: LabelledRecordingData) -> TaskData:
    """Load recordings with a label each, listen to each, and cut the splits that the source does not give.

    Returns:
        Splits with audio (the file, not decoded), seconds, label (class id) and row.

    Raises:
        UserError: If a source or column is missing, a label is not fit to train on, or a recording cannot be used
            (see `data.skip_bad`).
    """
    bad_rows = BadRows(data.skip_bad)
    loaded = _load(data, bad_rows)
    column = _find_column(loaded.splits["train"], data.label_column, LABEL_COLUMNS, "label_column")
    names = {
        split: [data.value_names.get(name, name) for name in read_label_names(rows, column)]
        for split, rows in loaded.splits.items()
    }
    faults = {split: find_missing_labels(own, column) for split, own in names.items()}
    order = {} if data.value_names else loaded.splits["train"].features[column]
    splits, notes, label_names = _check_and_split(loaded, data, "label", names, faults, bad_rows, order)
    left_out = dict(bad_rows.left_out)
    return TaskData(splits, label_names, "single_label_classification", notes, loaded.sources, left_out=left_out)


def load_transcribed_recordings(data: TranscribedRecordingData) -> TaskData:
    """Load recordings with the text that is spoken in each, listen to each, and cut the splits that are not given.

    Returns:
        Splits with audio (the file, not decoded), seconds, text and row.

    Raises:
        UserError: If a source or column is missing, or a text is empty or a recording cannot be used (see
            `data.skip_bad`).
    """
    bad_rows = BadRows(data.skip_bad)
    loaded = _load(data, bad_rows)
    column = _find_column(loaded.splits["train"], data.text_column, TEXT_COLUMNS, "text_column")
    texts, faults = {}, {}
    for split, rows in loaded.splits.items():
        class_names = read_class_names(rows.features[column])
        own = [class_names[value] if class_names else value for value in rows[column]]
        faults[split] = find_column_faults(own, column)
        texts[split] = [data.value_names.get(text, text) if isinstance(text, str) else "" for text in own]
    splits, notes, _ = _check_and_split(loaded, data, "text", texts, faults, bad_rows)
    return TaskData(splits, notes=notes, sources=loaded.sources, left_out=dict(bad_rows.left_out))


def read_recordings(rows: datasets.Dataset, sampling_rate: int) -> Iterator[np.ndarray]:
    """Decode the column `audio`, one recording after the other; see `read_audio`.

    Args:
        rows: Rows with a column `audio`.
        sampling_rate: Samples a second.
    """
    for value in rows["audio"]:
        yield read_audio(read_bytes(value), sampling_rate)


def read_bytes(value: dict[str, Any] | str | None) -> bytes:
    """Return the bytes of a path, or of an undecoded value of `datasets.Audio`; none where there is no value."""
    if value is None:
        return b""
    if isinstance(value, str):
        return Path(value).read_bytes()
    return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()


# Sources -------------------------------------------------------------------------------------------------------------


def _load(data: RecordingData, bad_rows: BadRows) -> LoadedData:
    """Load the splits with a column `audio` that is not decoded, kept by `keep_where` and cut by `test_where`."""
    import datasets

    loaded = _load_folder(Path(data.data_dir), data) if data.data_dir else load_splits(data)
    records = {record["split"]: record for record in loaded.sources}
    splits, notes = {}, list(loaded.notes)
    for split, rows in loaded.splits.items():
        column = _find_audio_column(rows, data)
        feature = rows.features[column]
        if isinstance(feature, datasets.Audio | dict):
            if column != "audio":
                rows = rows.remove_columns(list({"audio"} & set(rows.column_names))).rename_column(column, "audio")
        else:
            files = [
                {"bytes": None, "path": str(_base_folder(data, records[split]) / path) if path else ""}
                for path in rows[column]
            ]
            rows = rows.remove_columns(list({"audio"} & set(rows.column_names))).add_column("audio", files)
            if column == MANIFEST_COLUMN:
                rows, manifest_note = _cut_parts(rows, split, bad_rows)
                notes.append(manifest_note)
        rows = rows.cast_column("audio", datasets.Audio(decode=False))
        rows = _add_file_name_columns(rows, data.file_name_columns, split)
        splits[split] = _select_where(rows, data.keep_where, "keep_where", split)[0]
    if data.keep_where:
        notes.append(f"Only recordings with {_describe_where(data.keep_where)} are used.")
    if data.test_where:
        if "test" in splits:
            raise UserError("data.test_where: the data have a test split of their own; leave the option out")
        splits["test"], splits["train"] = _select_where(splits["train"], data.test_where, "test_where", "train")
        chosen = _describe_where(data.test_where)
        notes.append(f"The {len(splits['test']):,} recordings with {chosen} are the test split.")
    return LoadedData(datasets.DatasetDict(splits), notes, loaded.sources)


def _cut_parts(rows: datasets.Dataset, split: str, bad_rows: BadRows) -> tuple[datasets.Dataset, str]:
    """Return a manifest's recordings, each cut to the part that its offset and duration say, and a note on them.

    Raises:
        UserError: If a part does not lie in its file, and is not to be left out.
    """
    note = f"{split} split: read as a NeMo manifest."
    if "offset" not in rows.column_names or not any(rows["offset"]):
        return rows, note
    durations = rows["duration"] if "duration" in rows.column_names else [None] * len(rows)
    parts, faults, opened = [], [], ("", b"")
    for row, (value, offset, seconds) in enumerate(
        zip(rows["audio"], rows["offset"], durations, strict=True), start=1
    ):
        part, where = b"", f"row {row} ({value['path']})"
        try:
            if opened[0] != value["path"]:  # the parts of a long file follow one another
                opened = (value["path"], Path(value["path"]).read_bytes())
            part = cut_sound(opened[1], float(offset or 0), seconds)
        except FileNotFoundError:
            faults.append(Fault(row, "no such file", "missing file", where))
        except (UserError, OSError, TypeError, ValueError) as error:
            faults.append(Fault(row, str(error), "unusable part of a recording", where))
        parts.append({"bytes": part, "path": value["path"]})
    bad = bad_rows.leave_out(faults, len(rows), f"{split} split", "recordings")
    rows = rows.remove_columns("audio").add_column("audio", parts)
    kept = rows.select([place for place in range(len(rows)) if place + 1 not in bad]) if bad else rows
    return kept, f"{note[:-1]}; parts are cut from their files by offset and duration, and held in memory."


def _base_folder(data: RecordingData, record: Mapping[str, Any]) -> Path:
    """Return the folder that relative paths in a split's table start from: the table's.

    Args:
        data: Where the tables are.
        record: What `LoadedData.sources` says of the split.
    """
    if data.data_dir:
        return Path(data.data_dir).absolute()
    files = record.get("files")
    return Path(files[0]["path"]).absolute().parent if files else Path.cwd()


def _load_folder(folder: Path, data: RecordingData) -> LoadedData:
    """Read a folder: tables of the splits, or recordings beside metadata files, or recordings in class folders."""
    import datasets

    if not folder.is_dir():
        siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise UserError(f"data.data_dir: no such folder: {folder}{nearest(folder.name, siblings)}")
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    tables = [entry for entry in entries if _is_table(entry)]
    if any(SPLIT_ALIASES.get(table.name.split(".")[0].split("-")[0].lower()) for table in tables):
        return load_splits(data)
    roots: dict[str, Path] = {}
    for entry in entries:
        if entry.is_dir() and (split := SPLIT_ALIASES.get(entry.name.lower())):
            if split in roots:
                raise UserError(
                    f"data.data_dir ({folder}): {roots[split].name} and {entry.name} are both {split}; keep one"
                )
            roots[split] = entry
    if "train" not in roots:
        roots = {"train": folder}
    splits, sources = {}, []
    for split, root in roots.items():
        columns, digest = _read_metadata(root, data) or _list_files(root, data)
        splits[split] = datasets.Dataset.from_dict(columns)
        sources.append({"split": split, "dataset": str(root), "rows": len(splits[split]), "sha256": digest})
    return LoadedData(datasets.DatasetDict(splits), [], sources)


def _is_table(path: Path) -> bool:
    return path.is_file() and path.name.lower().removesuffix(".gz").endswith(tuple(f".{e}" for e in EXTENSIONS))


def _read_metadata(root: Path, data: RecordingData) -> tuple[dict[str, list[Any]], str] | None:
    """Read metadata.csv, .jsonl or .parquet, whose file_name is a path from its folder; None without one."""
    files = sorted(path for path in root.iterdir() if path.stem == "metadata" and _is_table(path))
    if not files:
        return None
    if len(files) > 1:
        raise UserError(f"{root}: {files[0].name} and {files[1].name} are both there; keep one")
    table = RowSource(str(files[0]), options=read_options(data)).read_table()
    if "file_name" not in table.column_names:
        raise UserError(f"{files[0]}: no column 'file_name' among {', '.join(table.column_names)}; add it")
    columns = table.to_pydict()
    columns["file_name"] = [str((root / path).absolute()) if path else "" for path in columns["file_name"]]
    return columns, hash_file(files[0])


def _list_files(root: Path, data: RecordingData) -> tuple[dict[str, list[Any]], str]:
    """List ROOT/CLASS/FILE in the order of the paths; files by their names alone where these hold the columns."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix.lower() in AUDIO_EXTENSIONS]
    nested = [path for path in paths if path.parent != root]
    if not (paths if data.file_name_columns else nested):
        raise UserError(
            f"data.data_dir ({root}): no sounds in sub-folders; expected CLASS/FILE.wav (one of "
            f"{', '.join(AUDIO_EXTENSIONS)}), metadata.csv with file_name, or names that tell the columns "
            "(--data.file_name_columns)"
        )
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()
    if data.file_name_columns:
        return {"file_name": [str(path.absolute()) for path in paths]}, digest
    return {
        "file_name": [str(path.absolute()) for path in nested],
        "label": [path.relative_to(root).parts[0] for path in nested],
    }, digest


def _add_file_name_columns(rows: datasets.Dataset, pattern: str | None, split: str) -> datasets.Dataset:
    """Read columns off the files' names.

    Raises:
        UserError: If a name does not fit the pattern.
    """
    if not pattern:
        return rows
    names = re.findall(r"\{(\w+)\}", pattern)
    regex = re.compile("".join(
        f"(?P<{part[1:-1]}>.+?)" if part.startswith("{") else re.escape(part)
        for part in re.split(r"(\{\w+\})", pattern)
    ))  # fmt: skip
    columns: dict[str, list[str]] = {name: [] for name in names}
    for row, value in enumerate(rows["audio"], start=1):
        stem = Path((value or {}).get("path") or "").stem
        match = regex.fullmatch(stem)
        if match is None or not names:
            raise UserError(f"data.file_name_columns ({pattern}): {split} row {row} is named {stem!r}")
        for name in names:
            columns[name].append(match[name])
    for name, values in columns.items():
        rows = (rows.remove_columns(name) if name in rows.column_names else rows).add_column(name, values)
    return rows


def _select_where(
    rows: datasets.Dataset, where: dict[str, list[str]], option: str, split: str
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Return the rows whose columns have one of the given values, and the others.

    Raises:
        UserError: If a column is missing or no row fits.
    """
    import numpy as np

    fits = np.ones(len(rows), bool)
    for column, values in where.items():
        if column not in rows.column_names:
            raise UserError(
                f"data.{option}: no column {column!r} among {list_columns(rows.column_names)}"
                f"{nearest(column, rows.column_names)}"
            )
        fits &= np.isin(np.asarray(rows[column], dtype=str), values)
    if not fits.any():
        raise UserError(f"data.{option}: no {split} row has {_describe_where(where)}")
    return rows.select(np.flatnonzero(fits)), rows.select(np.flatnonzero(~fits))


def _describe_where(where: dict[str, list[str]]) -> str:
    return " and ".join(f"{column} {' or '.join(values)}" for column, values in where.items())


def _find_audio_column(rows: datasets.Dataset, data: RecordingData) -> str:
    import datasets

    if data.audio_column:
        return _find_column(rows, data.audio_column, (), "audio_column")
    candidates = [
        name
        for name, feature in rows.features.items()
        if isinstance(feature, datasets.Audio) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})
    ]
    return candidates[0] if len(candidates) == 1 else _find_column(rows, None, AUDIO_COLUMNS, "audio_column")


def _find_column(rows: datasets.Dataset, named: str | list[str] | None, usual: tuple[str, ...], option: str) -> str:
    columns = rows.column_names
    if isinstance(named, list):
        raise UserError(f"data.{option} ({', '.join(named)}): a recording has one of them here; name one column")
    if named:
        if named not in columns:
            raise UserError(
                f"data.{option}: no column {named!r} among {list_columns(columns)}{nearest(named, columns)}"
            )
        return named
    candidates = [name for name in usual if name in columns]
    if not candidates:
        raise UserError(
            f"no column {' or '.join(usual[:3])} among {list_columns(columns)}; name it with --data.{option}"
        )
    return candidates[0]


# Checks --------------------------------------------------------------------------------------------------------------


def _check_and_split(
    loaded: LoadedData,
    data: RecordingData,
    target: str,
    values: dict[str, list[Any]],
    faults: dict[str, list[Fault]],
    bad_rows: BadRows,
    label_feature: object = None,
) -> tuple[datasets.DatasetDict, list[str], tuple[str, ...]]:
    """Listen to every recording, cut the missing splits and draw the rows that are wanted.

    Args:
        loaded: The source's splits.
        data: How they are cut.
        target: Name of the column that the values become: label, of class ids, or text.
        values: Each row's name of a label, or text, by split.
        faults: What is wrong with the values.
        bad_rows: Refuses rows that cannot be used, or counts them.
        label_feature: The feature of the labels' column.

    Returns:
        The splits, notes, and the labels' names.
    """
    import datasets

    kept, listened = {}, {}
    for split, rows in loaded.splits.items():
        found, *listened[split] = _listen(rows)
        bad = bad_rows.leave_out([*faults[split], *found], len(rows), f"{split} split", "recordings")
        kept[split] = [place for place in range(len(rows)) if place + 1 not in bad]
    label_names: tuple[str, ...] = ()
    if target == "label":
        kept, label_names = keep_usable_labels(values, kept, bad_rows, label_feature)
        ids = {name: index for index, name in enumerate(label_names)}
        values = {split: [ids.get(name, -1) for name in own] for split, own in values.items()}
    splits = {}
    for split, rows in loaded.splits.items():
        seconds, digests = listened[split]
        table = rows.select_columns(["audio"]).add_column("seconds", seconds).add_column(target, values[split])
        table = table.add_column("row", list(range(1, len(rows) + 1))).add_column("digest", digests)
        if data.group_column:
            table = table.add_column("group", read_groups(rows, data.group_column))
        splits[split] = table.select(kept[split]) if len(kept[split]) < len(rows) else table
    cut, split_notes = make_splits(
        datasets.DatasetDict(splits),
        data,
        stratify_by="label" if target == "label" else None,
        group_by="group" if data.group_column else None,
        group_name=data.group_column,
    )
    cut, overlap_notes = handle_overlap(cut, data.remove_overlap, "recordings")
    if target == "label":
        cut = leave_out_unseen_labels(cut, label_names, {}, bad_rows)
    notes = [*loaded.notes, *bad_rows.notes, *split_notes, *overlap_notes]
    for split, max_rows in (("train", data.max_train_rows), ("test", data.max_test_rows)):
        if max_rows is not None and max_rows < len(cut[split]):
            notes.append(f"{max_rows:,} of the {len(cut[split]):,} {split} rows are used (seed {data.split_seed}).")
            stratum = "label" if target == "label" else None
            cut[split] = sample_rows(cut[split], max_rows, data.split_seed, stratify_by=stratum)
    unused = ["digest", *(["group"] if data.group_column else [])]
    return cut.remove_columns(unused), notes, label_names


def _listen(rows: datasets.Dataset) -> tuple[list[Fault], list[float], list[str]]:
    """Decode every recording of a split once.

    Returns:
        What is wrong with some, the length of each in seconds, and a digest of each file.
    """
    faults, seconds, digests = [], [], []
    for row, value in enumerate(rows["audio"], start=1):
        content, length = b"", 0.0
        path = (value or {}).get("path")
        where = f"row {row} ({path})" if path else ""
        try:
            if not path and not (value or {}).get("bytes"):
                raise UserError("names no file")
            content = read_bytes(value)
            length = measure_seconds(content)
            if not read_audio(content).any():
                faults.append(Fault(row, "silence from beginning to end", "silent recording", where))
        except FileNotFoundError:
            faults.append(Fault(row, "no such file", "missing file", where))
        except (UserError, OSError) as error:
            faults.append(Fault(row, str(error), "unreadable recording", where))
        seconds.append(length)
        digests.append(hashlib.sha256(content).hexdigest())
    return faults, seconds, digests
