"""The hand-over of a run: checked before it starts, chosen after training, stored with the saved model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import ClassDecision, DecisionConfig, list_changed
from startup_llm.errors import UserError
from startup_llm.evaluation.decisions import ClassifiedRows, analyse_decisions
from startup_llm.evaluation.metrics import rank_metrics
from startup_llm.plain_data import read_json_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from startup_llm.config import AlignConfig, EvaluationConfig, FinetuneConfig, PretrainConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.tasks.base import Task
    from startup_llm.training.finetuning import Prepared


def check_decision(config: FinetuneConfig | PretrainConfig | AlignConfig, task: Task, data: TaskData) -> None:
    """Refuse a primary metric that the task does not measure, and a hand-over that cannot be chosen on these rows.

    Raises:
        UserError: If an option asks for it.
    """
    rank_metrics(task.metrics(data), config.evaluation.decides)
    options = list_changed(getattr(config, "decision", DecisionConfig()))
    if not options:
        return
    name, value = next(iter(options.items()))
    if not task.has_one_label(data):
        raise UserError(f"decision.{name} {value}: expected rows with one label each, got {data.problem_type}")
    if "validation" not in data.splits:
        raise UserError(f"decision.{name} {value}: no validation rows; set data.validation_fraction or _file")


def predict_validation(prepared: Prepared, model: Any) -> Sequence[np.ndarray] | None:
    """Return the model's logits for the validation rows, which every process computes; None where there are none."""
    if not prepared.task.has_one_label(prepared.data) or "validation" not in prepared.encoded:
        return None
    return prepared.predict(model, prepared.encoded["validation"])


def decide(
    prepared: Prepared,
    validation: Sequence[np.ndarray] | None,
    test: Sequence[np.ndarray],
    decision: DecisionConfig,
    evaluation: EvaluationConfig,
) -> dict[str, Any] | None:
    """Return the key `decision` of `results.json`; None for rows that have not one label each.

    Args:
        prepared: The task and its rows.
        validation: Logits of the validation rows, or None.
        test: Logits of the test rows.
        decision: What is asked for.
        evaluation: How intervals are made.
    """
    task, splits = prepared.task, prepared.data.splits
    if not task.has_one_label(prepared.data):
        return None
    asked = decision if isinstance(decision, ClassDecision) else ClassDecision()
    rows = None
    if validation is not None:
        rows = ClassifiedRows(np.asarray(validation), np.asarray(task.references(splits["validation"])))
    judged = ClassifiedRows(np.asarray(test), np.asarray(task.references(splits["test"])))
    return analyse_decisions(rows, judged, asked, evaluation)


def store_decision(folder: Path, stored: Mapping[str, float] | None) -> None:
    """Write the decision into a saved model's config.json, and take out what a checkpoint brought along.

    Args:
        folder: The model's.
        stored: Fields of `Decision`; None for none.
    """
    file = folder / "config.json"
    config = read_json_object(file) if file.is_file() else {}
    if config.get("decision") == stored:
        return
    config.pop("decision", None)
    config |= {"decision": dict(stored)} if stored else {}
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
