"""Honest baselines for a text that is to be written: the text itself, its first sentences, its words one by one.

They read texts with their targets. In a conversation the text is what was said last before its answer, the target.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from startup_llm.data.task_data import TaskData

Pairs = Mapping[str, Any]
"""Split -> its columns text and target."""


def answer_conversations(
    predict: Callable[[Pairs, TaskData], list[str]],
) -> Callable[[Mapping[str, Dataset], TaskData], list[Any]]:
    """Return a baseline that answers conversations too, if their answers are measured.

    Their texts are read without what all of the training split's begin or end with, such as an instruction.

    Args:
        predict: Answers texts.
    """

    def answer(splits: Mapping[str, Dataset], data: TaskData) -> list[Any]:
        if "answer" not in splits["test"].column_names:
            return predict(splits, data)
        asked = {name: [_read_question(messages) for messages in rows["messages"]] for name, rows in splits.items()}
        start, end = find_shared(asked["train"])
        pairs = {
            name: {
                "text": [text.removeprefix(start).removesuffix(end) for text in texts],
                "target": list(splits[name]["answer"]),
            }
            for name, texts in asked.items()
        }
        return [{"answer": text} for text in predict(pairs, data)]

    return answer


def _read_question(messages: list[dict[str, str]]) -> str:
    return messages[-2]["content"] if len(messages) > 1 else ""


def find_shared(texts: Sequence[str]) -> tuple[str, str]:
    """Return the whole words with which all texts begin, and those with which they end; none where all are one."""
    if len(set(texts)) < 2:
        return "", ""
    start = _find_shared_start(texts)
    return start, _find_shared_start([text.removeprefix(start)[::-1] for text in texts])[::-1]


def _find_shared_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)  # what these two share, all between them do
    same = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return re.match(r"(.*\s)?", first[:same], re.DOTALL)[0]


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
    """Answer with each word's likeliest partner, by Dice's coefficient over the training pairs (Dice 1945)."""
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
        table[word] = max(dice, key=dice.__getitem__)
    return [" ".join(table.get(word, word) for word in text.split()) for text in splits["test"]["text"]]
