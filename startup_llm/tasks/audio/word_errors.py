"""How many words and letters a transcript has wrong, as jiwer counts them.

Corpora spell as they please: LibriSpeech in capitals without punctuation, where Whisper writes "Hello, how are you?".
The figures of normalised texts are those to compare recognisers by that were taught different spellings; the others
are those of a recogniser that is to write as the texts are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
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
    """Return errors per word or character that was meant: 0 is perfect; more than 1 is possible.

    Where none was meant, each that is written is an error, as jiwer has it.
    """
    return sums[0] / max(sums[1], 1)


def of_normalized(
    count: Callable[[Sequence[str], Sequence[str]], np.ndarray],
) -> Callable[[Sequence[str], Sequence[str]], np.ndarray]:
    """Return what counts as `count` does, over texts in normal form.

    Args:
        count: `count_word_errors` or `count_character_errors`.
    """

    def count_normalized(references: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
        return count(list(map(normalize_transcript, references)), list(map(normalize_transcript, predictions)))

    return count_normalized


def normalize_transcript(text: str) -> str:
    """Return a text as Whisper's evaluation compares it in any language (Radford et al. 2022, appendix C).

    In lower case, without what stands in brackets; punctuation, symbols and combining marks become blanks, such as the
    vowel signs of Devanagari. Numbers, abbreviations and spellings that differ by country stay as they are: what
    Whisper does to them is for English alone, with a table that comes with its checkpoints. Nothing may be left.
    """
    return " ".join(_whisper_normalizer()(text).split())


@cache
def _whisper_normalizer() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    return BasicTextNormalizer()


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
