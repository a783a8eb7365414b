from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from startup_llm.errors import UserError
from startup_llm.evaluation.metrics import ACCURACY, MACRO_F1, MICRO_F1, load_metric, rank_metrics
from startup_llm.tasks import TASKS, load_task
from startup_llm.tasks.base import find_metric

METRICS = {metric.name: metric for tag in TASKS for metric in load_task(tag).known_metrics}
"""Every metric of every task."""

SINGLE = {
    "accuracy": sklearn.metrics.accuracy_score,
    "macro_f1": lambda y, p: sklearn.metrics.f1_score(y, p, average="macro", zero_division=0),
    "f1": lambda y, p: sklearn.metrics.f1_score(y, p, labels=[1], average="micro", zero_division=0),
    "matthews_correlation": sklearn.metrics.matthews_corrcoef,
}
MULTI = {
    "accuracy": sklearn.metrics.accuracy_score,
    "micro_f1": lambda y, p: sklearn.metrics.f1_score(y, p, average="micro", zero_division=0),
}
NUMBERS = {
    "pearson": lambda y, p: scipy.stats.pearsonr(y, p)[0],
    "spearman": lambda y, p: scipy.stats.spearmanr(y, p)[0],
    "mean_squared_error": sklearn.metrics.mean_squared_error,
}


def assert_equal_on_random_cases(metric, published, draw) -> None:
    compute, generator = METRICS[metric].compute, np.random.default_rng(0)
    for case in range(200):
        references, predictions = draw(generator)
        assert compute(references, predictions) == pytest.approx(published(references, predictions), abs=1e-9), case


def draw_classes(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows of up to 6 classes, some of them missing, predictions right for about half of the rows."""
    rows, classes = generator.integers(1, 30), generator.integers(1, 7)
    references = generator.integers(0, classes, rows)
    return references, np.where(generator.random(rows) < 0.5, references, generator.integers(0, classes, rows))


def draw_labels(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw 0/1 rows of two to five labels, sparse enough for labels that never occur."""
    shape = generator.integers(2, 20), generator.integers(2, 6)
    references = (generator.random(shape) < generator.random()).astype(np.int64)
    return references, np.where(generator.random(shape) < 0.8, references, 1 - references)


def draw_numbers(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw numbers with ties, never constant."""
    rows = generator.integers(3, 30)
    references = np.append(generator.integers(0, 6, rows).astype(float), [-1.0, 7.0])
    return references, np.round(references + generator.normal(0, 2, len(references)), 1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn's, on a single class
@pytest.mark.parametrize("metric", SINGLE)
def test_metric_of_classes_equals_scikit_learn(metric):
    assert_equal_on_random_cases(metric, SINGLE[metric], draw_classes)


@pytest.mark.parametrize("metric", MULTI)
def test_metric_of_several_labels_equals_scikit_learn(metric):
    assert_equal_on_random_cases(metric, MULTI[metric], draw_labels)


def test_macro_f1_of_several_labels_is_the_mean_over_the_labels_that_occur():
    def over_present(references, predictions):
        present = (references + predictions).any(axis=0)
        if not present.any():
            return 0.0
        scores = sklearn.metrics.f1_score(references, predictions, average=None, zero_division=0)
        return scores[present].mean()

    assert_equal_on_random_cases("macro_f1", over_present, draw_labels)


@pytest.mark.parametrize("metric", NUMBERS)
def test_metric_of_numbers_equals_scipy_and_scikit_learn(metric):
    assert_equal_on_random_cases(metric, NUMBERS[metric], draw_numbers)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_correlation_with_a_constant_is_zero(metric):
    constant, rising = np.ones(5), np.arange(5.0)
    assert METRICS[metric].compute(rising, constant) == METRICS[metric].compute(constant, rising) == 0


ERRORS = {
    "mel_distance",
    "word_error_rate",
    "character_error_rate",
    "normalized_word_error_rate",
    "normalized_character_error_rate",
    "mean_squared_error",
    "loss",
    "perplexity",
    "byte_perplexity",
    "bits_per_byte",
}


@pytest.mark.parametrize("metric", METRICS)
def test_only_errors_are_better_when_lower(metric):
    assert METRICS[metric].lower_is_better is (metric in ERRORS)


@pytest.mark.parametrize(
    ("metric", "kind", "references", "predictions", "value"),
    [
        ("accuracy", "int64", [0, 1, 2, 2], [0, 1, 2, 0], 0.75),
        ("f1", "int64", [1, 1, 0, 0], [1, 0, 1, 0], 0.5),
        ("macro_f1", "int64", [0, 0, 1, 1], [0, 0, 1, 0], (0.8 + 2 / 3) / 2),
        ("matthews_correlation", "int64", [1, 1, 0, 0], [1, 0, 0, 0], 1 / 3**0.5),
        ("accuracy", "multilabel", [[1, 0], [1, 1]], [[1, 0], [1, 0]], 0.5),
        ("micro_f1", "multilabel", [[1, 0], [1, 1]], [[1, 0], [1, 0]], 0.8),
        ("macro_f1", "multilabel", [[1, 0], [1, 1]], [[1, 0], [1, 0]], 0.5),
        ("pearson", "float64", [1.0, 2.0, 3.0], [2.0, 4.0, 6.0], 1.0),
        ("spearman", "float64", [1.0, 2.0, 3.0], [1.0, 9.0, 5.0], 0.5),
        ("mean_squared_error", "float64", [1.0, 2.0], [1.0, 4.0], 2.0),
    ],
)
def test_evaluate_metric_gives_a_value_worked_out_by_hand(metric, kind, references, predictions, value):
    result = load_metric(METRICS[metric], kind).compute(references=references, predictions=predictions)
    assert result == {metric: pytest.approx(value)}


def test_evaluate_metric_computes_twice_and_takes_batches():
    metric = load_metric(ACCURACY)
    for _ in range(2):
        metric.add_batch(references=[0, 1], predictions=[0, 0])
        metric.add_batch(references=[1, 1], predictions=[1, 1])
        assert metric.compute() == {"accuracy": 0.75}


def test_evaluate_metrics_are_made_without_any_network():
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k):\n    sys.exit('a metric asked for the network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from startup_llm.evaluation.metrics import ACCURACY, load_metric\n"
        "from startup_llm.tasks import TASKS, load_task\n"
        "metrics = {metric for tag in TASKS for metric in load_task(tag).known_metrics}\n"
        "print([load_metric(metric, 'float64').name for metric in metrics][0])\n"
        "print(load_metric(ACCURACY).compute(references=[1, 0], predictions=[1, 1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("{'accuracy': 0.5}\n")


def test_the_names_of_metrics_are_their_own():
    everything = {metric for tag in TASKS for metric in load_task(tag).known_metrics}
    assert len(everything) == len(METRICS)


def test_an_unknown_metric_is_named_with_the_nearest_and_all_of_the_task():
    task = load_task("text-classification")
    known = ", ".join(metric.name for metric in task.known_metrics)
    with pytest.raises(UserError) as caught:
        find_metric(task, "acuracy")
    assert str(caught.value) == f"unknown metric acuracy; did you mean accuracy? text-classification has {known}"
    with pytest.raises(UserError) as caught:
        find_metric(task, "rouge_l")
    assert str(caught.value) == f"unknown metric rouge_l; text-classification has {known}"
    assert find_metric(task, "accuracy") is ACCURACY


def test_the_primary_metric_comes_first_and_has_to_be_measured():
    assert rank_metrics((ACCURACY, MACRO_F1), None) == (ACCURACY, MACRO_F1)
    assert rank_metrics((ACCURACY, MACRO_F1), "macro_f1") == (MACRO_F1, ACCURACY)
    with pytest.raises(UserError, match="bleu is not measured here; choose one of accuracy, macro_f1"):
        rank_metrics((ACCURACY, MACRO_F1), "bleu")


@pytest.mark.parametrize(
    ("metric", "shape"),
    [(ACCURACY, (40,)), (ACCURACY, (40, 6)), (MACRO_F1, (40,)), (MACRO_F1, (40, 6)), (MICRO_F1, (40, 6))],
)
def test_a_metric_of_drawn_rows_is_that_of_the_rows_themselves(metric, shape):
    generator = np.random.default_rng(0)
    true, predicted = generator.integers(0, 2 if len(shape) > 1 else 5, (2, *shape))
    counts = metric.tally(true, predicted)
    for rows in generator.integers(0, 40, (20, 40)):
        assert metric.combine(counts[rows].sum(axis=0)) == metric.compute(true[rows], predicted[rows])
