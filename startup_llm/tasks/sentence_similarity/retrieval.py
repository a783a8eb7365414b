"""How well a search ranks, and honest baselines of a search: words in common, without any model.

A reference is one query's relevant documents with their grades, a prediction its documents, best first: places in the
corpus. Each metric is a mean over the queries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.tasks.sentence_similarity.rows import rank_best

if TYPE_CHECKING:
    from datasets import DatasetDict

    from startup_llm.data.task_data import TaskData

Relevant = Sequence[Sequence[int]]


def count_ndcg(most: int) -> Callable[[Sequence[Relevant], Sequence[Sequence[int]]], np.ndarray]:
    """Return what computes nDCG at a rank: the sum of grade / log2(rank + 1), over the best sum that there could be.

    Järvelin and Kekäläinen 2002, with linear gains, as trec_eval has it and so BEIR and MTEB. A query without a
    relevant document counts 0.
    """

    def count(references: Sequence[Relevant], predictions: Sequence[Sequence[int]]) -> np.ndarray:
        discounts = 1 / np.log2(np.arange(most) + 2)
        found = []
        for relevant, ranking in zip(references, predictions, strict=True):
            grades = {int(document): float(grade) for document, grade in relevant}
            gains = [grades.get(int(document), 0.0) for document in ranking[:most]]
            ideal = sorted(grades.values(), reverse=True)[:most]
            best = float(discounts[: len(ideal)] @ ideal)
            found.append([float(discounts[: len(gains)] @ gains) / best if best else 0.0, 1.0])
        return np.array(found)

    return count


def count_recall(most: int) -> Callable[[Sequence[Relevant], Sequence[Sequence[int]]], np.ndarray]:
    """Return what computes the share of a query's relevant documents that are among the first ones."""

    def measure(relevant: set[int], ranking: Sequence[int]) -> float:
        return len(relevant.intersection(ranking[:most])) / len(relevant)

    return _count(measure)


def count_precision(most: int) -> Callable[[Sequence[Relevant], Sequence[Sequence[int]]], np.ndarray]:
    """Return what computes the share of relevant documents among the first ones."""

    def measure(relevant: set[int], ranking: Sequence[int]) -> float:
        return len(relevant.intersection(ranking[:most])) / most

    return _count(measure)


def count_reciprocal_rank(most: int) -> Callable[[Sequence[Relevant], Sequence[Sequence[int]]], np.ndarray]:
    """Return what computes one over the rank of the first relevant document, 0 where it stands behind `most`."""

    def measure(relevant: set[int], ranking: Sequence[int]) -> float:
        ranks = (rank for rank, document in enumerate(ranking[:most], start=1) if document in relevant)
        return 1 / next(ranks, float("inf"))

    return _count(measure)


def combine_query_mean(sums: np.ndarray) -> float:
    """Return the mean over the queries, of sums of values and queries."""
    return float(sums[0] / sums[1])


def predict_bm25(splits: DatasetDict, data: TaskData) -> list[list[int]]:
    """Search by BM25 (Robertson et al. 1994; Lucene's variant, k1 1.5, b 0.75) without English stop words."""
    import bm25s

    def cut(texts: Sequence[str]) -> list[list[str]]:
        return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)

    index, nothing = bm25s.BM25(), np.zeros(len(data.corpus))
    index.index(cut(data.corpus["text"]), show_progress=False)
    scores = (index.get_scores(words) if words else nothing for words in cut(splits["test"]["text"]))
    return [rank_best(one[None])[0] for one in scores]


def predict_tfidf_cosine(splits: DatasetDict, data: TaskData) -> Any:
    """Search by the cosine of TF-IDF vectors over words and word pairs; for pairs of texts give that cosine."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    if data.corpus is None:
        train, test = splits["train"], splits["test"]
        vectorizer.fit([*train["text"], *train["text_pair"]])
        left, right = (vectorizer.transform(test[name]) for name in ("text", "text_pair"))
        return np.asarray(left.multiply(right).sum(axis=1)).ravel()
    documents = vectorizer.fit_transform(data.corpus["text"]).T.tocsc()
    queries = vectorizer.transform(splits["test"]["text"])
    return [
        ranking
        for start in range(0, queries.shape[0], 256)
        for ranking in rank_best((queries[start : start + 256] @ documents).toarray())
    ]


def predict_word_overlap(splits: DatasetDict, data: TaskData) -> np.ndarray:
    """Answer with the share of words that two texts have in common (Jaccard)."""
    import re

    rows = splits["test"]
    words = ([set(re.findall(r"\w+", text.lower())) for text in rows[name]] for name in ("text", "text_pair"))
    return np.array([len(a & b) / max(len(a | b), 1) for a, b in zip(*words, strict=True)])


def _count(
    measure: Callable[[set[int], Sequence[int]], float],
) -> Callable[[Sequence[Relevant], Sequence[Sequence[int]]], np.ndarray]:
    def count(references: Sequence[Relevant], predictions: Sequence[Sequence[int]]) -> np.ndarray:
        found = []
        for pairs, ranking in zip(references, predictions, strict=True):
            relevant = {int(document) for document, grade in pairs if grade > 0}
            found.append([measure(relevant, ranking) if relevant else 0.0, 1.0])
        return np.array(found)

    return count
