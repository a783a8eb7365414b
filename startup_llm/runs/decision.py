"""The hand-over of a run: checked before it starts, chosen after training, stored with the saved model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import DecisionConfig, HandoverDecision, ScratchModelConfig, list_changed
from startup_llm.data.task_data import NUMBERS
from startup_llm.errors import UserError
from startup_llm.evaluation.decisions import analyse_decisions
from startup_llm.evaluation.metrics import rank_metrics
from startup_llm.evaluation.numbers import analyse_numbers
from startup_llm.evaluation.out_of_scope import SCORES
from startup_llm.evaluation.results import compute_calibration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from startup_llm.config import AlignConfig, EvaluationConfig, FinetuneConfig, PretrainConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.decisions import ScoredAnswers
    from startup_llm.tasks.base import Task
    from startup_llm.training.finetuning import Prepared


def check_decision(config: FinetuneConfig | PretrainConfig | AlignConfig, task: Task, data: TaskData) -> None:
    """Refuse a primary metric that the task does not measure, and a hand-over that cannot be chosen on these rows.

    Args:
        config: The options.
        task: The task.
        data: Its rows.

    Raises:
        UserError: If an option asks for it.
    """
    rank_metrics(task.metrics(data), config.evaluation.decides)
    options = list_changed(getattr(config, "decision", DecisionConfig()))
    if data.out_of_scope is not None:
        options["out_of_scope"] = options.get("out_of_scope", "auto")
    if not options:
        return
    for name, value in options.items():
        if not task.predictor.has_confidence(data) and (name, data.problem_type) != ("sets", NUMBERS):
            found = data.problem_type or "tags that mark no entities"
            raise UserError(f"decision.{name} {value}: expected rows with one label each, or spans, got {found}")
    name, value = next(iter(options.items()))
    if "validation" not in data.splits:
        raise UserError(f"decision.{name} {value}: no validation rows; set data.validation_fraction or _file")
    readable = task.probe is not None and not isinstance(config.model, ScratchModelConfig)
    _check_out_of_scope(options, data, readable=readable)


def _check_out_of_scope(options: Mapping[str, Any], data: TaskData, *, readable: bool) -> None:
    """Refuse a score that cannot be computed, or a share that nothing is rejected by."""
    score, share = options.get("out_of_scope"), options.get("rejected_share")
    if score is None and share is not None:
        raise UserError(
            f"decision.rejected_share {share}: no input is told out of scope; add data.oos_file, or "
            "decision.out_of_scope auto"
        )
    if score is None:
        return
    if not readable:
        raise UserError(
            f"decision.out_of_scope {score}: expected a pretrained checkpoint under a linear layer, whose features "
            "are read; use recipes/finetune.py, or leave it out"
        )
    if score in SCORES and SCORES[score].needs_rows and data.out_of_scope is None:
        raise UserError(f"decision.out_of_scope {score}: expected texts out of scope to learn from; add data.oos_file")


def judge_answers(
    prepared: Prepared,
    validation: Sequence[np.ndarray] | None,
    test: Sequence[np.ndarray],
    decision: DecisionConfig,
    evaluation: EvaluationConfig,
) -> dict[str, Any]:
    """Return the keys decision and calibration of `results.json`, or numbers, each with what is stored with the model.

    Args:
        prepared: The task and its rows.
        validation: Outputs of the validation rows, or None.
        test: Outputs of the test rows.
        decision: What is asked for; of numbers the share of intervals to be stored.
        evaluation: How intervals are made.

    Returns:
        None of them where answers have no confidence and are no numbers.
    """
    if prepared.data.problem_type == NUMBERS:
        chosen = None if validation is None else _read_numbers("validation", validation, prepared)
        asked = getattr(decision, "sets", None)
        level = asked or evaluation.confidence_level
        found = analyse_numbers(chosen, _read_numbers("test", test, prepared), level, evaluation)
        stored = {"half_width": found["interval"]["half_width"]} if asked and found["interval"] else None
        return {"numbers": {**found, "stored": stored}}
    if not prepared.task.predictor.has_confidence(prepared.data):
        return {}
    handover = decision if isinstance(decision, HandoverDecision) else HandoverDecision()
    scored = _score_split("test", test, prepared)
    confidence, right = scored.compute_confidence()  # before any temperature
    learnt = None if validation is None else _score_split("validation", validation, prepared)
    return {
        "decision": analyse_decisions(learnt, scored, handover, evaluation),
        "calibration": compute_calibration(confidence, right) if len(right) else None,
    }


def _read_numbers(name: str, outputs: Sequence[np.ndarray], prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """Return the true and the predicted numbers of a split, shape (rows,) each."""
    task, data = prepared.task, prepared.data
    rows = data.splits[name]
    predicted = task.read_predictions(outputs, prepared.encoded[name], rows, data)
    return np.asarray(task.references(rows), dtype=float), np.asarray(predicted, dtype=float)


def _score_split(name: str, outputs: Sequence[np.ndarray], prepared: Prepared) -> ScoredAnswers:
    """Return how sure each answer to the rows of a split is, and whether it is right."""
    data = prepared.data
    return prepared.task.predictor.score_answers(outputs, prepared.encoded[name], data.splits[name], data)
