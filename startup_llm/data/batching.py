"""Batches of bounded size whose rows are of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset


IS_PROMPT = "is_prompt"
"""Column of encoded rows: 1 where the model is to write what follows, 0 where its tokens are predicted."""

_PROMPT_TOKENS_FACTOR = 8
"""So many times as many tokens of prompts are computed at once: a step of writing reads all weights for one token of a
row, and takes hardly longer for many rows than for few."""


def split_encoded(encoded: Dataset, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Yield row indices in batches as `split_by_length` does, prompts (`IS_PROMPT`) apart from other rows.

    Args:
        encoded: Rows with a column `length`.
        tokens_per_batch: Budget of padded tokens.
    """
    lengths = np.asarray(encoded["length"])
    if IS_PROMPT not in encoded.column_names:
        yield from split_by_length(lengths, tokens_per_batch)
        return
    asked = np.asarray(encoded[IS_PROMPT], dtype=bool)
    for chosen, budget in ((~asked, tokens_per_batch), (asked, _PROMPT_TOKENS_FACTOR * tokens_per_batch)):
        places = np.flatnonzero(chosen)
        for part in split_by_length(lengths[places], budget):
            yield places[part]


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


class LengthGroupedSampler:
    """Row order of an epoch: random batches of rows of like length, the same for the same seed and epoch.

    Rows are shuffled, sorted by length inside windows of many batches, cut into batches, and the batches shuffled. An
    interrupted epoch that starts again goes through the same rows in the same order.

    Args:
        lengths: Tokens per row, shape (rows,).
        batch_rows: Rows of one optimizer step, over all processes.
        seed: Seed of the order.
        window_batches: Batches that are sorted together.
        target_lengths: Tokens of each row's target, shape (rows,), by which rows of one length are sorted.
        row_weights: Chance of each row to be drawn at each place of the epoch, shape (rows,), in any unit; None where
            an epoch has every row once.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_rows: int,
        seed: int,
        window_batches: int = 50,
        target_lengths: np.ndarray | None = None,
        row_weights: np.ndarray | None = None,
    ) -> None:
        self.lengths, self.batch_rows, self.seed = np.asarray(lengths), batch_rows, seed
        self.target_lengths = np.zeros_like(self.lengths) if target_lengths is None else np.asarray(target_lengths)
        self.window_rows = window_batches * batch_rows
        self.row_weights = row_weights
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        rows, weights = len(self.lengths), self.row_weights
        if weights is None:
            shuffled = generator.permutation(rows)
        else:
            shuffled = generator.choice(rows, size=rows, p=weights / weights.sum())
        batches: list[np.ndarray] = []
        for start in range(0, len(shuffled), self.window_rows):
            window = shuffled[start : start + self.window_rows]
            window = window[np.lexsort((self.target_lengths[window], self.lengths[window]))]  # stable; last key first
            batches += [window[i : i + self.batch_rows] for i in range(0, len(window), self.batch_rows)]
        rest = [batches.pop()] if len(batches[-1]) < self.batch_rows else []  # a short batch stays last
        order = [batches[i] for i in generator.permutation(len(batches))]
        for batch in order + rest:
            yield from batch.tolist()


def encode_rows(rows: Dataset, encode: Callable[..., dict[str, list]], **options: Any) -> Dataset:
    """Turn the columns of rows into those that `encode` gives, a batch at a time.

    Rows in memory get a random fingerprint: the one that `map` computes names a file of its cache, which they do not
    have, and it pickles the tokenizer for that, which takes longer than a small model's answer.

    Args:
        rows: The rows.
        encode: From a batch by column to the new columns, which may have more rows.
        options: Further arguments of `Dataset.map`.
    """
    from datasets.fingerprint import generate_random_fingerprint

    fingerprint = None if rows.cache_files else generate_random_fingerprint()
    return rows.map(encode, batched=True, remove_columns=rows.column_names, new_fingerprint=fingerprint, **options)
