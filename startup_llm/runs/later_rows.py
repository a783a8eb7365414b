"""Rows that came after a run was made, such as those of a week, read as the run reads its own and answered by it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import list_changed
from startup_llm.errors import UserError
from startup_llm.evaluation import sample_size, statistics
from startup_llm.evaluation.label_thresholds import apply_stored
from startup_llm.evaluation.matched_rows import take_rows
from startup_llm.evaluation.report import format_interval, format_value, name_metric
from startup_llm.evaluation.suites import place_labels
from startup_llm.run_folder import follow_link, read_results, require_results
from startup_llm.runs.lock_schema import DATA_FILES
from startup_llm.tasks.base import LEAST_TEST_ROWS
from startup_llm.tasks.options import build_section
from startup_llm.training.trained_model import load_trained_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from startup_llm.config import DataConfig, EvaluateConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.metrics import Metric, Values
    from startup_llm.tasks.base import Task

PLACES = ("dataset", "subset", "revision", *DATA_FILES)
CUTS = (
    *("train_split", "validation_split", "test_split", "validation_fraction", "test_fraction", "split_seed"),
    *("folds", "fold", "remove_overlap", "max_train_rows", "max_test_rows", "labels_per_class", "group_column"),
)
"""Options of where a run's own rows are and of how they are cut, which say nothing of later ones."""
FILE_OPTIONS = ("encoding", "quoting", "sheet", "query", "annotator")
"""Options of how a file is read, which hold for later files of the same type."""


@dataclass(frozen=True)
class AnsweredRows:
    """A model's answers to the rows of a split.

    Attributes:
        model: The model's name.
        task: Its task.
        data: The rows as the split test; the labels are those of the rows, and then those that the model alone has.
        predictions: One per row.
        known_labels: The model's labels; empty where it has none.
        decides: Its run's primary metric, or None.
    """

    model: str
    task: Task
    data: TaskData
    predictions: Values
    known_labels: Sequence[str] = ()
    decides: str | None = None

    @property
    def references(self) -> Values:
        """The true values."""
        return self.task.references(self.data.splits["test"])


def answer_later_rows(run: str, config: EvaluateConfig) -> AnsweredRows:
    """Read the rows of `config.input` as a run reads its own, and answer them with its model.

    Args:
        run: The folder of a finished run.
        config: The file, and options that differ from the run's.

    Raises:
        UserError: If it is no finished run with a model, or the rows are not fit to measure it on.
    """
    from startup_llm.training.inference import predict_outputs
    from startup_llm.training.speed import plan_speed

    run = str(follow_link(run))
    results = read_results(run)
    require_results(results, run, ("task", "config"))
    task, model, processor = load_trained_model(run, config, None)
    known = list(results.get("labels") or ())
    data = _read_rows(task, results, known, config)
    rows = len(data.splits["test"])
    if rows < LEAST_TEST_ROWS:
        raise UserError(
            f"{config.input}: {rows} row, but an interval is resampled from {LEAST_TEST_ROWS} rows or more; give more"
        )
    data = task.fit_data(data, processor)
    plan = plan_speed().exact()
    encoded, _ = task.encode_split("test", data, processor)
    outputs = predict_outputs(task, model.to(plan.device), encoded, processor, plan)
    outputs = apply_stored(outputs, model.config)
    if known:
        names, order = place_labels(known, data.label_names)
        outputs, data = task.saved_model.order_labels(outputs, order), replace(data, label_names=names)
    predictions = task.read_predictions(outputs, encoded, data.splits["test"], data)
    return AnsweredRows(run, task, data, predictions, known, results.get("decides"))


def _read_rows(task: Task, results: Mapping[str, Any], known: Sequence[str], config: EvaluateConfig) -> TaskData:
    given = list_changed(config.data)
    for name in (*PLACES, *CUTS):
        if name in given:
            raise UserError(f"data.{name} {given[name]!r}: with --run the rows are all those of --input; leave it out")
    file = str(config.input)
    if Path(file).is_dir():
        raise UserError(f"--input {file!r} is a folder, expected a file with labels")
    options = {**_list_trained_options(results, file), **given, "train_file": file}
    section: DataConfig = build_section(task.tag, "data", options)
    if task.read_later_rows is not None:
        return task.read_later_rows(section, known)
    return task.read_data(replace(section, test_file=file, validation_fraction=0.0))


def _list_trained_options(results: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return the options by which a run read its rows, as far as they hold for later ones."""
    data = results["config"].get("data") or {}
    columns = (results.get("data") or {}).get("columns") or {}
    options = {name: value for name, value in data.items() if name not in (*PLACES, *CUTS, *FILE_OPTIONS)}
    options |= {name: column for name, column in columns.items() if not options.get(name)}
    if "problem_type" in options and results.get("problem_type"):
        options["problem_type"] = results["problem_type"]
    trained = data.get("train_file")
    trained = trained[0] if isinstance(trained, list) and trained else trained
    if isinstance(trained, str) and Path(trained).suffix == Path(file).suffix:
        options |= {name: data[name] for name in FILE_OPTIONS if name in data}
    return options


def find_trained_file(run: str, file: str) -> str | None:
    """Return a sentence if a run was trained on the very rows of a file; None if not."""
    from startup_llm.data.databases import is_address
    from startup_llm.data.sources import hash_file

    if is_address(file):
        return None
    digest = hash_file(file)
    for source in (read_results(run).get("data") or {}).get("sources") or ():
        for record in source.get("files") or ():
            if record.get("sha256") == digest and source.get("split") != "test":
                return f"{run} was trained on {file} itself: its figures here say nothing of new rows"
    return None


def describe_labels(answered: AnsweredRows, metrics: Sequence[Metric], config: EvaluateConfig) -> dict[str, Any]:
    """Return what `results.json` says of labels that are new to the model, or that no row has.

    Args:
        answered: The rows, with the model's answers.
        metrics: What is measured, the primary metric first.
        config: How intervals are made.

    Returns:
        The keys new_labels (with their rows, if a row has one label or several), missing_labels and sentences.
    """
    names, known = answered.data.label_names, set(answered.known_labels)
    if not known:
        return {"sentences": []}
    references = answered.references
    counts = _count_rows(references, len(names))
    new = {name: counts[place] for place, name in enumerate(names) if name not in known and counts[place] != 0}
    missing = [name for place, name in enumerate(names) if name in known and counts[place] == 0]
    sentences = []
    if new:
        shown = ", ".join(f"{name!r}" + (f" ({rows:,} rows)" if rows else "") for name, rows in new.items())
        verb = "label is new to the run and counts" if len(new) == 1 else "labels are new to the run and count"
        sentences.append(f"{len(new)} {verb} as wrong: {shown}")
        sentences += _measure_known(answered, metrics[0], [names.index(name) for name in new], config)
    if missing:
        sentences.append(f"no row has {', '.join(map(repr, missing[:5]))}{' ...' * (len(missing) > 5)}")
    return {"new_labels": new, "missing_labels": missing, "sentences": sentences}


def _count_rows(references: Values, labels: int) -> list[int | None]:
    """Return how many rows have each label; None where a row is no label or several."""
    if not isinstance(references, np.ndarray) or references.dtype.kind not in "iu":
        return [None] * labels
    if references.ndim == 2:
        return [int(count) for count in references.sum(axis=0)]
    return [int(count) for count in np.bincount(references, minlength=labels)]


def _measure_known(answered: AnsweredRows, metric: Metric, new: Sequence[int], config: EvaluateConfig) -> list[str]:
    """Return what the figure is on the rows whose labels the model knows."""
    references = answered.references
    if not isinstance(references, np.ndarray) or references.dtype.kind not in "iu":
        return []
    is_new = np.isin(references, new) if references.ndim == 1 else references[:, list(new)].any(axis=1)
    places = np.flatnonzero(~is_new)
    if len(places) < LEAST_TEST_ROWS:
        return []
    score = statistics.compute_interval(
        metric, references[places], take_rows(answered.predictions, places), config.evaluation
    )
    interval = format_interval(metric.name, {"low": score.low, "high": score.high})
    return [
        f"on the {len(places):,} rows whose labels the run knows, {name_metric(metric.name)} is "
        f"{format_value(metric.name, score.value)} ({interval})"
    ]


def describe_size(metric: Metric, score: Mapping[str, float], rows: int, config: EvaluateConfig) -> str:
    """Say what the number of rows allows to show, by the primary metric."""
    return sample_size.describe_sample(metric.name, score, rows, config.evaluation.confidence_level)
