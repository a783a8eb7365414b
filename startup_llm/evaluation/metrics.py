"""What a metric is, and the metrics that several tasks share.

A task's own metrics are defined beside it, in the `metrics` module of its folder. Each metric is a pure function that
the bootstrap can call often, and an `evaluate.Metric` that needs no Hub.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.evaluation import text_overlap

if TYPE_CHECKING:
    import datasets
    import evaluate
    from scipy.sparse import csr_array

Array = np.ndarray
Values = Sequence[Any] | Array
"""References or predictions: one value per row."""


@dataclass(frozen=True)
class Metric:
    """A metric of (references, predictions), each an array or a list with one value per row.

    Attributes:
        name: What results and configs call it.
        compute: From references and predictions to the metric.
        lower_is_better: Whether it is an error.
        count: For a metric of a whole corpus: from (references, predictions) to what is counted in each row, shape
            (rows, counts). A bootstrap then resamples rows of counts, not rows of data.
        tally: For a metric of arrays, made from whole numbers: from (references, predictions) to what is counted
            in each row, a sparse array, shape (rows, counts). A bootstrap then sums the counts of all draws at once.
        combine: From the sums of either, shape (counts,), to the metric.
        sign: Returns how the library that counts was set, to be published with the figure.
        prepare: For a metric of a whole corpus whose rows do not add up: from (references, predictions) to the metric
            as a function of row numbers, shape (drawn rows,), of which some may stand several times.
        part: What of a row's value it reads, where values are dicts because metrics of several kinds are measured:
            likelihood or answer.
        relative: Whether it compares with the model before training, and so needs that one.
    """

    name: str
    compute: Callable[[Any, Any], float]
    lower_is_better: bool = False
    count: Callable[[Any, Any], Array] | None = None
    tally: Callable[[Array, Array], csr_array] | None = None
    combine: Callable[[Array], float] | None = None
    sign: Callable[[], str] | None = None
    prepare: Callable[[Any, Any], Callable[[Array], float]] | None = None
    part: str = ""
    relative: bool = False

    def is_measurable(self, predictions: Values) -> bool:
        """Return whether predictions hold what the metric reads: a baseline may give answers without likelihoods."""
        return not (self.part and isinstance(predictions[0], dict) and self.part not in predictions[0])

    def read_part(self, values: Values) -> Values:
        """Return what the metric reads of references or predictions: its part of each, where they are dicts."""
        return [value[self.part] for value in values] if self.part and isinstance(values[0], dict) else values


def additive(
    name: str,
    count: Callable[[Any, Any], Array],
    combine: Callable[[Array], float],
    *,
    lower_is_better: bool = False,
    sign: Callable[[], str] | None = None,
    part: str = "",
    relative: bool = False,
) -> Metric:
    """Return a metric of a whole corpus, made from counts that add up over its rows."""

    def compute(references: Sequence[Any], predictions: Sequence[Any]) -> float:
        return float(combine(np.asarray(count(references, predictions), dtype=float).sum(axis=0)))

    compute.__doc__ = combine.__doc__
    return Metric(name, compute, lower_is_better, count, combine=combine, sign=sign, part=part, relative=relative)


def compute_accuracy(references: Array, predictions: Array) -> float:
    """Return the share of rows whose prediction is right; for multi-label rows, whose every label is right."""
    return float(is_right(references, predictions).mean())


def compute_macro_f1(references: Array, predictions: Array) -> float:
    """Return the unweighted mean of F1 over the classes that occur in either array."""
    return combine_macro_f1(_counts(references, predictions))


def compute_micro_f1(references: Array, predictions: Array) -> float:
    """Return F1 over all label decisions together; multi-label arrays of 0/1, shape (rows, labels)."""
    return combine_micro_f1(_counts(references, predictions))


def compute_f1(references: Array, predictions: Array) -> float:
    """Return F1 of class 1, as GLUE's MRPC and QQP use it."""
    both, either = np.sum((references == 1) & (predictions == 1)), np.sum(references == 1) + np.sum(predictions == 1)
    return float(2 * both / either) if either else 0.0


def compute_matthews_correlation(references: Array, predictions: Array) -> float:
    """Return Matthews' correlation for any number of classes (Gorodkin 2004), 0 where it is not defined."""
    return combine_matthews_correlation(_counts(references, predictions))


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


def is_right(references: Array, predictions: Array) -> Array:
    """Return for each row whether its prediction is right, in every label where there are several, shape (rows,)."""
    right = np.asarray(references) == np.asarray(predictions)
    return right.all(axis=1) if right.ndim == 2 else right


def _counts(references: Array, predictions: Array) -> Array:
    """Return per class: true positives, rows predicted as it, rows that are it; shape (3 * classes,)."""
    if references.ndim == 2:
        return np.concatenate([(references * predictions).sum(0), predictions.sum(0), references.sum(0)])
    classes = int(max(references.max(), predictions.max())) + 1
    right = references[references == predictions]
    return np.concatenate([np.bincount(a, minlength=classes) for a in (right, predictions, references)])


def tally_classes(references: Array, predictions: Array) -> csr_array:
    """Return each row's share of `_counts`, shape (rows, 3 * classes)."""
    from scipy.sparse import csr_array, hstack

    if references.ndim == 1:
        rows = np.arange(len(references))
        shape = len(rows), int(max(references.max(), predictions.max())) + 1
        true, predicted = (csr_array((np.ones(len(rows)), (rows, a)), shape) for a in (references, predictions))
    else:
        true, predicted = csr_array(references.astype(float)), csr_array(predictions.astype(float))
    return hstack([true.multiply(predicted), predicted, true], format="csr")


def tally_right(references: Array, predictions: Array) -> csr_array:
    """Return for each row whether it is right, and 1, shape (rows, 2)."""
    from scipy.sparse import csr_array

    right = is_right(references, predictions)
    return csr_array(np.stack([right, np.ones_like(right)], axis=1).astype(float))


def combine_right(sums: Array) -> float:
    """Return the share of right rows of the sums of `tally_right`."""
    return float(sums[0] / sums[1])


def combine_macro_f1(counts: Array) -> float:
    """Return macro-F1 of `_counts`."""
    true_positive, predicted, actual = counts.reshape(3, -1)
    present = (predicted + actual) > 0
    return float(np.mean(2 * true_positive[present] / (predicted + actual)[present])) if present.any() else 0.0


def combine_micro_f1(counts: Array) -> float:
    """Return micro-F1 of `_counts`."""
    true_positive, predicted, actual = counts.reshape(3, -1).sum(axis=1)
    return float(2 * true_positive / (predicted + actual)) if predicted + actual else 0.0


def combine_matthews_correlation(counts: Array) -> float:
    """Return Matthews' correlation of `_counts` of rows with one label each."""
    true_positive, predicted, actual = counts.reshape(3, -1).astype(float)
    rows = actual.sum()
    covariance = true_positive.sum() * rows - predicted @ actual
    spread = (rows**2 - predicted @ predicted) * (rows**2 - actual @ actual)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


ACCURACY = Metric("accuracy", compute_accuracy, tally=tally_right, combine=combine_right)
MACRO_F1 = Metric("macro_f1", compute_macro_f1, tally=tally_classes, combine=combine_macro_f1)
MICRO_F1 = Metric("micro_f1", compute_micro_f1, tally=tally_classes, combine=combine_micro_f1)
F1 = Metric("f1", compute_f1)
MATTHEWS_CORRELATION = Metric(
    "matthews_correlation", compute_matthews_correlation, tally=tally_classes, combine=combine_matthews_correlation
)
PEARSON = Metric("pearson", compute_pearson)
SPEARMAN = Metric("spearman", compute_spearman)
MEAN_SQUARED_ERROR = Metric("mean_squared_error", compute_mean_squared_error, lower_is_better=True)
BLEU = additive("bleu", text_overlap.count_bleu, text_overlap.combine_bleu, sign=text_overlap.sign_bleu, part="answer")
CHRF = additive("chrf", text_overlap.count_chrf, text_overlap.combine_chrf, sign=text_overlap.sign_chrf, part="answer")
ROUGE_1 = additive("rouge_1", text_overlap.count_rouge("rouge1"), text_overlap.combine_mean, part="answer")
ROUGE_2 = additive("rouge_2", text_overlap.count_rouge("rouge2"), text_overlap.combine_mean, part="answer")
ROUGE_L = additive("rouge_l", text_overlap.count_rouge("rougeL"), text_overlap.combine_mean, part="answer")
EXACT_MATCH = additive(
    "exact_match", text_overlap.count_answers(text_overlap.compute_exact), text_overlap.combine_mean, part="answer"
)
WORD_F1 = additive(
    "word_f1", text_overlap.count_answers(text_overlap.compute_word_f1), text_overlap.combine_mean, part="answer"
)


_SHARE_WORDS = frozenset({"accuracy", "f1", "precision", "recall", "exact", "share", "rate", "ndcg", "mrr"})


def is_share(metric: str) -> bool:
    """Say whether a metric is a share of something and so reads best in percent."""
    return not _SHARE_WORDS.isdisjoint(metric.split("_"))


def rank_metrics(metrics: Sequence[Metric], decides: str | None) -> tuple[Metric, ...]:
    """Put the primary metric first.

    Args:
        metrics: What is measured.
        decides: Name of the primary metric; None for the first.

    Raises:
        UserError: If it is not one of the metrics.
    """
    if decides is None:
        return tuple(metrics)
    names = [metric.name for metric in metrics]
    if decides not in names:
        raise UserError(f"evaluation.decides: {decides} is not measured here; choose one of {', '.join(names)}")
    primary = metrics[names.index(decides)]
    return (primary, *(metric for metric in metrics if metric is not primary))


def score_rows(metric: Metric, references: Values, predictions: Values) -> float:
    """Compute a metric through its `evaluate.Metric`, whose features are read off the rows."""
    import datasets

    references, predictions = metric.read_part(references), metric.read_part(predictions)
    columns = {"predictions": list(predictions), "references": list(references)}
    if isinstance(references, Array):
        kind = "multilabel" if references.ndim == 2 else str(references.dtype)
        return load_metric(metric, kind).compute(**columns)[metric.name]
    return _wrap_metric(metric, datasets.Dataset.from_dict(columns).features).compute(**columns)[metric.name]


@cache
def load_metric(metric: Metric, kind: str = "int64") -> evaluate.Metric:
    """Return a metric as an `evaluate.Metric`, without the Hub.

    Args:
        metric: The metric.
        kind: Type of one value: int64 or float64, string, or `multilabel` for rows of 0/1.
    """
    import datasets

    value = datasets.List(datasets.Value("int64")) if kind == "multilabel" else datasets.Value(kind)
    return _wrap_metric(metric, datasets.Features({"predictions": value, "references": value}))


def _wrap_metric(metric: Metric, features: datasets.Features) -> evaluate.Metric:
    import evaluate

    as_array = not isinstance(features["references"], dict) and metric.count is None

    class LocalMetric(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo(
                description=metric.compute.__doc__ or "",
                citation="",
                inputs_description="predictions and references of the same length",
                features=features,
            )

        def _compute(self, predictions: list, references: list) -> dict[str, float]:
            values = (np.asarray(v) if as_array else v for v in (references, predictions))
            return {metric.name: metric.compute(*values)}

    return LocalMetric(config_name=metric.name, keep_in_memory=True)
