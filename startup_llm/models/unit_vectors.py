"""Vectors at norm 1, whose products are cosines."""

from __future__ import annotations

import numpy as np


def scale_to_norm_one(vectors: np.ndarray) -> np.ndarray:
    """Return vectors at Euclidean norm 1, shape (rows, width); a vector of zeros stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
