"""Honest baselines for tags of words: each word's most frequent tag, and a linear tagger on features made by hand."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from startup_llm.tasks.token_classification.rows import read_tag_names

if TYPE_CHECKING:
    from datasets import DatasetDict

    from startup_llm.data.task_data import TaskData

LONGEST_AFFIX = 4
NEIGHBOURS = 2
"""Words on each side whose form counts."""
_CLASSES = ((r"[A-Z]", "X"), (r"[a-z]", "x"), (r"\d", "0"))


def predict_most_frequent_tag(splits: DatasetDict, data: TaskData) -> list[list[str]]:
    """Answer with the tag that a word has most often in training; an unknown word has the most frequent one of all."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for words, tags in zip(splits["train"]["tokens"], read_tag_names(splits["train"]), strict=True):
        overall.update(tags)
        for word, tag in zip(words, tags, strict=True):
            counts[word][tag] += 1
    usual = overall.most_common(1)[0][0]
    table = {word: tag_counts.most_common(1)[0][0] for word, tag_counts in counts.items()}
    return [[table.get(word, usual) for word in words] for words in splits["test"]["tokens"]]


def predict_linear_tagger(splits: DatasetDict, data: TaskData) -> list[list[str]]:
    """Answer word by word with a linear support vector machine on the features of `describe_word`."""
    from itertools import islice

    from sklearn.feature_extraction import FeatureHasher
    from sklearn.svm import LinearSVC

    hasher = FeatureHasher(2**20, input_type="string", alternate_sign=False)

    def encode(sentences: Sequence[Sequence[str]]):
        return hasher.transform(describe_word(words, place) for words in sentences for place in range(len(words)))

    train = splits["train"]
    model = LinearSVC(random_state=0)
    model.fit(encode(train["tokens"]), [tag for tags in read_tag_names(train) for tag in tags])
    test = splits["test"]["tokens"]
    answers = iter(model.predict(encode(test)).tolist())
    return [list(islice(answers, len(words))) for words in test]


def describe_word(words: Sequence[str], place: int) -> Iterator[str]:
    """Return what a word looks like: itself, its beginnings and endings, its shape, and its neighbours.

    Args:
        words: The sentence.
        place: Which word of it.
    """
    word = words[place]
    lower = word.lower()
    yield from ("bias", f"word={word}", f"lower={lower}", f"shape={describe_shape(word)}")
    yield from ("first",) * (place == 0)
    for length in range(1, min(LONGEST_AFFIX, len(lower)) + 1):
        yield f"begins={lower[:length]}"
        yield f"ends={lower[-length:]}"
    for step in (step for step in range(-NEIGHBOURS, NEIGHBOURS + 1) if step):
        other = words[place + step] if 0 <= place + step < len(words) else "</s>"
        yield f"{step}:lower={other.lower()}"
        yield f"{step}:shape={describe_shape(other)}"
    if place:
        yield f"pair={words[place - 1].lower()} {lower}"
    if place + 1 < len(words):
        yield f"next pair={lower} {words[place + 1].lower()}"


def describe_shape(word: str) -> str:
    """Return a word's shape: capitals as X, small letters x, digits 0, repeated ones once: `iPhone7` is `xXx0`."""
    for pattern, sign in _CLASSES:
        word = re.sub(pattern, sign, word)
    return re.sub(r"(.)\1+", r"\1", word)
