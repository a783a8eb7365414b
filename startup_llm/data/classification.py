from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from startup_llm.config import LabelledTextData, ProblemType
from startup_llm.data.annotation_tools.fasttext import READERS
from startup_llm.data.bad_rows import EMPTY_TEXT, NO_LABEL, RARE_LABEL, UNSEEN_LABEL, BadRows, Fault
from startup_llm.data.columns import NoLabelColumnError, TextColumns, list_columns
from startup_llm.data.label_balance import count_labels
from startup_llm.data.label_cells import decide_label_cells
from startup_llm.data.row_source import NO_READERS
from startup_llm.data.sources import LoadedData, load_splits
from startup_llm.data.splits import make_splits, sample_rows
from startup_llm.data.task_data import TaskData
from startup_llm.data.text_reading import prepare_texts
from startup_llm.errors import UserError, nearest

if TYPE_CHECKING:
    import datasets
    import numpy as np
    import pandas as pd
    import pyarrow

LONGEST_TEXT_BYTES = 1_000_000
"""A longer text is taken for a mistake, such as a whole file in one cell."""
_MOST_NUMERIC_CLASSES = 10
_SHOWN = 5


def load_labelled_text(data: LabelledTextData, loaded: LoadedData | None = None) -> TaskData:
    """Load labelled texts, check them, and cut the splits that the source does not give.

    Labels are named as in the source: classes of a Hub `ClassLabel` keep its order, several 0/1 columns the order in
    which they were named, all others are sorted naturally (`2` before `10`).

    Args:
        data: The source, its columns, and how it is cut.
        loaded: The source's splits, where they were read before.

    Raises:
        UserError: if a source or a column is not fit to train and test on, or a row's text or label is not and
            `data.skip_bad` is off; it names the split and the rows.
    """
    loaded = loaded or load_splits(data, NO_READERS if data.data_dir else READERS)
    rows = _read_rows(loaded, data)
    splits, columns, label_names, problem_type = rows.splits, rows.columns, rows.label_names, rows.problem_type
    notes, places, bad_rows = rows.notes, rows.places, rows.bad_rows
    if data.labels_per_class is not None and problem_type != "single_label_classification":
        raise UserError(
            f"data.labels_per_class is {data.labels_per_class}, but the problem type is {problem_type}; expected "
            "one class per row, as rows are drawn per class: leave it out, or use --data.max_train_rows"
        )
    stratify_by = "label" if problem_type == "single_label_classification" else None
    splits, split_notes = make_splits(
        splits,
        data,
        stratify_by=stratify_by,
        group_by="group" if columns.group else None,
        group_name=columns.group,
    )
    splits, duplicate_notes = _handle_duplicates(splits, data.remove_overlap)
    unlabelled_notes = []
    if problem_type != "regression":
        splits = leave_out_unseen_labels(splits, label_names, places, bad_rows)
        unlabelled_notes = describe_unlabelled(splits["train"], label_names)
    splits, sample_notes = _draw_samples(splits, data, stratify_by)
    notes += [*bad_rows.notes, *split_notes, *duplicate_notes, *unlabelled_notes, *sample_notes]
    if columns.group:
        splits = splits.remove_columns("group")
    unlabelled = None
    if data.labels_per_class is not None:
        splits, unlabelled, drawn_notes = keep_labels(splits, data.labels_per_class, data.split_seed, label_names)
        notes += drawn_notes
    return TaskData(
        splits,
        label_names,
        problem_type,
        notes,
        loaded.sources,
        unlabelled,
        source_columns=columns.by_role(),
        left_out=dict(bad_rows.left_out),
    )


def load_later_rows(data: LabelledTextData, known_labels: Sequence[str]) -> TaskData:
    """Load labelled texts on which a trained model is measured, with nothing to train on.

    Args:
        data: The file, as `train_file`; the columns, the cleaning and the problem type are those of the training.
        known_labels: The model's labels in the order of its outputs. New ones come behind them.

    Returns:
        The rows as the split test.

    Raises:
        UserError: If a column, text or label is not fit to test on, or no row has a label that the model knows.
    """
    import datasets

    loaded = load_splits(data, READERS)
    place = ", ".join(file["path"] for file in loaded.sources[0]["files"])
    _check_trained_columns(loaded.splits["train"].column_names, data, place)
    rows = _read_rows(loaded, data, known_labels, place)
    splits, notes = datasets.DatasetDict({"test": rows.splits["train"]}), [*rows.notes, *rows.bad_rows.notes]
    if repeated := int(_fold_texts(splits["test"]).duplicated().sum()):
        notes.append(f"{repeated:,} of the {len(splits['test']):,} rows repeat the text of an earlier one.")
    sources = [{**source, "split": "test"} for source in loaded.sources]
    columns = rows.columns.by_role()
    left_out = dict(rows.bad_rows.left_out)
    return TaskData(
        splits, rows.label_names, rows.problem_type, notes, sources, source_columns=columns, left_out=left_out
    )


def _check_trained_columns(found: list[str], data: LabelledTextData, place: str) -> None:
    """Refuse rows that lack a column of the training."""
    for option in ("text_column", "text_pair_column", "label_column"):
        named = getattr(data, option)
        for name in [named] if isinstance(named, str) else named or []:
            if name not in found:
                raise UserError(
                    f"{place}: no column {name!r}, which the run was trained with, among {list_columns(found, name)}"
                    f"{nearest(name, found)}; rename it, or name this file's own with --data.{option}"
                )


@dataclass(frozen=True)
class _LabelledRows:
    """Checked rows with their labels, before they are cut into splits."""

    splits: datasets.DatasetDict
    columns: TextColumns
    label_names: tuple[str, ...]
    problem_type: ProblemType
    notes: list[str]
    places: dict[str, str]
    """How errors name each split."""
    bad_rows: BadRows
    """What was left out."""


def _read_rows(
    loaded: LoadedData, data: LabelledTextData, known_labels: Sequence[str] = (), place: str | None = None
) -> _LabelledRows:
    """Read the texts and the labels of each split.

    Args:
        loaded: The splits as their source gives them.
        data: The columns, and how texts and labels are read.
        known_labels: Labels that come first, in this order.
        place: How errors name the rows; default by split and file.
    """
    texts, columns = _prepare_labelled_texts(loaded.splits, data)
    notes = [*loaded.notes, *columns.notes]
    separated, columns, cell_notes = decide_label_cells(texts, columns, data)
    loaded = replace(loaded, splits=separated)
    notes += cell_notes
    places = {split: place or _describe_place(split, loaded) for split in loaded.splits}
    problem_type, decision = decide_problem_type(loaded.splits, columns, data)
    if decision:
        notes.append(decision)
    bad_rows = BadRows(data.skip_bad)
    frames = _read_usable_rows(loaded.splits, columns, problem_type, places, bad_rows, known_labels)
    label_names = _encode_labels(frames, loaded.splits["train"], columns, problem_type, known_labels)
    splits = _build_splits(frames, problem_type, columns)
    return _LabelledRows(splits, columns, label_names, problem_type, notes, places, bad_rows)


def _prepare_labelled_texts(
    splits: datasets.DatasetDict, data: LabelledTextData
) -> tuple[datasets.DatasetDict, TextColumns]:
    """Return what `prepare_texts` does; its error names what can be done without labels."""
    try:
        return prepare_texts(splits, data)
    except NoLabelColumnError as error:
        raise NoLabelColumnError(
            f"{error}; where no row has a label yet, write the class of a few rows of each into a column and run "
            "--method zero-shot, which learns from the names of the classes alone and is measured on those rows"
        ) from None


def _read_usable_rows(
    sources: datasets.DatasetDict,
    columns: TextColumns,
    problem_type: ProblemType,
    places: dict[str, str],
    bad_rows: BadRows,
    known: Sequence[str] = (),
) -> dict[str, pd.DataFrame]:
    """Return each split's texts, labels as they are named, groups and row numbers, without the rows of no use.

    Rows of labels that cannot be trained are left out too, unless labels are known by then.
    """
    frames = {}
    for split, dataset in sources.items():
        frame, faults = read_texts(dataset, columns, places[split])
        frame["label"], label_faults = _read_labels(dataset, columns, problem_type)
        bad = bad_rows.leave_out([*faults, *label_faults], len(frame), places[split], "rows")
        frames[split] = frame[~frame["row"].isin(bad)]
    if problem_type == "regression":
        return frames
    labels = {split: _list_labels(frame, columns, problem_type) for split, frame in frames.items()}
    if isinstance(columns.label, str):
        counts = Counter(name for rows in labels.values() for row in rows for name in row)
        check_spelling(counts, known)
        _check_any_known(set(counts), known, places["train"])
    if known:
        return frames
    rare = leave_out_rare_labels(
        labels, {split: frame["row"].tolist() for split, frame in frames.items()}, places, bad_rows
    )
    return {split: frame[~frame["row"].isin(rare[split])] for split, frame in frames.items()}


def _list_labels(frame: pd.DataFrame, columns: TextColumns, problem_type: ProblemType) -> list[tuple[str, ...]]:
    if isinstance(columns.label, list):
        return [tuple(itertools.compress(columns.label, flags)) for flags in frame["label"]]
    if problem_type == "single_label_classification":
        return [(name,) for name in frame["label"]]
    return [tuple(names) for names in frame["label"]]


def _encode_labels(
    frames: dict[str, pd.DataFrame],
    train: datasets.Dataset,
    columns: TextColumns,
    problem_type: ProblemType,
    known: Sequence[str] = (),
) -> tuple[str, ...]:
    """Write class ids or vectors of 0/1 over the labels' names, which are returned; none for a regression."""
    import numpy as np

    if problem_type == "regression":
        return ()
    if isinstance(columns.label, list):
        return tuple(columns.label)
    names = {split: _list_labels(frame, columns, problem_type) for split, frame in frames.items()}
    used = (row for rows in names.values() for row in rows)
    label_names = order_names(train.features[columns.first_label], used, known)
    ids = {name: index for index, name in enumerate(label_names)}
    for split, frame in frames.items():
        if problem_type == "single_label_classification":
            frames[split] = frame.assign(label=[ids[name] for name in frame["label"]])
            continue
        vectors = np.zeros((len(frame), len(label_names)), dtype=np.float32)
        for vector, row in zip(vectors, names[split], strict=True):
            vector[[ids[name] for name in row]] = 1
        frames[split] = frame.assign(label=list(vectors))
    return label_names


def _draw_samples(
    splits: datasets.DatasetDict, data: LabelledTextData, stratify_by: str | None
) -> tuple[datasets.DatasetDict, list[str]]:
    """Keep as many training and test rows as the options say, and return a note for each split that shrinks."""
    notes = []
    for split, count in (("train", data.max_train_rows), ("test", data.max_test_rows)):
        if count is not None and count < splits[split].num_rows:
            notes.append(
                f"{count:,} of the {splits[split].num_rows:,} {split} rows are used (seed {data.split_seed})."
            )
        if count is not None:
            splits[split] = sample_rows(splits[split], count, data.split_seed, stratify_by=stratify_by)
    return splits, notes


def keep_labels(
    splits: datasets.DatasetDict, count: int, seed: int, label_names: tuple[str, ...]
) -> tuple[datasets.DatasetDict, datasets.Dataset, list[str]]:
    """Train on as many rows of each class, and keep the others without their labels.

    Args:
        splits: Splits with a column label, of class ids.
        count: See `draw_rows_per_class`.
        seed: See there.
        label_names: See there.

    Returns:
        The splits, the training rows without labels, and notes to be reported.

    Raises:
        UserError: if count is below 1 or a class has no row.
    """
    train = splits["train"]
    kept, others = draw_rows_per_class(read_column(train, "label").to_numpy(), count, seed, label_names)
    splits["train"] = train.select(kept)
    counts = count_labels(splits["train"], label_names).counts
    notes = [f"{len(kept):,} of the {train.num_rows:,} train rows keep their labels, {count} per class (seed {seed})."]
    if len(short := (counts < count).nonzero()[0]):
        notes.append(f"{len(short)} classes have fewer rows: {_list_names(short, label_names, counts)}.")
    return splits, train.select(others).remove_columns("label"), notes


def draw_rows_per_class(
    labels: np.ndarray, count: int, seed: int, label_names: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw as many rows of each class; a smaller count draws a part of what a larger one draws.

    Args:
        labels: Class ids, shape (rows,), int64.
        count: Rows of each class; a class with fewer gives all.
        seed: Seed of the draw.
        label_names: Name of each class id.

    Returns:
        Positions of the drawn rows and of the others, each ascending.

    Raises:
        UserError: if count is below 1 or a class has no row.
    """
    import numpy as np

    if count < 1:
        raise UserError(f"data.labels_per_class must be 1 or more, not {count}")
    sizes = np.bincount(labels, minlength=len(label_names))
    if len(empty := (sizes == 0).nonzero()[0]):
        raise UserError(
            f"data.labels_per_class is {count}, but {len(empty)} classes have no training row: "
            f"{_list_names(empty, label_names)}; add rows of them, or take the classes out of the data"
        )
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # place within the row's class
    return np.sort(by_class[rank < count]), np.sort(by_class[rank >= count])


def _describe_place(split: str, loaded: LoadedData) -> str:
    record = next(record for record in loaded.sources if record["split"] == split)
    origin = ", ".join(file["path"] for file in record["files"]) if "files" in record else record["hub_split"]
    return f"{split} split ({origin})"


def read_column(dataset: datasets.Dataset, column: str) -> pyarrow.ChunkedArray:
    """Return a column's values as Arrow."""
    return dataset.select_columns([column]).with_format("arrow")[:][column]


def read_texts(dataset: datasets.Dataset, columns: TextColumns, place: str) -> tuple[pd.DataFrame, list[Fault]]:
    """Return the texts with their group and row number, one line per source row, and what is wrong with them."""
    import numpy as np
    import pandas as pd
    import pyarrow
    import pyarrow.compute as compute

    frame, faults = {}, []
    for target, column in (("text", columns.text), ("text_pair", columns.text_pair)):
        if column is None:
            continue
        values = read_column(dataset, column)
        if pyarrow.types.is_null(values.type):
            values = values.cast(pyarrow.string())
        if not (pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type)):
            raise UserError(
                f"{place}: the text column {column!r} holds {values.type}, expected text; "
                f"choose another with --data.{target}_column"
            )
        values = compute.fill_null(values, "")
        empty = np.flatnonzero(compute.equal(compute.utf8_trim_whitespace(values), "").to_numpy(zero_copy_only=False))
        faults += [Fault(row + 1, f"the column {column!r} is empty", EMPTY_TEXT) for row in empty.tolist()]
        sizes = compute.binary_length(values).to_numpy()
        faults += [
            Fault(
                row + 1,
                f"the column {column!r} has {sizes[row]:,} bytes, the limit is {LONGEST_TEXT_BYTES:,}: cut it into "
                "several rows",
                "oversized text",
            )
            for row in np.flatnonzero(sizes > LONGEST_TEXT_BYTES).tolist()
        ]
        frame[target] = values.to_pandas()
    if columns.group and columns.group in dataset.column_names:
        frame["group"] = read_column(dataset, columns.group).to_pandas()
    return pd.DataFrame({**frame, "row": np.arange(1, dataset.num_rows + 1)}), faults


def decide_problem_type(
    splits: datasets.DatasetDict, columns: TextColumns, data: LabelledTextData
) -> tuple[ProblemType, str | None]:
    """Return the problem type and, where the values decided, a sentence that says why."""
    import pyarrow

    train = splits["train"]
    several = isinstance(columns.label, list)
    is_list = not several and pyarrow.types.is_nested(label_type := read_column(train, columns.first_label).type)
    if is_list and (pyarrow.types.is_struct(label_type) or pyarrow.types.is_nested(label_type.value_type)):
        raise UserError(
            f"the label column {columns.label!r} holds {label_type}; expected one name or number per row, "
            "or a list of them"
        )
    holds_lists = several or is_list
    _check_problem_type(data.problem_type, columns, holds_lists)
    if data.problem_type != "auto":
        return data.problem_type, None
    if holds_lists:
        why = "several label columns are named" if several else f"column {columns.label!r} holds lists"
        return "multi_label_classification", f"Multi-label classification, as {why}."
    if read_class_names(train.features[columns.first_label]):
        return "single_label_classification", None
    return _decide_by_values(read_column(train, columns.first_label), columns.first_label)


def _check_problem_type(asked: str, columns: TextColumns, holds_lists: bool) -> None:
    """Refuse several labels for a problem type with one label per row, and the other way round."""
    if asked == "multi_label_classification" and not holds_lists:
        raise UserError(
            f"data.problem_type is {asked}, but the label column {columns.label!r} holds one value per row; "
            "expected a column of lists, cells with --data.label_separator ';', or several 0/1 columns named with "
            "--data.label_column"
        )
    if asked in ("single_label_classification", "regression") and holds_lists:
        several = isinstance(columns.label, list)
        what = f"{len(columns.label)} label columns are named" if several else f"{columns.label!r} holds lists"
        raise UserError(f"data.problem_type is {asked}, but {what}; expected one column with one value per row")


def _decide_by_values(values: pyarrow.ChunkedArray, column: str) -> tuple[ProblemType, str | None]:
    """Return regression for many different decimal numbers, else classes, and a sentence that says why."""
    distinct = values.drop_null().unique().to_pylist()
    numbers = [parse_number(value) for value in distinct if value != ""]
    if (
        not numbers
        or None in numbers
        or isinstance(distinct[0], bool)
        or all(number.is_integer() for number in numbers if number is not None)
    ):
        return "single_label_classification", None
    why = f"column {column!r} has {len(numbers)} different decimal numbers in {len(values):,} rows"
    if len(numbers) > min(_MOST_NUMERIC_CLASSES, len(values) / 2):
        return "regression", f"Regression, as {why} (--data.problem_type overrides this)."
    return (
        "single_label_classification",
        f"Single-label classification, as {why} (--data.problem_type overrides this).",
    )


def parse_number(value: Any) -> float | None:
    """Return a value as a finite number, None where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def read_class_names(feature: object) -> list[str]:
    """Return a ClassLabel's names, of a list of ClassLabel too; empty for other features."""
    return getattr(getattr(feature, "feature", feature), "names", None) or []


def _read_labels(
    dataset: datasets.Dataset, columns: TextColumns, problem_type: ProblemType
) -> tuple[list[Any], list[Fault]]:
    """Return each row's label (a number, a name, a list of names or a vector of 0/1), and what is wrong with some."""
    if problem_type == "regression":
        return _read_numbers(dataset, columns.first_label)
    if isinstance(columns.label, list):
        return _read_flags(dataset, columns.label)
    if problem_type == "multi_label_classification":
        return _read_label_lists(dataset, columns.first_label)
    names = read_label_names(dataset, columns.first_label)
    return list(names), find_missing_labels(names, columns.first_label)


def find_missing_labels(names: Iterable[str | None], column: str) -> list[Fault]:
    """Return the fault of each row without a label.

    Args:
        names: Name of each row's label, None where it has none.
        column: Name of the labels' column.
    """
    return [
        Fault(row, f"no label in column {column!r}", NO_LABEL) for row, name in enumerate(names, 1) if name is None
    ]


def _read_numbers(dataset: datasets.Dataset, column: str) -> tuple[list[float], list[Fault]]:
    """Return the labels of a regression, nan where there is none."""
    import numpy as np
    import pandas as pd

    values = read_column(dataset, column).to_pandas()
    is_missing = (values.isna() | (values == "")).to_numpy()
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
    faults = [
        Fault(row + 1, f"no label in column {column!r}", NO_LABEL)
        if is_missing[row]
        else Fault(
            row + 1,
            f"the label {values[row]!r} in column {column!r} is no number",
            "label that is no number",
        )
        for row in np.flatnonzero(is_missing | ~np.isfinite(numbers)).tolist()
    ]
    return numbers.tolist(), faults


def name_label(value: Any, class_names: list[str]) -> str | None:
    """Return the name of a raw label, None where it is missing."""
    if (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    ):
        return None
    if class_names:
        return class_names[value] if value >= 0 else None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def read_label_names(dataset: datasets.Dataset, column: str) -> np.ndarray:
    """Return the name of each row's label, None where it has none, shape (rows,), object."""
    import numpy as np

    encoded = read_column(dataset, column).combine_chunks().dictionary_encode()
    class_names = read_class_names(dataset.features[column])
    names = [name_label(value, class_names) for value in encoded.dictionary.to_pylist()]
    indices = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    return np.array([*names, None], dtype=object)[indices]


def order_names(feature: object, names: Any, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Return all labels: those that are known, then the others in a ClassLabel's order or sorted naturally.

    Args:
        feature: The label column's feature.
        names: Lists of names.
        known: Labels that come first, in this order.
    """
    distinct = {name for values in names for name in values}
    class_names = read_class_names(feature)
    if class_names and distinct <= set(class_names):
        return (*known, *(name for name in class_names if name not in known))
    return (
        *known,
        *sorted(
            distinct.difference(known),
            key=lambda name: [
                (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part
            ],
        ),
    )


def _read_flags(dataset: datasets.Dataset, columns: list[str]) -> tuple[list[np.ndarray], list[Fault]]:
    """Return each row's vector of 0/1 from as many columns."""
    import numpy as np

    flags = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1, "false": 0, "true": 1}
    vectors, faults = [], []
    for column in columns:
        names = read_label_names(dataset, column)
        faults += find_missing_labels(names, column)
        faults += [
            Fault(
                row,
                f"{name!r} in the label column {column!r}; expected 0 or 1, as several label columns make a "
                "multi-label task",
                "label that is not 0 or 1",
            )
            for row, name in enumerate(names, start=1)
            if name is not None and name not in flags
        ]
        vectors.append([flags.get(name, 0) for name in names])
    return list(np.array(vectors, dtype=np.float32).T), faults


def _read_label_lists(dataset: datasets.Dataset, column: str) -> tuple[list[list[Any]], list[Fault]]:
    """Return each row's names of labels."""
    rows = read_column(dataset, column).to_pylist()
    class_names = read_class_names(dataset.features[column])
    names: list[list[Any]] = [[name_label(value, class_names) for value in row or ()] for row in rows]
    faults = []
    for number, (row, own) in enumerate(zip(rows, names, strict=True), start=1):
        if row is None:
            faults.append(Fault(number, f"no label in column {column!r}", NO_LABEL))
        elif None in own:
            faults.append(Fault(number, f"an empty label in its list {row}", "empty label in a list"))
        elif len(set(own)) < len(own):
            reason = f"it lists a label twice: {row} (a 0/1 vector needs one column per label)"
            faults.append(Fault(number, reason, "label listed twice"))
    return names, faults


def _check_any_known(used: set[str], known: Sequence[str], place: str) -> None:
    """Refuse later rows of which none has a label that the model knows."""
    if known and used and used.isdisjoint(known):
        raise UserError(
            f"{place}: every label is new to the run: {list_names(sorted(used))}; it knows {list_names(known)}; is it "
            "the right --data.label_column?"
        )


def list_names(names: Sequence[str]) -> str:
    """Write the first few names in quotes, and how many more there are."""
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def check_spelling(counts: Counter[str], known: Sequence[str] = ()) -> None:
    """Refuse labels that are one label in several spellings."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys((*counts, *known)):
        groups.setdefault(name.strip().casefold(), []).append(name)
    alike = [
        " / ".join(f"{name!r} ({counts[name]})" for name in sorted(names))
        for names in groups.values()
        if len(names) > 1
    ]
    if alike:
        raise UserError(
            f"labels differ only by case or surrounding spaces: {'; '.join(sorted(alike)[:_SHOWN])}; "
            "write each label one way"
        )


def _build_splits(
    frames: dict[str, pd.DataFrame], problem_type: ProblemType, columns: TextColumns
) -> datasets.DatasetDict:
    import datasets

    label_type = {
        "single_label_classification": datasets.Value("int64"),
        "multi_label_classification": datasets.List(datasets.Value("float32")),
        "regression": datasets.Value("float64"),
    }[problem_type]
    texts = ["text", "text_pair"] if columns.text_pair else ["text"]
    splits = {}
    for split, frame in frames.items():
        frame = frame[[*texts, "label", "row", *(["group"] if "group" in frame else [])]]
        dataset = datasets.Dataset.from_pandas(frame, preserve_index=False)
        features = dataset.features.copy()
        features.update({name: datasets.Value("string") for name in texts})
        features.update({"label": label_type, "row": datasets.Value("int64")})
        splits[split] = datasets.Dataset(dataset.data.cast(features.arrow_schema))
    return datasets.DatasetDict(splits)


def _list_names(positions: np.ndarray, label_names: tuple[str, ...], counts: np.ndarray | None = None) -> str:
    shown = [
        repr(label_names[position]) + ("" if counts is None else f" ({counts[position]} rows)")
        for position in positions[:_SHOWN]
    ]
    return ", ".join(shown) + (f" and {len(positions) - _SHOWN} more" if len(positions) > _SHOWN else "")


def leave_out_rare_labels(
    labels: Mapping[str, Sequence[tuple[str, ...]]],
    rows: Mapping[str, Sequence[int]],
    places: Mapping[str, str],
    bad_rows: BadRows,
) -> dict[str, set[int]]:
    """Return the rows of labels that cannot be both trained and validated: of one training row, or of none.

    Args:
        labels: Names of each row's labels by split, `train` among them.
        rows: The rows' 1-based numbers by split.
        places: What messages call each split.
        bad_rows: Refuses the rows, or counts them.

    Raises:
        UserError: If fewer than two labels are left, or there are such rows and they are not to be left out.
    """
    faults, present = find_rare_labels(labels, rows)
    if len(present) < 2 and (not faults["train"] or bad_rows.skip_bad):
        raise UserError(
            f"{places['train']}: expected two or more labels in training, found "
            f"{', '.join(map(repr, sorted(present))) or 'none'}; is it the right --data.label_column?"
        )
    usable = len(labels["train"]) - len(faults["train"]) if len(present) > 1 else 0
    return {
        split: bad_rows.leave_out(
            faults[split], len(labels[split]), places[split], "rows", usable=usable if split == "train" else None
        )
        for split in sorted(labels, key=lambda split: split != "train")
    }


def find_rare_labels(
    labels: Mapping[str, Sequence[tuple[str, ...]]], rows: Mapping[str, Sequence[int]]
) -> tuple[dict[str, list[Fault]], set[str]]:
    """Find rows of labels that cannot be both trained and validated: of one training row, or of none.

    Args:
        labels: Names of each row's labels by split, `train` among them.
        rows: The rows' 1-based numbers by split.

    Returns:
        The faults by split, and the labels that training rows without one have.
    """
    faults: dict[str, list[Fault]] = {"train": []}
    kept = list(range(len(labels["train"])))
    while True:  # a row of several labels takes others along
        counts = Counter(name for place in kept for name in labels["train"][place])
        rare = [place for place in kept if any(counts[name] == 1 for name in labels["train"][place])]
        if not rare:
            break
        for place in rare:
            name = next(name for name in labels["train"][place] if counts[name] == 1)
            reason = f"the label {name!r} has one training row: add rows of it, or merge it with another label"
            faults["train"].append(Fault(int(rows["train"][place]), reason, RARE_LABEL))
        gone = set(rare)
        kept = [place for place in kept if place not in gone]
    for split in labels.keys() - {"train"}:
        faults[split] = [
            Fault(int(row), _describe_unseen(names - counts.keys()), UNSEEN_LABEL)
            for row, names in zip(rows[split], map(set, labels[split]), strict=True)
            if names - counts.keys()
        ]
    return faults, set(counts)


def keep_usable_labels(
    names: Mapping[str, Any],
    kept: Mapping[str, Sequence[int]],
    bad_rows: BadRows,
    feature: object,
) -> tuple[dict[str, list[int]], tuple[str, ...]]:
    """Return the rows of labels that can be both trained and validated, and the names of these labels.

    Args:
        names: Name of each row's one label by split, `train` among them.
        kept: Positions of the rows that can be used besides.
        bad_rows: Refuses the others, or counts them.
        feature: The label column's feature.

    Raises:
        UserError: As `leave_out_rare_labels` does.
    """
    labels = {split: [(str(names[split][place]),) for place in places] for split, places in kept.items()}
    rows = {split: [place + 1 for place in places] for split, places in kept.items()}
    rare = leave_out_rare_labels(labels, rows, {split: f"{split} split" for split in kept}, bad_rows)
    usable = {split: [row - 1 for row in numbers if row not in rare[split]] for split, numbers in rows.items()}
    used = [[str(names[split][place]) for place in places] for split, places in usable.items()]
    return usable, order_names(feature, used)


def _describe_unseen(names: Iterable[str]) -> str:
    return f"the label {min(names)!r} is never seen in training: add training rows of it"


def leave_out_unseen_labels(
    splits: datasets.DatasetDict, label_names: Sequence[str], places: Mapping[str, str], bad_rows: BadRows
) -> datasets.DatasetDict:
    """Return the splits without rows to validate and test on whose labels the cut left no training row.

    Args:
        splits: Splits with the columns label, of class ids or vectors of 0/1, and row.
        label_names: Name of each class id.
        places: What messages call a split that the source gives.
        bad_rows: Refuses the rows, or counts them.

    Raises:
        UserError: If there are some and they are not to be left out.
    """
    import datasets
    import numpy as np

    unseen = count_labels(splits["train"], label_names).counts == 0
    result = dict(splits)
    for split in splits.keys() - {"train"}:
        labels = np.asarray(splits[split].with_format("numpy")[:]["label"])
        is_bad = unseen[labels] if labels.ndim == 1 else (labels[:, unseen] > 0).any(axis=1)
        if not is_bad.any():
            continue
        numbers = splits[split]["row"]
        faults = []
        for place in np.flatnonzero(is_bad).tolist():
            own = labels[place] if labels.ndim == 1 else np.flatnonzero((labels[place] > 0) & unseen)[0]
            faults.append(Fault(numbers[place], _describe_unseen([label_names[int(own)]]), UNSEEN_LABEL))
        bad_rows.leave_out(faults, len(labels), places.get(split, f"{split} split"), "rows")
        result[split] = splits[split].select(np.flatnonzero(~is_bad))
    return datasets.DatasetDict(result)


def describe_unlabelled(train: datasets.Dataset, label_names: Sequence[str]) -> list[str]:
    """Return a note on the share of rows that have none of several labels, where there are such rows.

    Args:
        train: The training rows, with a column label.
        label_names: Name of each class id, or place.
    """
    counted = count_labels(train, label_names)
    if not counted.unlabelled:
        return []
    share = counted.unlabelled / counted.rows
    return [f"{counted.unlabelled:,} of the {counted.rows:,} train rows ({share:.1%}) have no label."]


def _handle_duplicates(splits: datasets.DatasetDict, remove_overlap: bool) -> tuple[datasets.DatasetDict, list[str]]:
    """Count rows of equal text, white space and case aside; remove from train what the test holds if asked to.

    Raises:
        UserError: if no training row is left.
    """
    import datasets

    keys = {split: _fold_texts(dataset) for split, dataset in splits.items()}
    result, notes = dict(splits), []
    if repeated := int(keys["train"].duplicated().sum()):
        notes.append(f"{repeated:,} of the {len(keys['train']):,} training rows repeat the text of an earlier one.")
    in_test = keys["train"].isin(keys["test"]).to_numpy()
    if overlap := int(in_test.sum()):
        tested = int(keys["test"].isin(keys["train"]).sum())
        overlap_note = f"{overlap:,} training rows have a text that the test split has too ({tested:,} test rows)"
        if remove_overlap:
            if in_test.all():
                raise UserError(f"all {overlap} training rows stand in the test split; give another test split")
            result["train"] = splits["train"].select((~in_test).nonzero()[0])
            notes.append(f"{overlap_note}; they were removed from training.")
        else:
            notes.append(
                f"{overlap_note}, so the test score may be too high; --data.remove_overlap true removes them."
            )
    return datasets.DatasetDict(result), notes


def _fold_texts(dataset: datasets.Dataset) -> pd.Series:
    import pandas as pd

    columns = [column for column in ("text", "text_pair") if column in dataset.column_names]
    texts = zip(*(read_column(dataset, column).to_pylist() for column in columns), strict=True)
    return pd.Series(["\0".join(map(fold_text, row)) for row in texts], dtype=object)


def fold_text(text: str) -> str:
    """Return what counts as the same text: case and white space aside."""
    return " ".join(text.casefold().split())
