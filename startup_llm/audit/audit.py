"""What is wrong with rows, before a model learns it.

The rows are read as training reads them, but nothing is refused: what training would refuse is a finding here.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from startup_llm.audit.label_faults import (
    FEWEST_ROWS_PER_LABEL,
    EncodeTexts,
    SuspectLabels,
    find_spellings,
    find_suspect_labels,
)
from startup_llm.audit.near_duplicates import find_near_duplicates
from startup_llm.audit.odd_texts import find_odd_characters, find_other_languages
from startup_llm.audit.personal_data import find_personal_data, mask_text, show_text
from startup_llm.config import AuditConfig
from startup_llm.data.annotation_tools.fasttext import READERS
from startup_llm.data.classification import (
    LONGEST_TEXT_BYTES,
    decide_problem_type,
    fold_text,
    name_label,
    read_class_names,
    read_column,
)
from startup_llm.data.columns import FREE_TEXT_CHARACTERS, TextColumns
from startup_llm.data.label_cells import JSON, NONE, LabelCells, find_label_cells, separate_labels
from startup_llm.data.row_source import DEFAULT_OPTIONS, NO_READERS, FileOptions
from startup_llm.data.sources import LoadedData, load_splits, read_options
from startup_llm.data.text_reading import prepare_texts
from startup_llm.errors import UserError, nearest

if TYPE_CHECKING:
    import datasets

    from startup_llm.config import ModelConfig
    from startup_llm.data.task_data import TaskData

Severity = Literal["error", "warning", "note"]
CHARACTERS_PER_TOKEN = 4
IMBALANCE_NOTE_RATIO = 20
_MOST_LANGUAGE_TEXTS = 50_000
_MOST_AUDITED_ROWS = 100_000
_MOST_ENCODED_TEXTS = 20_000
_QUICK_LANGUAGE_TEXTS = 1_000
_SHOWN_LABELS = 20
_LIBRARIES = ("ftfy",)
_SHOWN_BLOCKS = 20
_NOTED_PATTERNS = 5

KINDS: dict[str, tuple[Severity, str, str]] = {
    "empty-texts": ("error", "texts without a character to read", "fill them in or delete the rows (--fix deletes)"),
    "oversized-texts": (
        "error",
        f"texts above {LONGEST_TEXT_BYTES:,} bytes",
        "cut them, or delete them (--fix deletes)",
    ),
    "missing-labels": ("error", "rows without a label", "label them, or delete the rows (--fix deletes)"),
    "several-labels-in-a-cell": (
        "error",
        "cells that hold several labels",
        "name what stands between the labels with --data.label_separator, or none where a cell is one label",
    ),
    "label-spelling": ("error", "labels that differ only by case or spaces", "write each one way (--fix does)"),
    "rare-labels": (
        "error",
        "labels of one training row",
        "add rows, merge the label, or delete the row (--fix deletes)",
    ),
    "unseen-labels": (
        "error",
        "labels that no training row has",
        "add training rows of them, or delete these rows (--fix deletes)",
    ),
    "contradicting-labels": ("error", "equal or near-equal texts with other labels", "decide for one label each"),
    "duplicates-across-splits": (
        "error",
        "rows whose text a later split has too",
        "remove them from training (--fix does, or --data.remove_overlap): the score would be too high",
    ),
    "near-duplicates-across-splits": (
        "warning",
        "rows whose text is nearly equal to one of a later split",
        "look whether they are independent of it; else remove them from training",
    ),
    "groups-across-splits": (
        "error",
        "rows whose group stands in an earlier split too",
        "keep a group on one side: let --data.group_column cut the splits",
    ),
    "duplicates": ("warning", "texts that repeat an earlier one of the split", "keep one of each (--fix does)"),
    "near-duplicates": ("warning", "texts nearly equal to an earlier one of the split", "keep one of each template"),
    "suspect-labels": ("warning", "labels that the other rows speak against", "read these rows, most suspect first"),
    "imbalance": ("warning", "rows of labels far rarer than the most frequent", "add rows; do not go by accuracy"),
    "odd-characters": (
        "warning",
        "texts with mojibake, control, replacement or invisible characters",
        "read the source in its own encoding (--fix corrects what is certain)",
    ),
    "personal-data": (
        "warning",
        "texts with personal data",
        "remove or mask them (--fix --fix_kinds personal-data) before you train or publish",
    ),
    "other-languages": ("note", "texts in another language than most", "check that the checkpoint knows it"),
    "long-texts": ("note", "texts that will be cut, by estimate", "raise max_length_tokens, or cut them yourself"),
}
"""Kind -> how bad it is, what was found, what to do. An error is refused by training or makes its score wrong."""
_SKIPPED = ("empty-texts", "oversized-texts", "missing-labels", "rare-labels", "unseen-labels")
"""Faults of rows that training leaves out where `data.skip_bad` is on."""


@dataclass(frozen=True)
class Rows:
    """All rows of all splits, one after the other.

    Attributes:
        split: Split name of each row, shape (rows,).
        row: 1-based place in the split, shape (rows,).
        texts: Texts; a pair's two texts joined by a line break.
        parts: The texts of each text column.
        labels: The labels of each row, () where there is none.
        groups: Group of each row, None where there is none; None without a group column.
        problem_type: What a label is.
        columns: Which columns the rows were read from.
        files: Per split its files with their row counts; empty where the source is no file.
    """

    split: np.ndarray
    row: np.ndarray
    texts: list[str]
    parts: list[list[str]]
    labels: list[tuple[str, ...]]
    groups: list[Any] | None
    problem_type: str
    columns: TextColumns
    files: dict[str, list[dict[str, Any]]]

    @property
    def splits(self) -> list[str]:
        """The splits' names in their order."""
        return list(dict.fromkeys(self.split.tolist()))

    def number_files(self) -> np.ndarray:
        """Return a number for each row that is the same for those of one file, or of one split without files."""
        numbers = np.unique(self.split, return_inverse=True)[1] * 1_000_000
        for split, files in self.files.items():
            inside = np.flatnonzero(self.split == split)
            numbers[inside] += np.searchsorted(np.cumsum([file["rows"] for file in files]), self.row[inside])
        return numbers

    def place(self, position: int) -> dict[str, Any]:
        """Return where a row stands: its split and row there, and the file where the split has several."""
        split, row = str(self.split[position]), int(self.row[position])
        place: dict[str, Any] = {"split": split, "row": row}
        files = self.files.get(split, [])
        if len(files) > 1:
            for file in files:
                if row <= file["rows"]:
                    return {**place, "file": file["path"], "file_row": row}
                row -= file["rows"]
        return place


@dataclass
class Finding:
    """One kind of fault and the rows that have it.

    Attributes:
        kind: Key of `KINDS`.
        positions: The rows, ascending, or the worst first.
        examples: Some rows: place, masked text, labels, and what stands against them.
        details: Counts and what else is worth knowing.
        partners: For duplicates the row that each position repeats.
        mapping: For label spellings the label to write, by the one that is written.
    """

    kind: str
    positions: np.ndarray
    examples: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    partners: np.ndarray | None = None
    mapping: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """What was found, and what was inspected."""

    rows: Rows
    findings: dict[str, Finding]
    statistics: dict[str, Any]
    notes: list[str]
    options: FileOptions = DEFAULT_OPTIONS
    """How the files were read."""
    skip_bad: bool = False
    """Whether training is to leave out the rows that it would refuse."""
    after_fix: list[dict[str, Any]] | None = None
    """What the same audit finds in the cleaned copies, and why it was left; None where there are none."""

    def to_json(self) -> dict[str, Any]:
        """Return the audit as plain data; rows by split, 1-based."""
        findings = []
        for kind, finding in self.findings.items():
            severity, meaning, advice = KINDS[kind]
            if self.skip_bad and kind in _SKIPPED:
                severity, advice = "warning", "training leaves them out, as data.skip_bad asks"
            by_split: dict[str, list[int]] = {}
            for position in finding.positions:
                by_split.setdefault(str(self.rows.split[position]), []).append(int(self.rows.row[position]))
            findings.append(
                {
                    "kind": kind,
                    "severity": severity,
                    "meaning": meaning,
                    "advice": advice,
                    "count": len(finding.positions),
                    "count_by_split": {split: len(rows) for split, rows in by_split.items()},
                    "details": finding.details,
                    "examples": finding.examples,
                    "rows": by_split,
                }
            )
        content = {"statistics": self.statistics, "notes": self.notes, "findings": findings}
        return content if self.after_fix is None else {**content, "after_fix": self.after_fix}


def read_kinds(option: str, text: str | None, allowed: Sequence[str] = tuple(KINDS)) -> list[str]:
    """Split a list of kinds at its commas.

    Raises:
        UserError: if one is not allowed.
    """
    kinds = [kind.strip() for kind in (text or "").split(",") if kind.strip()]
    for kind in kinds:
        if kind not in allowed:
            raise UserError(f"{option}: no kind {kind!r}, only {', '.join(allowed)}{nearest(kind, allowed)}")
    return kinds


def audit_rows(config: AuditConfig, encode: EncodeTexts | None = None) -> Audit:
    """Read labelled texts and look for every kind of fault.

    Args:
        config: What to read, and how to look.
        encode: Computes an encoder's features, by which labels are judged; default by words.

    Raises:
        UserError: if a library of the extra `audit` is missing, a file cannot be read, or a column not be found.
    """
    _check_libraries()
    loaded = load_splits(config.data, NO_READERS if config.data.data_dir else READERS)
    splits, columns = prepare_texts(loaded.splits, config.data)
    return audit_loaded(replace(loaded, splits=splits), columns, config, encode=encode)


def _check_libraries() -> None:
    if missing := [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]:
        raise UserError(f"the audit needs {', '.join(missing)}; install them: pip install 'startup-llm[audit]'")


def audit_before_publishing(loaded: LoadedData, config: AuditConfig, *, labelled: bool) -> Audit:
    """Look for faults in rows of any kind, and for personal data in every column of theirs.

    Where the columns of a labelled text are found, labels are inspected too.

    Args:
        loaded: The rows.
        config: How to look.
        labelled: Whether the columns that are named are those of rows with a label, and so have to be there.

    Raises:
        UserError: If a column is not found or a library of the extra `audit` is missing.
    """
    _check_libraries()
    data = config.data
    named = (data.text_column, data.text_pair_column, data.label_column)
    try:
        splits, columns = prepare_texts(loaded.splits, data)
        loaded = replace(loaded, splits=splits)
    except UserError:
        if any(named) and labelled:
            raise
        columns = None
    return audit_loaded(loaded, columns, config, every_column=True)


def audit_task_data(
    data: TaskData, level: Literal["quick", "full"], model: ModelConfig | None = None
) -> dict[str, Any] | None:
    """Look into the rows that a task trains and tests on, as they were split.

    Args:
        data: The rows.
        level: quick looks for what needs no comparison of all with all: empty texts, personal data, copies within and
            across splits, labels that are rare, new or written in several ways, and the languages of a sample. full
            looks for every kind.
        model: Names the checkpoint on whose features a full audit judges labels, if it is an encoder; else it is the
            packaged one, where that is installed.

    Returns:
        What was found, as plain data without a text; None where the rows are images or sounds, or have no text.

    Raises:
        UserError: If a library of the extra `audit` is missing for a full audit.
    """
    if level == "full":
        _check_libraries()
    train = data.splits["train"]
    notes = []
    if len(train) > _MOST_AUDITED_ROWS:
        notes.append(f"{_MOST_AUDITED_ROWS:,} of {len(train):,} training rows, drawn at random, were searched.")
        train = train.shuffle(seed=0).select(range(_MOST_AUDITED_ROWS))
    rows = _read_task_rows({**data.splits, "train": train}, data)
    if rows is None:
        return None
    encode = None
    if level == "full" and data.problem_type == "single_label_classification":
        encode = _load_encoder(model, len(rows.texts), notes)
    search = _Search(rows, AuditConfig(examples=0), encode)
    if level == "quick":
        search.find_empty_texts()
        search.find_personal_data(rows.texts)
        search.find_copies(near=False)
        search.count_languages()
    else:
        search.find_text_faults(rows.texts)
        search.find_copies()
    if any(rows.labels):
        search.find_label_faults(suspects=level == "full")
    counts = {kind: len(search.findings[kind].positions) for kind in KINDS if kind in search.findings}
    findings = [
        {"kind": kind, "severity": KINDS[kind][0], "meaning": KINDS[kind][1], "count": count}
        for kind, count in counts.items()
    ]
    languages = {"texts_by_language": dict(search.languages.most_common()), "texts": search.language_texts}
    return {"level": level, "findings": findings, "notes": [*notes, *search.notes], "languages": languages}


def _load_encoder(model: ModelConfig | None, texts: int, notes: list[str]) -> EncodeTexts | None:
    """Load the encoder for a full audit, and say by what labels are judged."""
    from startup_llm.audit.text_features import load_encoder_at_hand

    encoder = load_encoder_at_hand(model) if texts <= _MOST_ENCODED_TEXTS else None
    if encoder is None:
        notes.append(
            "Labels were judged by words; recipes/audit.py --checkpoint judges them by an encoder's features."
        )
    else:
        notes.append(f"Labels were judged by the features of {encoder.checkpoint.name}.")
    return encoder


def _read_task_rows(splits: Mapping[str, datasets.Dataset], data: TaskData) -> Rows | None:
    """Read texts and their labels, or all text of rows without a label; None for images, sounds and numbers alone."""
    import datasets

    features = splits["train"].features
    if any(isinstance(kind, (datasets.Image, datasets.Audio)) for kind in features.values()):
        return None
    shared = set.intersection(*(set(rows.column_names) for rows in splits.values()))
    columns = [name for name in ("text", "text_pair") if name in shared]
    if not data.problem_type or not columns:
        return _read_unlabelled_rows(splits, [name for name in features if name in shared - {"row", "digest"}])
    parts = [[text for rows in splits.values() for text in rows[column]] for column in columns]
    labels = [names for rows in splits.values() for names in _name_labels(rows, data)]
    texts = parts[0] if len(parts) == 1 else ["\n".join(texts) for texts in zip(*parts, strict=True)]
    place = np.concatenate([np.asarray(rows["row"], np.int64) for rows in splits.values()])
    split = np.repeat(list(splits), [len(rows) for rows in splits.values()])
    used_columns = TextColumns(columns[0], None, "", None, [])
    return Rows(split, place, texts, parts, labels, None, data.problem_type, used_columns, {})


def _read_unlabelled_rows(splits: Mapping[str, datasets.Dataset], columns: list[str]) -> Rows | None:
    import datasets

    if not columns:
        return None
    plain = datasets.DatasetDict({split: rows.select_columns(columns) for split, rows in splits.items()})
    rows = read_rows_without_label(LoadedData(plain, [], []), None)
    return rows if any(rows.texts) else None


def _name_labels(rows: datasets.Dataset, data: TaskData) -> list[tuple[str, ...]]:
    """Return the names of each row's labels; none for a regression."""
    if data.problem_type == "single_label_classification":
        return [(data.label_names[label],) for label in rows["label"]]
    if data.problem_type == "multi_label_classification":
        return [
            tuple(name for name, flag in zip(data.label_names, flags, strict=True) if flag) for flags in rows["label"]
        ]
    return [()] * len(rows)


def audit_loaded(
    loaded: LoadedData,
    columns: TextColumns | None,
    config: AuditConfig,
    *,
    every_column: bool = False,
    encode: EncodeTexts | None = None,
) -> Audit:
    """Look for every kind of fault in rows that are loaded.

    Args:
        loaded: The rows.
        columns: Where text and label are; None for rows that have no label: all their running text is inspected.
        config: How to look; its `data` counts no more.
        every_column: Whether personal data is searched in all columns, not only in the text.
        encode: See `audit_rows`.
    """
    if columns is None:
        rows = read_rows_without_label(loaded, config.data.group_column)
        notes = [*loaded.notes, f"Read as text: {rows.columns.text}; labels were not checked."]
    else:
        cells = find_label_cells(loaded.splits, columns, config.data)
        separator = cells.separator if cells and cells.are_several else config.data.label_separator
        if separator not in (None, NONE):
            separated, columns = separate_labels(loaded.splits, columns, separator)
            loaded = replace(loaded, splits=separated)
        problem_type, decision = decide_problem_type(loaded.splits, columns, config.data)
        rows = read_rows(loaded, columns, problem_type)
        notes = [*loaded.notes, *columns.notes, *([decision] if decision else [])]
    search = _Search(rows, config, encode)
    search.find_text_faults(read_whole_rows(loaded) if every_column else rows.texts)
    search.find_copies()
    search.find_shared_groups()
    if columns is not None:
        search.find_missing_labels()
        search.find_label_cells(cells)
    if rows.problem_type == "regression":
        notes.append("Labels are numbers: contradictions, suspect labels and imbalance were not looked for.")
    elif columns is not None:
        search.find_label_faults()
    findings = {kind: search.findings[kind] for kind in KINDS if kind in search.findings}
    options = read_options(config.data)
    notes += search.notes
    return Audit(rows, findings, search.describe(), notes, options, config.data.skip_bad)


def read_rows_without_label(loaded: LoadedData, group: str | None) -> Rows:
    """Read rows of no known kind: each column that holds running text in training, or any text where none does."""
    train = loaded.splits["train"]
    texts = {name: list(map(_join_strings, _read_plain(train, name))) for name in _list_plain_columns(train)}
    lengths = {name: sum(map(len, values)) / len(values) for name, values in texts.items() if any(values)}
    running = [name for name, length in lengths.items() if length >= FREE_TEXT_CHARACTERS and name != group]
    names = running or list(lengths)
    split, row, groups = [], [], []
    for name, rows in loaded.splits.items():
        groups += _read_plain(rows, group) if group in rows.column_names else [None] * len(rows)
        split += [name] * len(rows)
        row.append(np.arange(1, len(rows) + 1))
    whole = read_whole_rows(loaded, names)
    files = {record["split"]: record["files"] for record in loaded.sources if "files" in record}
    columns = TextColumns(", ".join(names) or "no column", None, "", group, [])
    return Rows(
        np.array(split), np.concatenate(row), whole, [whole], [()] * len(whole), groups if group else None, "",
        columns, files,
    )  # fmt: skip


def read_whole_rows(loaded: LoadedData, names: Sequence[str] | None = None) -> list[str]:
    """Return the text of each row, a line per value; what is in images and sounds is not text.

    Args:
        loaded: The rows.
        names: Which columns to read; default all.
    """
    whole = []
    for rows in loaded.splits.values():
        columns = [_read_plain(rows, name) for name in _list_plain_columns(rows) if names is None or name in names]
        values = zip(*columns, strict=True) if columns else [()] * len(rows)
        whole += [_join_strings(list(row)) for row in values]
    return whole


def _list_plain_columns(rows: datasets.Dataset) -> list[str]:
    import datasets

    return [name for name, kind in rows.features.items() if not isinstance(kind, (datasets.Image, datasets.Audio))]


def _read_plain(rows: datasets.Dataset, name: str) -> list[Any]:
    return rows.with_format("arrow")[:][name].to_pylist()


def _join_strings(value: Any) -> str:
    """Return the strings of a value, those within lists and mappings too, a line each."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        value = list(value.values())
    return "\n".join(filter(None, map(_join_strings, value))) if isinstance(value, list) else ""


def read_rows(loaded: LoadedData, columns: TextColumns, problem_type: str) -> Rows:
    """Read all rows, faulty ones too: a missing text is empty, a missing label is none."""
    text_columns = [column for column in (columns.text, columns.text_pair) if column]
    parts: list[list[str]] = [[] for _ in text_columns]
    split, row, labels, groups = [], [], [], []
    for name, dataset in loaded.splits.items():
        for part, column in zip(parts, text_columns, strict=True):
            part += ["" if value is None else str(value) for value in read_column(dataset, column).to_pylist()]
        labels += _read_labels(dataset, columns.label, problem_type)
        if columns.group in dataset.column_names:
            groups += read_column(dataset, columns.group).to_pylist()
        else:
            groups += [None] * dataset.num_rows
        split += [name] * dataset.num_rows
        row.append(np.arange(1, dataset.num_rows + 1))
    texts = parts[0] if len(parts) == 1 else ["\n".join(texts) for texts in zip(*parts, strict=True)]
    files = {record["split"]: record["files"] for record in loaded.sources if "files" in record}
    return Rows(
        np.array(split), np.concatenate(row), texts, parts, labels, groups if columns.group else None, problem_type,
        columns, files,
    )  # fmt: skip


def _read_labels(dataset: datasets.Dataset, column: str | list[str], problem_type: str) -> list[tuple[str, ...]]:
    if isinstance(column, list):
        flags = [[str(value) for value in read_column(dataset, name).to_pylist()] for name in column]
        return [
            tuple(name for name, flag in zip(column, row, strict=True) if flag in ("1", "1.0", "True", "true"))
            for row in zip(*flags, strict=True)
        ]
    class_names = read_class_names(dataset.features[column])
    values = read_column(dataset, column).to_pylist()
    if problem_type == "multi_label_classification":
        named = [[name_label(value, class_names) for value in row or []] for row in values]
        return [tuple(sorted({name for name in row if name is not None})) for row in named]
    names = {value: name_label(value, class_names) for value in set(values)}
    return [() if names[value] is None else (names[value],) for value in values]


class _Search:
    """The searches, each adding its findings."""

    def __init__(self, rows: Rows, config: AuditConfig, encode: EncodeTexts | None = None) -> None:
        self.rows, self.config, self.encode = rows, config, encode
        self.findings: dict[str, Finding] = {}
        self.notes: list[str] = []
        ranks = {"train": 0, "validation": 1, "test": 2}
        self.rank = np.array([ranks[name] for name in rows.split.tolist()], np.int8)
        self.is_empty = np.array([not all(map(str.strip, texts)) for texts in zip(*rows.parts, strict=True)], bool)
        self.labels = [" + ".join(labels) for labels in rows.labels]
        self.clusters = np.arange(len(rows.texts))
        self.languages: Counter[str] = Counter()
        self.language_texts = 0
        self.label_counts: Counter[str] | None = None

    def add(
        self,
        kind: str,
        positions: Sequence[int] | np.ndarray,
        *,
        partners: np.ndarray | None = None,
        says: Sequence[dict[str, Any]] | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        """Keep a finding, if it has a row."""
        positions = np.asarray(positions, np.int64)
        if not len(positions):
            return
        examples = []
        for index, position in enumerate(positions[: self.config.examples]):
            example = self.show(position)
            if partners is not None:
                example["against"] = self.show(partners[index])
            examples.append(example | (dict(says[index]) if says else {}))
        self.findings[kind] = Finding(kind, positions, examples, details or {}, partners)

    def show(self, position: int) -> dict[str, Any]:
        """Return a row's place with its masked text and labels."""
        names = self.config.names
        labels = show_text(self.labels[position], names=names)
        return {
            **self.rows.place(position),
            "text": show_text(self.rows.texts[position], names=names),
            "label": labels,
        }

    def find_empty_texts(self) -> None:
        self.add("empty-texts", np.flatnonzero(self.is_empty))

    def find_personal_data(self, whole_rows: Sequence[str]) -> None:
        names = self.config.names
        self._add_by_text("personal-data", whole_rows, find_personal_data(whole_rows, names=names))

    def _add_by_text(self, kind: str, texts: Sequence[str], positions_of_kind: Mapping[str, np.ndarray]) -> None:
        """Add a finding of rows by what their texts hold, several things perhaps."""
        what: dict[int, list[str]] = {}
        for name, positions in positions_of_kind.items():
            for position in positions.tolist():
                what.setdefault(position, []).append(name)
        order = sorted(what)
        shown = [show_text(texts[position], names=self.config.names) for position in order[: self.config.examples]]
        says = [{"text": text, "what": what[position]} for position, text in zip(order, shown, strict=False)]
        self.add(kind, order, says=says, details={name: len(positions_of_kind[name]) for name in positions_of_kind})

    def find_text_faults(self, whole_rows: Sequence[str]) -> None:
        """Find what is wrong with the texts, and personal data in whole rows."""
        rows, config = self.rows, self.config
        self.find_empty_texts()
        self.characters = np.fromiter(map(len, rows.texts), np.int64, len(rows.texts))
        large = np.flatnonzero(self.characters > LONGEST_TEXT_BYTES // 4)
        self.add("oversized-texts", [i for i in large.tolist() if len(rows.texts[i].encode()) > LONGEST_TEXT_BYTES])
        limit = CHARACTERS_PER_TOKEN * config.max_length_tokens
        cut = np.flatnonzero(self.characters > limit)
        lost = float((self.characters[cut] - limit).sum() / max(self.characters.sum(), 1))
        self.add("long-texts", cut, details={"estimated_share_of_characters_lost": round(lost, 4)})
        self._add_by_text("odd-characters", rows.texts, find_odd_characters(rows.texts))
        self.find_personal_data(whole_rows)
        self.language_texts = min(len(rows.texts), _MOST_LANGUAGE_TEXTS)
        self.languages, other, codes = find_other_languages(rows.texts, _MOST_LANGUAGE_TEXTS, config.seed)
        says = [{"language": code} for code in codes]
        self.add("other-languages", other, says=says, details={"texts_by_language": dict(Counter(codes))})
        if len(rows.texts) > _MOST_LANGUAGE_TEXTS:
            self.notes.append(f"Languages were detected in {_MOST_LANGUAGE_TEXTS:,} texts drawn at random.")

    def count_languages(self) -> None:
        """Count the languages of a sample of the texts."""
        drawn = np.random.default_rng(self.config.seed).permutation(len(self.rows.texts))[:_QUICK_LANGUAGE_TEXTS]
        texts = [self.rows.texts[i] for i in drawn.tolist()]
        self.languages, _, _ = find_other_languages(texts, len(texts), self.config.seed)
        self.language_texts = len(texts)

    def find_copies(self, *, near: bool = True) -> None:
        """Find exact and, unless left out, near-duplicates, and labels that contradict each other on them."""
        import pandas as pd
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        filled = np.flatnonzero(~self.is_empty)
        # test first, so that the row that stays where splits share a text is never one of training
        order = filled[np.argsort(-self.rank[filled], kind="stable")]
        keys = pd.Series(["\0".join(fold_text(part[i]) for part in self.rows.parts) for i in order], dtype=object)
        codes = pd.factorize(keys)[0]
        rank = self.rank[order]
        frame = pd.DataFrame({"code": codes, "rank": rank, "position": order})
        first_in_split = frame.groupby(["code", "rank"])["position"].transform("min").to_numpy()
        first = frame.groupby("code")["position"].transform("first").to_numpy()
        is_copy = first_in_split != order
        self._add_pairs("duplicates", order[is_copy], first_in_split[is_copy])
        crosses = self.rank[first] != rank
        self._add_pairs("duplicates-across-splits", order[crosses], first[crosses])

        unique = frame.drop_duplicates("code")["position"].to_numpy()
        pairs, similarity = np.empty((0, 2), np.int64), np.empty(0)
        if near:
            texts = [self.rows.texts[i] for i in unique]
            pairs, similarity = find_near_duplicates(texts, self.config.near_duplicate_similarity)
        joined = np.concatenate([unique[pairs], np.stack([first, order], axis=1)])
        graph = coo_array((np.ones(len(joined), bool), joined.T), shape=(len(self.is_empty),) * 2)
        self.clusters = connected_components(graph, directed=False)[1]

        left, right = unique[pairs].T
        same = self.rank[left] == self.rank[right]
        ends = np.sort(unique[pairs], axis=1)
        self._add_pairs("near-duplicates", ends[same, 1], ends[same, 0], similarity[same])
        # the row of training is the one to remove, as with exact copies
        earlier = np.where(self.rank[left] < self.rank[right], left, right)
        later = np.where(self.rank[left] < self.rank[right], right, left)
        self._add_pairs("near-duplicates-across-splits", earlier[~same], later[~same], similarity[~same])
        self._find_contradictions(order, first, unique[pairs], similarity)

    def _add_pairs(
        self, kind: str, rows: np.ndarray, partners: np.ndarray, similarity: np.ndarray | None = None
    ) -> None:
        """Add a finding of rows with what they repeat, the most similar partner of each."""
        if similarity is None:
            similarity = np.ones(len(rows))
        order = np.lexsort((partners, -similarity, rows))
        rows, partners, similarity = rows[order], partners[order], similarity[order]
        rows, index = np.unique(rows, return_index=True)
        says = [{"similarity": round(float(value), 3)} for value in similarity[index]]
        self.add(kind, rows, partners=partners[index], says=says)

    def _find_contradictions(
        self, order: np.ndarray, first: np.ndarray, near: np.ndarray, similarity: np.ndarray
    ) -> None:
        if self.rows.problem_type == "regression":
            return
        labels = np.array([fold_text(label) for label in self.labels], dtype=object)
        import pandas as pd

        codes = np.where(labels == "", -1, pd.factorize(labels)[0])  # a missing label contradicts nothing
        pairs = np.concatenate([np.stack([first, order], axis=1), near])
        shares = np.concatenate([np.ones(len(order)), similarity])
        differs = (codes[pairs[:, 0]] != codes[pairs[:, 1]]) & (codes[pairs] >= 0).all(axis=1)
        # both sides are named: which of them is wrong, only a reader can tell
        pairs, shares = pairs[differs], shares[differs]
        both, shares = np.concatenate([pairs, pairs[:, ::-1]]), np.concatenate([shares, shares])
        self._add_pairs("contradicting-labels", both[:, 0], both[:, 1], shares)
        if "contradicting-labels" in self.findings:
            exact = int((shares == 1).sum() // 2)
            self.findings["contradicting-labels"].details |= {"pairs": len(pairs), "pairs_of_equal_texts": exact}

    def find_shared_groups(self) -> None:
        if self.rows.groups is None:
            return
        seen: dict[Any, int] = {}
        shared, partners = [], []
        for position, group in enumerate(self.rows.groups):
            if group in (None, ""):
                continue
            earlier = seen.setdefault(group, position)
            if self.rank[earlier] != self.rank[position]:
                shared.append(position)
                partners.append(earlier)
        count = len({self.rows.groups[position] for position in shared})
        self.add("groups-across-splits", shared, partners=np.array(partners, np.int64), details={"groups": count})

    def find_missing_labels(self) -> None:
        rows = self.rows
        may_be_none = isinstance(rows.columns.label, list) or rows.problem_type == "multi_label_classification"
        if may_be_none and rows.columns.label_separator in (None, JSON):
            self.notes.append("Rows without any label are taken for such, as several labels may be none.")
        else:
            self.add("missing-labels", [i for i, labels in enumerate(rows.labels) if not labels])

    def find_label_cells(self, cells: LabelCells | None) -> None:
        """Find cells that hold several labels where no option says so."""
        if cells is not None and cells.are_several:
            several = [i for i, labels in enumerate(self.rows.labels) if len(labels) > 1]
            self.add("several-labels-in-a-cell", several, details={"option": cells.option})
            self.notes.append(f"Cells of several labels were read as {cells.option} reads them.")

    def find_label_faults(self, *, suspects: bool = True) -> None:
        rows = self.rows
        spellings = self._find_spellings()
        spelled = [tuple(spellings.get(name, name) for name in labels) for labels in rows.labels]
        self._count_labels(spelled)
        if suspects and rows.problem_type == "single_label_classification":
            is_labelled = np.array([bool(labels) for labels in spelled], bool)
            self._find_suspects(spelled, is_labelled & ~self.is_empty)

    def _find_spellings(self) -> dict[str, str]:
        """Find labels in several spellings; returns the one to write for each of the others."""
        rows = self.rows
        counts = Counter(name for labels in rows.labels for name in labels)
        spellings = find_spellings(counts)
        positions = [i for i, labels in enumerate(rows.labels) if any(name in spellings for name in labels)]
        says = [{"write": [spellings.get(name, name) for name in rows.labels[i]]} for i in positions]
        mapped = {mask_text(name): {"rows": counts[name], "write": mask_text(spellings[name])} for name in spellings}
        self.add("label-spelling", positions, says=says, details={"labels": mapped})
        if spellings:
            self.findings["label-spelling"].mapping = spellings
        return spellings

    def _count_labels(self, spelled: list[tuple[str, ...]]) -> None:
        """Find labels that training rows lack or have too rarely."""
        train = Counter(name for i in np.flatnonzero(self.rank == 0) for name in spelled[i])
        self._add_labels("unseen-labels", spelled, {name for labels in spelled for name in labels} - train.keys())
        self._add_labels("rare-labels", spelled, {name for name, count in train.items() if count == 1})
        largest_class = max(train.values(), default=0)
        rare = {name for name, count in train.items() if largest_class > IMBALANCE_NOTE_RATIO * count}
        self._add_labels("imbalance", spelled, rare)
        if "imbalance" in self.findings:
            self.findings["imbalance"].details |= {"rows_of_the_most_frequent_label": largest_class}
        self.label_counts = train

    def _add_labels(self, kind: str, spelled: list[tuple[str, ...]], names: set[str]) -> None:
        """Add a finding about whole labels, which are listed with their number of rows."""
        if not names:
            return
        positions = [i for i, labels in enumerate(spelled) if not names.isdisjoint(labels)]
        counts = Counter(name for i in positions for name in spelled[i] if name in names)
        shown = {show_text(name): count for name, count in counts.most_common()[::-1][:_SHOWN_LABELS]}
        self.add(kind, positions, details={"number_of_labels": len(names), "labels": shown})

    def _find_suspects(self, spelled: list[tuple[str, ...]], usable: np.ndarray) -> None:
        usable = np.flatnonzero(usable)
        texts, labels = [self.rows.texts[i] for i in usable], [spelled[i][0] for i in usable]
        found = find_suspect_labels(
            texts,
            labels,
            self.clusters[usable],
            self.config.seed,
            parts=self.rows.number_files()[usable],
            encode=self.encode,
        )
        says = [
            {"probable_label": show_text(label), "probability_of_given_label": round(float(probability), 4)}
            for label, probability in zip(found.probable_labels, found.probabilities, strict=True)
        ]
        details = {"judged_rows": len(found.judged), **self._describe_patterns(found, usable)}
        self.add("suspect-labels", usable[found.positions], says=says, details=details)
        if found.is_unclear:
            self.notes.append(
                "Suspect labels are not named: the texts do not tell their labels apart for a model that has not "
                "learnt from them or from near copies of them."
            )
        if len(found.judged) < len(usable):
            self.notes.append(
                f"Labels of {len(found.judged):,} of {len(usable):,} rows were judged; of labels with fewer than "
                f"{FEWEST_ROWS_PER_LABEL} rows none, and no more than memory allows."
            )

    def _describe_patterns(self, found: SuspectLabels, usable: np.ndarray) -> dict[str, Any]:
        """Name the blocks of suspect rows, and the pairs of labels that are mixed up."""
        blocks = []
        for block in found.blocks[:_SHOWN_BLOCKS]:
            first, last = (self.rows.place(usable[block.positions[end]]) for end in (0, -1))
            file = f" of {first['file']}" if "file" in first else ""
            rows = (
                f"{first['split']} rows {first.get('file_row', first['row'])} to {last.get('file_row', last['row'])}"
            )
            label, probable = show_text(block.label), show_text(block.probable_label)
            blocks.append(f"{len(block.positions)} rows of `{label}` in a row read like `{probable}` ({rows}{file})")
        pairs = []
        for pair in found.swapped[:_SHOWN_BLOCKS]:
            first, second = map(show_text, pair.labels)
            pairs.append(f"{pair.rows[0]} rows of `{first}` read like `{second}`, and {pair.rows[1]} the other way")
        self.notes += [f"{line[0].upper()}{line[1:]}." for line in [*blocks, *pairs][:_NOTED_PATTERNS]]
        return {name: lines for name, lines in (("blocks", blocks), ("swapped_labels", pairs)) if lines}

    def describe(self) -> dict[str, Any]:
        """Return counts, lengths, languages and labels."""
        rows = self.rows
        words = np.fromiter((text.count(" ") + 1 for text in rows.texts), np.int64, len(rows.texts))
        quantiles = {"min": 0, "median": 0.5, "p95": 0.95, "p99": 0.99, "max": 1}
        lengths = {
            unit: {name: int(np.quantile(values, share)) for name, share in quantiles.items()}
            for unit, values in (("characters", self.characters), ("words", words))
        }
        statistics: dict[str, Any] = {
            "rows": dict(Counter(rows.split.tolist())),
            "problem_type": rows.problem_type,
            "lengths": lengths,
            "texts_by_language": dict(self.languages.most_common()),
        }
        if self.label_counts is not None:
            counts = {mask_text(name): count for name, count in self.label_counts.most_common()}
            statistics["labels"] = {"number": len(counts), "training_rows": counts}
        return statistics
