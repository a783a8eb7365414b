"""What a report says of rows with several labels, and of rows with a number."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from sklearn.metrics import f1_score

from startup_llm.evaluation.metrics import compute_macro_f1
from startup_llm.evaluation.results import describe_label_sets, describe_numbers

NAMES = ("a", "b", "c")
TRUE = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]])
PROBABILITIES = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.7], [0.1, 0.2, 0.6], [0.3, 0.4, 0.95]])
ROWS = datasets.Dataset.from_dict({"label": TRUE.tolist(), "row": [1, 2, 3, 4]})


def test_rows_of_several_labels_have_what_rows_of_one_label_have():
    predicted = (PROBABILITIES > 0.5).astype(int)
    found = describe_label_sets(ROWS, list("wxyz"), PROBABILITIES, predicted, NAMES)
    assert found.keys() == {"per_class", "confusions", "mistakes", "calibration"}
    expected = f1_score(TRUE, predicted, average=None, zero_division=0)
    assert [scores["f1"] for scores in found["per_class"].values()] == pytest.approx(expected)
    assert np.mean(expected) == pytest.approx(compute_macro_f1(TRUE, predicted))
    assert found["confusions"] == [{"label": "b", "predicted": "c", "rows": 2, "examples": ["x", "z"]}]
    assert [(mistake["row"], mistake["confidence"]) for mistake in found["mistakes"]] == [
        (4, pytest.approx(0.95)), (2, pytest.approx(0.7)), (3, pytest.approx(0.6)),
    ]  # fmt: skip
    assert found["mistakes"][0] == {"row": 4, "text": "z", "label": ["b"], "predicted": ["c"], "confidence": 0.95}
    assert sum(part["rows"] for part in found["calibration"]["bins"]) == TRUE.size


def test_labels_are_judged_as_they_were_decided_not_by_one_half():
    found = describe_label_sets(ROWS, list("wxyz"), PROBABILITIES, TRUE, NAMES)
    assert found["mistakes"] == found["confusions"] == []
    assert found["per_class"]["b"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "rows": 2}


def test_numbers_have_their_fifths_and_the_rows_that_are_furthest_off():
    rows = datasets.Dataset.from_dict({"label": np.arange(20.0).tolist(), "row": list(range(1, 21))})
    predicted = np.arange(20.0) + 1
    predicted[3] = -5
    found = describe_numbers(rows, [f"text {i}" for i in range(20)], predicted)
    assert found["mistakes"][0] == {"row": 4, "text": "text 3", "label": 3.0, "predicted": -5.0}
    first = found["groups"][0]["rows"][0]
    assert (first["name"], first["rows"]) == ("0 to 3", 4)
    assert first["values"]["mean_absolute_error"] == pytest.approx((1 + 1 + 1 + 8) / 4)
    assert [sum(row["rows"] for row in group["rows"]) for group in found["groups"]] == [20, 20]


def test_numbers_of_another_unit_are_compared_by_their_order():
    rows = datasets.Dataset.from_dict({"label": [0.0, 1.0, 2.0, 5.0], "row": [1, 2, 3, 4]})
    right = describe_numbers(rows, list("abcd"), np.array([0.1, 0.2, 0.3, 0.4]), same_unit=False)
    assert right["mistakes"] == []
    assert "mean_absolute_error" not in right["groups"][0]["metrics"]
    wrong = describe_numbers(rows, list("abcd"), np.array([0.9, 0.2, 0.3, 0.4]), same_unit=False)
    assert wrong["mistakes"][0]["row"] == 1


def test_one_value_alone_is_one_fifth():
    rows = datasets.Dataset.from_dict({"label": [2.0, 2.0], "row": [1, 2]})
    found = describe_numbers(rows, ["a", "b"], np.array([2.0, 2.0]))
    assert [len(group["rows"]) for group in found["groups"]] == [1, 1]
