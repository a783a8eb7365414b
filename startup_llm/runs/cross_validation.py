"""The folds of a cross-validation put together: one figure over all rows, each judged by a model that never saw it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from startup_llm.config import EvaluationConfig
from startup_llm.data.task_data import compute_rows_sha256
from startup_llm.errors import UserError
from startup_llm.evaluation.report import build_metric_table, find_run_model, format_value, list_metrics, name_metric
from startup_llm.evaluation.results import score_models
from startup_llm.run_folder import read_results
from startup_llm.tasks import load_task
from startup_llm.tasks.base import find_metric
from startup_llm.tasks.options import build_section


def pool_folds(runs: Sequence[str | Path], evaluation: EvaluationConfig) -> dict[str, Any]:
    """Score every model of the runs on the test rows of all folds together.

    Args:
        runs: Folders of finished runs that differ by `data.fold` alone.
        evaluation: How intervals are made.

    Returns:
        What `score_models` gives for all rows, with method, rows, and for each fold its run, rows and models.

    Raises:
        UserError: If a run is no fold, two runs are the same one, or they differ by more than it.
    """
    known: dict[int, str] = {}
    folds, references, predictions, seconds = [], [], {}, 0.0
    first: Mapping[str, Any] | None = None
    for run in runs:
        results = read_results(run)
        data = results["config"]["data"]
        if not data.get("folds"):
            raise UserError(f"{run} is no fold: its config has no data.folds")
        first = first or results
        if difference := _find_difference(first, results):
            raise UserError(f"{run} differs from {runs[0]} by {difference}; folds differ by data.fold alone")
        if (fold := data["fold"]) in known:
            raise UserError(f"{run} is fold {fold} of {data['folds']} too, as {known[fold]} is; name each fold once")
        known[fold] = str(run)
        task = load_task(results["task"])
        sections = (build_section(task.tag, name, results["config"][name]) for name in ("data", "evaluation"))
        rows = task.load_data(*sections).splits["test"]
        if compute_rows_sha256(rows) != results["test"]["sha256"]:
            raise UserError(f"the test rows of {run} are not what they were; make the run again")
        references += list(task.references(rows))
        lines = (Path(run) / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        for line in map(json.loads, lines):
            for name in results["models"]:
                predictions.setdefault(name, []).append(line[name])
        folds.append({"fold": fold, "run": Path(run).name, "rows": len(rows), "models": results["models"]})
        seconds += results["seconds"]
    if first is None:
        raise UserError("runs: name the folders of at least one finished fold")
    if missing := sorted(set(range(1, first["config"]["data"]["folds"] + 1)) - set(known)):
        raise UserError(f"runs: fold {missing[0]} of {first['config']['data']['folds']} is missing")
    if not isinstance(references[0], (str, list, dict)):
        references = np.asarray(references)
        predictions = {name: np.asarray(values) for name, values in predictions.items()}
    candidate = find_run_model(first)
    metrics = [find_metric(task, name) for name in list_metrics(first)]
    scores = score_models(metrics, references, predictions, candidate, evaluation)
    about = {"method": first["method"], "task": first["task"], "rows": len(references), "seconds": seconds}
    return {**about, **scores, "folds": folds}


def build_table(pooled: Mapping[str, Any]) -> str:
    """Write the pooled figures with their intervals, and each fold's, as Markdown."""
    metrics, folds = list_metrics(pooled), sorted(pooled["folds"], key=lambda fold: fold["fold"])
    lines = [
        ["model", *(f"{name_metric(metric)}, {pooled['rows']:,} rows" for metric in metrics),
         *(f"fold {fold['fold']}, {fold['rows']:,} rows" for fold in folds)],
        ["---"] * (1 + len(metrics) + len(folds)),
    ]  # fmt: skip
    for row in build_metric_table(pooled):
        of_folds = [
            " / ".join(
                format_value(metric, fold["models"][row["name"]].get(metric, {}).get("value")) for metric in metrics
            )
            for fold in folds
        ]
        lines.append([row["name"], *(f"{value} ({interval})" for value, interval in row["cells"]), *of_folds])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([table, "", *(f"- {sentence}" for sentence in pooled["sentences"])]) + "\n"


def _find_difference(first: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Name the first option, besides the fold and the run's folder, in which two runs differ; None where none is."""
    for section in ("data", "model", "lora", "train", "evaluation", "method", "task"):
        ours, theirs = first["config"].get(section), other["config"].get(section)
        if not isinstance(ours, dict) or not isinstance(theirs, dict):
            if ours != theirs:
                return section
            continue
        for name in ours.keys() & theirs.keys():  # an older run has the options of other tasks too
            if ours.get(name) != theirs.get(name) and (section, name) != ("data", "fold"):
                return f"{section}.{name}"
    return None
