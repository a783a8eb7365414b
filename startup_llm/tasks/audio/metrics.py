"""How many words and letters a transcript has wrong, and how far a synthesised spectrogram is from a recorded one.

Errors are counted by jiwer. Corpora spell as they please: LibriSpeech in capitals without punctuation, where Whisper
writes "Hello, how are you?". The figures of normalised texts are those to compare recognisers by that were taught
different spellings; the others are those of a recogniser that is to write as the texts are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.evaluation.metrics import additive


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


def _count(counts: Any) -> tuple[int, int]:
    return (
        counts.substitutions + counts.deletions + counts.insertions,
        counts.hits + counts.substitutions + counts.deletions,
    )


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


WORD_ERROR_RATE = additive("word_error_rate", count_word_errors, combine_error_rate, lower_is_better=True)
CHARACTER_ERROR_RATE = additive(
    "character_error_rate", count_character_errors, combine_error_rate, lower_is_better=True
)
NORMALIZED_WORD_ERROR_RATE = additive(
    "normalized_word_error_rate", of_normalized(count_word_errors), combine_error_rate, lower_is_better=True
)
NORMALIZED_CHARACTER_ERROR_RATE = additive(
    "normalized_character_error_rate", of_normalized(count_character_errors), combine_error_rate, lower_is_better=True
)
MEL_DISTANCE = additive("mel_distance", count_mel_distance, combine_mel_distance, lower_is_better=True)
