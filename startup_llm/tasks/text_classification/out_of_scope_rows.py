"""Reading texts that fit none of the labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.annotation_tools.fasttext import READERS
from startup_llm.data.bad_rows import BadRows
from startup_llm.data.classification import fold_text, read_texts
from startup_llm.data.columns import TextColumns, find_text_columns
from startup_llm.data.sources import load_splits
from startup_llm.data.splits import cut_rows
from startup_llm.data.text_reading import TextReading
from startup_llm.errors import UserError

if TYPE_CHECKING:
    import datasets

    from startup_llm.data.task_data import TaskData
    from startup_llm.tasks.text_classification.options import TextClassificationData

MIN_ROWS = 10
"""Fewest texts out of scope that a score is chosen by, or judged on."""
_OPTIONS = {"validation": "data.oos_file", "test": "data.oos_test_file"}


def add_out_of_scope(loaded: TaskData, data: TextClassificationData) -> TaskData:
    """Read the texts out of scope, and put them beside the rows.

    Args:
        loaded: The rows in scope.
        data: Names the files.

    Raises:
        UserError: If a file cannot be read, has too few texts, or has one that stands among the rows in scope.
    """
    if loaded.problem_type != "single_label_classification":
        raise UserError(
            f"data.oos_file {data.oos_file!r}: expected rows with one label each, got {loaded.problem_type}; "
            "leave it out"
        )
    splits, sources, notes = _read_files(data, pairs="text_pair" in loaded.splits["train"].column_names)
    _refuse_texts_in_scope(splits, loaded)
    if "test" not in splits:
        whole = splits["validation"]
        cut, kept = cut_rows(np.asarray(whole["group"]), len(whole) // 2, data.split_seed)
        splits = {"validation": whole.select(kept), "test": whole.select(cut)}
        notes.append("Half of the texts of data.oos_file are kept to judge by, as no data.oos_test_file is given.")
    for name, rows in splits.items():
        if len(rows) < MIN_ROWS:
            aim = "judged on" if name == "test" else "chosen by"
            raise UserError(
                f"{_OPTIONS[name]}: {len(rows)} texts out of scope to be {aim}, expected at least {MIN_ROWS}; "
                "give more of them"
            )
    aims = {"validation": "to be chosen by", "test": "to be judged on"}
    shown = [f"{len(rows):,} {aims[name]} ({_count_groups(rows)})" for name, rows in splits.items()]
    notes.append(f"Texts out of scope: {', '.join(shown)}.")
    if shared := len(_fold(splits["test"]) & _fold(splits["validation"])):
        notes.append(f"{shared} texts out of scope stand in both, so that the figures may be too high.")
    import datasets

    return replace(
        loaded,
        out_of_scope=datasets.DatasetDict(splits),
        notes=[*loaded.notes, *notes],
        sources=[*loaded.sources, *sources],
    )


def _count_groups(rows: datasets.Dataset) -> str:
    return ", ".join(f"{group} {count:,}" for group, count in Counter(rows["group"]).items())


def _read_files(
    data: TextClassificationData, *, pairs: bool
) -> tuple[dict[str, datasets.Dataset], list[dict[str, Any]], list[str]]:
    """Return the texts with their files' names, where they come from, and notes on those that are left out."""
    files = replace(
        data,
        dataset=None,
        data_dir=None,
        train_file=data.oos_file,
        validation_file=None,
        test_file=data.oos_test_file,
    )
    loaded = load_splits(files, READERS)
    names = {"train": "validation", "test": "test"}
    records = {record["split"]: record for record in loaded.sources}
    bad_rows = BadRows(data.skip_bad)
    splits = {
        names[split]: _read_split(rows, records[split], data, bad_rows, _OPTIONS[names[split]], pairs=pairs)
        for split, rows in loaded.splits.items()
    }
    sources = [{**record, "split": f"out of scope, {names[record['split']]}"} for record in loaded.sources]
    return splits, sources, bad_rows.notes


def _read_split(
    rows: datasets.Dataset,
    record: dict[str, Any],
    data: TextClassificationData,
    bad_rows: BadRows,
    option: str,
    *,
    pairs: bool,
) -> datasets.Dataset:
    import datasets

    reading = TextReading.of_config(vars(data))
    if reading.columns:
        if missing := [name for name in reading.columns if name not in rows.column_names]:
            raise UserError(f"{option}: no column {missing[0]!r} among {', '.join(rows.column_names)}")
        texts = {"text": reading.join({name: rows[name] for name in reading.columns})}
    else:
        named = data.text_column[0] if isinstance(data.text_column, list) and data.text_column else data.text_column
        labels = [name for name in data.label_columns if name in rows.column_names and name != named]
        column, pair = find_text_columns(
            rows.remove_columns(labels), named if isinstance(named, str) else None, data.text_pair_column, option
        )
        if pairs and pair is None:
            raise UserError(f"{option}: the rows in scope are pairs of texts, these have one text each")
        texts = {"text": reading.clean(rows[column])}
        texts |= {"text_pair": reading.clean(rows[pair])} if pairs and pair else {}
    feature = datasets.Features({name: datasets.Value("string") for name in texts})
    table = datasets.Dataset.from_dict(texts, features=feature)
    columns = TextColumns("text", "text_pair" if "text_pair" in texts else None, "label", None, [])
    place = f"{option} ({', '.join(file['path'] for file in record['files'])})"
    frame, faults = read_texts(table, columns, place)
    bad = bad_rows.leave_out(faults, len(frame), place, "texts")
    stems = _name_files([file["path"] for file in record["files"]])
    frame["group"] = np.repeat(stems, [file["rows"] for file in record["files"]])
    return datasets.Dataset.from_pandas(frame[~frame["row"].isin(bad)], preserve_index=False)


def _name_files(paths: list[str]) -> list[str]:
    """Return the files' names without endings, or the paths where names are the same."""
    stems = [Path(path).name.split(".")[0] for path in paths]
    return stems if len(set(stems)) == len(stems) else paths


def _refuse_texts_in_scope(splits: dict[str, datasets.Dataset], loaded: TaskData) -> None:
    """Refuse texts out of scope that stand among the rows in scope, white space and case aside.

    Raises:
        UserError: If there is one.
    """
    known = {name: _fold(rows) for name, rows in loaded.splits.items()}
    for part, rows in splits.items():
        for name, texts in known.items():
            both = [place for place, text in enumerate(_fold_rows(rows), start=1) if text in texts]
            if not both:
                continue
            first = rows["text"][both[0] - 1]
            raise UserError(
                f"{_OPTIONS[part]}: {len(both)} of {len(rows)} texts stand among the {name} rows too (rows "
                f"{', '.join(map(str, both[:5]))}{', ...' if len(both) > 5 else ''}, the first {first[:60]!r}); a "
                "text is in scope or out of it: delete them from one of the files"
            )


def _fold(rows: datasets.Dataset) -> set[str]:
    return set(_fold_rows(rows))


def _fold_rows(rows: datasets.Dataset) -> list[str]:
    names = [name for name in ("text", "text_pair") if name in rows.column_names]
    return ["\0".join(map(fold_text, texts)) for texts in zip(*(rows[name] for name in names), strict=True)]
