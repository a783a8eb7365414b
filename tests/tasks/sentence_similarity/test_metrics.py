from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    label_ranking_average_precision_score,
    ndcg_score,
    precision_score,
    recall_score,
    top_k_accuracy_score,
)

from startup_llm.config import EvaluationConfig
from startup_llm.evaluation.metrics import score_rows
from startup_llm.evaluation.statistics import compare_models, compute_interval
from startup_llm.tasks.sentence_similarity.metrics import (
    MRR_AT_10,
    NDCG_AT_10,
    PRECISION_AT_1,
    RECALL_AT_100,
    count_ndcg,
    count_precision,
    count_recall,
    count_reciprocal_rank,
)
from startup_llm.tasks.sentence_similarity.rows import rank_best, rank_nearest

CASES = 200


@pytest.fixture(scope="module")
def cases():
    """Return grades of 0 to 3 and distinct scores, shape (cases, documents), as arrays and as references, rankings."""
    generator = np.random.default_rng(0)
    grades = generator.integers(0, 4, (CASES, 30)) * (generator.random((CASES, 30)) < 0.3)
    grades[np.arange(CASES), generator.integers(0, 30, CASES)] = 1
    scores = generator.permuted(np.tile(np.linspace(0, 1, 30), (CASES, 1)), axis=1)
    references = [[[int(place), int(row[place])] for place in np.flatnonzero(row)] for row in grades]
    return grades, scores, references, rank_best(scores)


@pytest.mark.parametrize("most", [1, 5, 10, 100])
def test_ndcg_is_scikit_learns(cases, most):
    grades, scores, references, rankings = cases
    found = count_ndcg(most)(references, rankings)
    expected = [ndcg_score([g], [s], k=most) for g, s in zip(grades, scores, strict=True)]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-12)
    assert (found[:, 1] == 1).all()


@pytest.mark.parametrize("most", [1, 10])
def test_recall_and_precision_are_scikit_learns(cases, most):
    grades, scores, references, rankings = cases
    among_first = (-scores).argsort(axis=1).argsort(axis=1) < most
    for count, reference in ((count_recall, recall_score), (count_precision, precision_score)):
        expected = [reference(g > 0, first) for g, first in zip(grades, among_first, strict=True)]
        np.testing.assert_allclose(count(most)(references, rankings)[:, 0], expected)


def test_the_reciprocal_rank_is_scikit_learns_where_one_document_is_relevant(cases):
    _, scores, _, rankings = cases
    one = np.random.default_rng(1).integers(0, 30, CASES)
    references = [[[int(place), 1]] for place in one]
    indicator = np.arange(30) == one[:, None]
    expected = [label_ranking_average_precision_score([i], [s]) for i, s in zip(indicator, scores, strict=True)]
    np.testing.assert_allclose(count_reciprocal_rank(30)(references, rankings)[:, 0], expected)
    cut = count_reciprocal_rank(10)(references, rankings)[:, 0]
    np.testing.assert_allclose(cut, np.where(np.array(expected) >= 0.1 - 1e-12, expected, 0))
    hits = top_k_accuracy_score(one, scores, k=10, labels=np.arange(30))
    assert count_recall(10)(references, rankings)[:, 0].mean() == pytest.approx(hits)


def test_a_query_without_a_relevant_document_counts_nothing(cases):
    for metric in (NDCG_AT_10, MRR_AT_10, RECALL_AT_100, PRECISION_AT_1):
        assert metric.compute([[], [[3, 1]]], [[3, 1], [3, 1]]) == 0.5


def test_a_search_s_figures_have_intervals_and_paired_tests_over_its_queries(cases):
    _, _, references, rankings = cases
    settings = EvaluationConfig(resamples=200)
    few, found = references[:200], rankings[:200]
    better = [
        sorted(ranking, key=lambda place, grades=dict(relevant): -grades.get(place, 0))
        for relevant, ranking in zip(few, found, strict=True)
    ]
    interval = compute_interval(NDCG_AT_10, few, found, settings)
    assert interval.low < interval.value < interval.high
    assert score_rows(NDCG_AT_10, few, found) == pytest.approx(interval.value)
    assert compute_interval(NDCG_AT_10, few, better, settings).value == pytest.approx(1)
    comparison = compare_models(NDCG_AT_10, few, ("a", better), ("b", found), settings)
    assert comparison.low > 0
    assert comparison.p_value < 0.05
    same = compare_models(NDCG_AT_10, few, ("a", found), ("b", found), settings)
    assert (same.difference, same.p_value) == (0, 1)


def test_equal_scores_keep_the_order_of_the_corpus_and_the_nearest_come_first():
    assert rank_best(np.array([[0.5, 1.0, 0.5, 0.5]]), 3) == [[1, 0, 2]]
    documents = np.array([[0.0, 3.0], [5.0, 0.1], [1.0, 1.0]])
    assert rank_nearest(np.array([[2.0, 0.0], [0.0, 0.1]]), documents) == [[1, 2, 0], [0, 2, 1]]
