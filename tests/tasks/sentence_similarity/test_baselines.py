from __future__ import annotations

import datasets
import numpy as np
import pytest

from startup_llm.data.task_data import TaskData
from startup_llm.tasks.sentence_similarity.baselines import predict_bm25, predict_tfidf_cosine, predict_word_overlap

TEXTS = ["how do i get a refund", "where is my parcel", "reset the password", "the parcel has not arrived yet"]


@pytest.mark.parametrize("baseline", [predict_bm25, predict_tfidf_cosine])
def test_a_search_by_words_finds_what_shares_them(baseline):
    queries = ["a refund please", "has the parcel arrived", "the", "zzz"]
    test = datasets.Dataset.from_dict({"text": queries, "relevant": [[]] * 4, "row": range(4)})
    corpus = datasets.Dataset.from_dict({"id": list("abcd"), "text": TEXTS})
    data = TaskData(datasets.DatasetDict(test=test), corpus=corpus)
    found = baseline(data.splits, data)
    assert [ranking[0] for ranking in found[:2]] == [0, 3]
    assert all(sorted(ranking) == [0, 1, 2, 3] for ranking in found)
    assert found[3] == [0, 1, 2, 3]


def test_pairs_are_scored_by_the_words_that_they_share():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity

    rows = datasets.Dataset.from_dict(
        {"text": TEXTS, "text_pair": ["Get a refund!", "where is my parcel", "none", "the parcel came"]}
    )
    data = TaskData(datasets.DatasetDict(train=rows, test=rows))
    overlap = predict_word_overlap(data.splits, data)
    np.testing.assert_allclose(overlap, [3 / 6, 1, 0, 2 / 7])
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit([*rows["text"], *rows["text_pair"]])
    expected = cosine_similarity(*(vectors.transform(rows[name]) for name in ("text", "text_pair"))).diagonal()
    np.testing.assert_allclose(predict_tfidf_cosine(data.splits, data), expected)
