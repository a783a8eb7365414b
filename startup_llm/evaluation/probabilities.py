"""From logits to probabilities, by numpy alone: an exported model answers without SciPy."""

from __future__ import annotations

import numpy as np


def compute_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, in the type of the logits."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def compute_logistic(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)) without overflow, in the type of the logits."""
    return np.exp(-np.logaddexp(0, -logits))
