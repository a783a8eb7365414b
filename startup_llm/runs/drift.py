"""What a run keeps of its test rows, and how rows that come in later are compared with it."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.audit.odd_texts import find_other_languages
from startup_llm.data.row_source import PIPE
from startup_llm.data.text_reading import TEXTS
from startup_llm.errors import UserError
from startup_llm.evaluation.drift import (
    LEAST_ROWS,
    RowStatistics,
    build_drift_page,
    compare_statistics,
    count_words,
    describe_drift,
    keep_frequent_words,
    pool_statistics,
)
from startup_llm.plain_data import read_json_object
from startup_llm.runs.prediction import find_run, load_answering_model, open_questions
from startup_llm.written_files import check_output_folder, write_output_folder

if TYPE_CHECKING:
    from startup_llm.config import DriftConfig, NewRowsConfig, ServeConfig
    from startup_llm.run_folder import RunFolder
    from startup_llm.tasks.base import Task
    from startup_llm.training.finetuning import Prepared

REFERENCE, REFERENCE_FEATURES = "drift_reference.json", "drift_reference.npy"
NAMES = ("drift.json", "drift.html")
MOST_REFERENCE_ROWS = 1_000
MOST_LANGUAGE_TEXTS = 1_000
_LARGEST_JSON_BYTES = 1 << 26

Computed = tuple[list[int], np.ndarray, np.ndarray]
"""Places of test rows, the model's outputs for them and the features that these were computed from."""


def can_compare(task: Task) -> bool:
    """Return whether the task answers a row with labels or a number, computed from one vector."""
    return task.probe is not None and not task.probe.per_token


def compute_reference(prepared: Prepared, model: Any) -> Computed | None:
    """Return the model's outputs for a sample of the test rows in float32, which every process computes.

    None where the task's answers cannot be compared, the model is a reference model of its own format, or its head
    ends in no linear layer.
    """
    from startup_llm.models.sequence_classifier import find_output_layer
    from startup_llm.training.inference import predict_with_features

    task, test = prepared.task, prepared.data.splits["test"]
    if not can_compare(task) or not hasattr(model, "base_model_prefix"):
        return None
    try:
        find_output_layer(model)
    except UserError:
        return None
    places = np.random.default_rng(0).permutation(len(test))[:MOST_REFERENCE_ROWS].tolist()
    encoded = prepared.encoded["test"].select(places)
    pairs = predict_with_features(task, model, encoded, prepared.processor, prepared.plan.exact())
    outputs, features = zip(*pairs, strict=True)
    return places, np.stack(outputs), np.stack(features)


def write_reference(
    run: RunFolder, prepared: Prepared, model: Any, computed: Computed | None, decision: Mapping[str, Any] | None
) -> None:
    """Keep the statistics of the test rows in a run's folder.

    Args:
        run: The folder.
        prepared: The task and its rows.
        model: The model as it was saved.
        computed: From `compute_reference`.
        decision: What is stored with the model, by which it answers.
    """
    if computed is None:
        return
    places, outputs, features = computed
    config = copy.copy(model.config)
    config.decision = (decision or {}).get("stored")
    rows, encoded = (part.select(places) for part in (prepared.data.splits["test"], prepared.encoded["test"]))
    answers = prepared.task.predictor.answer(list(outputs), encoded, rows, prepared.processor, config)
    columns = {name: rows[name] for name in TEXTS if name in rows.column_names}
    statistics = collect_statistics(columns, answers, encoded["length"], features)
    run.write_json(REFERENCE, statistics.to_json())
    with (run.path / REFERENCE_FEATURES).open("wb") as stream:
        np.save(stream, statistics.features.astype(np.float16))


def collect_statistics(
    columns: Mapping[str, Sequence[Any]],
    answers: Sequence[Mapping[str, Any]],
    lengths: Sequence[int],
    features: np.ndarray,
    reference: RowStatistics | None = None,
) -> RowStatistics:
    """Return the statistics of rows and of the answers to them.

    Args:
        columns: The rows' texts, by column; empty for images and sounds.
        answers: As predict.py writes them.
        lengths: What each row costs, in tokens, patches or frames.
        features: What the output layer read, shape (rows, width).
        reference: Whose words are counted however rare they are.
    """
    reference = reference or RowStatistics(0)
    labels: Counter[str] = Counter()
    texts_of_label: dict[str, list[str]] = {}
    texts = ["\n".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    for place, answer in enumerate(answers):
        given = answer["labels"] if "labels" in answer else [answer["label"]] if "label" in answer else []
        labels.update(given)
        for label in given if texts else ():
            texts_of_label.setdefault(label, []).append(texts[place])
    scores = [answer["score"] for answer in answers if isinstance(answer.get("score"), float)]
    languages: Counter[str] = Counter()
    if texts:
        languages, _, _ = find_other_languages(texts, MOST_LANGUAGE_TEXTS)
    return RowStatistics(
        rows=len(answers),
        labels=labels,
        scores=np.asarray(scores, float),
        lengths=np.asarray(lengths, float),
        words=keep_frequent_words(count_words(texts), reference.words),
        label_words={
            label: keep_frequent_words(count_words(its), reference.label_words.get(label, ()))
            for label, its in texts_of_label.items()
        },
        languages=languages,
        features=np.asarray(features, np.float32),
        feature_mean=np.asarray(features, float).mean(axis=0),
    )


class StatisticsLog:
    """A file that takes the statistics of answered rows: one JSON object a line, each of `LEAST_ROWS` rows or more.

    Args:
        path: The file; what it holds already is kept.
        task: Of the model that answers.
        reference: What the run keeps, whose words are counted however rare they are; None for a run that keeps none.
        is_writer: Whether this process writes.
    """

    def __init__(self, path: str, task: Task, reference: RowStatistics | None, *, is_writer: bool = True) -> None:
        self._file, self._task, self._reference, self._is_writer = Path(path), task, reference, is_writer
        self._rows: list[tuple[dict[str, Any], Mapping[str, Any], int, np.ndarray]] = []

    def check(self) -> None:
        """Refuse what cannot be written, before rows are answered.

        Raises:
            UserError: If the task's answers cannot be compared, or the file holds something else or cannot be written.
        """
        _require_comparable(self._task, f"log_statistics {self._file}")
        if self._file.exists() and (not self._file.is_file() or self._file.stat().st_size):
            read_statistics(str(self._file))
        try:
            with self._file.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise UserError(
                f"log_statistics {self._file} cannot be written: {error.strerror}; name another file"
            ) from None

    def add(
        self,
        columns: Mapping[str, Sequence[Any]],
        answers: Sequence[Mapping[str, Any]],
        lengths: Sequence[int],
        features: np.ndarray,
    ) -> None:
        """Take rows, as `collect_statistics` does, and write a record once there are enough."""
        if not self._is_writer:
            return
        texts = {} if self._task.predictor.reads_files else columns
        rows = [{name: values[place] for name, values in texts.items()} for place in range(len(answers))]
        self._rows += zip(rows, answers, lengths, features, strict=True)
        if len(self._rows) < LEAST_ROWS:
            return
        kept, self._rows = self._rows, []
        names = dict.fromkeys(name for row, *_ in kept for name in row)
        statistics = collect_statistics(
            {name: [row.get(name, "") for row, *_ in kept] for name in names},
            [answer for _, answer, _, _ in kept],
            [length for _, _, length, _ in kept],
            np.stack([vector for *_, vector in kept]),
            self._reference,
        )
        time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        line = json.dumps({"time": time, **statistics.to_json()}, ensure_ascii=False) + "\n"
        with self._file.open("ab", buffering=0) as stream:  # in one piece: workers of a server write beside each other
            stream.write(line.encode())


def open_log(config: NewRowsConfig | ServeConfig, task: Task) -> StatisticsLog | None:
    """Open the file for statistics of answered rows; None where none is asked for."""
    path = getattr(config, "log_statistics", None)
    if path is None:
        return None
    from startup_llm.training.processes import call_on_main_process, join_processes

    reference = read_reference(config.run) if (Path(config.run) / REFERENCE).is_file() else None
    log = StatisticsLog(path, task, reference, is_writer=join_processes().is_main_process)
    call_on_main_process(log.check)
    return log


def _require_comparable(task: Task, what: str) -> None:
    if not can_compare(task):
        kinds = "text-, image- and audio-classification"
        raise UserError(f"{what}: {task.tag}; rows are compared for runs of {kinds} alone")


def read_reference(run: str) -> RowStatistics:
    """Read what a run kept of its test rows.

    Raises:
        UserError: If it kept nothing, or the files are broken.
    """
    folder = Path(run)
    file, features = folder / REFERENCE, folder / REFERENCE_FEATURES
    if not file.is_file() or not features.is_file():
        raise UserError(
            f"the run {run} keeps no {REFERENCE if not file.is_file() else features.name}: it is of a task without "
            "labels, or of an earlier version; make it again with recipes/finetune.py"
        )
    statistics = RowStatistics.from_json(read_json_object(file, max_bytes=_LARGEST_JSON_BYTES), str(file))
    try:
        sample = np.load(features, allow_pickle=False).astype(np.float32)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{features} cannot be read ({error}); copy the run again") from None
    return dataclasses.replace(statistics, features=sample)


def check_drift(config: DriftConfig) -> tuple[Task, Path, dict[str, Any], Path]:
    """Find the run and the folder for the comparison, before anything that takes time.

    Returns:
        The run's task, the folder of its model, its results, and where the comparison goes.

    Raises:
        UserError: If there is no such run, its answers cannot be compared, or the folder holds something else.
    """
    task, model, results = find_run(config)
    _require_comparable(task, f"run {config.run}")
    if (config.input is None) == (config.statistics is None):
        raise UserError("expected --input FILE with rows, or --statistics FILE that predict.py or serve.py wrote")
    folder = check_output_folder(config.output, NAMES, config, kind="drift", overwrite=config.overwrite)
    return task, model, results, folder


def measure_rows(
    config: DriftConfig, task: Task, model_folder: Path, results: Mapping[str, Any], reference: RowStatistics
) -> tuple[RowStatistics, list[str]]:
    """Answer new rows and return their statistics, with notes to be reported.

    Args:
        config: Where the rows are.
        task: The run's task.
        model_folder: Of the run's model.
        results: The run's.
        reference: What the run kept.

    Raises:
        UserError: If the rows cannot be read or answered.
    """
    from startup_llm.training.processes import join_processes

    source, questions = open_questions(config.input, config, task, results)
    survey = questions.survey()
    model = load_answering_model(config, task, model_folder, join_processes().device)
    answers: list[dict[str, Any]] = []
    lengths: list[int] = []
    features: list[np.ndarray] = []
    texts: dict[str, list[str]] = {}
    while (columns := questions.read()) is not None:
        if not next(iter(columns.values())):
            continue
        answered = model.answer_with_features(columns)
        answers += answered.answers
        lengths += answered.lengths
        features.append(answered.features)
        for name, values in {} if task.predictor.reads_files else model.reading.read(columns).items():
            texts.setdefault(name, []).extend(values)
    skipped = f"{questions.skipped:,} rows that cannot be answered are left out" if questions.skipped else ""
    notes = [note for note in (*source.notes, survey.note, skipped) if note]
    return collect_statistics(texts, answers, lengths, np.concatenate(features), reference), notes


def read_statistics(file: str) -> RowStatistics:
    """Read the records that predict.py or serve.py wrote, one JSON object a line, as statistics of all their rows.

    Raises:
        UserError: If there is no such file, or a line holds something else.
    """
    path = Path(file)
    if file == PIPE or not path.is_file():
        raise UserError(f"statistics {file}: no such file; expected one that predict.py or serve.py wrote")
    parts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        parts.append(RowStatistics.from_json(content, f"{file}: line {number}"))
    if not parts:
        raise UserError(f"statistics {file}: no records; expected at least one")
    return pool_statistics(parts)


def compare_rows(config: DriftConfig, reference: RowStatistics, new: RowStatistics) -> dict[str, Any]:
    """Return what drift.json holds: every test with its verdict, and the verdict of all in sentences."""
    changes = compare_statistics(reference, new, config.seed)
    notes = []
    if reference.words and not (reference.languages and new.languages):
        notes.append("Languages were not compared: none can be told in the test rows or in the new ones.")
    return {
        "run": Path(config.run).name,
        "input": Path(config.input or config.statistics or "").name,
        "rows": new.rows,
        "reference_rows": reference.rows,
        "level": config.level,
        "sentences": describe_drift(changes, new.rows, config.level),
        "changes": [
            {**vars(change), "details": list(change.details), "changed": change.adjusted_p_value < config.level}
            for change in changes
        ],
        "notes": notes,
    }


def write_comparison(folder: Path, results: Mapping[str, Any]) -> None:
    """Write both files, each whole or not at all, and list them in the folder's marker.

    Raises:
        UserError: If the folder cannot be written.
    """
    texts = (json.dumps(results, ensure_ascii=False, indent=1) + "\n", build_drift_page(results))
    write_output_folder(folder, dict(zip(NAMES, texts, strict=True)), kind="drift")
