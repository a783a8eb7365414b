"""Measuring a trained model: on a data set, on the entries of a suite, or on lm-eval's tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.config import list_changed
from startup_llm.data.task_data import compute_rows_sha256
from startup_llm.errors import UserError
from startup_llm.evaluation import suites
from startup_llm.evaluation.metrics import rank_metrics
from startup_llm.run_folder import RESULTS, read_results
from startup_llm.tasks import list_metric_names
from startup_llm.tasks.base import find_metric
from startup_llm.tasks.options import build_section, list_options
from startup_llm.training.trained_model import load_trained_model

if TYPE_CHECKING:
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
    others = list(dict.fromkeys(other for other in (config.compare, config.fail_if_worse_than) if other))
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
    data = {}
    if not list_changed(config.data):
        places = (Path(config.model), Path(config.model).parent)
        run = next((place for place in places if (place / RESULTS).is_file()), None)
        data = read_results(run).get("config", {}).get("data", {}) if run else {}
    return [suites.SuiteEntry("test", data)]


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
    name = config.model.replace("{entry}", entry.name)
    task, model, processor = load_trained_model(name, config, entry.task)
    options = suites.merge_data(entry.data, list_changed(config.data))
    evaluation = build_section(task.tag, "evaluation", list_changed(config.evaluation))
    loaded = task.load_data(build_section(task.tag, "data", options), evaluation)
    data = task.fit_data(loaded, processor)
    session.report(*data.notes[len(loaded.notes) :])
    test = data.splits["test"]
    predictions, references = _predict(entry.name, name, task, model, processor, data), task.references(test)
    metrics = [find_metric(task, metric) for metric in entry.metrics] or _rank_own_metrics(task, data, config)
    sha256, comparisons = compute_rows_sha256(test), []
    for other in others:
        theirs = suites.read_predictions(other.replace("{entry}", entry.name), entry.name, sha256)
        own_comparisons = suites.compare_predictions(
            metrics, references, (name, predictions), theirs, config.evaluation
        )
        comparisons += [
            {**comparison, "with": other, "decides": comparison["metric"] == metrics[0].name}
            for comparison in own_comparisons
        ]
    plain = predictions.tolist() if hasattr(predictions, "tolist") else predictions
    lines = [json.dumps({"row": row, "prediction": value}) for row, value in zip(test["row"], plain, strict=True)]
    session.run.write_text(f"predictions-{entry.name}.jsonl", "\n".join(lines) + "\n")
    return {
        "name": entry.name,
        "model": name,
        "task": task.tag,
        "rows": len(test),
        "sha256": sha256,
        "sources": data.sources,
        "metrics": suites.measure(metrics, references, predictions, config.evaluation),
        "lower_is_better": [metric.name for metric in metrics if metric.lower_is_better],
        "comparisons": comparisons,
    }


def _rank_own_metrics(task: Task, data: TaskData, config: EvaluateConfig) -> list[Metric]:
    """Return the task's metrics that no second model is needed for, the primary one first."""
    alone = [metric for metric in task.metrics(data) if not metric.relative]
    return list(rank_metrics(alone, config.evaluation.decides))


def _predict(entry: str, name: str, task: Task, model: Any, processor: Any, data: TaskData) -> Values:
    """Return a model's predictions for the test rows, its labels in the order of the data's."""
    from startup_llm.training.inference import predict_outputs
    from startup_llm.training.speed import plan_speed

    test, plan = data.splits["test"], plan_speed().exact()
    encoded, _ = task.encode_split("test", data, processor)
    outputs = predict_outputs(task, model.to(plan.device), encoded, processor, plan)
    if data.label_names:
        known = [model.config.id2label[place] for place in range(len(model.config.id2label))]
        outputs = task.saved_model.order_labels(outputs, suites.match_labels(known, data.label_names, name, entry))
    elif data.problem_type == "regression" and outputs[0].shape[-1] != 1:
        raise UserError(f"{name} has {outputs[0].shape[-1]} outputs; {entry} has numbers, which need one output")
    return task.read_predictions(outputs, encoded, test, data)


def measure_language_model(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Measure the model on lm-eval's tasks, each an entry of `results.json`."""
    from startup_llm.tasks.text_generation.lm_eval import evaluate_language_model

    _, model, tokenizer = load_trained_model(config.model, config, "text-generation")
    return evaluate_language_model(
        model,
        tokenizer,
        config.lm_tasks,
        config.evaluation,
        task_folder=config.lm_task_folder,
        batch_size=config.batch_size,
        limit=config.lm_limit,
    )
