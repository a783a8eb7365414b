"""Metrics as `evaluate.Metric` objects that need no hub, over pure functions that the bootstrap can call often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError, nearest
from startup_llm.evaluation import text_overlap
from startup_llm.tasks.audio import mel_distance, word_errors
from startup_llm.tasks.question_answering import metrics as answer_overlap
from startup_llm.tasks.sentence_similarity import retrieval
from startup_llm.tasks.text_generation.language_modelling import (
    combine_bits_per_byte,
    combine_byte_perplexity,
    combine_loss,
    combine_perplexity,
    count_likelier,
    count_likelihood,
    count_preference,
)
from startup_llm.tasks.token_classification import metrics as entities
from startup_llm.tasks.vision import average_precision

if TYPE_CHECKING:
    import datasets
    import evaluate

Array = np.ndarray


def compute_accuracy(references: Array, predictions: Array) -> float:
    """Return the share of rows whose prediction is right; for multi-label rows, whose every label is right."""
    right = references == predictions
    return float(right.all(axis=1).mean() if right.ndim == 2 else right.mean())


def compute_macro_f1(references: Array, predictions: Array) -> float:
    """Return the unweighted mean of F1 over the classes that occur in either array."""
    true_positive, predicted, actual = _counts(references, predictions)
    present = (predicted + actual) > 0
    return float(np.mean(2 * true_positive[present] / (predicted + actual)[present])) if present.any() else 0.0


def compute_micro_f1(references: Array, predictions: Array) -> float:
    """Return F1 over all label decisions together; multi-label arrays of 0/1, shape (rows, labels)."""
    true_positive, predicted, actual = (counts.sum() for counts in _counts(references, predictions))
    return float(2 * true_positive / (predicted + actual)) if predicted + actual else 0.0


def compute_f1(references: Array, predictions: Array) -> float:
    """Return F1 of class 1, as GLUE's MRPC and QQP use it."""
    both, either = np.sum((references == 1) & (predictions == 1)), np.sum(references == 1) + np.sum(predictions == 1)
    return float(2 * both / either) if either else 0.0


def compute_matthews_correlation(references: Array, predictions: Array) -> float:
    """Return Matthews' correlation for any number of classes (Gorodkin 2004), 0 where it is not defined."""
    true_positive, predicted, actual = (counts.astype(float) for counts in _counts(references, predictions))
    rows = float(len(references))
    covariance = true_positive.sum() * rows - predicted @ actual
    spread = (rows**2 - predicted @ predicted) * (rows**2 - actual @ actual)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def compute_pearson(references: Array, predictions: Array) -> float:
    """Return Pearson's correlation, 0 where an array is constant."""
    if np.ptp(references) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return float(np.corrcoef(references, predictions)[0, 1])


def compute_spearman(references: Array, predictions: Array) -> float:
    """Return Spearman's rank correlation, ties at their mean rank."""
    from scipy.stats import rankdata

    return compute_pearson(rankdata(references), rankdata(predictions))


def compute_mean_squared_error(references: Array, predictions: Array) -> float:
    """Return the mean of the squared differences, in squared units of the target."""
    return float(np.mean((references - predictions) ** 2))


def _counts(references: Array, predictions: Array) -> tuple[Array, Array, Array]:
    """Return per class: true positives, rows predicted as it, rows that are it."""
    if references.ndim == 2:
        return (references * predictions).sum(0), predictions.sum(0), references.sum(0)
    classes = int(max(references.max(), predictions.max())) + 1
    right = references[references == predictions]
    return tuple(np.bincount(a, minlength=classes) for a in (right, predictions, references))  # type: ignore[return-value]


@dataclass(frozen=True)
class MetricFunction:
    """A metric as a function of (references, predictions), each an array or a list with one value per row.

    Attributes:
        compute: The function.
        lower_is_better: Whether it is an error.
        count: For a metric of a whole corpus: from (references, predictions) to what is counted in each row, shape
            (rows, counts). A bootstrap then resamples rows of counts, not rows of data.
        combine: From the counts' sums, shape (counts,), to the metric.
        sign: Returns how the library that counts was set, to be published with the figure.
        prepare: For a metric of a whole corpus whose rows do not add up: from (references, predictions) to the metric
            as a function of row numbers, shape (drawn rows,), of which some may stand several times.
        part: What of a row's value it reads, where values are dicts because metrics of several kinds are measured:
            likelihood or answer.
    """

    compute: Callable[[Any, Any], float]
    lower_is_better: bool = False
    count: Callable[[Any, Any], Array] | None = None
    combine: Callable[[Array], float] | None = None
    sign: Callable[[], str] | None = None
    prepare: Callable[[Any, Any], Callable[[Array], float]] | None = None
    part: str = ""


def additive(
    count: Callable[[Any, Any], Array],
    combine: Callable[[Array], float],
    *,
    lower_is_better: bool = False,
    sign: Callable[[], str] | None = None,
    part: str = "",
) -> MetricFunction:
    """Return a metric of a whole corpus, made from counts that add up over its rows."""

    def compute(references: Sequence[Any], predictions: Sequence[Any]) -> float:
        return float(combine(np.asarray(count(references, predictions), dtype=float).sum(axis=0)))

    compute.__doc__ = combine.__doc__
    return MetricFunction(compute, lower_is_better, count, combine, sign, part=part)


METRICS: dict[str, MetricFunction] = {
    "accuracy": MetricFunction(compute_accuracy),
    "macro_f1": MetricFunction(compute_macro_f1),
    "micro_f1": MetricFunction(compute_micro_f1),
    "f1": MetricFunction(compute_f1),
    "matthews_correlation": MetricFunction(compute_matthews_correlation),
    "pearson": MetricFunction(compute_pearson),
    "spearman": MetricFunction(compute_spearman),
    "mean_squared_error": MetricFunction(compute_mean_squared_error, lower_is_better=True),
    "bleu": additive(text_overlap.count_bleu, text_overlap.combine_bleu, sign=text_overlap.sign_bleu, part="answer"),
    "chrf": additive(text_overlap.count_chrf, text_overlap.combine_chrf, sign=text_overlap.sign_chrf, part="answer"),
    "rouge_1": additive(text_overlap.count_rouge("rouge1"), text_overlap.combine_mean, part="answer"),
    "rouge_2": additive(text_overlap.count_rouge("rouge2"), text_overlap.combine_mean, part="answer"),
    "rouge_l": additive(text_overlap.count_rouge("rougeL"), text_overlap.combine_mean, part="answer"),
    "word_error_rate": additive(word_errors.count_word_errors, word_errors.combine_error_rate, lower_is_better=True),
    "character_error_rate": additive(
        word_errors.count_character_errors, word_errors.combine_error_rate, lower_is_better=True
    ),
    "normalized_word_error_rate": additive(
        word_errors.of_normalized(word_errors.count_word_errors),
        word_errors.combine_error_rate,
        lower_is_better=True,
    ),
    "normalized_character_error_rate": additive(
        word_errors.of_normalized(word_errors.count_character_errors),
        word_errors.combine_error_rate,
        lower_is_better=True,
    ),
    "entity_f1": additive(entities.count_entities, entities.combine_f1),
    "entity_precision": additive(entities.count_entities, entities.combine_precision),
    "entity_recall": additive(entities.count_entities, entities.combine_recall),
    "token_accuracy": additive(entities.count_right_tags, text_overlap.combine_mean),
    "mean_average_precision": MetricFunction(
        average_precision.compute_mean_average_precision, prepare=average_precision.prepare_average_precision
    ),
    "average_precision_50": MetricFunction(
        average_precision.compute_average_precision_50, prepare=average_precision.prepare_average_precision_50
    ),
    "average_recall": MetricFunction(
        average_precision.compute_average_recall, prepare=average_precision.prepare_average_recall
    ),
    "mel_distance": additive(mel_distance.count_mel_distance, mel_distance.combine_mel_distance, lower_is_better=True),
    "squad_f1": additive(
        answer_overlap.count_agreement(answer_overlap.compute_word_f1, with_unanswerable=False),
        text_overlap.combine_mean,
    ),
    "squad_exact_match": additive(
        answer_overlap.count_agreement(answer_overlap.compute_exact, with_unanswerable=False),
        text_overlap.combine_mean,
    ),
    "squad_v2_f1": additive(
        answer_overlap.count_agreement(answer_overlap.compute_word_f1_or_none, with_unanswerable=True),
        text_overlap.combine_mean,
    ),
    "squad_v2_exact_match": additive(
        answer_overlap.count_agreement(answer_overlap.compute_exact, with_unanswerable=True),
        text_overlap.combine_mean,
    ),
    "bits_per_byte": additive(count_likelihood, combine_bits_per_byte, lower_is_better=True, part="likelihood"),
    "loss": additive(count_likelihood, combine_loss, lower_is_better=True, part="likelihood"),
    "perplexity": additive(count_likelihood, combine_perplexity, lower_is_better=True, part="likelihood"),
    "reward_accuracy": additive(count_preference, text_overlap.combine_mean),
    "preference_accuracy": additive(count_likelier, text_overlap.combine_mean),
    "ndcg_at_10": additive(retrieval.count_ndcg(10), retrieval.combine_query_mean),
    "mrr_at_10": additive(retrieval.count_reciprocal_rank(10), retrieval.combine_query_mean),
    "recall_at_10": additive(retrieval.count_recall(10), retrieval.combine_query_mean),
    "recall_at_100": additive(retrieval.count_recall(100), retrieval.combine_query_mean),
    "precision_at_1": additive(retrieval.count_precision(1), retrieval.combine_query_mean),
    "byte_perplexity": additive(count_likelihood, combine_byte_perplexity, lower_is_better=True, part="likelihood"),
}


_SHARE_WORDS = frozenset({"accuracy", "f1", "precision", "recall", "exact", "share", "rate", "ndcg", "mrr"})


def is_share(metric: str) -> bool:
    """Say whether a metric is a share of something and so reads best in percent."""
    return not _SHARE_WORDS.isdisjoint(metric.split("_"))


def rank_metrics(names: tuple[str, ...], decides: str | None) -> tuple[str, ...]:
    """Put the metric that decides first.

    Raises:
        UserError: If it is not one of the task's metrics.
    """
    if decides is None:
        return names
    if decides not in names:
        raise UserError(f"evaluation.decides: {decides} is not measured here; choose one of {', '.join(names)}")
    return (decides, *(name for name in names if name != decides))


def get_metric(name: str) -> MetricFunction:
    """Return a metric's function.

    Raises:
        UserError: If there is no such metric.
    """
    if name not in METRICS:
        raise UserError(f"unknown metric {name}{nearest(name, METRICS) or ';'} metrics: {', '.join(METRICS)}")
    return METRICS[name]


def is_measurable(name: str, predictions: Sequence[Any]) -> bool:
    """Say whether predictions hold what a metric reads: a baseline may write answers, say, and not know how likely."""
    part = get_metric(name).part
    return not (part and isinstance(predictions[0], dict) and part not in predictions[0])


def read_part(name: str, values: Sequence[Any]) -> Sequence[Any]:
    """Return what a metric reads of references or predictions: its own part of each, where they are dicts of parts."""
    part = get_metric(name).part
    return [value[part] for value in values] if part and isinstance(values[0], dict) else values


def score_rows(name: str, references: Sequence[Any], predictions: Sequence[Any]) -> float:
    """Compute a metric through its `evaluate.Metric`, whose features are read off the rows."""
    import datasets

    references, predictions = read_part(name, references), read_part(name, predictions)
    columns = {"predictions": list(predictions), "references": list(references)}
    if isinstance(references, Array):
        kind = "multilabel" if references.ndim == 2 else str(references.dtype)
        return load_metric(name, kind).compute(**columns)[name]
    return _wrap_metric(name, datasets.Dataset.from_dict(columns).features).compute(**columns)[name]


@cache
def load_metric(name: str, kind: str = "int64") -> evaluate.Metric:
    """Return a metric as an `evaluate.Metric`, without the Hub.

    Args:
        name: A key of `METRICS`.
        kind: Type of one value: int64 or float64, string, or `multilabel` for rows of 0/1.
    """
    import datasets

    value = datasets.List(datasets.Value("int64")) if kind == "multilabel" else datasets.Value(kind)
    return _wrap_metric(name, datasets.Features({"predictions": value, "references": value}))


def _wrap_metric(name: str, features: datasets.Features) -> evaluate.Metric:
    import evaluate

    function = get_metric(name).compute
    as_array = not isinstance(features["references"], dict) and get_metric(name).count is None

    class LocalMetric(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo(
                description=function.__doc__ or "",
                citation="",
                inputs_description="predictions and references of the same length",
                features=features,
            )

        def _compute(self, predictions: list, references: list) -> dict[str, float]:
            return {name: function(*(np.asarray(v) if as_array else v for v in (references, predictions)))}

    return LocalMetric(config_name=name, keep_in_memory=True)
