"""Measuring a trained model: on a data set, on the entries of a suite, or on lm-eval's tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.config import list_changed
from startup_llm.data.task_data import compute_rows_sha256
from startup_llm.errors import UserError, nearest
from startup_llm.evaluation import suites
from startup_llm.evaluation.label_thresholds import apply_stored
from startup_llm.evaluation.matched_rows import (
    MatchedPredictions,
    OwnRows,
    hash_rows,
    match_predictions,
    name_predictions,
)
from startup_llm.evaluation.metrics import rank_metrics
from startup_llm.run_folder import RESULTS, read_results, require_results
from startup_llm.runs.later_rows import (
    AnsweredRows,
    answer_later_rows,
    describe_labels,
    describe_size,
    find_trained_file,
)
from startup_llm.tasks import list_metric_names
from startup_llm.tasks.base import find_metric
from startup_llm.tasks.options import build_section, list_options
from startup_llm.training.trained_model import load_trained_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from startup_llm.config import EvaluateConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.metrics import Metric, Values
    from startup_llm.evaluation.suites import SuiteEntry
    from startup_llm.session import Session
    from startup_llm.tasks.base import Task


def list_runs_to_beat(config: EvaluateConfig) -> list[str]:
    """Return the runs that the model is compared with.

    Raises:
        UserError: If one is not finished, or lm-eval's tasks are asked for, which have no stored predictions.
    """
    named = (config.compare, config.compare_with, config.fail_if_worse_than)
    others = list(dict.fromkeys(other for other in named if other))
    for other in others:
        read_results(other)
    if config.lm_tasks and "generate" in list_changed(config.evaluation):
        raise UserError("evaluation.generate: lm-eval's tasks say themselves what is written; leave it out")
    if config.lm_tasks and others:
        raise UserError("compare: lm-eval's tasks have no stored predictions; leave compare or lm_tasks out")
    return others


def list_entries(config: EvaluateConfig, folder: Path) -> list[SuiteEntry]:
    """Return the suite's entries, or one for the data that is named, by default the run's own.

    Args:
        config: Names the suite or the data.
        folder: The shipped suites.
    """
    if config.suite:
        return suites.read_suite(config.suite, folder, list_metric_names, list_options(type(config.data)), config.only)
    if config.only:
        raise UserError("only: chooses entries of a suite; name the suite too")
    if config.input is not None:
        return [suites.SuiteEntry(Path(config.input).name.partition(".")[0] or "rows", {})]
    data = {}
    if not list_changed(config.data):
        places = (Path(config.measured), Path(config.measured).parent)
        run = next((place for place in places if (place / RESULTS).is_file()), None)
        data = read_results(run).get("config", {}).get("data", {}) if run else {}
    return [suites.SuiteEntry("test", data)]


def check_limits(limits: Mapping[str, float], config: EvaluateConfig) -> None:
    """Refuse a limit on what a run's task does not measure, before anything is measured.

    Raises:
        UserError: If there is one.
    """
    if config.input is None:
        return
    results = read_results(config.measured)
    require_results(results, config.measured, ("task",))
    known = list_metric_names(results["task"])
    for metric in limits:
        if metric not in known:
            raise UserError(f"fail_under: {metric} is not measured{nearest(metric, known)}; here: {', '.join(known)}")


def measure_entry(entry: SuiteEntry, session: Session[EvaluateConfig], others: list[str]) -> dict[str, Any]:
    """Measure the model on the test rows of an entry, compare it with other runs, and keep its predictions.

    Args:
        entry: The rows, and what is measured.
        session: Names the model; its folder gets `predictions-NAME.jsonl`.
        others: Runs to compare with, or evaluations that measured the entry.

    Returns:
        What `results.json` says of the entry.

    Raises:
        UserError: If the model cannot answer the rows, or another run has no predictions for them.
    """
    config = session.config
    answered = answer_later_rows(config.measured, config) if config.input else _answer_test_rows(entry, session)
    name, task, data, predictions = answered.model, answered.task, answered.data, answered.predictions
    if config.input:
        session.report(*data.notes, *filter(None, [find_trained_file(name, config.input)]))
    test, references = data.splits["test"], answered.references
    metrics = [find_metric(task, metric) for metric in entry.metrics] or _rank_own_metrics(answered, config)
    keys = hash_rows(test, task.predictor.columns)
    ours = OwnRows(compute_rows_sha256(test), keys, predictions, data.label_names)
    comparisons = []
    for other in others:
        theirs = _find_theirs(other, entry, ours, answered, config)
        own_comparisons = suites.compare_predictions(
            metrics, references, (name, predictions), theirs, config.evaluation
        )
        comparisons += [
            {**comparison, "with": other, "decides": comparison["metric"] == metrics[0].name}
            for comparison in own_comparisons
        ]
    plain = predictions.tolist() if hasattr(predictions, "tolist") else predictions
    lines = [
        json.dumps({"row": row, "prediction": value, "key": key})
        for row, value, key in zip(test["row"], plain, keys, strict=True)
    ]
    session.run.write_text(f"predictions-{entry.name}.jsonl", "\n".join(lines) + "\n")
    scores = suites.measure(metrics, references, predictions, config.evaluation)
    found = describe_labels(answered, metrics, config) if config.input else {}
    if config.input:
        found["sentences"].append(describe_size(metrics[0], scores[metrics[0].name], len(test), config))
    return {
        "name": entry.name,
        "model": name,
        "task": task.tag,
        "rows": len(test),
        "sha256": ours.sha256,
        "labels": list(data.label_names),
        "sources": data.sources,
        "metrics": scores,
        "lower_is_better": [metric.name for metric in metrics if metric.lower_is_better],
        **found,
        "comparisons": comparisons,
    }


def _answer_test_rows(entry: SuiteEntry, session: Session[EvaluateConfig]) -> AnsweredRows:
    """Answer the test rows of an entry with the model that is measured."""
    config = session.config
    name = config.measured.replace("{entry}", entry.name)
    task, model, processor = load_trained_model(name, config, entry.task)
    options = suites.merge_data(entry.data, list_changed(config.data))
    evaluation = build_section(task.tag, "evaluation", list_changed(config.evaluation))
    loaded = task.load_data(build_section(task.tag, "data", options), evaluation)
    data = task.fit_data(loaded, processor)
    session.report(*data.notes[len(loaded.notes) :])
    return AnsweredRows(name, task, data, _predict(entry.name, name, task, model, processor, data))


def _find_theirs(
    other: str, entry: SuiteEntry, ours: OwnRows, answered: AnsweredRows, config: EvaluateConfig
) -> MatchedPredictions:
    """Return another model's predictions for the rows: those that it left, or its answers to the same file."""
    other = other.replace("{entry}", entry.name)
    some = other != config.compare
    is_evaluation = "entries" in read_results(other)
    if not some or not config.input or is_evaluation:
        return suites.read_predictions(other, entry.name, ours, some=some)
    theirs = answer_later_rows(other, config)
    if theirs.task.tag != answered.task.tag:
        raise UserError(f"{other} is for {theirs.task.tag}, and {answered.model} for {answered.task.tag}")
    named = name_predictions(theirs.predictions, theirs.data.label_names)
    by_row = dict(zip(theirs.data.splits["test"]["row"], named, strict=True))
    return match_predictions(other, ours, by_row, answered.data.splits["test"]["row"])


def _rank_own_metrics(answered: AnsweredRows, config: EvaluateConfig) -> list[Metric]:
    """Return the task's metrics that no second model is needed for, the primary one first."""
    alone = [metric for metric in answered.task.metrics(answered.data) if not metric.relative]
    own = answered.decides if answered.decides in [metric.name for metric in alone] else None
    return list(rank_metrics(alone, config.evaluation.decides or own))


def _predict(entry: str, name: str, task: Task, model: Any, processor: Any, data: TaskData) -> Values:
    """Return a model's predictions for the test rows, its labels in the order of the data's."""
    from startup_llm.training.inference import predict_outputs
    from startup_llm.training.speed import plan_speed

    test, plan = data.splits["test"], plan_speed().exact()
    encoded, _ = task.encode_split("test", data, processor)
    outputs = predict_outputs(task, model.to(plan.device), encoded, processor, plan)
    outputs = apply_stored(outputs, model.config)
    if data.label_names:
        known = [model.config.id2label[place] for place in range(len(model.config.id2label))]
        outputs = task.saved_model.order_labels(outputs, suites.match_labels(known, data.label_names, name, entry))
    elif data.problem_type == "regression" and outputs[0].shape[-1] != 1:
        raise UserError(f"{name} has {outputs[0].shape[-1]} outputs; {entry} has numbers, which need one output")
    return task.read_predictions(outputs, encoded, test, data)


def measure_language_model(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Measure the model on lm-eval's tasks, each an entry of `results.json`."""
    from startup_llm.tasks.text_generation.lm_eval import evaluate_language_model

    _, model, tokenizer = load_trained_model(config.measured, config, "text-generation")
    return evaluate_language_model(
        model,
        tokenizer,
        config.lm_tasks,
        config.evaluation,
        task_folder=config.lm_task_folder,
        batch_size=config.batch_size,
        limit=config.lm_limit,
    )
