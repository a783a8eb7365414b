"""Honest baselines of a search and of pairs of texts: words in common, without any model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.tasks.sentence_similarity.rows import rank_best

if TYPE_CHECKING:
    from datasets import DatasetDict

    from startup_llm.data.task_data import TaskData


def predict_bm25(splits: DatasetDict, data: TaskData) -> list[list[int]]:
    """Search by BM25 (Robertson et al. 1994; Lucene's variant, k1 1.5, b 0.75) without English stop words."""
    import bm25s

    def cut(texts: Sequence[str]) -> list[list[str]]:
        return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)

    index, nothing = bm25s.BM25(), np.zeros(len(data.corpus))
    index.index(cut(data.corpus["text"]), show_progress=False)
    scores = (index.get_scores(words) if words else nothing for words in cut(splits["test"]["text"]))
    return [rank_best(query_scores[None])[0] for query_scores in scores]


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
