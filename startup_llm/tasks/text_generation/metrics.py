"""How well a text is predicted: metrics of a language model.

A reference is a passage, or what an assistant says in a conversation. A prediction is what a model says of it:
[nats, tokens], the negative log-likelihood of the tokens that it predicts there, and their number. Bits per byte do
not depend on how a model cuts its tokens; loss and perplexity per token compare models with the same tokens alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from startup_llm.evaluation.metrics import additive
from startup_llm.evaluation.text_overlap import combine_mean


def count_likelihood(references: Sequence[str], predictions: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Return nats, tokens and bytes of each passage, shape (rows, 3)."""
    nats, tokens = np.asarray(predictions, dtype=float).reshape(-1, 2).T
    return np.stack([nats, tokens, [len(text.encode()) for text in references]], axis=1)


def combine_loss(sums: np.ndarray) -> float:
    """Return the mean negative log-likelihood of a token, in nats."""
    return float(sums[0] / max(sums[1], 1))


def combine_perplexity(sums: np.ndarray) -> float:
    """Return e to the mean negative log-likelihood of a token."""
    return math.exp(min(combine_loss(sums), 700.0))


def combine_bits_per_byte(sums: np.ndarray) -> float:
    """Return the bits that a byte of the text costs, base 2: the size that an arithmetic coder would reach."""
    return float(sums[0] / math.log(2) / max(sums[2], 1))


def combine_byte_perplexity(sums: np.ndarray) -> float:
    """Return 2 to the bits per byte."""
    return 2.0 ** min(combine_bits_per_byte(sums), 1000.0)


def count_preference(references: Sequence[Any], predictions: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Return for each pair whether the chosen answer is preferred, half for a tie, and 1; shape (rows, 2).

    A prediction is [reward margin, margin]: how much more the chosen answer gained than the rejected one since the
    model before, and how much likelier it is.
    """
    reward = np.sign(np.asarray(predictions, dtype=float).reshape(-1, 2)[:, 0]) / 2 + 0.5
    return np.stack([reward, np.ones_like(reward)], axis=1)


def count_likelier(references: Sequence[Any], predictions: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Return for each pair whether the chosen answer is the likelier one, half for a tie, and 1; shape (rows, 2)."""
    return count_preference(references, np.asarray(predictions, dtype=float).reshape(-1, 2)[:, ::-1])


BITS_PER_BYTE = additive(
    "bits_per_byte", count_likelihood, combine_bits_per_byte, lower_is_better=True, part="likelihood"
)
LOSS = additive("loss", count_likelihood, combine_loss, lower_is_better=True, part="likelihood")
PERPLEXITY = additive("perplexity", count_likelihood, combine_perplexity, lower_is_better=True, part="likelihood")
BYTE_PERPLEXITY = additive(
    "byte_perplexity", count_likelihood, combine_byte_perplexity, lower_is_better=True, part="likelihood"
)
REWARD_ACCURACY = additive("reward_accuracy", count_preference, combine_mean, relative=True)
PREFERENCE_ACCURACY = additive("preference_accuracy", count_likelier, combine_mean)
