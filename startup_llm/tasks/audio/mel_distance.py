"""How far a synthesised spectrogram is from a recorded one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def count_mel_distance(references: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """Return for each row the distance along the best alignment, and its steps; shape (rows, 2).

    Frames are aligned by dynamic time warping (Sakoe & Chiba 1978), so that speaking faster costs nothing by itself.

    Args:
        references: Spectrograms, each (frames, bands): log10 of magnitudes.
        predictions: The same, of other numbers of frames.
    """
    return np.array([_align(np.asarray(a), np.asarray(b)) for a, b in zip(references, predictions, strict=True)])


def combine_mel_distance(sums: np.ndarray) -> float:
    """Return the mean absolute difference of aligned frames, over the bands, in decibels.

    An average of recordings is nearer to each than they are to one another: less need not sound more natural.
    """
    return sums[0] / sums[1]


def _align(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return the least sum of differences over a path that advances one frame in either or both, and its length."""
    cost = 20 * np.abs(a[:, None] - b[None]).mean(axis=2)  # (frames of a, frames of b), decibels
    best = np.full((len(a) + 1, len(b) + 1), np.inf)
    steps = np.zeros_like(best)
    best[0, 0] = 0
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            before = min((i - 1, j - 1), (i - 1, j), (i, j - 1), key=best.__getitem__)
            best[i, j] = best[before] + cost[i - 1, j - 1]
            steps[i, j] = steps[before] + 1
    return float(best[-1, -1]), float(steps[-1, -1])
