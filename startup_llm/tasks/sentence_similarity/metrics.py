"""How well a search ranks.

A reference is one query's relevant documents with their grades, a prediction its documents, best first: places in the
corpus. Each metric is a mean over the queries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from startup_llm.evaluation.metrics import additive

Relevant = Sequence[Sequence[int]]


def count_ndcg(cutoff: int) -> Callable[[Sequence[Relevant], Sequence[Sequence[int]]], np.ndarray]:
    """Return what computes nDCG at a rank: the sum of grade / log2(rank + 1), over the best sum that there could be.

    Järvelin and Kekäläinen 2002, with linear gains, as trec_eval has it and so BEIR and MTEB. A query without a
    relevant document counts 0.
    """

    def count(references: Sequence[Relevant], predictions: Sequence[Sequence[int]]) -> np.ndarray:
        discounts = 1 / np.log2(np.arange(cutoff) + 2)
        scores = []
        for relevant, ranking in zip(references, predictions, strict=True):
            grades = {int(document): float(grade) for document, grade in relevant}
            gains = [grades.get(int(document), 0.0) for document in ranking[:cutoff]]
            ideal = sorted(grades.values(), reverse=True)[:cutoff]
            best = float(discounts[: len(ideal)] @ ideal)
            scores.append([float(discounts[: len(gains)] @ gains) / best if best else 0.0, 1.0])
        return np.array(scores)

    return count


def count_recall(cutoff: int) -> Callable[[Sequence[Relevant], Sequence[Sequence[int]]], np.ndarray]:
    """Return what computes the share of a query's relevant documents that are among the first ones."""

    def measure(relevant: set[int], ranking: Sequence[int]) -> float:
        return len(relevant.intersection(ranking[:cutoff])) / len(relevant)

    return _count(measure)


def count_precision(cutoff: int) -> Callable[[Sequence[Relevant], Sequence[Sequence[int]]], np.ndarray]:
    """Return what computes the share of relevant documents among the first ones."""

    def measure(relevant: set[int], ranking: Sequence[int]) -> float:
        return len(relevant.intersection(ranking[:cutoff])) / cutoff

    return _count(measure)


def count_reciprocal_rank(cutoff: int) -> Callable[[Sequence[Relevant], Sequence[Sequence[int]]], np.ndarray]:
    """Return what computes one over the rank of the first relevant document, 0 where it stands behind `most`."""

    def measure(relevant: set[int], ranking: Sequence[int]) -> float:
        ranks = (rank for rank, document in enumerate(ranking[:cutoff], start=1) if document in relevant)
        return 1 / next(ranks, float("inf"))

    return _count(measure)


def combine_query_mean(sums: np.ndarray) -> float:
    """Return the mean over the queries, of sums of values and queries."""
    return float(sums[0] / sums[1])


def _count(
    measure: Callable[[set[int], Sequence[int]], float],
) -> Callable[[Sequence[Relevant], Sequence[Sequence[int]]], np.ndarray]:
    def count(references: Sequence[Relevant], predictions: Sequence[Sequence[int]]) -> np.ndarray:
        scores = []
        for pairs, ranking in zip(references, predictions, strict=True):
            relevant = {int(document) for document, grade in pairs if grade > 0}
            scores.append([measure(relevant, ranking) if relevant else 0.0, 1.0])
        return np.array(scores)

    return count


NDCG_AT_10 = additive("ndcg_at_10", count_ndcg(10), combine_query_mean)
MRR_AT_10 = additive("mrr_at_10", count_reciprocal_rank(10), combine_query_mean)
RECALL_AT_10 = additive("recall_at_10", count_recall(10), combine_query_mean)
RECALL_AT_100 = additive("recall_at_100", count_recall(100), combine_query_mean)
PRECISION_AT_1 = additive("precision_at_1", count_precision(1), combine_query_mean)
