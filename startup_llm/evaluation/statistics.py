"""How sure a figure is: bootstrap intervals, and paired tests on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from startup_llm.evaluation.metrics import ACCURACY, Metric, Values, is_right, is_share

if TYPE_CHECKING:
    from startup_llm.config import EvaluationConfig

Array = np.ndarray
Outcome = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Model `a` against model `b` on the same rows; `difference` is a's metric minus b's."""

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    test: str


def compute_interval(
    metric: Metric, references: Values, predictions: Values, evaluation: EvaluationConfig
) -> Interval:
    """Bootstrap a metric over the rows (percentile method, Efron 1979).

    Args:
        metric: The metric.
        references: True values: an array, shape (rows,) or (rows, labels), or a list with one value per row.
        predictions: Predictions of the same form.
        evaluation: Level, resamples and seed.
    """
    compute = _resample(metric, references, predictions)
    low, high, _ = _bootstrap(compute, len(references), evaluation)
    return Interval(float(compute(np.arange(len(references))[None])[0]), low, high)


def compare_models(
    metric: Metric,
    references: Values,
    a: tuple[str, Values],
    b: tuple[str, Values],
    evaluation: EvaluationConfig,
) -> Comparison:
    """Test whether two models differ on the same rows.

    Accuracy is tested by the exact McNemar test (McNemar 1947): among the rows that one model has right and the other
    wrong, each side is as likely under the null hypothesis. Other metrics are tested by the paired bootstrap: twice
    the smaller share of resamples on either side of no difference.

    Args:
        metric: The metric.
        references: True values.
        a: Name and predictions of the first model.
        b: Name and predictions of the second.
        evaluation: Level, resamples and seed.
    """
    (name_a, predictions_a), (name_b, predictions_b) = a, b
    compute_a, compute_b = (_resample(metric, references, values) for values in (predictions_a, predictions_b))

    def difference(draws: Array) -> Array:
        return compute_a(draws) - compute_b(draws)

    low, high, distribution = _bootstrap(difference, len(references), evaluation)
    if metric == ACCURACY:
        p_value, test = compute_mcnemar(*map(np.asarray, (references, predictions_a, predictions_b))), "exact McNemar"
    else:
        below, above = np.sum(distribution <= 0) + 1, np.sum(distribution >= 0) + 1
        p_value, test = min(1.0, 2 * min(below, above) / (len(distribution) + 1)), "paired bootstrap"
    observed = difference(np.arange(len(references))[None])[0]
    return Comparison(name_a, name_b, metric.name, float(observed), low, high, float(p_value), test)


def compute_mcnemar(references: Array, predictions_a: Array, predictions_b: Array) -> float:
    """Return the two-sided p-value of the exact McNemar test; 1.0 where the models are right on the same rows."""
    from scipy.stats import binomtest

    right_a, right_b = (is_right(references, predictions) for predictions in (predictions_a, predictions_b))
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(~right_a & right_b))
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def judge_comparison(comparison: Mapping[str, Any], *, lower_is_better: bool = False, level: float = 0.95) -> Outcome:
    """Say whether a is shown to be better or worse than b.

    A difference counts as shown when its interval leaves out zero and its p-value, where there is one, is below what
    the interval's level leaves (0.05 for 95 %).

    Args:
        comparison: A `Comparison` as plain data.
        lower_is_better: Whether the metric is an error.
        level: Level of the interval.
    """
    p_value = comparison.get("p_value")
    if comparison["low"] <= 0 <= comparison["high"] or (p_value is not None and p_value >= 1 - level):
        return "undecided"
    return "better" if (comparison["difference"] > 0) != lower_is_better else "worse"


def describe_comparison(comparison: Mapping[str, Any], *, lower_is_better: bool = False, level: float = 0.95) -> str:
    """Say a comparison in one sentence, as plainly when it is lost as when it is won.

    The figures are the gain of a over b: shares in points, other metrics in their own unit; an error gains by falling.
    """
    metric, sign = comparison["metric"], -1 if lower_is_better else 1
    scale, digits = (100, ".1f") if is_share(metric) else (1, ".3g")
    unit = "points" if metric == "accuracy" else f"points of {metric}" if is_share(metric) else metric
    gain, low, high = (sign * scale * comparison[key] for key in ("difference", "low", "high"))
    evidence = f"{100 * level:g} % {min(low, high):{digits}} to {max(low, high):{digits}}"
    if (p_value := comparison.get("p_value")) is not None:
        evidence += ", p < 0.001" if p_value < 0.001 else f", p = {p_value:.3f}"
    a, b = comparison["a"], comparison["b"]
    outcome = judge_comparison(comparison, lower_is_better=lower_is_better, level=level)
    if outcome == "undecided":
        return f"{a} does not beat {b}: {gain:+{digits}} {unit} ({evidence})"
    return f"{a} {'beats' if outcome == 'better' else 'loses to'} {b} by {abs(gain):{digits}} {unit} ({evidence})"


def _resample(metric: Metric, references: Values, predictions: Values) -> Callable[[Array], Array]:
    """Return the metric of each draw as a function of the draws' row numbers, shape (draws, rows), to (draws,)."""
    references, predictions = metric.read_part(references), metric.read_part(predictions)
    if metric.prepare is not None:
        return _measure_each(metric.prepare(references, predictions))
    if metric.tally is not None and metric.combine is not None:
        return _measure_sums(metric.tally(np.asarray(references), np.asarray(predictions)), metric.combine)
    if metric.count is None or metric.combine is None:
        true, predicted = np.asarray(references), np.asarray(predictions)
        return _measure_each(lambda rows: metric.compute(true[rows], predicted[rows]))
    counts, combine = np.asarray(metric.count(references, predictions), dtype=float), metric.combine
    if np.array_equal(counts, np.rint(counts)):
        return _measure_sums(counts, combine)
    return _measure_each(lambda rows: float(combine(counts[rows].sum(axis=0))))


def _measure_each(statistic: Callable[[Array], float]) -> Callable[[Array], Array]:
    return lambda draws: np.array([statistic(rows) for rows in draws], dtype=float)


def _measure_sums(counts: Any, combine: Callable[[Array], float]) -> Callable[[Array], Array]:
    """Measure draws by the sums of counts per row, shape (rows, counts): whole numbers, which add up in any order."""
    rows = counts.shape[0]

    def measure(draws: Array) -> Array:
        values = []
        for start in range(0, len(draws), step := max(1, _DRAWN_AT_ONCE // rows)):
            part = draws[start : start + step]
            cells = (part + rows * np.arange(len(part))[:, None]).ravel()
            times = np.bincount(cells, minlength=len(part) * rows).reshape(len(part), rows)  # that each row is drawn
            values += [combine(sums) for sums in times.astype(float) @ counts]
        return np.array(values, dtype=float)

    return measure


_DRAWN_AT_ONCE = 1 << 20
"""How many row numbers are counted at once, which bounds the memory."""


def bootstrap_rows(
    statistic: Callable[[Array], float], rows: int, evaluation: EvaluationConfig
) -> tuple[float, float, Array]:
    """Return low, high and the distribution of `statistic(row numbers)` over resamples of the rows."""
    return _bootstrap(_measure_each(statistic), rows, evaluation)


def bootstrap_groups(statistic, groups: Array, evaluation: EvaluationConfig) -> tuple[float, float, Array]:
    """Do as `bootstrap_rows` where values of one row are no draws of their own: a row is drawn with all of its values.

    Args:
        statistic: From the indices of values to a figure.
        groups: The row of each value, shape (values,).
        evaluation: Level, resamples and seed.
    """
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    if len(members) == len(groups):
        return bootstrap_rows(statistic, len(groups), evaluation)
    return bootstrap_rows(
        lambda chosen: statistic(np.concatenate([members[place] for place in chosen])), len(members), evaluation
    )


def _bootstrap(
    measure: Callable[[Array], Array], rows: int, evaluation: EvaluationConfig
) -> tuple[float, float, Array]:
    from scipy.stats import bootstrap

    result = bootstrap(
        (np.arange(rows),),
        lambda draws, axis: measure(draws),
        vectorized=True,
        method="percentile",
        n_resamples=evaluation.resamples,
        confidence_level=evaluation.confidence_level,
        rng=np.random.default_rng(evaluation.seed),
    )
    low, high = result.confidence_interval
    return float(low), float(high), result.bootstrap_distribution
