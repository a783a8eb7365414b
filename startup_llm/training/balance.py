"""Training on classes of very different size: weights in the loss, or rows drawn as often of every class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.label_balance import Balance, compute_class_weights, count_training_labels
from startup_llm.data.task_data import SEVERAL_LABELS
from startup_llm.errors import UserError
from startup_llm.evaluation.label_thresholds import choose_label_thresholds
from startup_llm.evaluation.metrics import MACRO_F1
from startup_llm.evaluation.statistics import compare_models
from startup_llm.training.probe import fit_linear_probe

if TYPE_CHECKING:
    from torch import Tensor

    from startup_llm.config import EvaluationConfig
    from startup_llm.data.label_balance import LabelCounts
    from startup_llm.data.task_data import TaskData
    from startup_llm.training.finetuning import Prepared

MAX_PROBED_ROWS = 5000
"""The effect of balancing is measured by probes on at most so many training rows."""


def check_balance(balance: Balance, method: str, smoothing: float, prepared: Prepared) -> None:
    """Refuse to balance what has no classes, or is not trained.

    Raises:
        UserError: If it is asked for.
    """
    if balance == "none":
        return
    if count_training_labels(prepared.data) is None:
        kind = prepared.data.problem_type or "no labels of whole rows"
        raise UserError(f"train_balance {balance}: expected classes, got {kind} ({prepared.task.tag}); leave it out")
    if method == "zero-shot":
        raise UserError(f"train_balance {balance}: --method zero-shot learns from no row; leave it out")
    if smoothing and balance == "weights":
        raise UserError(
            f"train_balance weights and train.label_smoothing_factor {smoothing} make one loss in two ways; leave one "
            "out, or use train_balance sampling"
        )


@dataclass(frozen=True)
class WeightedLoss:
    """Cross-entropy in which every class has the same weight; of several labels, both answers of each label.

    Attributes:
        weights: Of each class, or of rows that have each label; shape (labels,).
        other_weights: Of rows that do not have each label, shape (labels,); None for one label a row.
    """

    weights: np.ndarray
    other_weights: np.ndarray | None = None

    def compute_terms(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the terms whose mean is the loss, shape (rows,) or (rows, labels).

        Args:
            logits: Shape (rows, labels).
            labels: Class ids, shape (rows,), or 0/1, shape (rows, labels).
        """
        import torch
        from torch.nn import functional

        logits = logits.float()
        weights = torch.as_tensor(self.weights, dtype=logits.dtype, device=logits.device)
        if self.other_weights is None:
            return functional.cross_entropy(logits, labels, reduction="none") * weights[labels]
        others = torch.as_tensor(self.other_weights, dtype=logits.dtype, device=logits.device)
        terms = functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
        return terms * torch.where(labels > 0, weights, others)


def build_weighted_loss(data: TaskData) -> WeightedLoss:
    """Return the loss in which the classes of the training rows count alike.

    Raises:
        ValueError: If the rows have no classes.
    """
    counted = _count(data)
    if data.problem_type != SEVERAL_LABELS:
        return WeightedLoss(compute_class_weights(counted.counts))
    pairs = [compute_class_weights(np.array([count, counted.rows - count])) for count in counted.counts]
    own, other = np.array(pairs).T
    return WeightedLoss(own, other)


def compute_row_weights(data: TaskData) -> np.ndarray:
    """Return with which weight each training row is drawn, so that every class is drawn as often; shape (rows,).

    A row with several labels has the weight of its rarest one; rows without any are a class of their own.

    Raises:
        ValueError: If the rows have no classes.
    """
    counted = _count(data)
    labels = np.asarray(data.splits["train"]["label"])
    if data.problem_type != SEVERAL_LABELS:
        return compute_class_weights(counted.counts)[labels]
    weights = compute_class_weights(np.append(counted.counts, counted.unlabelled))
    flags = np.column_stack([labels > 0, ~(labels > 0).any(axis=1)])
    return np.where(flags, weights, 0).max(axis=1)


def _count(data: TaskData) -> LabelCounts:
    counted = count_training_labels(data)
    if counted is None:
        raise ValueError(f"{data.problem_type or 'these rows'}: no classes to balance")
    return counted


@dataclass(frozen=True)
class ProbedRows:
    """Rows that a linear probe learns from, or is measured on.

    Attributes:
        features: What the output layer reads, shape (rows, width).
        labels: Class ids, shape (rows,), or 0/1, shape (rows, labels).
    """

    features: np.ndarray
    labels: np.ndarray


def measure_balance(
    train: ProbedRows, validation: ProbedRows, problem_type: str, intercept: bool, evaluation: EvaluationConfig
) -> dict[str, Any]:
    """Measure by linear probes what weights of the classes are expected to bring.

    Args:
        train: The training rows, of which a part is drawn where they are many.
        validation: The validation rows, on which both probes are measured.
        problem_type: As `PretrainedConfig.problem_type`.
        intercept: Whether the output layer has a bias.
        evaluation: Level, resamples and seed.

    Returns:
        Macro F1 of the probe without (`none`) and with weights, and the difference with its interval; of several
        labels at 0.5, and as `tuned` with thresholds by cross-fitting.
    """
    rng = np.random.default_rng(evaluation.seed)
    rows = np.sort(rng.permutation(len(train.labels))[:MAX_PROBED_ROWS])
    several = problem_type == SEVERAL_LABELS
    classes = train.labels.shape[1] if several else int(max(train.labels.max(), validation.labels.max())) + 1
    answers, tuned = {}, {}
    for name in ("none", "weights"):
        weight, bias = fit_linear_probe(
            train.features[rows],
            train.labels[rows],
            problem_type,
            classes=classes,
            intercept=intercept,
            balanced=name == "weights",
        )
        logits = validation.features @ weight.T + bias
        answers[name] = (logits > 0).astype(np.int64) if several else logits.argmax(axis=1)
        if several:
            chosen = choose_label_thresholds(logits, validation.labels, MACRO_F1, evaluation.seed)
            tuned[name] = max(chosen.scores.values())
    weighted, plain = (("weights", answers["weights"]), ("none", answers["none"]))
    comparison = compare_models(MACRO_F1, validation.labels, weighted, plain, evaluation)
    return {
        "rows": len(rows),
        "validation_rows": len(validation.labels),
        **{name: MACRO_F1.compute(validation.labels, decided) for name, decided in answers.items()},
        "difference": {"value": comparison.difference, "low": comparison.low, "high": comparison.high},
        **({"tuned": tuned} if tuned else {}),
    }
