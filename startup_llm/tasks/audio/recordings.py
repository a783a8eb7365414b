"""Recordings with a label or a text: folders of classes, metadata files, tables of paths, Hub datasets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.data.bad_rows import find_column_fault, leave_out
from startup_llm.data.classification import (
    _check_labels_across_splits,
    _check_training_labels,
    _count_labels,
    _order_names,
    _read_label_names,
    read_class_names,
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
_SHOWN = 5


def load_labelled_recordings(data: LabelledRecordingData) -> TaskData:
    """Load recordings with a label each, listen to each, and cut the splits that the source does not give.

    Returns:
        Splits with audio (the file, not decoded), seconds, label (class id) and row.

    Raises:
        UserError: If a source or column is missing, a label is not fit to train on, or a recording cannot be used
            (see `data.skip_bad`).
    """
    loaded = _load(data)
    column = _find_column(loaded.splits["train"], data.label_column, LABEL_COLUMNS, "label_column")
    names = {
        split: [data.value_names.get(name, name) for name in _read_label_names(rows, column, f"{split} split")]
        for split, rows in loaded.splits.items()
    }
    order = {} if data.value_names else loaded.splits["train"].features[column]
    label_names = _order_names(order, names.values())
    ids = {name: index for index, name in enumerate(label_names)}
    values = {split: [ids[name] for name in rows] for split, rows in names.items()}
    splits, notes = _check_and_split(loaded, data, "label", values)
    _check_training_labels(_count_labels(splits["train"], label_names), label_names, "train split")
    notes += _check_labels_across_splits(splits, label_names, {})
    return TaskData(splits, label_names, "single_label_classification", notes, loaded.sources)


def load_transcribed_recordings(data: TranscribedRecordingData) -> TaskData:
    """Load recordings with the text that is spoken in each, listen to each, and cut the splits that are not given.

    Returns:
        Splits with audio (the file, not decoded), seconds, text and row.

    Raises:
        UserError: If a source or column is missing, or a text is empty or a recording cannot be used (see
            `data.skip_bad`).
    """
    loaded = _load(data)
    column = _find_column(loaded.splits["train"], data.text_column, TEXT_COLUMNS, "text_column")
    texts, left_out = {}, []
    for split, rows in loaded.splits.items():
        class_names = read_class_names(rows.features[column])
        own = [class_names[value] if class_names else value for value in rows[column]]
        faults = find_column_fault(own, column)
        bad, fault_notes = leave_out(faults, len(rows), split, "recordings", skip_bad=data.skip_bad)
        left_out += fault_notes
        texts[split] = [
            None if row in bad else data.value_names.get(text, text) for row, text in enumerate(own, start=1)
        ]
    splits, notes = _check_and_split(loaded, data, "text", texts)
    return TaskData(splits, notes=[*left_out, *notes], sources=loaded.sources)


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


def _load(data: RecordingData) -> LoadedData:
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
                rows, manifest_notes = _cut_parts(rows, split, skip_bad=data.skip_bad)
                notes += manifest_notes
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


def _cut_parts(rows: datasets.Dataset, split: str, *, skip_bad: bool) -> tuple[datasets.Dataset, list[str]]:
    """Return a manifest's recordings, each cut to the part that its offset and duration say, and notes on them.

    Raises:
        UserError: If a part does not lie in its file, and is not to be left out.
    """
    note = f"{split} split: read as a NeMo manifest."
    if "offset" not in rows.column_names or not any(rows["offset"]):
        return rows, [note]
    durations = rows["duration"] if "duration" in rows.column_names else [None] * len(rows)
    parts, faults, opened = [], [], ("", b"")
    for row, (value, offset, seconds) in enumerate(
        zip(rows["audio"], rows["offset"], durations, strict=True), start=1
    ):
        part, place = b"", f" ({value['path']})"
        try:
            if opened[0] != value["path"]:  # the parts of a long file follow one another
                opened = (value["path"], Path(value["path"]).read_bytes())
            part = cut_sound(opened[1], float(offset or 0), seconds)
        except FileNotFoundError:
            faults.append((row, f"no such file{place}"))
        except (UserError, OSError, TypeError, ValueError) as error:
            faults.append((row, f"{error}{place}"))
        parts.append({"bytes": part, "path": value["path"]})
    bad, bad_notes = leave_out(faults, len(rows), split, "recordings", skip_bad=skip_bad)
    rows = rows.remove_columns("audio").add_column("audio", parts)
    kept = rows.select([place for place in range(len(rows)) if place + 1 not in bad]) if bad else rows
    return kept, [
        f"{note[:-1]}; parts are cut from their files by offset and duration, and held in memory.",
        *bad_notes,
    ]


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
    loaded: LoadedData, data: RecordingData, target: str, values: dict[str, list[Any]]
) -> tuple[datasets.DatasetDict, list[str]]:
    """Listen to every recording, cut the missing splits and draw the rows that are wanted: those with a value."""
    import datasets

    splits, notes = {}, list(loaded.notes)
    for split, rows in loaded.splits.items():
        keep, seconds, digests, fault_notes = _listen(rows, split, skip_bad=data.skip_bad)
        notes += fault_notes
        keep = [place for place in keep if values[split][place] is not None]
        table = rows.select_columns(["audio"]).add_column("seconds", seconds).add_column(target, values[split])
        table = table.add_column("row", list(range(1, len(rows) + 1))).add_column("digest", digests)
        if data.group_column:
            table = table.add_column("group", read_groups(rows, data.group_column))
        splits[split] = table.select(keep) if len(keep) < len(rows) else table
        if not keep:
            raise UserError(f"{split} split: none of the {len(rows)} recordings can be used; {' '.join(notes)}")
    cut, split_notes = make_splits(
        datasets.DatasetDict(splits),
        data,
        stratify_by="label" if target == "label" else None,
        group_by="group" if data.group_column else None,
        group_name=data.group_column,
    )
    notes += split_notes
    cut, overlap_notes = handle_overlap(cut, data.remove_overlap, "recordings")
    notes += overlap_notes
    for split, max_rows in (("train", data.max_train_rows), ("test", data.max_test_rows)):
        if max_rows is not None and max_rows < len(cut[split]):
            notes.append(f"{max_rows:,} of the {len(cut[split]):,} {split} rows are used (seed {data.split_seed}).")
            stratum = "label" if target == "label" else None
            cut[split] = sample_rows(cut[split], max_rows, data.split_seed, stratify_by=stratum)
    unused = ["digest", *(["group"] if data.group_column else [])]
    return cut.remove_columns(unused), notes


def _listen(
    rows: datasets.Dataset, split: str, *, skip_bad: bool
) -> tuple[list[int], list[float], list[str], list[str]]:
    """Decode every recording of a split once.

    Returns:
        Positions of the good ones, the length of each in seconds, a digest of each file, and a note on the others.
    """
    keep, seconds, digests, bad = [], [], [], []
    for position, value in enumerate(rows["audio"]):
        content, length = b"", 0.0
        try:
            if not (value or {}).get("path") and not (value or {}).get("bytes"):
                raise UserError("names no file")
            content = read_bytes(value)
            length = measure_seconds(content)
            if not read_audio(content).any():
                raise UserError("silence from beginning to end")
            keep.append(position)
        except (UserError, OSError) as error:
            path = (value or {}).get("path")
            reason = "no such file" if isinstance(error, FileNotFoundError) else error
            bad.append(f"row {position + 1}{f' ({path})' if path else ''}: {reason}")
        seconds.append(length)
        digests.append(hashlib.sha256(content).hexdigest())
    if not bad:
        return keep, seconds, digests, []
    more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    summary = f"{split} split: {len(bad)} of {len(rows)} recordings cannot be used: {'; '.join(bad[:_SHOWN])}{more}"
    if not skip_bad:
        raise UserError(f"{summary}; fix or delete them, or leave them out with --data.skip_bad true")
    return keep, seconds, digests, [f"{summary}; they are left out."]
