from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from startup_llm.errors import UserError
from startup_llm.tasks.text_generation.baselines import KneserNey, predict_ngrams

TRAIN = np.random.default_rng(0).choice(5, size=400, p=[0.5, 0.2, 0.15, 0.1, 0.05])


def compute_by_the_formula(train, vocabulary, order, discount, history, symbol):
    """Kneser-Ney as it stands in the paper: sets and dictionaries, one symbol at a time."""
    train = tuple(map(int, train))
    probability = 1 / vocabulary
    for length in range(1, order + 1):
        context = tuple(history[len(history) - length + 1 :]) if length > 1 else ()
        grams = [train[i : i + length] for i in range(len(train) - length + 1)]
        if length == order:
            counts = Counter(grams)
        else:
            before = defaultdict(set)
            for i in range(len(train) - length):
                before[train[i + 1 : i + 1 + length]].add(train[i])
            counts = Counter({gram: len(found) for gram, found in before.items()})
        total = sum(count for gram, count in counts.items() if gram[:-1] == context)
        followers = sum(1 for gram in counts if gram[:-1] == context)
        if total:
            kept = max(counts[(*context, symbol)] - discount, 0)
            probability = (kept + discount * followers * probability) / total
    return probability


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_kneser_ney_is_the_formula(order):
    model = KneserNey(TRAIN, 6, order)
    test = np.array([0, 1, 0, 5, 2, 0, 0, 4, 4, 4, 1])
    found = np.exp(model.log_likelihood(test))
    for place in range(order - 1, len(test)):
        expected = compute_by_the_formula(TRAIN, 6, order, 0.75, tuple(test[:place]), test[place])
        assert found[place] == pytest.approx(expected, rel=1e-12), place


@pytest.mark.parametrize("order", [1, 3, 5])
def test_kneser_ney_is_a_distribution_after_seen_and_unseen_contexts(order):
    model = KneserNey(TRAIN, 6, order)
    for context in ([0, 0, 0, 0], [4, 4, 4, 4], [5, 5, 5, 5]):
        total = sum(math.exp(model.log_likelihood(np.array([*context, symbol]))[-1]) for symbol in range(6))
        assert total == pytest.approx(1)


def test_kneser_ney_refuses_what_it_cannot_count():
    with pytest.raises(UserError, match="n-grams of 11 of 100 symbols"):
        KneserNey(TRAIN, 100, 11)
    with pytest.raises(UserError, match=r"discount \(1.5\)"):
        KneserNey(TRAIN, 6, 2, discount=1.5)
    with pytest.raises(UserError, match="2 symbols are too few for n-grams of 3"):
        KneserNey(TRAIN[:2], 6, 3)


def test_ngrams_read_over_the_ends_of_passages():
    splits = DatasetDict(
        train=Dataset.from_dict({"text": ["abc" * 50]}), test=Dataset.from_dict({"text": ["abc", "abcab", "c€"]})
    )
    predictions = predict_ngrams(splits, 3)
    assert [count for _, count in predictions] == [3, 5, 2]
    nats = [total for total, _ in predictions]
    assert nats[1] < 0.3  # the passage before tells how this one begins
    assert nats[2] > 3
