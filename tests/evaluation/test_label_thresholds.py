"""Thresholds of several labels: chosen on validation rows, kept where they bring nothing, judged on test rows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import logit

from startup_llm.config import EvaluationConfig
from startup_llm.errors import UserError
from startup_llm.evaluation.label_thresholds import (
    MIN_VALIDATION_ROWS,
    analyse_label_thresholds,
    choose_label_thresholds,
    read_label_thresholds,
)
from startup_llm.evaluation.metrics import MACRO_F1, MICRO_F1

QUICK = EvaluationConfig(resamples=50)


def draw_rows(rows: int, *, offsets: tuple[float, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits that are too low by an offset for each label, and the labels, which they tell well."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((rows, len(offsets))) < 0.2).astype(np.int64)
    logits = 6 * labels - 3 + rng.normal(0, 1.5, labels.shape) - np.array(offsets)
    return logits, labels


def test_each_label_gets_the_threshold_that_its_own_shift_asks_for():
    chosen = choose_label_thresholds(*draw_rows(600, offsets=(0, 3, -3)), MACRO_F1)
    assert chosen.kind == "by-label"
    assert chosen.values[1] < 0.3 < chosen.values[0] < 0.7 < chosen.values[2]
    assert chosen.scores["by-label"] > chosen.scores["common"] >= chosen.scores["default"]
    assert chosen.store(("a", "b", "c")) == dict(zip("abc", chosen.values, strict=True))


def test_a_common_shift_is_undone_by_one_threshold():
    chosen = choose_label_thresholds(*draw_rows(100, offsets=(4, 4, 4, 4)), MICRO_F1)
    assert chosen.kind == "common"
    assert len(set(chosen.values)) == 1
    assert chosen.values[0] < 0.3


def test_labels_keep_one_half_where_nothing_is_better_or_rows_are_few():
    logits, labels = draw_rows(600, offsets=(0, 0))
    right = choose_label_thresholds(100.0 * (2 * labels - 1), labels, MACRO_F1)
    assert (right.kind, right.store(("a", "b"))) == ("default", None)
    few = choose_label_thresholds(logits[: MIN_VALIDATION_ROWS - 1] - 5, labels[: MIN_VALIDATION_ROWS - 1], MACRO_F1)
    assert (few.kind, few.scores) == ("default", {})
    np.testing.assert_array_equal(few.shift(logits), logits)


def test_a_rare_label_takes_the_common_threshold():
    logits, labels = draw_rows(600, offsets=(3, 0, -3))
    labels[9:, 1] = 0
    chosen = choose_label_thresholds(logits, labels, MACRO_F1)
    assert chosen.kind == "by-label"
    assert round(chosen.values[1], 2) == chosen.values[1]  # of the grid


def test_shifted_logits_are_positive_above_the_thresholds():
    chosen = choose_label_thresholds(*draw_rows(600, offsets=(3, -3)), MACRO_F1)
    above, below = logit(chosen.values + 1e-6), logit(chosen.values - 1e-6)
    assert (chosen.shift([above, below]) > 0).tolist() == [[True, True], [False, False]]


def test_the_effect_on_test_rows_and_the_rows_without_a_label_are_told():
    chosen = choose_label_thresholds(*draw_rows(600, offsets=(3, 3, -3)), MACRO_F1)
    logits, labels = draw_rows(400, offsets=(3, 3, -3), seed=1)
    found = analyse_label_thresholds(chosen, logits, labels, (MACRO_F1, MICRO_F1), QUICK)
    default, tuned = found["models"]["default"], found["models"]["chosen"]
    assert tuned["macro_f1"]["value"] - default["macro_f1"]["value"] == pytest.approx(
        found["difference"]["difference"]
    )
    assert found["difference"]["low"] > 0
    assert found["unlabelled"] == pytest.approx((labels.sum(axis=1) == 0).mean())
    assert default["unlabelled"] == pytest.approx(((logits > 0).sum(axis=1) == 0).mean())
    first, last = found["sentences"]
    assert first.startswith("a threshold for each label beats 0.5 for every label by ")
    assert last.startswith("no label: ")


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"a": 0.2}, "expected one for each label, got {'a': 0.2}"),
        ({"a": 0.2, "b": 1.5}, "label_thresholds.b in .* above 0 and below 1, got 1.5"),
        ({"a": 0.2, "b": "0.5"}, "label_thresholds.b in .* got '0.5'"),
        (0.5, "expected one for each label, got 0.5"),
    ],
)
def test_what_is_stored_has_to_be_a_probability_for_each_label(stored, message):
    config = SimpleNamespace(id2label={0: "a", 1: "b"}, label_thresholds=stored)
    with pytest.raises(UserError, match=message):
        read_label_thresholds(config)


def test_stored_thresholds_stand_in_the_order_of_the_labels():
    config = SimpleNamespace(id2label={0: "b", 1: "a"}, label_thresholds={"a": 0.1, "b": 0.2})
    assert read_label_thresholds(config).tolist() == [0.2, 0.1]
    assert read_label_thresholds(SimpleNamespace()) is None
