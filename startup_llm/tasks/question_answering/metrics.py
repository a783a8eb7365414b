"""How well an answer agrees with those that people gave: exact match and F1 as SQuAD's evaluations define them.

Texts are compared in lower case, without ASCII punctuation, without the articles a, an and the, and with single
spaces; the best of several true answers counts (Rajpurkar et al. 2016, section 6.1). SQuAD 2.0 leaves out true answers
of which nothing is left by that, and knows questions without an answer, whose only right answer is the empty text
(Rajpurkar et al. 2018).

A reference is a list of true answers, a single empty text for none; a prediction is a dict with a `text`.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:an?|the)\b")


def normalize_answer(text: str) -> str:
    """Return a text in the form in which answers are compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def compute_exact(answer: str, text: str) -> float:
    """Return 1 where two texts are the same in normal form, else 0."""
    return float(normalize_answer(answer) == normalize_answer(text))


def compute_word_f1(answer: str, text: str) -> float:
    """Return the harmonic mean of the shares of words that two texts have in common; 0 where one has no words."""
    true, written = normalize_answer(answer).split(), normalize_answer(text).split()
    common = sum((Counter(true) & Counter(written)).values())
    return 2 * common / (len(true) + len(written)) if common else 0.0


def compute_word_f1_or_none(answer: str, text: str) -> float:
    """Return F1 as SQuAD 2.0 has it: where one of the texts has no words, 1 if neither has any."""
    if not normalize_answer(answer) or not normalize_answer(text):
        return compute_exact(answer, text)
    return compute_word_f1(answer, text)


def count_agreement(
    compare: Callable[[str, str], float], *, with_unanswerable: bool
) -> Callable[[Sequence[Sequence[str]], Sequence[Mapping[str, Any]]], np.ndarray]:
    """Return what counts the best agreement with a true answer, and one, for each row; shape (rows, 2).

    Args:
        compare: From a true answer and a text to their agreement, 0 to 1.
        with_unanswerable: Whether true answers of which nothing is left are left out, as SQuAD 2.0 does.
    """

    def score(answers: Sequence[str], text: str) -> float:
        if with_unanswerable:
            answers = [answer for answer in answers if normalize_answer(answer)]
        return max(compare(answer, text) for answer in answers or [""])

    def count(references: Sequence[Sequence[str]], predictions: Sequence[Mapping[str, Any]]) -> np.ndarray:
        pairs = zip(references, predictions, strict=True)
        return np.array([[score(answers, prediction["text"]), 1.0] for answers, prediction in pairs])

    return count
