"""By what a run's model is answered from: hand-over, thresholds of several labels, and inputs out of scope.

All is chosen on validation rows, judged on test rows, and kept in the saved model's config.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import DecisionConfig
from startup_llm.data.task_data import NUMBERS, SEVERAL_LABELS
from startup_llm.evaluation.decisions import ANSWERING_KEYS
from startup_llm.evaluation.label_thresholds import (
    LabelThresholds,
    analyse_label_thresholds,
    choose_label_thresholds,
    keep_default,
)
from startup_llm.plain_data import read_json_object
from startup_llm.runs.balance import describe_balance
from startup_llm.runs.decision import judge_answers
from startup_llm.runs.out_of_scope import compute_scope_rows, tell_out_of_scope

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from startup_llm.evaluation.metrics import Metric
    from startup_llm.evaluation.out_of_scope import ScopeRows
    from startup_llm.training.finetuning import Prepared


@dataclass(frozen=True)
class Answering:
    """What a model's answers are chosen by.

    Attributes:
        metrics: What is measured, the primary metric first.
        validation: Outputs of the validation rows; None where none are needed.
        thresholds: From which probability on a row has each label; None for rows that have not several.
        scope_rows: Logits and features by which inputs out of scope are told; None where they are not.
    """

    metrics: tuple[Metric, ...]
    validation: Sequence[np.ndarray] | None = None
    thresholds: LabelThresholds | None = None
    scope_rows: ScopeRows | None = None

    def read(self, outputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Return outputs as `Task.read_predictions` takes them: positive where a row has a label."""
        return outputs if self.thresholds is None else list(self.thresholds.shift(outputs))


def compute_answering(prepared: Prepared, model: Any, config: Any, metrics: tuple[Metric, ...]) -> Answering:
    """Compute what answers are chosen by; every process does.

    Args:
        prepared: The task and its rows.
        model: As it was saved.
        config: The recipe's.
        metrics: What is measured, the primary metric first.
    """
    validation = predict_validation(prepared, model)
    thresholds = choose_thresholds(prepared, validation, metrics[0], config.evaluation.seed)
    scope_rows = compute_scope_rows(prepared, model, getattr(config, "decision", DecisionConfig()))
    return Answering(metrics, validation, thresholds, scope_rows)


def predict_validation(prepared: Prepared, model: Any) -> Sequence[np.ndarray] | None:
    """Return the model's outputs for the validation rows, which every process computes; None where none are needed."""
    data = prepared.data
    is_read = prepared.task.predictor.has_confidence(data) or data.problem_type in (SEVERAL_LABELS, NUMBERS)
    if not is_read or "validation" not in prepared.encoded:
        return None
    return prepared.predict(model, prepared.encoded["validation"])


def choose_thresholds(
    prepared: Prepared, validation: Sequence[np.ndarray] | None, metric: Metric, seed: int
) -> LabelThresholds | None:
    """Return from which probability on a row has each label; None for rows that have not several labels.

    Args:
        prepared: The task and its rows.
        validation: Logits of the validation rows, or None.
        metric: The primary metric.
        seed: Seed of the folds.
    """
    task, data = prepared.task, prepared.data
    if data.problem_type != SEVERAL_LABELS:
        return None
    if validation is None:
        return keep_default(len(data.label_names))
    references = np.asarray(task.references(data.splits["validation"]))
    return choose_label_thresholds(np.asarray(validation), references, metric, seed)


def judge_answering(
    answering: Answering, prepared: Prepared, outputs: Sequence[np.ndarray], config: Any, folder: Path
) -> dict[str, Any]:
    """Judge on the test rows what was chosen, and store it with the saved model.

    Args:
        answering: What was chosen.
        prepared: The task and its rows.
        outputs: Of the test rows.
        config: The recipe's.
        folder: The saved model's.

    Returns:
        The keys decision, numbers, calibration, out_of_scope, label_thresholds and balance of `results.json`, those
        that the rows have.
    """
    asked, evaluation = getattr(config, "decision", DecisionConfig()), config.evaluation
    judged = judge_answers(prepared, answering.validation, outputs, asked, evaluation)
    out_of_scope, detector = tell_out_of_scope(answering.scope_rows, prepared, asked, evaluation)
    if detector is not None:
        detector.save(folder)
    label_thresholds, thresholds = None, answering.thresholds
    if thresholds is not None:
        references = np.asarray(prepared.task.references(prepared.data.splits["test"]))
        label_thresholds = analyse_label_thresholds(
            thresholds, np.asarray(outputs), references, answering.metrics, evaluation
        )
    stored = {
        "decision": (judged.get("decision") or judged.get("numbers") or {}).get("stored"),
        "label_thresholds": thresholds and thresholds.store(prepared.data.label_names),
        "out_of_scope": detector and detector.describe(),
    }
    store_answering(folder, stored)
    found = {
        **judged,
        "out_of_scope": out_of_scope,
        "label_thresholds": label_thresholds,
        "balance": describe_balance(prepared, getattr(config, "train_balance", "none")),
    }
    return {name: value for name, value in found.items() if value}


def store_answering(folder: Path, entries: Mapping[str, Any]) -> None:
    """Write by what a model's answers are read into its config.json, and take out what a checkpoint brought along.

    Args:
        folder: The model's.
        entries: Values of `ANSWERING_KEYS`; None for none.
    """
    file = folder / "config.json"
    config = read_json_object(file) if file.is_file() else {}
    kept = {name: value for name, value in config.items() if name not in ANSWERING_KEYS}
    stored = {name: value for name in ANSWERING_KEYS if (value := entries.get(name)) is not None}
    if config != {**kept, **stored}:
        file.write_text(json.dumps({**kept, **stored}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
