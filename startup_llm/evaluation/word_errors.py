"""How many words and letters a transcript has wrong, as jiwer counts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from startup_llm.errors import UserError


def count_word_errors(references: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    """Count the words that were replaced, left out and put in, and those that were meant; shape (rows, 2)."""
    process_words = _jiwer().process_words
    pairs = zip(references, predictions, strict=True)
    return np.array([_count(process_words(right, text)) for right, text in pairs], dtype=float).reshape(-1, 2)


def count_character_errors(references: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    """Count as `count_word_errors` does, over characters, blanks among them."""
    process_characters = _jiwer().process_characters
    pairs = zip(references, predictions, strict=True)
    return np.array([_count(process_characters(right, text)) for right, text in pairs], dtype=float).reshape(-1, 2)


def combine_error_rate(sums: np.ndarray) -> float:
    """Return errors per word or character that was meant: 0 is perfect; more than 1 is possible."""
    return sums[0] / sums[1]


def _jiwer() -> Any:
    try:
        import jiwer
    except ImportError:
        raise UserError("word errors are counted by jiwer; pip install 'startup-llm[audio]'") from None
    return jiwer


def _count(found: Any) -> tuple[int, int]:
    return (
        found.substitutions + found.deletions + found.insertions,
        found.hits + found.substitutions + found.deletions,
    )
