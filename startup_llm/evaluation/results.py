"""The numbers of a run as plain data: the form that every recipe writes and every report reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import EvaluationConfig
from startup_llm.evaluation.metrics import Metric, Values, score_rows
from startup_llm.evaluation.statistics import compare_models, compute_interval, describe_comparison

if TYPE_CHECKING:
    from datasets import Dataset

SCHEMA_VERSION = 1


def score_models(
    metrics: Sequence[Metric],
    references: Values,
    predictions: Mapping[str, Values],
    candidate: str,
    evaluation: EvaluationConfig,
) -> dict[str, Any]:
    """Score every model on the same rows and compare the candidate with each other one, the strongest first.

    A model has no figure for a metric that its predictions do not tell; those without the deciding one come last.

    Args:
        metrics: What is measured, the primary metric first.
        references: True values.
        predictions: Per model name.
        candidate: Name of the model that has to prove itself.
        evaluation: Level, resamples and seed.

    Returns:
        The keys decides, models, comparisons, sentences, lower_is_better and signatures of `results.json`.
    """
    primary = metrics[0]
    measured = {
        name: [metric for metric in metrics if metric.is_measurable(values)] for name, values in predictions.items()
    }
    models = {
        name: {metric.name: _score(metric, references, values, evaluation) for metric in measured[name]}
        for name, values in predictions.items()
    }
    own = (candidate, predictions[candidate])
    comparisons = [
        asdict(compare_models(metric, references, own, (name, predictions[name]), evaluation))
        for name in _rank_others(models, candidate, primary)
        for metric in metrics
        if metric in measured[name] and metric in measured[candidate]
    ]
    lower = [metric.name for metric in metrics if metric.lower_is_better]
    return {
        "decides": primary.name,
        "lower_is_better": lower,
        "signatures": {metric.name: metric.sign() for metric in metrics if metric.sign is not None},
        "models": models,
        "comparisons": comparisons,
        "sentences": [
            describe_comparison(c, lower_is_better=c["metric"] in lower, level=evaluation.confidence_level)
            for c in comparisons
            if c["metric"] == primary.name
        ],
    }


def _score(metric: Metric, references: Values, values: Values, evaluation: EvaluationConfig) -> dict[str, Any]:
    """Return a metric's figure, which the published object gives, with its interval by the bootstrap."""
    interval = asdict(compute_interval(metric, references, values, evaluation))
    return {**interval, "value": score_rows(metric, references, values)}


def _rank_others(models: Mapping[str, Mapping[str, Any]], candidate: str, primary: Metric) -> list[str]:
    """Return the other models, the strongest first; those without a figure of the primary metric come last."""
    scored = [name for name in models if name != candidate and primary.name in models[name]]
    scored.sort(key=lambda name: models[name][primary.name]["value"])
    if not primary.lower_is_better:
        scored.reverse()
    return [*scored, *(name for name in models if name not in (candidate, *scored))]


def measure_groups(
    title: str, kinds: Mapping[str, np.ndarray], references: Values, predictions: Values, metrics: Sequence[Metric]
) -> dict[str, Any]:
    """Measure rows of several kinds apart.

    Args:
        title: What tells the kinds apart.
        kinds: Name -> which rows are of the kind, shape (rows,), boolean.
        references: One value per row.
        predictions: One value per row.
        metrics: By which they are measured.

    Returns:
        An item of the key groups of `results.json`: title, metrics, and rows with name, rows and values; a kind of no
        rows is left out.
    """
    entries = []
    for name, chosen in kinds.items():
        if places := np.flatnonzero(chosen).tolist():
            true, predicted = ([values[place] for place in places] for values in (references, predictions))
            values = {
                metric.name: metric.compute(metric.read_part(true), metric.read_part(predicted)) for metric in metrics
            }
            entries.append({"name": name, "rows": len(places), "values": values})
    return {"title": title, "metrics": [metric.name for metric in metrics], "rows": entries}


def describe_classification(
    rows: Dataset, texts: Sequence[str], probabilities: np.ndarray, label_names: Sequence[str], *, max_shown: int = 20
) -> dict[str, Any]:
    """Look into the answers of a classifier of rows with one label each.

    Args:
        rows: Raw rows with label and row.
        texts: A line of text for each row.
        probabilities: Of the labels, shape (rows, labels).
        label_names: The labels, in the order of their ids.
        max_shown: Most confusions and mistakes to list.

    Returns:
        The keys per_class, confusions, confusion_matrix, calibration and mistakes of `results.json`.
    """
    from sklearn.metrics import precision_recall_fscore_support

    references = np.asarray(rows["label"])
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
        for (label, other), count in pairs.most_common(max_shown)
    ]
    mistakes = [
        {
            "row": rows["row"][int(i)],
            "text": texts[i],
            "label": label_names[references[i]],
            "predicted": label_names[predicted[i]],
            "confidence": float(confidence[i]),
        }
        for i in wrong[np.argsort(-confidence[wrong])][:max_shown]
    ]
    return {
        "per_class": per_class,
        "confusions": confusions,
        "confusion_matrix": build_confusion_matrix(references, predicted, label_names),
        "mistakes": mistakes,
        "calibration": compute_calibration(confidence, predicted == references),
    }


def build_confusion_matrix(
    references: np.ndarray, predicted: np.ndarray, label_names: Sequence[str], *, max_labels: int = 20
) -> dict[str, Any]:
    """Count how often each class was predicted as each other.

    Args:
        references: True class ids, shape (rows,).
        predicted: Predicted ones, shape (rows,).
        label_names: The classes, in the order of their ids.
        max_labels: Of more classes, those with the most errors are kept, and the others taken together.

    Returns:
        labels: the classes that are kept, in the order of their ids; others: how many are not; counts: rows are true
        classes, columns predicted ones, the others last.
    """
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(references, predicted, labels=np.arange(len(label_names)))
    errors = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    kept = np.sort(np.argsort(-errors, kind="stable")[:max_labels])
    rest = np.setdiff1d(np.arange(len(label_names)), kept)
    groups = [*([place] for place in kept), *([rest] if len(rest) else [])]
    return {
        "labels": [label_names[place] for place in kept],
        "others": len(rest),
        "counts": [[int(counts[np.ix_(true, answered)].sum()) for answered in groups] for true in groups],
    }


def describe_label_sets(
    rows: Dataset,
    texts: Sequence[str],
    probabilities: np.ndarray,
    predicted: np.ndarray,
    label_names: Sequence[str],
    *,
    max_shown: int = 20,
) -> dict[str, Any]:
    """Look into the answers of a classifier of rows that may have several labels.

    Args:
        rows: Raw rows with label, of 0/1, and row.
        texts: A line of text for each row.
        probabilities: Of the labels, shape (rows, labels).
        predicted: 0/1, shape (rows, labels).
        label_names: The labels, in the order of their places.
        max_shown: Most confusions and mistakes to list.

    Returns:
        The keys per_class, confusions (a label that a row has and was not given, with one that it was given and has
        not), calibration (over all labels of all rows) and mistakes of `results.json`.
    """
    from sklearn.metrics import precision_recall_fscore_support

    references = np.asarray(rows["label"]) > 0
    decided = predicted > 0
    scores = precision_recall_fscore_support(references, decided, zero_division=0)
    per_class = {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
        for name, p, r, f, n in zip(label_names, *scores, strict=True)
    }
    missed, added = references & ~decided, decided & ~references
    pairs = Counter(
        (int(label), int(other)) for i in np.flatnonzero(missed.any(axis=1) & added.any(axis=1))
        for label in np.flatnonzero(missed[i]) for other in np.flatnonzero(added[i])
    )  # fmt: skip
    confusions = [
        {
            "label": label_names[label],
            "predicted": label_names[other],
            "rows": count,
            "examples": [texts[i] for i in np.flatnonzero(missed[:, label] & added[:, other])[:2]],
        }
        for (label, other), count in pairs.most_common(max_shown)
    ]
    confidence = np.maximum(np.where(added, probabilities, 0), np.where(missed, 1 - probabilities, 0)).max(axis=1)
    wrong = np.flatnonzero((missed | added).any(axis=1))
    mistakes = [
        {
            "row": rows["row"][int(i)],
            "text": texts[i],
            "label": [label_names[label] for label in np.flatnonzero(references[i])],
            "predicted": [label_names[label] for label in np.flatnonzero(decided[i])],
            "confidence": float(confidence[i]),
        }
        for i in wrong[np.argsort(-confidence[wrong], kind="stable")][:max_shown]
    ]
    return {
        "per_class": per_class,
        "confusions": confusions,
        "mistakes": mistakes,
        "calibration": compute_calibration(probabilities.ravel(), references.ravel()),
    }


def describe_numbers(
    rows: Dataset, texts: Sequence[str], predicted: np.ndarray, *, same_unit: bool = True, max_shown: int = 20
) -> dict[str, Any]:
    """Look into the answers of a model of rows with a number each.

    Args:
        rows: Raw rows with label, a number, and row.
        texts: A line of text for each row.
        predicted: Numbers, shape (rows,).
        same_unit: Whether a prediction is in the label's unit; else it tells the order alone, such as a cosine.
        max_shown: Most mistakes to list.

    Returns:
        The keys groups and mistakes of `results.json`: fifths of the rows by their number, and by what is predicted,
        with the means of both; and the rows that are furthest off, by value or else by rank.
    """
    from scipy.stats import rankdata

    references, predicted = np.asarray(rows["label"], dtype=float), np.asarray(predicted, dtype=float)
    ranks = [rankdata(values) / len(values) for values in (references, predicted)]
    distance = np.abs(references - predicted) if same_unit else np.abs(ranks[0] - ranks[1])
    groups = [
        {
            "title": f"fifth of the test rows by {title} value",
            "metrics": ["mean_true_value", "mean_predicted_value", *(["mean_absolute_error"] if same_unit else [])],
            "rows": _list_fifths(values, references, predicted),
        }
        for title, values in (("true", references), ("predicted", predicted))
    ]
    mistakes = [
        {
            "row": rows["row"][int(i)],
            "text": texts[i],
            "label": float(references[i]),
            "predicted": float(predicted[i]),
        }
        for i in np.argsort(-distance, kind="stable")[:max_shown]
        if distance[i] > 0
    ]
    return {"groups": groups, "mistakes": mistakes}


def _list_fifths(values: np.ndarray, references: np.ndarray, predicted: np.ndarray) -> list[dict[str, Any]]:
    """Return what is measured in each fifth of the rows by a value; equal values stay together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, 6)))
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    return [
        {
            "name": f"{values[inside].min():.4g} to {values[inside].max():.4g}",
            "rows": int(inside.sum()),
            "values": {
                "mean_true_value": float(references[inside].mean()),
                "mean_predicted_value": float(predicted[inside].mean()),
                "mean_absolute_error": float(np.abs(references - predicted)[inside].mean()),
            },
        }
        for place in np.unique(places)
        for inside in (places == place,)
    ]


def compute_calibration(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> dict[str, Any]:
    """Compare confidence with accuracy in equal-width bins (Guo et al. 2017, eq. 3).

    Args:
        confidence: Probability of the predicted class, shape (rows,).
        right: Whether the prediction is right, shape (rows,).
        bins: Number of bins between 0 and 1.
    """
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    filled_bins = []
    for place in range(bins):
        inside = places == place
        if inside.any():
            filled_bins.append(
                {
                    "low": place / bins,
                    "high": (place + 1) / bins,
                    "rows": int(inside.sum()),
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(right[inside].mean()),
                }
            )
    error = sum(b["rows"] * abs(b["confidence"] - b["accuracy"]) for b in filled_bins) / len(confidence)
    return {"expected_calibration_error": float(error), "bins": filled_bins}
