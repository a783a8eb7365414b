"""From which probability on a row has a label, where it may have several.

Thresholds are chosen on validation rows and judged on test rows. Nothing here knows a task: a model is its
probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError

if TYPE_CHECKING:
    from startup_llm.config import EvaluationConfig
    from startup_llm.evaluation.metrics import Metric

DEFAULT_THRESHOLD = 0.5
MIN_VALIDATION_ROWS = 50
"""With fewer validation rows every label keeps 0.5."""
MIN_LABEL_ROWS = 10
"""A label with fewer validation rows takes the common threshold."""
FOLDS = 5
_GRID = np.round(np.arange(0.02, 0.98, 0.02), 2)


@dataclass(frozen=True)
class LabelThresholds:
    """Least probability with which a row has each label.

    Attributes:
        kind: default, common (one threshold for all labels) or by-label.
        values: Shape (labels,).
        scores: The metric on validation rows by kind, each fold with the thresholds of the others; empty where nothing
            was chosen.
    """

    kind: str
    values: np.ndarray
    scores: Mapping[str, float]

    def store(self, label_names: Sequence[str]) -> dict[str, float] | None:
        """Return the thresholds by label as the saved model's config.json holds them; None for 0.5 everywhere."""
        if self.kind == "default":
            return None
        return {name: float(value) for name, value in zip(label_names, self.values, strict=True)}

    def shift(self, logits: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Return logits that are positive where a probability is above its threshold, shape (rows, labels)."""
        return np.asarray(logits) if self.kind == "default" else shift_logits(logits, self.values)


def keep_default(labels: int) -> LabelThresholds:
    """Return 0.5 for every label."""
    return LabelThresholds("default", np.full(labels, DEFAULT_THRESHOLD), {})


def choose_label_thresholds(logits: np.ndarray, labels: np.ndarray, metric: Metric, seed: int = 0) -> LabelThresholds:
    """Choose thresholds on validation rows: 0.5, one for all labels, or one for each, whichever is best.

    Which of the three is chosen is decided by cross-fitting: each of five folds is scored with the thresholds that the
    other four choose, as thresholds of rare labels fit the rows that they were chosen on too well (Yang 2001, "A Study
    on Thresholding Strategies for Text Categorization"). The simpler one is kept unless the next one is better.

    Args:
        logits: Of the validation rows, shape (rows, labels).
        labels: 0/1, of the same shape.
        metric: What is to be high.
        seed: Seed of the folds.
    """
    from scipy.special import expit

    probabilities = expit(np.asarray(logits, dtype=np.float64))
    if len(labels) < MIN_VALIDATION_ROWS:
        return keep_default(labels.shape[1])
    fold = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    chosen = {kind: np.empty(labels.shape, np.int64) for kind in _KINDS}
    for number in range(FOLDS):
        out, rest = fold == number, fold != number
        for kind, choose in _KINDS.items():
            chosen[kind][out] = probabilities[out] > choose(probabilities[rest], labels[rest], metric)
    scores = {kind: float(metric.compute(labels, decided)) for kind, decided in chosen.items()}
    best = max(scores, key=lambda kind: scores[kind])  # the first of equal ones
    return LabelThresholds(best, _KINDS[best](probabilities, labels, metric), scores)


def _choose_default(probabilities: np.ndarray, labels: np.ndarray, metric: Metric) -> np.ndarray:
    return np.full(labels.shape[1], DEFAULT_THRESHOLD)


def _choose_common(probabilities: np.ndarray, labels: np.ndarray, metric: Metric) -> np.ndarray:
    """Return the one threshold of a grid with which the metric is highest."""
    values = [metric.compute(labels, (probabilities > threshold).astype(np.int64)) for threshold in _GRID]
    return np.full(labels.shape[1], _GRID[int(np.argmax(values))])


def _choose_by_label(probabilities: np.ndarray, labels: np.ndarray, metric: Metric) -> np.ndarray:
    """Return the threshold of each label with which its own F1 is highest; macro F1 is their mean.

    With exact probabilities it is half of the highest F1 (Lipton, Elkan & Naryanaswamy 2014, "Optimal Thresholding of
    Classifiers to Maximize F1 Measure", theorem 1).
    """
    thresholds = _choose_common(probabilities, labels, metric)
    for label in np.flatnonzero(labels.sum(axis=0) >= MIN_LABEL_ROWS):
        thresholds[label] = _find_best_cut(probabilities[:, label], labels[:, label])
    return thresholds


def _find_best_cut(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the middle of the cut between two probabilities with which F1 is highest."""
    order = np.argsort(-probabilities, kind="stable")
    descending, right = probabilities[order], np.cumsum(labels[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + labels.sum())
    cuts = np.append(descending[:-1] > descending[1:], False)  # the last row is never needed to be cut in
    best = int(np.where(cuts, f1, -1).argmax())
    return float(descending[best : best + 2].mean())


_KINDS = {"default": _choose_default, "common": _choose_common, "by-label": _choose_by_label}
"""Ways to choose, the simplest first."""


def read_label_thresholds(config: Any) -> np.ndarray | None:
    """Read the thresholds in a saved model's config, shape (labels,); None where it holds none.

    Raises:
        UserError: If what it holds is no probability for every label.
    """
    stored = getattr(config, "label_thresholds", None)
    if stored is None:
        return None
    names = [config.id2label[place] for place in range(len(config.id2label))]
    if not isinstance(stored, Mapping) or stored.keys() != set(names):
        raise UserError(
            f"label_thresholds in the model's config.json: expected one for each label, got {stored!r:.80}"
        )
    for name in names:
        value = stored[name]
        if not isinstance(value, float) or not 0 < value < 1:
            raise UserError(
                f"label_thresholds.{name} in the model's config.json: expected a number above 0 and below 1, "
                f"got {value!r}"
            )
    return np.array([stored[name] for name in names])


def shift_logits(logits: np.ndarray | Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Return logits that are positive where a probability is above its threshold, shape (rows, labels)."""
    from scipy.special import logit

    return np.asarray(logits) - logit(thresholds)


def apply_stored(outputs: Sequence[np.ndarray], config: Any) -> Sequence[np.ndarray]:
    """Return logits that are positive where a row has a label by the thresholds in a saved model's config, if any."""
    thresholds = read_label_thresholds(config)
    return outputs if thresholds is None else list(shift_logits(outputs, thresholds))


def analyse_label_thresholds(
    thresholds: LabelThresholds,
    logits: np.ndarray,
    labels: np.ndarray,
    metrics: Sequence[Metric],
    evaluation: EvaluationConfig,
) -> dict[str, Any]:
    """Judge thresholds on test rows, beside 0.5.

    Args:
        thresholds: Chosen on validation rows.
        logits: Of the test rows, shape (rows, labels).
        labels: 0/1, of the same shape.
        metrics: What is measured, the primary metric first.
        evaluation: Level, resamples and seed of the intervals.

    Returns:
        The key `label_thresholds` of `results.json`: the kind, the scores on validation rows by kind, what the test
        rows show with 0.5 (`default`) and with the thresholds (`chosen`), the difference of the primary metric, the
        share of rows without any label, and sentences on it.
    """
    from startup_llm.evaluation.statistics import compare_models, compute_interval

    answers = {"default": (logits > 0).astype(np.int64), "chosen": (thresholds.shift(logits) > 0).astype(np.int64)}
    models = {
        name: {
            **{metric.name: asdict(compute_interval(metric, labels, decided, evaluation)) for metric in metrics},
            "unlabelled": float((~decided.any(axis=1)).mean()),
        }
        for name, decided in answers.items()
    }
    found: dict[str, Any] = {
        "kind": thresholds.kind,
        "metric": metrics[0].name,
        "validation": dict(thresholds.scores),
        "models": models,
        "unlabelled": float((~(labels > 0).any(axis=1)).mean()),
    }
    if thresholds.kind != "default":
        chosen, default = (_NAMES[thresholds.kind], answers["chosen"]), ("0.5 for every label", answers["default"])
        found["difference"] = asdict(compare_models(metrics[0], labels, chosen, default, evaluation))
    return {**found, "sentences": _describe_thresholds(found, evaluation.confidence_level)}


_NAMES = {"common": "one threshold for all labels", "by-label": "a threshold for each label"}


def _describe_thresholds(found: Mapping[str, Any], level: float) -> list[str]:
    from startup_llm.evaluation.statistics import describe_comparison

    default, chosen = found["models"]["default"], found["models"]["chosen"]
    sentences = []
    if not found["validation"]:
        sentences.append(
            f"every label keeps 0.5: to choose thresholds expected at least {MIN_VALIDATION_ROWS} validation rows "
            "(a larger data.validation_fraction, or data.validation_file)"
        )
    elif found["kind"] == "default":
        sentences.append("every label keeps 0.5: no threshold is better on the validation rows by cross-fitting")
    else:
        sentences.append(f"{describe_comparison(found['difference'], level=level)}; chosen on the validation rows")
    true, now, before = (100 * part["unlabelled"] for part in (found, chosen, default))
    also = "" if found["kind"] == "default" else f" ({before:.1f} % with 0.5)"
    return [*sentences, f"no label: {true:.1f} % of the test rows, {now:.1f} % of the answers{also}"]
