"""Batches of bounded size whose rows are of like length."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def split_by_length(lengths: np.ndarray, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Yield row indices, longest rows first, so that rows times longest length stays within the budget.

    Args:
        lengths: Tokens per row, shape (rows,).
        tokens_per_batch: Budget of padded tokens; a longer row is a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, tokens_per_batch // max(int(lengths[order[start]]), 1))
        yield order[start : start + size]
        start += size
