"""How well an answer agrees with those that people gave: exact match and F1 as SQuAD's evaluations define them.

Texts are compared in lower case, without ASCII punctuation, without the articles a, an and the, and with single
spaces; the best of several true answers counts (Rajpurkar et al. 2016, section 6.1). SQuAD 2.0 leaves out true answers
of which nothing is left by that, and knows questions without an answer, whose only right answer is the empty text
(Rajpurkar et al. 2018).

A reference is a list of true answers, a single empty text for none; a prediction is a dict with a `text`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.evaluation.metrics import Metric, additive
from startup_llm.evaluation.results import measure_groups
from startup_llm.evaluation.text_overlap import combine_mean, compute_exact, compute_word_f1, normalize_answer

if TYPE_CHECKING:
    from datasets import Dataset


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


SQUAD_F1 = additive("squad_f1", count_agreement(compute_word_f1, with_unanswerable=False), combine_mean)
SQUAD_EXACT_MATCH = additive(
    "squad_exact_match", count_agreement(compute_exact, with_unanswerable=False), combine_mean
)
SQUAD_V2_F1 = additive("squad_v2_f1", count_agreement(compute_word_f1_or_none, with_unanswerable=True), combine_mean)
SQUAD_V2_EXACT_MATCH = additive(
    "squad_v2_exact_match", count_agreement(compute_exact, with_unanswerable=True), combine_mean
)


def describe_answers(
    rows: Dataset,
    references: Sequence[Sequence[str]],
    predictions: Sequence[Mapping[str, Any]],
    metrics: Sequence[Metric],
) -> dict[str, Any]:
    """Measure answers to kinds of questions apart: short and long ones, on short and long contexts, with and without
    an answer.

    Args:
        rows: Raw rows with question, context and answers.
        references: True answers of each row.
        predictions: What is measured.
        metrics: By which.

    Returns:
        The key groups of `results.json`: a list of title, metrics, and rows with name, rows and values.
    """
    lengths = {
        "question": np.array([len(text.split()) for text in rows["question"]]),
        "context": np.array([len(text.split()) for text in rows["context"]]),
    }
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, words in lengths.items():
        low, high = (int(np.ceil(np.quantile(words, share))) for share in (1 / 3, 2 / 3))
        parts[f"Words in the {name}"] = {
            f"up to {low}": words <= low,
            f"{low + 1} to {high}": (words > low) & (words <= high),
            f"more than {high}": words > high,
        }
    answered = np.array([bool(answers) for answers in rows["answers"]])
    if not answered.all():
        parts["Has it an answer?"] = {"an answer": answered, "none": ~answered}
    return {
        "groups": [measure_groups(title, kinds, references, predictions, metrics) for title, kinds in parts.items()]
    }
