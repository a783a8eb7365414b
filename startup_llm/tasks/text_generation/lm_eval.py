"""EleutherAI's lm-eval, through its Python API, on a model in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from startup_llm.config import EvaluationConfig
from startup_llm.errors import UserError, nearest


def evaluate_language_model(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    evaluation: EvaluationConfig,
    *,
    task_folder: str | None = None,
    batch_size: int = 8,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Measure a causal language model on tasks of lm-eval.

    Args:
        model: A transformers or PEFT causal language model.
        tokenizer: Its tokenizer.
        tasks: Names of tasks: those of the YAML files in `task_folder`, or lm-eval's own where none is given.
        evaluation: Level and seed.
        task_folder: Folder with task YAML files.
        batch_size: Rows at once.
        limit: Rows of each task.

    Returns:
        A record per task: name, rows, version, metrics with value, low and high, and which of them are better when
        lower. An interval is the value and its standard error, as lm-eval gives it, times the normal quantile; where
        it gives none, low and high are missing.

    Raises:
        UserError: If lm-eval is not installed, or knows no such task.
    """
    from scipy.stats import norm

    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UserError("lm_tasks needs EleutherAI's lm-eval: pip install 'startup-llm[lm-eval]'") from None
    if task_folder and not Path(task_folder).is_dir():
        raise UserError(f"lm_task_folder {task_folder}: no such folder; expected one with task YAML files")
    manager = TaskManager(include_path=task_folder, include_defaults=not task_folder)  # reading all takes long
    for task in tasks:
        if task not in manager.all_tasks:
            known = nearest(task, manager.all_tasks)
            raise UserError(f"lm_tasks: lm-eval has no task {task}{known or ';'} put its YAML into lm_task_folder")
    measured = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=list(tasks),
        task_manager=manager,
        limit=limit,
        log_samples=False,
        random_seed=evaluation.seed,
        numpy_random_seed=evaluation.seed,
        torch_random_seed=evaluation.seed,
        fewshot_random_seed=evaluation.seed,
    )
    width = float(norm.ppf((1 + evaluation.confidence_level) / 2))
    records = []
    for name, figures in measured["results"].items():
        metrics, higher_is_better = _read_metrics(figures, width), measured["higher_is_better"].get(name, {})
        record = {
            "name": name,
            "rows": measured["n-samples"].get(name, {}).get("effective", 0),
            "version": measured["versions"].get(name),
            "metrics": metrics,
            "lower_is_better": [
                metric for metric in metrics if higher_is_better.get(metric.partition(" (")[0]) is False
            ],
        }
        records.append(record)
    return records


def _read_metrics(figures: dict[str, Any], width: float) -> dict[str, dict[str, float]]:
    """Turn `acc,none` and `acc_stderr,none` into a value with its interval."""
    metrics = {}
    for key, value in figures.items():
        metric, _, kind = key.partition(",")
        if not kind or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        figure = {"value": float(value)}
        error = figures.get(f"{metric}_stderr,{kind}")
        if isinstance(error, int | float):
            figure |= {"low": value - width * error, "high": value + width * error}
        metrics[metric if kind == "none" else f"{metric} ({kind})"] = figure
    return metrics
