from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from startup_llm.config import LabelledTextData, ProblemType
from startup_llm.data.annotation_tools.fasttext import READERS
from startup_llm.data.columns import NoLabelColumnError, TextColumns, list_columns
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
IMBALANCE_NOTE_RATIO = 20
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
        UserError: if a source, column, text or label is not fit to train and test on; it names the split and the rows.
    """
    loaded = loaded or load_splits(data, NO_READERS if data.data_dir else READERS)
    rows = _read_rows(loaded, data)
    splits, columns, label_names, problem_type = rows.splits, rows.columns, rows.label_names, rows.problem_type
    notes, places = rows.notes, rows.places
    if data.labels_per_class is not None and problem_type != "single_label_classification":
        raise UserError(
            f"data.labels_per_class is {data.labels_per_class}, but the problem type is {problem_type}; expected "
            "one class per row, as rows are drawn per class: leave it out, or use --data.max_train_rows"
        )
    if problem_type != "regression":
        _check_training_labels(_count_labels(splits["train"], label_names), label_names, places["train"])
    stratify_by = "label" if problem_type == "single_label_classification" else None
    splits, split_notes = make_splits(
        splits,
        data,
        stratify_by=stratify_by,
        group_by="group" if columns.group else None,
        group_name=columns.group,
    )
    notes += split_notes
    splits, duplicate_notes = _handle_duplicates(splits, data.remove_overlap)
    notes += duplicate_notes
    if problem_type != "regression":
        notes += _check_labels_across_splits(splits, label_names, places)
    splits, sample_notes = _draw_samples(splits, data, stratify_by)
    notes += sample_notes
    if columns.group:
        splits = splits.remove_columns("group")
    unlabelled = None
    if data.labels_per_class is not None:
        splits, unlabelled, drawn_notes = keep_labels(splits, data.labels_per_class, data.split_seed, label_names)
        notes += drawn_notes
    return TaskData(
        splits, label_names, problem_type, notes, loaded.sources, unlabelled, source_columns=columns.by_role()
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
    splits, notes = datasets.DatasetDict({"test": rows.splits["train"]}), rows.notes
    if repeated := int(_fold_texts(splits["test"]).duplicated().sum()):
        notes.append(f"{repeated:,} of the {len(splits['test']):,} rows repeat the text of an earlier one.")
    sources = [{**source, "split": "test"} for source in loaded.sources]
    columns = rows.columns.by_role()
    return TaskData(splits, rows.label_names, rows.problem_type, notes, sources, source_columns=columns)


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
    frames = {split: _read_texts(loaded.splits[split], columns, places[split]) for split in loaded.splits}
    problem_type, decision = decide_problem_type(loaded.splits, columns, data)
    if decision:
        notes.append(decision)
    label_names = _add_labels(frames, loaded.splits, columns, problem_type, places, known_labels)
    return _LabelledRows(
        _build_splits(frames, problem_type, columns), columns, label_names, problem_type, notes, places
    )


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


def _add_labels(
    frames: dict[str, pd.DataFrame],
    sources: datasets.DatasetDict,
    columns: TextColumns,
    problem_type: ProblemType,
    places: dict[str, str],
    known: Sequence[str] = (),
) -> tuple[str, ...]:
    """Add the column `label` to each split's frame, and return the names of the labels; none for a regression."""
    if problem_type == "regression":
        for split, frame in frames.items():
            frame["label"] = _read_numbers(sources[split], columns.first_label, places[split])
        return ()
    if problem_type == "multi_label_classification":
        label_names, vectors = _read_label_vectors(sources, columns, places, known)
        for split, frame in frames.items():
            frame["label"] = list(vectors[split])
        return label_names
    names = {split: _read_label_names(sources[split], columns.first_label, places[split]) for split in frames}
    label_names = _order_names(sources["train"].features[columns.first_label], names.values(), known)
    _check_spelling(Counter(name for values in names.values() for name in values), known)
    _check_any_known(set().union(*names.values()), known, places["train"])
    ids = {name: index for index, name in enumerate(label_names)}
    for split, frame in frames.items():
        frame["label"] = [ids[name] for name in names[split]]
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
    counts = _count_labels(splits["train"], label_names)
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


def _describe_rows(positions: np.ndarray) -> str:
    shown = ", ".join(f"{position + 1:d}" for position in positions[:_SHOWN])
    more = ", ..." if len(positions) > _SHOWN else ""
    return f"{'row' if len(positions) == 1 else 'rows'} {shown}{more}"


def read_column(dataset: datasets.Dataset, column: str) -> pyarrow.ChunkedArray:
    """Return a column's values as Arrow."""
    return dataset.select_columns([column]).with_format("arrow")[:][column]


def _read_texts(dataset: datasets.Dataset, columns: TextColumns, place: str) -> pd.DataFrame:
    """Return the checked texts with their group and row number, one line per source row."""
    import numpy as np
    import pandas as pd
    import pyarrow
    import pyarrow.compute as compute

    frame = {}
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
        if len(empty):
            raise UserError(
                f"{place}: {len(empty)} of {len(values)} texts in column {column!r} are empty "
                f"({_describe_rows(empty)}); fill them in or delete these rows"
            )
        sizes = compute.binary_length(values).to_numpy()
        if sizes[longest := int(sizes.argmax())] > LONGEST_TEXT_BYTES:
            raise UserError(
                f"{place}: the text in row {longest + 1}, column {column!r}, has {sizes[longest]:,} bytes, the "
                f"limit is {LONGEST_TEXT_BYTES:,}; cut it into several rows, or delete it if it is a mistake"
            )
        frame[target] = values.to_pandas()
    if columns.group and columns.group in dataset.column_names:
        frame["group"] = read_column(dataset, columns.group).to_pandas()
    return pd.DataFrame({**frame, "row": np.arange(1, dataset.num_rows + 1)})


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


def _check_present(is_missing: np.ndarray, column: str, place: str) -> None:
    if is_missing.any():
        raise UserError(
            f"{place}: {int(is_missing.sum())} of {len(is_missing)} rows have no label in column {column!r} "
            f"({_describe_rows(is_missing.nonzero()[0])}); fill them in or delete these rows"
        )


def _read_numbers(dataset: datasets.Dataset, column: str, place: str) -> np.ndarray:
    """Return the regression labels, shape (rows,), float64."""
    import numpy as np
    import pandas as pd

    values = read_column(dataset, column).to_pandas()
    _check_present((values.isna() | (values == "")).to_numpy(), column, place)
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        raise UserError(
            f"{place}: {len(wrong)} labels in column {column!r} are not numbers, first {values[wrong[0]]!r} "
            f"in row {wrong[0] + 1}; correct them, or set --data.problem_type single_label_classification"
        )
    return numbers


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


def _read_label_names(dataset: datasets.Dataset, column: str, place: str) -> np.ndarray:
    """Return the label name of each row, shape (rows,), object."""
    import numpy as np
    import pandas as pd

    encoded = read_column(dataset, column).combine_chunks().dictionary_encode()
    class_names = read_class_names(dataset.features[column])
    names = [name_label(value, class_names) for value in encoded.dictionary.to_pylist()]
    indices = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    values = np.array([*names, None], dtype=object)[indices]
    _check_present(pd.isna(values), column, place)
    return values


def _order_names(feature: object, names: Any, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Return all labels: those that are known, then the others in a ClassLabel's order or sorted naturally."""
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


def _read_label_vectors(
    splits: datasets.DatasetDict, columns: TextColumns, places: dict[str, str], known: Sequence[str] = ()
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Return the label names and per split the 0/1 vectors, shape (rows, labels), float32."""
    import numpy as np

    if isinstance(columns.label, list):
        vectors = {
            split: np.stack([_read_flags(dataset, column, places[split]) for column in columns.label], axis=1)
            for split, dataset in splits.items()
        }
        return tuple(columns.label), vectors
    names = {split: _read_label_sets(dataset, columns.first_label, places[split]) for split, dataset in splits.items()}
    used = {name for rows in names.values() for row in rows for name in row}
    label_names = _order_names(splits["train"].features[columns.label], [used], known)
    _check_spelling(Counter(name for rows in names.values() for row in rows for name in row), known)
    _check_any_known(used, known, places["train"])
    ids = {name: index for index, name in enumerate(label_names)}
    vectors = {}
    for split, rows in names.items():
        vectors[split] = np.zeros((len(rows), len(label_names)), dtype=np.float32)
        for vector, row in zip(vectors[split], rows, strict=True):
            vector[[ids[name] for name in row]] = 1
    return label_names, vectors


def _read_flags(dataset: datasets.Dataset, column: str, place: str) -> np.ndarray:
    import numpy as np

    names = _read_label_names(dataset, column, place)
    flags = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1, "false": 0, "true": 1}
    wrong = np.array([name not in flags for name in names]).nonzero()[0]
    if len(wrong):
        raise UserError(
            f"{place}: {names[wrong[0]]!r} in row {wrong[0] + 1} of the label column {column!r}; expected 0 or 1, as "
            "several label columns make a multi-label task"
        )
    return np.array([flags[name] for name in names], dtype=np.float32)


def _read_label_sets(dataset: datasets.Dataset, column: str, place: str) -> list[list[str]]:
    import numpy as np

    rows = read_column(dataset, column).to_pylist()
    _check_present(np.array([row is None for row in rows]), column, place)
    class_names = read_class_names(dataset.features[column])
    names: list[list[Any]] = [[name_label(value, class_names) for value in row] for row in rows]
    for number, row in enumerate(names, start=1):
        if None in row:
            raise UserError(
                f"{place}: row {number} has an empty label in its list {rows[number - 1]}; delete or fill it"
            )
        if len(set(row)) < len(row):
            raise UserError(
                f"{place}: row {number} lists a label twice: {rows[number - 1]}; expected the labels of the row, "
                "each once (a 0/1 vector needs one column per label)"
            )
    return names


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


def _check_spelling(counts: Counter[str], known: Sequence[str] = ()) -> None:
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


def _count_labels(dataset: datasets.Dataset, label_names: tuple[str, ...]) -> np.ndarray:
    """Return how many rows have each label, shape (labels,)."""
    import numpy as np

    labels = read_column(dataset, "label").combine_chunks()
    if labels.type == "int64":
        return np.bincount(labels.to_numpy(), minlength=len(label_names))
    return labels.flatten().to_numpy().reshape(len(labels), len(label_names)).sum(axis=0).astype(int)


def _list_names(positions: np.ndarray, label_names: tuple[str, ...], counts: np.ndarray | None = None) -> str:
    shown = [
        repr(label_names[position]) + ("" if counts is None else f" ({counts[position]} rows)")
        for position in positions[:_SHOWN]
    ]
    return ", ".join(shown) + (f" and {len(positions) - _SHOWN} more" if len(positions) > _SHOWN else "")


def _check_training_labels(counts: np.ndarray, label_names: tuple[str, ...], place: str) -> None:
    present = counts.nonzero()[0]
    if len(present) < 2:
        raise UserError(
            f"{place}: expected two or more labels in training, found {_list_names(present, label_names) or 'none'}; "
            "is it the right --data.label_column?"
        )
    if len(once := (counts == 1).nonzero()[0]):
        raise UserError(
            f"{place}: {len(once)} labels have one training row: {_list_names(once, label_names)}; a label cannot be "
            "both trained and validated on one row: add rows, merge the label with another, or delete the row"
        )


def _check_labels_across_splits(
    splits: datasets.DatasetDict, label_names: tuple[str, ...], places: dict[str, str]
) -> list[str]:
    """Refuse labels that are tested but never trained; note an imbalance."""
    train = _count_labels(splits["train"], label_names)
    for split in ("validation", "test"):
        if split not in splits:
            continue
        counts = _count_labels(splits[split], label_names)
        if len(unseen := ((counts > 0) & (train == 0)).nonzero()[0]):
            raise UserError(
                f"{places.get(split, f'{split} split')}: {len(unseen)} labels are never seen in training: "
                f"{_list_names(unseen, label_names, counts)}; add training rows of them or delete these rows"
            )
    present = train.nonzero()[0]
    largest, smallest = present[train[present].argmax()], present[train[present].argmin()]
    if train[largest] <= IMBALANCE_NOTE_RATIO * train[smallest]:
        return []
    return [
        f"The classes are unbalanced: {train[largest]:,} training rows of {label_names[largest]!r}, "
        f"{train[smallest]:,} of {label_names[smallest]!r}; accuracy alone will mislead."
    ]


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
