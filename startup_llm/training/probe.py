"""The linear probe: a linear model on frozen features, a model of its own and the start of fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn

INVERSE_REGULARISATION = 10.0
"""C of the logistic regression, for features scaled to norm 1."""


def fit_linear_probe(
    features: np.ndarray,
    labels: np.ndarray,
    problem_type: str,
    *,
    classes: int,
    intercept: bool,
    balanced: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a linear model on features: logistic regression, one per label for several labels, ridge for a number.

    Args:
        features: Shape (rows, width).
        labels: Class ids, 0/1 rows, or floats.
        problem_type: As `PretrainedConfig.problem_type`.
        classes: Number of outputs.
        intercept: Whether the output layer has a bias.
        balanced: Whether every class has the same weight, whatever its rows; of several labels, both answers of each.

    Returns:
        Weights, shape (classes, width), and biases, shape (classes,), for the features as they were given.
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    scale = compute_feature_norm(features)
    scaled = features / scale

    def fit(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights = "balanced" if balanced else None
        model = LogisticRegression(
            C=INVERSE_REGULARISATION, class_weight=weights, fit_intercept=intercept, max_iter=1000
        )
        model.fit(scaled, target)
        return model.coef_, np.broadcast_to(model.intercept_, (len(model.coef_),))

    weight, bias = np.zeros((classes, features.shape[1])), np.zeros(classes)
    if problem_type == "regression":
        ridge = Ridge(alpha=1 / INVERSE_REGULARISATION, fit_intercept=intercept).fit(scaled, labels)
        weight[0], bias[0] = ridge.coef_, ridge.intercept_
    elif problem_type == "multi_label_classification":
        for label in range(classes):
            if 0 < labels[:, label].sum() < len(labels):
                weight[label : label + 1], bias[label : label + 1] = fit(labels[:, label])
            else:
                bias[label] = 5.0 if labels[:, label].any() else -5.0
    else:
        coefficients, offsets = fit(labels)
        if len(coefficients) == 1:  # two classes: one logit, halved onto both sides
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            offsets = np.concatenate([-offsets, offsets]) / 2
        weight[np.unique(labels)], bias[np.unique(labels)] = coefficients, offsets
    return weight / scale, bias


def compute_feature_norm(features: np.ndarray) -> float:
    """Return the root mean square of the rows' Euclidean norms."""
    return float(np.sqrt((features.astype(np.float64) ** 2).sum(axis=1).mean())) or 1.0


def write_head(output_layer: nn.Linear, weight: np.ndarray, bias: np.ndarray) -> None:
    """Put a probe's weights into a model's output layer."""
    import torch

    with torch.no_grad():
        output_layer.weight.copy_(torch.from_numpy(weight))
        if output_layer.bias is not None:
            output_layer.bias.copy_(torch.from_numpy(bias))
