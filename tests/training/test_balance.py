"""Classes of very different size: what they weigh in the loss, how often they are drawn, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from startup_llm.config import EvaluationConfig
from startup_llm.data.batching import LengthGroupedSampler
from startup_llm.data.label_balance import compute_class_weights, count_training_labels
from startup_llm.data.task_data import TaskData
from startup_llm.errors import UserError
from startup_llm.tasks import load_task
from startup_llm.training.balance import (
    ProbedRows,
    build_weighted_loss,
    check_balance,
    compute_row_weights,
    measure_balance,
)

SINGLE, MULTI = "single_label_classification", "multi_label_classification"


def build_rows(labels: list, problem_type: str, names: tuple[str, ...] = ("a", "b", "c")) -> TaskData:
    feature = datasets.List(datasets.Value("float32")) if problem_type == MULTI else datasets.Value("int64")
    features = datasets.Features({"label": feature})
    split = datasets.Dataset.from_dict({"label": labels}, features=features)
    return TaskData(datasets.DatasetDict(train=split, test=split), names, problem_type)


SKEWED = build_rows([0] * 12 + [1] * 6 + [2], SINGLE)
SEVERAL = build_rows([[1, 0, 0]] * 6 + [[1, 1, 0]] * 2 + [[0, 0, 1]] + [[0, 0, 0]], MULTI)


def test_classes_are_weighted_as_scikit_learn_does():
    weights = compute_class_weights(np.array([12, 6, 1]))
    labels = np.asarray(SKEWED.splits["train"]["label"])
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=labels))
    assert weights[labels].mean() == pytest.approx(1)
    assert compute_class_weights(np.array([4, 0])).tolist() == [1, 0]


def test_the_weighted_loss_of_all_rows_is_torchs_own():
    logits, labels = torch.randn(19, 3), torch.tensor(SKEWED.splits["train"]["label"])
    terms = build_weighted_loss(SKEWED).compute_terms(logits, labels)
    weight = torch.tensor(compute_class_weights(np.array([12, 6, 1])), dtype=torch.float32)
    torch.testing.assert_close(terms.mean(), functional.cross_entropy(logits, labels, weight=weight))


def test_of_several_labels_both_answers_have_half_of_each_labels_loss():
    labels = torch.tensor(SEVERAL.splits["train"]["label"])
    terms = build_weighted_loss(SEVERAL).compute_terms(torch.zeros(labels.shape), labels)
    np.testing.assert_allclose((terms * labels).sum(0), (terms * (1 - labels)).sum(0), rtol=1e-5)
    torch.testing.assert_close(terms.mean(), functional.binary_cross_entropy_with_logits(labels * 0, labels))


def test_every_class_is_drawn_as_often_and_the_same_again():
    weights = compute_row_weights(SKEWED)
    sampler = LengthGroupedSampler(np.ones(19 * 100, dtype=int), 4, 0, row_weights=np.tile(weights, 100))
    labels = np.tile(np.asarray(SKEWED.splits["train"]["label"]), 100)
    drawn = list(sampler)
    shares = np.bincount(labels[drawn], minlength=3) / len(drawn)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.05)
    assert drawn == list(sampler)
    sampler.set_epoch(1)
    assert drawn != list(sampler)


def test_a_row_of_several_labels_is_drawn_by_its_rarest_one_and_one_without_as_a_class_of_its_own():
    weights = compute_row_weights(SEVERAL)
    assert weights[0] < weights[6] < weights[8] == weights[9]


def test_labels_are_counted_with_the_rows_that_have_none():
    counted = count_training_labels(SEVERAL)
    assert counted is not None
    assert (counted.counts.tolist(), counted.unlabelled, counted.ratio) == ([8, 2, 1], 1, 8)
    assert counted.describe() == "8 training rows of 'a', 1 of 'c'"
    assert count_training_labels(build_rows([1], SINGLE, ())) is None


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
def test_the_effect_of_weights_is_measured_on_validation_rows(problem_type):
    rng = np.random.default_rng(0)

    def draw(rows: int) -> ProbedRows:
        labels = (rng.random(rows) < 0.05).astype(int)
        features = rng.normal(0, 1, (rows, 4)) + 1.2 * labels[:, None]
        return ProbedRows(features, labels if problem_type == SINGLE else np.stack([labels, 1 - labels], axis=1))

    effect = measure_balance(draw(600), draw(300), problem_type, True, EvaluationConfig(resamples=50))
    assert effect["weights"] - effect["none"] == pytest.approx(effect["difference"]["value"])
    assert ("tuned" in effect) == (problem_type == MULTI)
    assert (effect["rows"], effect["validation_rows"]) == (600, 300)


@pytest.mark.parametrize(
    ("data", "method", "smoothing", "message"),
    [
        (build_rows([0, 1], "regression", ()), "lora", 0, "expected classes, got regression"),
        (SKEWED, "zero-shot", 0, "--method zero-shot learns from no row"),
        (SKEWED, "lora", 0.1, "train.label_smoothing_factor 0.1 make one loss in two ways"),
    ],
)
def test_what_cannot_be_balanced_is_refused(data, method, smoothing, message):
    prepared = SimpleNamespace(data=data, task=load_task("text-classification"))
    with pytest.raises(UserError, match=message):
        check_balance("weights", method, smoothing, prepared)
    check_balance("none", method, smoothing, prepared)


def test_macro_f1_is_primary_where_a_class_is_over_ten_times_as_large_as_another():
    task = load_task("text-classification")
    assert task.metrics(SKEWED)[0].name == "macro_f1"
    assert task.metrics(build_rows([0] * 10 + [1], SINGLE, ("a", "b")))[0].name == "accuracy"
    assert task.metrics(SEVERAL)[0].name == "micro_f1"
    assert load_task("image-classification").metrics(SKEWED)[0].name == "macro_f1"
