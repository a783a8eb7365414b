from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from startup_llm.config import EvaluationConfig
from startup_llm.evaluation.metrics import ACCURACY, BLEU, MACRO_F1, MATTHEWS_CORRELATION, MEAN_SQUARED_ERROR, MICRO_F1
from startup_llm.evaluation.statistics import (
    Comparison,
    compare_models,
    compute_interval,
    compute_mcnemar,
    describe_comparison,
)

QUICK = EvaluationConfig(resamples=300)


def disagree(only_a: int, only_b: int, both: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return references and two models' predictions, of which so many rows are right in one alone."""
    references = np.ones(only_a + only_b + both, dtype=np.int64)
    a = np.repeat([1, 0, 1], [only_a, only_b, both])
    b = np.repeat([0, 1, 1], [only_a, only_b, both])
    return references, a, b


def binomial_p_value(only_a: int, only_b: int) -> float:
    """Sum the tails of the fair coin: the exact two-sided McNemar test."""
    rows, fewer = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(math.comb(rows, k) for k in range(fewer + 1)) / 2**rows)


def test_mcnemar_of_one_against_eight_is_the_value_worked_out_by_hand():
    assert compute_mcnemar(*disagree(8, 1)) == pytest.approx(2 * (1 + 9) / 512)


@pytest.mark.parametrize("only_a", range(0, 13, 3))
@pytest.mark.parametrize("only_b", range(0, 13, 4))
def test_mcnemar_is_the_exact_binomial_test_of_the_rows_that_differ(only_a, only_b):
    expected = binomial_p_value(only_a, only_b) if only_a + only_b else 1.0
    assert compute_mcnemar(*disagree(only_a, only_b)) == pytest.approx(expected)
    assert compute_mcnemar(*disagree(only_b, only_a)) == pytest.approx(expected)


def test_mcnemar_does_not_look_at_rows_on_which_both_models_agree():
    assert compute_mcnemar(*disagree(8, 1, both=0)) == compute_mcnemar(*disagree(8, 1, both=1000))


def test_mcnemar_counts_a_multi_label_row_right_when_every_label_is():
    references = np.ones((9, 2), dtype=np.int64)
    a, b = references.copy(), references.copy()
    a[:1, 0], b[1:, 1] = 0, 0
    assert compute_mcnemar(references, a, b) == pytest.approx(2 * (1 + 9) / 512)


def test_interval_holds_the_metrics_own_value_and_repeats_with_its_seed():
    references, predictions, _ = disagree(70, 30, both=0)
    interval = compute_interval(ACCURACY, references, predictions, QUICK)
    assert interval.value == pytest.approx(0.7)
    assert interval.low < 0.7 < interval.high
    assert interval == compute_interval(ACCURACY, references, predictions, QUICK)
    other = EvaluationConfig(resamples=300, seed=1)
    assert interval != compute_interval(ACCURACY, references, predictions, other)


def test_interval_of_accuracy_is_about_as_wide_as_the_binomial_one():
    references, predictions, _ = disagree(700, 300, both=0)
    interval = compute_interval(ACCURACY, references, predictions, EvaluationConfig(resamples=1000))
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * math.sqrt(0.7 * 0.3 / 1000), rel=0.1)


def test_interval_grows_with_its_level():
    references, predictions, _ = disagree(70, 30, both=0)
    widths = [
        (found := compute_interval(ACCURACY, references, predictions, EvaluationConfig(level, 300))).high - found.low
        for level in (0.5, 0.9, 0.99)
    ]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_intervals_cover_the_true_accuracy_about_as_often_as_they_say():
    generator, covered = np.random.default_rng(0), 0
    for _ in range(100):
        predictions = (generator.random(100) < 0.8).astype(np.int64)
        interval = compute_interval(ACCURACY, np.ones(100, dtype=np.int64), predictions, QUICK)
        covered += interval.low <= 0.8 <= interval.high
    assert 88 <= covered <= 99


def test_comparison_by_accuracy_gives_the_difference_and_the_exact_test():
    references, a, b = disagree(40, 10, both=50)
    found = compare_models(ACCURACY, references, ("lora", a), ("majority", b), QUICK)
    assert (found.a, found.b, found.metric, found.test) == ("lora", "majority", "accuracy", "exact McNemar")
    assert found.difference == pytest.approx(0.3)
    assert found.low < 0.3 < found.high
    assert found.p_value == pytest.approx(binomial_p_value(40, 10))


def test_comparison_turned_round_has_the_opposite_difference():
    references, a, b = disagree(40, 10, both=50)
    one = compare_models(MACRO_F1, references, ("a", a), ("b", b), QUICK)
    other = compare_models(MACRO_F1, references, ("b", b), ("a", a), QUICK)
    assert (other.difference, other.low, other.high) == pytest.approx((-one.difference, -one.high, -one.low), abs=0.02)
    assert one.p_value == other.p_value


def test_paired_bootstrap_finds_a_clear_difference_and_none_between_equals():
    generator = np.random.default_rng(0)
    references = generator.normal(size=200)
    good, bad = references + generator.normal(0, 0.1, 200), references + generator.normal(0, 2, 200)
    clear = compare_models(MEAN_SQUARED_ERROR, references, ("good", good), ("bad", bad), QUICK)
    assert clear.test == "paired bootstrap"
    assert clear.difference < 0
    assert clear.p_value == pytest.approx(2 / 301)
    same = compare_models(MEAN_SQUARED_ERROR, references, ("good", good), ("copy", good.copy()), QUICK)
    assert (same.difference, same.p_value) == (0, 1)


def test_paired_bootstrap_rejects_a_true_null_hypothesis_about_as_often_as_it_says():
    generator, rejected = np.random.default_rng(0), 0
    for _ in range(100):
        references = generator.normal(size=60)
        a, b = (references + generator.normal(size=60) for _ in range(2))
        rejected += compare_models(MEAN_SQUARED_ERROR, references, ("a", a), ("b", b), QUICK).p_value < 0.05
    assert 1 <= rejected <= 12


def sentence(difference, low, high, p_value, metric="accuracy", **options) -> str:
    found = Comparison("lora", "majority", metric, difference, low, high, p_value, "exact McNemar")
    return describe_comparison(asdict(found), **options)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ((0.123, 0.1, 0.15, 0.0001), "lora beats majority by 12.3 points (95 % 10.0 to 15.0, p < 0.001)"),
        ((-0.05, -0.08, -0.02, 0.004), "lora loses to majority by 5.0 points (95 % -8.0 to -2.0, p = 0.004)"),
        ((0.01, -0.01, 0.03, 0.3), "lora does not beat majority: +1.0 points (95 % -1.0 to 3.0, p = 0.300)"),
        ((-0.01, -0.03, 0.01, 0.3), "lora does not beat majority: -1.0 points (95 % -3.0 to 1.0, p = 0.300)"),
        ((0.0, 0.0, 0.0, 1.0), "lora does not beat majority: +0.0 points (95 % 0.0 to 0.0, p = 1.000)"),
    ],
)
def test_sentence_says_win_loss_or_no_difference(figures, expected):
    assert sentence(*figures) == expected


def test_sentence_about_another_share_names_the_metric():
    assert sentence(0.123, 0.1, 0.15, 0.0001, "macro_f1") == (
        "lora beats majority by 12.3 points of macro_f1 (95 % 10.0 to 15.0, p < 0.001)"
    )


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ((-2.5, -3, -2, 0.01), "lora beats majority by 2.5 mean_squared_error (95 % 2 to 3, p = 0.010)"),
        ((2.5, 2, 3, 0.01), "lora loses to majority by 2.5 mean_squared_error (95 % -3 to -2, p = 0.010)"),
        ((-0.5, -2, 1, 0.4), "lora does not beat majority: +0.5 mean_squared_error (95 % -1 to 2, p = 0.400)"),
    ],
)
def test_sentence_about_an_error_says_win_when_it_is_lower_in_its_own_unit(figures, expected):
    assert sentence(*figures, "mean_squared_error", lower_is_better=True) == expected


def test_sentence_judges_at_the_level_of_its_interval():
    assert sentence(0.1, 0.01, 0.2, 0.03).startswith("lora beats")
    assert sentence(0.1, -0.01, 0.2, 0.03, level=0.99) == (
        "lora does not beat majority: +10.0 points (99 % -1.0 to 20.0, p = 0.030)"
    )


@pytest.mark.parametrize(
    "metric", [ACCURACY, MACRO_F1, MICRO_F1, MATTHEWS_CORRELATION, BLEU], ids=lambda one: one.name
)
def test_draws_that_are_counted_together_have_the_figures_of_each_by_itself(metric):
    generator = np.random.default_rng(5)
    references, other = generator.integers(0, 9, (2, 30))
    predictions = np.where(generator.random(30) < 0.6, references, other)
    if metric == MICRO_F1:
        references, predictions = (generator.integers(0, 2, (30, 4)) for _ in range(2))
    if metric == BLEU:
        references, predictions = ([f"parcel {n} came today" for n in part] for part in (references, predictions))
    alone = replace(metric, tally=None, count=None)
    figures = [compute_interval(one, references, predictions, QUICK) for one in (metric, alone)]
    assert figures[0] == figures[1]
