"""How well a text is predicted: metrics of a language model, and the n-gram models that it has to beat.

A reference is a passage, or what an assistant says in a conversation. A prediction is what a model says of it:
[nats, tokens], the negative log-likelihood of the tokens that it predicts there, and their number. Bits per byte do
not depend on how a model cuts its tokens; loss and perplexity per token compare models with the same tokens alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.tasks.text_generation.conversations import render_plain

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from startup_llm.data.task_data import TaskData


def count_likelihood(references: Sequence[str], predictions: Sequence[Sequence[float]]) -> np.ndarray:
    """Return nats, tokens and bytes of each passage, shape (rows, 3)."""
    nats, tokens = np.asarray(predictions, dtype=float).reshape(-1, 2).T
    return np.stack([nats, tokens, [len(text.encode()) for text in references]], axis=1)


def combine_loss(sums: np.ndarray) -> float:
    """Return the mean negative log-likelihood of a token, in nats."""
    return float(sums[0] / max(sums[1], 1))


def combine_perplexity(sums: np.ndarray) -> float:
    """Return e to the mean negative log-likelihood of a token."""
    return math.exp(min(combine_loss(sums), 700.0))


def combine_bits_per_byte(sums: np.ndarray) -> float:
    """Return the bits that a byte of the text costs, base 2: the size that an arithmetic coder would reach."""
    return float(sums[0] / math.log(2) / max(sums[2], 1))


def combine_byte_perplexity(sums: np.ndarray) -> float:
    """Return 2 to the bits per byte."""
    return 2.0 ** min(combine_bits_per_byte(sums), 1000.0)


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


def count_preference(references: Sequence[Any], predictions: Sequence[Sequence[float]]) -> np.ndarray:
    """Return for each pair whether the chosen answer is preferred, half for a tie, and 1; shape (rows, 2).

    A prediction is [reward margin, margin]: how much more the chosen answer gained than the rejected one since the
    model before, and how much likelier it is.
    """
    reward = np.sign(np.asarray(predictions, dtype=float).reshape(-1, 2)[:, 0]) / 2 + 0.5
    return np.stack([reward, np.ones_like(reward)], axis=1)


def count_likelier(references: Sequence[Any], predictions: Sequence[Sequence[float]]) -> np.ndarray:
    """Return for each pair whether the chosen answer is the likelier one, half for a tie, and 1; shape (rows, 2)."""
    return count_preference(references, np.asarray(predictions, dtype=float).reshape(-1, 2)[:, ::-1])


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
    return [{"likelihood": one} for one in likelihoods] if "answer" in splits["test"].column_names else likelihoods


def predict_unigram(splits: DatasetDict, data: TaskData) -> list[Any]:
    """Know how frequent each character is, and nothing else."""
    return predict_ngrams(splits, 1)


def predict_trigram(splits: DatasetDict, data: TaskData) -> list[Any]:
    """Know each character's two predecessors: interpolated Kneser-Ney."""
    return predict_ngrams(splits, 3)


def predict_sixgram(splits: DatasetDict, data: TaskData) -> list[Any]:
    """Know each character's five predecessors: interpolated Kneser-Ney."""
    return predict_ngrams(splits, 6)
