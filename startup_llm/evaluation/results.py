"""The numbers of a run as plain data: the form that every recipe writes and every report reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import EvaluationConfig
from startup_llm.evaluation.metrics import get_metric, is_measurable, score_rows
from startup_llm.evaluation.statistics import compare_models, compute_interval, describe_comparison
from startup_llm.tasks.token_classification.metrics import describe_entities
from startup_llm.tasks.vision.average_precision import describe_detection

if TYPE_CHECKING:
    from datasets import Dataset

    from startup_llm.data.task_data import TaskData
    from startup_llm.tasks.base import Task

SCHEMA_VERSION = 1


def score_models(
    metrics: Sequence[str],
    references: Sequence[Any],
    predictions: Mapping[str, Sequence[Any]],
    candidate: str,
    evaluation: EvaluationConfig,
) -> dict[str, Any]:
    """Score every model on the same rows and compare the candidate with each other one, the strongest first.

    A model has no figure for a metric that its predictions do not tell; those without the deciding one come last.

    Args:
        metrics: Names; the first decides.
        references: True values.
        predictions: Per model name.
        candidate: Name of the model that has to prove itself.
        evaluation: Level, resamples and seed.

    Returns:
        The keys decides, models, comparisons, sentences, lower_is_better and signatures of `results.json`.
    """
    decides = metrics[0]
    models = {
        name: {
            metric: asdict(compute_interval(metric, references, values, evaluation))
            for metric in metrics
            if is_measurable(metric, values)
        }
        for name, values in predictions.items()
    }
    for name, values in predictions.items():  # the published objects give the figures; the bootstrap surrounds them
        for metric in models[name]:
            models[name][metric]["value"] = score_rows(metric, references, values)
    lower = [metric for metric in metrics if get_metric(metric).lower_is_better]
    judged = [name for name in predictions if name != candidate and decides in models[name]]
    judged.sort(key=lambda name: models[name][decides]["value"])
    if decides not in lower:
        judged.reverse()
    others = [*judged, *(name for name in predictions if name not in (candidate, *judged))]
    comparisons = [
        asdict(
            compare_models(
                metric, references, (candidate, predictions[candidate]), (name, predictions[name]), evaluation
            )
        )
        for name in others
        for metric in metrics
        if metric in models[name] and metric in models[candidate]
    ]
    signs = {metric: get_metric(metric).sign for metric in metrics}
    return {
        "decides": decides,
        "lower_is_better": lower,
        "signatures": {metric: sign() for metric, sign in signs.items() if sign is not None},
        "models": models,
        "comparisons": comparisons,
        "sentences": [
            describe_comparison(c, lower_is_better=c["metric"] in lower, level=evaluation.confidence_level)
            for c in comparisons
            if c["metric"] == decides
        ],
    }


def describe_errors(
    task: Task, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Sequence[Any], data: TaskData
) -> dict[str, Any]:
    """Look into the answers of a model: sections of `results.json` as the task asks for, and its gallery.

    Args:
        task: The task.
        rows: Raw test rows.
        outputs: The model's, one per encoded row.
        predictions: What they decide.
        data: The task's rows.
    """
    found = DESCRIBERS[task.errors](task, rows, outputs, predictions, data) if task.errors else {}
    gallery = task.show(rows, predictions, data)
    return {**found, "gallery": gallery} if gallery else found


def describe_classification(
    task: Task,
    rows: Dataset,
    outputs: Sequence[np.ndarray],
    predictions: Sequence[Any],
    data: TaskData,
    *,
    most: int = 20,
) -> dict[str, Any]:
    """Look into a classifier's answers; empty where a row has not exactly one label.

    Args:
        task: The task, which turns outputs into probabilities.
        rows: Raw rows with label and row.
        outputs: Logits, one row of them per row.
        predictions: Not used; the logits decide.
        data: The task's rows.
        most: Most confusions and mistakes to list.

    Returns:
        The keys per_class, confusions, calibration and mistakes of `results.json`.
    """
    if data.problem_type != "single_label_classification":
        return {}
    from sklearn.metrics import precision_recall_fscore_support

    probabilities = task.probabilities(outputs, data.problem_type)
    texts, references, label_names = task.summarize(rows), np.asarray(rows["label"]), data.label_names
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    classes = np.arange(len(label_names))
    scores = precision_recall_fscore_support(references, predicted, labels=classes, zero_division=0)
    per_class = {
        label_names[i]: {"precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
        for i, (p, r, f, n) in enumerate(zip(*scores, strict=True))
    }
    wrong = np.flatnonzero(predicted != references)
    pairs = Counter((int(references[i]), int(predicted[i])) for i in wrong)
    confusions = [
        {
            "label": label_names[label],
            "predicted": label_names[other],
            "rows": count,
            "examples": [texts[i] for i in wrong if references[i] == label and predicted[i] == other][:2],
        }
        for (label, other), count in pairs.most_common(most)
    ]
    mistakes = [
        {
            "row": rows["row"][int(i)],
            "text": texts[i],
            "label": label_names[references[i]],
            "predicted": label_names[predicted[i]],
            "confidence": float(confidence[i]),
        }
        for i in wrong[np.argsort(-confidence[wrong])][:most]
    ]
    return {
        "per_class": per_class,
        "confusions": confusions,
        "mistakes": mistakes,
        "calibration": compute_calibration(confidence, predicted == references),
    }


def describe_answers(
    task: Task, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Sequence[Any], data: TaskData
) -> dict[str, Any]:
    """Measure answers to kinds of questions apart: short and long ones, on short and long contexts, with and without
    an answer.

    Args:
        task: The task, which names the metrics.
        rows: Raw rows with question, context and answers.
        outputs: Not used; the predictions decide.
        predictions: What is measured.
        data: The task's rows.

    Returns:
        The key groups of `results.json`: a list of title, metrics, and rows with name, rows and values.
    """
    references, metrics = task.references(rows), task.metrics(data)
    lengths = {
        "question": np.array([len(text.split()) for text in rows["question"]]),
        "context": np.array([len(text.split()) for text in rows["context"]]),
    }
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, words in lengths.items():
        low, high = (int(np.ceil(np.quantile(words, share))) for share in (1 / 3, 2 / 3))
        parts[f"Words in the {name}"] = {
            f"up to {low}": words <= low,
            f"{low + 1} to {high}": (words > low) & (words <= high),
            f"more than {high}": words > high,
        }
    answered = np.array([bool(answers) for answers in rows["answers"]])
    if not answered.all():
        parts["Has it an answer?"] = {"an answer": answered, "none": ~answered}
    groups = []
    for title, kinds in parts.items():
        entries = []
        for name, chosen in kinds.items():
            if places := np.flatnonzero(chosen).tolist():
                true, given = ([values[place] for place in places] for values in (references, predictions))
                values = {metric: get_metric(metric).compute(true, given) for metric in metrics}
                entries.append({"name": name, "rows": len(places), "values": values})
        groups.append({"title": title, "metrics": list(metrics), "rows": entries})
    return {"groups": groups}


def compute_calibration(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> dict[str, Any]:
    """Compare confidence with accuracy in equal-width bins (Guo et al. 2017, eq. 3).

    Args:
        confidence: Probability of the predicted class, shape (rows,).
        right: Whether the prediction is right, shape (rows,).
        bins: Number of bins between 0 and 1.
    """
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    found = []
    for place in range(bins):
        inside = places == place
        if inside.any():
            found.append(
                {
                    "low": place / bins,
                    "high": (place + 1) / bins,
                    "rows": int(inside.sum()),
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(right[inside].mean()),
                }
            )
    error = sum(b["rows"] * abs(b["confidence"] - b["accuracy"]) for b in found) / len(confidence)
    return {"expected_calibration_error": float(error), "bins": found}


DESCRIBERS: dict[str, Callable[..., dict[str, Any]]] = {
    "classification": describe_classification,
    "detection": describe_detection,
    "entities": describe_entities,
    "answers": describe_answers,
}
"""What looks into a task's answers, by the name that the task gives."""
