"""Honest baselines for a text that is to be written: the text itself, its first sentences, its words one by one.

They read texts with their targets: pairs of texts, or of a conversation what was said last and its answer.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from startup_llm.data.task_data import TaskData

Pairs = Mapping[str, Any]
"""Split -> its columns text and target."""


def predict_copy(splits: Pairs, data: TaskData) -> list[str]:
    """Answer with the text as it was given."""
    return list(splits["test"]["text"])


def predict_first_sentences(sentences: int) -> Callable[[Pairs, TaskData], list[str]]:
    """Return a baseline that answers with the first sentences, the turns of a dialogue counting as such."""

    def predict(splits: Pairs, data: TaskData) -> list[str]:
        cut = (re.split(r"(?<=[.!?])\s+|\n", text.strip()) for text in splits["test"]["text"])
        return [" ".join(parts[:sentences]) for parts in cut]

    return predict


def predict_most_frequent_target(splits: Pairs, data: TaskData) -> list[str]:
    """Answer with the target that most training rows have; of several the first by the alphabet."""
    counts = Counter(splits["train"]["target"])
    return [min(counts, key=lambda target: (-counts[target], target))] * len(splits["test"]["text"])


def predict_word_by_word(splits: Pairs, data: TaskData) -> list[str]:
    """Answer with each word's likeliest partner, by Dice's coefficient over the training pairs (Dice 1945).

    Of several likeliest partners it takes the first in alphabetical order, so that a figure can be reproduced.
    """
    together: dict[str, Counter[str]] = defaultdict(Counter)
    left, right = Counter(), Counter()
    for text, target in zip(splits["train"]["text"], splits["train"]["target"], strict=True):
        words, partners = set(text.split()), set(target.split())
        left.update(words)
        right.update(partners)
        for word in words:
            together[word].update(partners)
    table = {}
    for word, partners in together.items():
        dice = {partner: 2 * both / (left[word] + right[partner]) for partner, both in partners.items()}
        table[word] = min(dice, key=lambda partner: (-dice[partner], partner))
    return [" ".join(table.get(word, word) for word in text.split()) for text in splits["test"]["text"]]
