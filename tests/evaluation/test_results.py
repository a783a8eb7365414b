from __future__ import annotations

import numpy as np

from startup_llm.evaluation.results import build_confusion_matrix


def test_a_confusion_matrix_counts_every_row_once():
    true, predicted = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0])
    matrix = build_confusion_matrix(true, predicted, ["a", "b", "c"])
    assert matrix == {"labels": ["a", "b", "c"], "others": 0, "counts": [[1, 1, 0], [0, 1, 0], [1, 0, 1]]}


def test_of_many_classes_those_with_most_errors_are_kept_and_the_others_taken_together():
    true, predicted = np.array([0, 1, 1, 2, 3, 3]), np.array([0, 3, 1, 2, 3, 1])
    matrix = build_confusion_matrix(true, predicted, ["a", "b", "c", "d"], max_labels=2)
    assert matrix == {"labels": ["b", "d"], "others": 2, "counts": [[1, 1, 0], [1, 1, 0], [0, 0, 2]]}
    assert sum(map(sum, matrix["counts"])) == len(true)
