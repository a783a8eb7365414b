"""Honest baselines for a question on a context: the sentence and the words that share most with the question."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import DatasetDict

    from startup_llm.data.task_data import TaskData

REACH_WORDS = 10
"""Words on either side of a span that the sliding window looks at."""
_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"\S(?:[^.!?\n]|[.!?](?!\s|$))*[.!?]?")


def predict_overlap_sentence(splits: DatasetDict, data: TaskData) -> list[dict[str, Any]]:
    """Answer with the context's sentence that shares most different words with the question, the first of equals."""
    answers = []
    for question, context in _pairs(splits):
        asked = set(_list_words(question))
        sentences = [(match.start(), match.end()) for match in _SENTENCE.finditer(context)]
        shared = [len(asked.intersection(_list_words(context[start:end]))) for start, end in sentences]
        answers.append(_mark(context, *sentences[int(np.argmax(shared))]))
    return answers


def predict_sliding_window(splits: DatasetDict, data: TaskData) -> list[dict[str, Any]]:
    """Answer with the words among which the question's words stand closest, none of which is one of them.

    An answer has as many words as the training answers' median. It scores by the words of the question up to
    `REACH_WORDS` before and after it, a word that stands c times in the context by log(1 + 1 / c) (Richardson et al.
    2013, section 5, whose windows slide over the context likewise).
    """
    lengths = [len(_list_words(answers[0])) for answers in splits["train"]["answers"] if answers]
    width = max(1, round(float(np.median(lengths)))) if lengths else 1
    predictions = []
    for question, context in _pairs(splits):
        asked = set(_list_words(question))
        places = [(match.start(), match.end()) for match in _WORD.finditer(context)]
        words = _list_words(context)
        counts = Counter(words)
        worth = np.array([math.log(1 + 1 / counts[word]) if word in asked else 0.0 for word in words])
        if len(words) <= width:
            predictions.append(_mark(context, 0, len(context)))
            continue
        sums = np.concatenate([[0.0], np.cumsum(worth)])
        first = np.arange(len(words) - width + 1)
        inside = sums[first + width] - sums[first]
        around = sums[np.minimum(first + width + REACH_WORDS, len(words))] - sums[np.maximum(first - REACH_WORDS, 0)]
        best = int(np.argmax(np.where(inside == 0, around, -1.0)))
        predictions.append(_mark(context, places[best][0], places[best + width - 1][1]))
    return predictions


def predict_no_answer(splits: DatasetDict, data: TaskData) -> list[dict[str, Any]]:
    """Say of every question that it has no answer."""
    return [_mark("", 0, 0)] * len(splits["test"])


def _pairs(splits: DatasetDict) -> zip:
    return zip(splits["test"]["question"], splits["test"]["context"], strict=True)


def _list_words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _mark(context: str, start: int, end: int) -> dict[str, Any]:
    return {"text": context[start:end], "start": start, "end": end, "score": 0.0}
