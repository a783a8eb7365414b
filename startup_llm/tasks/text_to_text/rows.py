"""Pairs of a text and the text that is to be written for it: translations, summaries."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.data.bad_rows import BadRows, find_column_faults
from startup_llm.data.cleaned_texts import propose_cleaning
from startup_llm.data.columns import list_columns
from startup_llm.data.sources import SPLIT_ALIASES, LoadedData, hash_file, load_splits
from startup_llm.data.splits import handle_overlap, make_splits, read_groups, sample_rows
from startup_llm.data.task_data import TaskData
from startup_llm.data.text_reading import TextReading, describe_cleaning, join_columns
from startup_llm.errors import UserError, fold_name, nearest
from startup_llm.plain_data import read_text
from startup_llm.tasks.text_to_text.options import TextPairData

if TYPE_CHECKING:
    import datasets

SOURCE_COLUMNS = (
    "text", "source", "document", "article", "dialogue", "input", "review", "question", "body", "content", "message",
    "description", "original",
)  # fmt: skip
_KEPT = ["text", "target", "row"]
TARGET_COLUMNS = (
    "target", "summary", "translation", "highlights", "output", "answer", "response", "reply", "headline", "abstract",
)  # fmt: skip


def load_text_to_text(data: TextPairData) -> TaskData:
    """Load texts and targets: a table with a column for each, or a folder with a file for each language.

    A folder such as train.en.gz, train.de.gz, val.en.gz ... has one text a line; data.text_column and
    data.target_column are then the languages. The Hub's `translation` column, a text per language, is read alike.

    Returns:
        Splits with text, target and row.

    Raises:
        UserError: If a column or a file is missing, the two sides differ in length, or a text or target is empty and
            data.skip_bad is off.
    """
    import datasets

    reading = TextReading.of_config(vars(data))
    loaded = _load_parallel_files(data) or load_splits(data)
    joined, data, notes = join_columns(loaded.splits, data)
    notes = [*loaded.notes, *notes]
    if reading.kinds:
        notes.append(describe_cleaning(reading))
    splits, bad_rows = {}, BadRows(data.skip_bad)
    for name, rows in joined.items():
        splits[name], new_notes = _read_pairs(rows, data, name, reading, bad_rows)
        notes += new_notes
    notes += bad_rows.notes
    notes += propose_cleaning(splits["train"]["text"], reading.kinds)
    cut, new_notes = make_splits(
        datasets.DatasetDict(splits),
        data,
        group_by="group" if data.group_column else None,
        group_name=data.group_column,
    )
    cut, overlap = handle_overlap(cut, data.remove_overlap, "texts")
    notes += new_notes + overlap
    for name, max_rows in (("train", data.max_train_rows), ("test", data.max_test_rows)):
        if max_rows is not None and max_rows < len(cut[name]):
            notes.append(f"{max_rows:,} of the {len(cut[name]):,} {name} rows are used (seed {data.split_seed}).")
            cut[name] = sample_rows(cut[name], max_rows, data.split_seed)
    kept = datasets.DatasetDict({name: rows.select_columns(_KEPT) for name, rows in cut.items()})
    return TaskData(kept, notes=list(dict.fromkeys(notes)), sources=loaded.sources, left_out=dict(bad_rows.left_out))


def _read_pairs(
    rows: datasets.Dataset, data: TextPairData, split: str, reading: TextReading, bad_rows: BadRows
) -> tuple[datasets.Dataset, list[str]]:
    """Return a split's pairs that can be used, with the text's digest and the group, and which columns were found."""
    import datasets

    columns = {name: rows[name] for name in rows.column_names}
    languages = columns.get("translation", [None])[0]
    if isinstance(languages, dict):
        columns = {name: [pair.get(name) for pair in columns["translation"]] for name in languages}
    named = data.text_column if isinstance(data.text_column, str) else None
    source = _find_column(list(columns), named, SOURCE_COLUMNS, "text_column", split)
    others = [name for name in columns if name != source]
    target = _find_column(others, data.target_column, TARGET_COLUMNS, "target_column", split)
    if source == target:
        raise UserError(f"data.text_column and data.target_column are both {source!r}; name two different columns")
    for name in (source, target):
        if name != reading.name:  # which was cleaned when it was joined
            columns[name] = reading.clean(columns[name])
    faults = [fault for name in (source, target) for fault in find_column_faults(columns[name], name)]
    bad = bad_rows.leave_out(faults, len(rows), f"{split} split", "pairs")
    notes = []
    if not named or not data.target_column:
        notes = [f"Found text from column {source!r}, target from column {target!r}."]
    kept = [row for row in range(1, len(rows) + 1) if row not in bad]
    digests = [hashlib.sha256(str(text).strip().encode()).hexdigest() for text in columns[source]]
    pairs = {"text": columns[source], "target": columns[target], "digest": digests}
    group = data.group_column
    if group and (group in rows.column_names or split == "train"):
        pairs["group"] = read_groups(rows, group)
    pairs = {name: [values[row - 1] for row in kept] for name, values in pairs.items()}
    return datasets.Dataset.from_dict({**pairs, "row": kept}), notes


def _find_column(names: list[str], named: str | None, usual: tuple[str, ...], option: str, split: str) -> str:
    if named:
        if named not in names:
            among = list_columns(names, named)
            raise UserError(
                f"data.{option}: no column {named!r} in the {split} split, only {among}{nearest(named, names)}"
            )
        return named
    by_name: dict[str, list[str]] = {}
    for name in names:
        by_name.setdefault(fold_name(name), []).append(name)
    candidates = next((by_name[name] for name in usual if name in by_name), [])
    if len(candidates) != 1:
        what = f"several could be meant ({list_columns(candidates)})" if candidates else "none is known by name"
        raise UserError(
            f"the {split} split has the columns {list_columns(names)}, of which {what}; name it with --data.{option}"
        )
    return candidates[0]


def _load_parallel_files(data: TextPairData) -> LoadedData | None:
    """Read a folder of line files, one per split and language; None where the data are something else."""
    import datasets

    folder = Path(data.data_dir) if data.data_dir else None
    languages = (data.text_column, data.target_column)
    is_named = all(isinstance(language, str) and language for language in languages)
    if folder is None or not folder.is_dir() or not is_named:
        return None
    files_of_split: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        stem, _, language = path.name.removesuffix(".gz").rpartition(".")
        split = SPLIT_ALIASES.get(stem.split("_")[0].lower())
        if split and language in languages:
            if language in files_of_split.setdefault(split, {}):
                raise UserError(
                    f"{folder}: {files_of_split[split][language].name} and {path.name} are both {split}; keep one"
                )
            files_of_split[split][language] = path
    if "train" not in files_of_split:
        return None
    splits, sources = {}, []
    for split, files in files_of_split.items():
        if missing := [language for language in languages if language not in files]:
            raise UserError(f"{folder}: the {split} split has no file for {missing[0]}, only {next(iter(files))}")
        lines, records = {}, []
        for language, path in files.items():
            lines[language], record = _read_lines(path, data.encoding)
            records.append(record)
        counts = {files[language].name: len(lines[language]) for language in files}
        if len(set(counts.values())) > 1:
            raise UserError(
                f"{folder}: {' and '.join(f'{n} has {c} lines' for n, c in counts.items())}; they must pair"
            )
        splits[split] = datasets.Dataset.from_dict(lines)
        sources.append({"split": split, "files": records, "rows": len(splits[split])})
    return LoadedData(datasets.DatasetDict(splits), [], sources)


def _read_lines(path: Path, encoding: str | None) -> tuple[list[str], dict[str, Any]]:
    lines = read_text(path, encoding).removesuffix("\n").replace("\r\n", "\n").split("\n")
    return lines, {"path": path.name, "sha256": hash_file(path)}
