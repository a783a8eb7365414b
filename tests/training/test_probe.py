from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression, Ridge

from startup_llm.training.probe import INVERSE_REGULARISATION, compute_feature_norm, fit_linear_probe, write_head

SINGLE, MULTI, NUMBER = "single_label_classification", "multi_label_classification", "regression"


@pytest.fixture
def features() -> np.ndarray:
    """Sixty vectors of width 8, far from norm 1."""
    return np.random.default_rng(0).normal(0, 20, (60, 8)).astype(np.float32)


def logistic(features: np.ndarray, labels: np.ndarray, intercept: bool = True) -> LogisticRegression:
    scaled = features / compute_feature_norm(features)
    return LogisticRegression(C=INVERSE_REGULARISATION, fit_intercept=intercept, max_iter=1000).fit(scaled, labels)


def test_feature_norm_is_the_root_mean_square_of_the_norms():
    assert compute_feature_norm(np.array([[3.0, 4.0], [0.0, 0.0]])) == pytest.approx((25 / 2) ** 0.5)
    assert compute_feature_norm(np.zeros((2, 3))) == 1


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("classes", [2, 4])
def test_softmax_over_the_probes_logits_is_the_logistic_regression_on_scaled_features(features, classes, intercept):
    labels = (features[:, 0] > 0).astype(int) + (features[:, 1] > 0) * 2 * (classes == 4)
    weight, bias = fit_linear_probe(features, labels, SINGLE, classes=classes, intercept=intercept)
    expected = logistic(features, labels, intercept).predict_proba(features / compute_feature_norm(features))
    np.testing.assert_allclose(softmax(features @ weight.T + bias, axis=1), expected, atol=1e-6)
    assert bias.any() == intercept


def test_probe_gives_the_same_logits_whatever_the_scale_of_the_features(features):
    labels = (features[:, 0] > 0).astype(int)
    weight, bias = fit_linear_probe(features, labels, SINGLE, classes=2, intercept=True)
    smaller, other = fit_linear_probe(features / 100, labels, SINGLE, classes=2, intercept=True)
    np.testing.assert_allclose(features @ weight.T + bias, features / 100 @ smaller.T + other, atol=1e-2)


def test_each_of_several_labels_has_a_logistic_regression_of_its_own(features):
    labels = np.stack([features[:, 0] > 0, features[:, 1] > 10], axis=1).astype(np.int64)
    weight, bias = fit_linear_probe(features, labels, MULTI, classes=2, intercept=True)
    scaled = features / compute_feature_norm(features)
    expected = [logistic(features, labels[:, label]).predict_proba(scaled)[:, 1] for label in range(2)]
    np.testing.assert_allclose(expit(features @ weight.T + bias), np.stack(expected, axis=1), atol=1e-6)


def test_label_that_every_row_or_none_has_is_predicted_for_all(features):
    labels = np.stack([np.ones(60), np.zeros(60), features[:, 0] > 0], axis=1).astype(np.int64)
    weight, bias = fit_linear_probe(features, labels, MULTI, classes=3, intercept=True)
    assert not weight[:2].any()
    assert bias[:2].tolist() == [5, -5]


def test_number_is_fitted_by_ridge_regression(features):
    target = features @ np.arange(8.0) + 3
    weight, bias = fit_linear_probe(features, target, NUMBER, classes=1, intercept=True)
    scaled = features / compute_feature_norm(features)
    expected = Ridge(alpha=1 / INVERSE_REGULARISATION).fit(scaled, target).predict(scaled)
    np.testing.assert_allclose((features @ weight.T + bias)[:, 0], expected, rtol=1e-5)


def test_written_head_gives_the_probes_logits(features):
    weight, bias = np.ones((3, 8)) * 0.5, np.array([1.0, 2.0, 3.0])
    head = torch.nn.Linear(8, 3)
    write_head(head, weight, bias)
    with torch.inference_mode():
        np.testing.assert_allclose(head(torch.from_numpy(features)), features @ weight.T + bias, rtol=1e-5)


def test_head_without_a_bias_takes_the_weights_alone(features):
    head = torch.nn.Linear(8, 3, bias=False)
    write_head(head, np.full((3, 8), 0.5), np.zeros(3))
    assert (head.weight == 0.5).all()


@pytest.mark.parametrize("classes_given", [2, 3])
def test_class_without_training_rows_is_never_predicted(features, classes_given):
    """Each of the given classes keeps its own place."""
    labels = np.array([0, 2, 4])[np.arange(60) % classes_given]
    weight, bias = fit_linear_probe(features, labels, SINGLE, classes=5, intercept=True)
    predicted = (features @ weight.T + bias).argmax(axis=1)
    assert set(predicted.tolist()) <= set(labels.tolist())
