"""What a language model has to beat: n-gram models of its characters, and baselines that answer conversations."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.evaluation.text_baselines import predict_copy, predict_first_sentences, predict_most_frequent_target
from startup_llm.tasks.text_generation.conversations import render_plain

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.baselines import Baseline
    from startup_llm.evaluation.text_baselines import Pairs


class KneserNey:
    """Interpolated Kneser-Ney over symbols 0 to vocabulary - 1 (Kneser & Ney 1995; Chen & Goodman 1999, section 2.7).

        P(w | h) = max(c(h w) - D, 0) / c(h) + D N(h ·) / c(h) P(w | h')

    c counts n-grams at the highest order and, below it, the different symbols that stand before them; N(h ·) is the
    number of different symbols after h, h' is h without its first symbol, and below the unigrams lies the uniform
    distribution. A context that was never seen leaves it to the shorter one.

    Args:
        symbols: The training text, shape (length,), int64.
        vocabulary: Number of symbols.
        order: Length of the longest n-gram; 1 is the unigram model.
        discount: D, between 0 and 1.

    Raises:
        UserError: If the n-grams do not fit into 63 bits, the text is shorter than one, or D is out of range.
    """

    def __init__(self, symbols: np.ndarray, vocabulary: int, order: int, discount: float = 0.75) -> None:
        if order < 1 or vocabulary**order >= 2**63:
            raise UserError(f"n-grams of {order} of {vocabulary} symbols cannot be counted; use a lower order")
        if not 0 < discount < 1:
            raise UserError(f"discount ({discount}) must lie between 0 and 1; try 0.75")
        if len(symbols) < order:
            raise UserError(f"{len(symbols)} symbols are too few for n-grams of {order}")
        self.vocabulary, self.order, self.discount = vocabulary, order, discount
        self._tables = []
        grams = None
        for length in range(order, 0, -1):
            if grams is None:  # the highest order counts what occurs
                grams, counts = np.unique(_number_grams(symbols, vocabulary, length), return_counts=True)
            else:  # a lower one counts the different symbols before it
                grams, counts = np.unique(grams % vocabulary**length, return_counts=True)
            contexts, first = np.unique(grams // vocabulary, return_index=True)
            totals = np.add.reduceat(counts, first)  # c(h)
            followers = np.diff(np.append(first, len(grams)))  # N(h ·)
            self._tables.append((length, grams, counts, contexts, totals, followers))
        self._tables.reverse()

    def log_likelihood(self, symbols: np.ndarray) -> np.ndarray:
        """Return log P of each symbol given those before it, shape (length,); the first ones have shorter contexts."""
        probability = np.full(len(symbols), 1 / self.vocabulary)
        for length, grams, counts, contexts, totals, followers in self._tables:
            if len(symbols) < length:
                break
            wanted = _number_grams(symbols, self.vocabulary, length)
            count = _look_up(grams, counts, wanted)
            total = _look_up(contexts, totals, wanted // self.vocabulary)
            rest = _look_up(contexts, followers, wanted // self.vocabulary)
            lower = probability[length - 1 :]
            seen = np.maximum(count - self.discount, 0) + self.discount * rest * lower
            probability[length - 1 :] = np.where(total > 0, seen / np.maximum(total, 1), lower)
        return np.log(probability)


def _number_grams(symbols: np.ndarray, vocabulary: int, length: int) -> np.ndarray:
    """Return each n-gram as a number in base `vocabulary`, its first symbol the highest digit."""
    numbers = np.zeros(len(symbols) - length + 1, dtype=np.int64)
    for place in range(length):
        numbers = numbers * vocabulary + symbols[place : place + len(numbers)]
    return numbers


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the value of each wanted key, 0 where it is not among the sorted keys."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)


def _read_characters(rows: Dataset) -> tuple[str, np.ndarray, list[int]]:
    """Return the text of a split, which of its characters count, and the length of each row."""
    if "messages" in rows.column_names:
        rendered = [render_plain(messages) for messages in rows["messages"]]
    else:
        rendered = [(text, [True] * len(text)) for text in rows["text"]]
    counted = np.concatenate([np.asarray(own, dtype=bool) for _, own in rendered])
    return "".join(text for text, _ in rendered), counted, [len(text) for text, _ in rendered]


def predict_ngrams(splits: DatasetDict, order: int) -> list[Any]:
    """Model the characters of the test text by n-grams of the training text.

    Args:
        splits: train and test, with a column text, or messages, of which the assistant's count.
        order: Length of the longest n-gram.

    Returns:
        [nats, characters] of each test row; as its likelihood where answers are measured too.
    """
    train, _, _ = _read_characters(splits["train"])
    test, counted, lengths = _read_characters(splits["test"])
    numbers = {character: number for number, character in enumerate(sorted(set(train)))}
    unknown = len(numbers)
    encode = lambda text: np.array([numbers.get(character, unknown) for character in text], dtype=np.int64)  # noqa: E731
    nats = -KneserNey(encode(train), unknown + 1, order).log_likelihood(encode(test)) * counted
    starts = np.cumsum([0, *lengths[:-1]])
    sums = zip(np.add.reduceat(nats, starts), np.add.reduceat(counted.astype(int), starts), strict=True)
    likelihoods = [[float(total), float(count)] for total, count in sums]
    return (
        [{"likelihood": likelihood} for likelihood in likelihoods]
        if "answer" in splits["test"].column_names
        else likelihoods
    )


def predict_unigram(splits: DatasetDict, data: TaskData) -> list[Any]:
    """Know how frequent each character is, and nothing else."""
    return predict_ngrams(splits, 1)


def predict_trigram(splits: DatasetDict, data: TaskData) -> list[Any]:
    """Know each character's two predecessors: interpolated Kneser-Ney."""
    return predict_ngrams(splits, 3)


def predict_sixgram(splits: DatasetDict, data: TaskData) -> list[Any]:
    """Know each character's five predecessors: interpolated Kneser-Ney."""
    return predict_ngrams(splits, 6)


def answer_conversations(
    predict: Callable[[Pairs, TaskData], list[str]],
) -> Baseline:
    """Return a baseline that answers conversations whose answers are measured.

    The text of a conversation is what was said last before its answer, without what all of the training split's begin
    or end with, such as an instruction.

    Args:
        predict: Answers texts.
    """

    def answer(splits: DatasetDict, data: TaskData) -> list[Any]:
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


NGRAM_BASELINES: dict[str, Baseline] = {
    "character-unigram": predict_unigram,
    "character-trigram": predict_trigram,
    "character-sixgram": predict_sixgram,
}
"""Of running text and of what an assistant says."""
ANSWER_BASELINES: dict[str, Baseline] = {
    "copy": answer_conversations(predict_copy),
    "first-sentence": answer_conversations(predict_first_sentences(1)),
    "first-three-sentences": answer_conversations(predict_first_sentences(3)),
    "most-frequent-answer": answer_conversations(predict_most_frequent_target),
}
"""Of an assistant's last answer alone."""
