"""Windows of tokens and the words that they decide on, where a sentence is too long for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from startup_llm.evaluation.probabilities import compute_softmax
from startup_llm.tasks.token_classification.tag_schemes import OUTSIDE

if TYPE_CHECKING:
    from datasets import Dataset

SHARED_TOKENS = 0.25
"""Share of a window that the next one repeats, so that no word is tagged without its neighbours."""


def find_deciding_tokens(word_ids: list[list[int | None]], windows: list[int]) -> list[list[int]]:
    """Return for each token of each window the word that it decides on, or -1.

    Args:
        word_ids: The word of each token, None for the tokens around the text.
        windows: The row of each window.
    """
    best: dict[tuple[int, int], tuple[int, int, int]] = {}
    for window, (row, ids) in enumerate(zip(windows, word_ids, strict=True)):
        firsts = dict.fromkeys(word for word in ids if word is not None)
        for number, word in enumerate(firsts):
            place = ids.index(word)
            context = min(place, len(ids) - 1 - place)
            known = best.get((row, word))
            begins_before = number == 0 and known is not None  # the window begins within a word of the one before
            if not begins_before and (known is None or context > known[0]):
                best[row, word] = (context, window, place)
    deciding = [[-1] * len(ids) for ids in word_ids]
    for (_, word), (_, window, place) in best.items():
        deciding[window][place] = word
    return deciding


def gather_words(
    outputs: Sequence[np.ndarray], encoded: Dataset, lengths: Sequence[int]
) -> list[list[np.ndarray | None]]:
    """Return the logits of each word of each raw row; None for a word without a token."""
    vectors: list[list[np.ndarray | None]] = [[None] * length for length in lengths]
    for row, words, logits in zip(encoded["_row"], encoded["_words"], outputs, strict=True):
        for place, word in enumerate(words):
            if word >= 0:
                vectors[row][word] = logits[place]
    return vectors


def compute_span_scores(logits: np.ndarray, lengths: Sequence[int], temperature: float = 1.0) -> np.ndarray:
    """Return the mean probability of the likeliest tag over the words of each entity, shape (entities,).

    Args:
        logits: Of the words of all entities, one entity after the other, shape (words, tags).
        lengths: Words of each entity.
        temperature: Divides the logits.
    """
    scores = compute_softmax(logits / temperature).max(axis=1)
    parts = np.split(scores, np.cumsum(lengths)[:-1]) if len(lengths) else []
    return np.array([part.mean() for part in parts])


def name_tags(words: Sequence[np.ndarray | None], label_names: Sequence[str]) -> list[str]:
    """Return each word's likeliest tag; a word without a token is no entity."""
    return [OUTSIDE if logits is None else label_names[int(logits.argmax())] for logits in words]
