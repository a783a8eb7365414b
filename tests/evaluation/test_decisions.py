from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from startup_llm.config import ClassDecision, EvaluationConfig, HandoverDecision
from startup_llm.errors import UserError
from startup_llm.evaluation import decisions
from startup_llm.evaluation.decisions import ClassifiedRows, Decision, SpanAnswers

EVALUATION = EvaluationConfig(resamples=200)


def draw_rows(rows: int, *, sharpness: float = 1.0, seed: int = 0, classes: int = 3) -> ClassifiedRows:
    """Draw rows whose labels follow softmax(logits), and make the logits too sharp by a factor."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(rows, classes))
    labels = np.array([rng.choice(classes, p=chances) for chances in decisions.compute_probabilities(logits)])
    return ClassifiedRows(sharpness * logits, labels)


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_what_made_the_logits_too_sharp(sharpness):
    temperature = decisions.fit_temperature(draw_rows(4000, sharpness=sharpness))
    assert temperature == pytest.approx(sharpness, rel=0.1)


def test_calibration_lowers_the_error_on_rows_that_it_was_not_fitted_on():
    found = decisions.analyse_decisions(
        draw_rows(1000, sharpness=4), draw_rows(1000, sharpness=4, seed=1), ClassDecision(), EVALUATION
    )
    before, after = found["reliability"]["before"], found["reliability"]["after"]
    assert after["high"] < before["low"]
    assert before["low"] <= before["value"] <= before["high"]
    assert found["stored"] is None


def test_the_accuracy_threshold_answers_as_much_as_the_target_allows():
    confidence = np.linspace(0.99, 0.01, 100)
    right = np.arange(100) < 60
    threshold = decisions.choose_accuracy_threshold(confidence, right, 0.8)
    assert (confidence >= threshold).sum() == 75  # 60 of 75 are right
    assert decisions.choose_accuracy_threshold(confidence, right, 0.6) == 0
    assert decisions.choose_accuracy_threshold(confidence, ~right, 0.9) is None


def test_no_threshold_lies_between_rows_of_equal_confidence():
    confidence = np.repeat([0.9, 0.5], 50)
    right = np.r_[np.ones(50, bool), np.ones(10, bool), np.zeros(40, bool)]
    threshold = decisions.choose_accuracy_threshold(confidence, right, 0.99)
    assert threshold == pytest.approx(0.7)


def test_a_target_reached_by_a_handful_of_rows_alone_counts_as_not_reached():
    right = np.arange(100) < decisions.MIN_ANSWERED_ROWS - 1
    assert decisions.choose_accuracy_threshold(np.linspace(1, 0, 100), right, 1.0) is None


def test_the_cost_threshold_follows_chow_s_rule_where_probabilities_are_exact():
    rows = draw_rows(20000)
    threshold = decisions.choose_cost_threshold(*rows.compute_confidence(), 5, 1)
    assert threshold == pytest.approx(1 - 1 / 5, abs=0.04)


@pytest.mark.parametrize(("cost_of_error", "cost_of_handover", "expected"), [(1, 2, 0.0), (1000, 0.001, None)])
def test_costs_can_forbid_any_hand_over_or_any_answer(cost_of_error, cost_of_handover, expected):
    confidence, right = np.linspace(0.9, 0.4, 100), np.arange(100) % 2 == 1
    assert decisions.choose_cost_threshold(confidence, right, cost_of_error, cost_of_handover) == expected


def test_a_hand_over_is_measured_with_intervals():
    confidence, right = np.repeat([0.9, 0.3], 100), np.r_[np.arange(100) < 95, np.arange(100) < 40]
    measured = decisions.measure_handover(confidence, right, 0.5, EVALUATION, (5, 1))
    assert measured["rows"] == 100
    assert measured["coverage"]["value"] == 0.5
    assert measured["accuracy"]["value"] == 0.95
    assert measured["cost"]["value"] == pytest.approx((5 * 5 + 100) / 200)
    assert measured["extra_cost"]["value"] == pytest.approx((5 * 5 + 100) / 200 - 5 * 65 / 200)
    for name in ("coverage", "accuracy", "cost", "extra_cost"):
        assert measured[name]["low"] < measured[name]["value"] < measured[name]["high"]


def test_sets_hold_the_label_as_often_as_asked():
    validation, test = draw_rows(2000), draw_rows(2000, seed=1)
    found = decisions.analyse_decisions(validation, test, ClassDecision(sets=0.9), EVALUATION)
    assert found["sets"]["coverage"]["value"] == pytest.approx(0.9, abs=0.03)
    assert 1 <= found["sets"]["mean_size"] < 3
    assert found["stored"].keys() == {"temperature", "set_threshold"}


def test_too_few_validation_rows_are_reported_and_nothing_is_chosen():
    few = draw_rows(decisions.MIN_VALIDATION_ROWS - 1)
    for validation, rows in ((few, 49), (None, 0)):
        found = decisions.analyse_decisions(validation, draw_rows(100), ClassDecision(target_accuracy=0.9), EVALUATION)
        assert found.keys() == {"counted", "validation_rows", "stored", "sentences"}
        assert f"{rows} validation rows, of at least 50" in found["sentences"][0]


def test_too_few_rows_for_a_level_give_no_sets():
    found = decisions.analyse_decisions(draw_rows(60), draw_rows(60), ClassDecision(sets=0.99), EVALUATION)
    assert found["stored"] is None
    assert found["sentences"][1] == "no sets of labels: for 99 % expected 99 validation rows, got 60"


def test_the_sentences_say_where_no_threshold_helps():
    useless = ClassifiedRows(np.random.default_rng(0).normal(size=(500, 3)), np.arange(500) % 3)
    found = decisions.analyse_decisions(useless, useless, ClassDecision(target_accuracy=0.97), EVALUATION)
    assert found["handover"]["threshold"] is None
    assert found["sentences"][0].startswith("no threshold helps: none with at least 20 of the 500 validation rows")
    assert found["stored"] is None


def test_a_target_is_judged_on_the_test_rows():
    asked = ClassDecision(target_accuracy=0.9)
    held = decisions.analyse_decisions(draw_rows(2000), draw_rows(2000, seed=1), asked, EVALUATION)
    assert "lies within the 95 % interval" in held["sentences"][0] or "holds" in held["sentences"][0]
    broken = ClassifiedRows(draw_rows(2000, seed=1).logits, np.random.default_rng(2).integers(3, size=2000))
    missed = decisions.analyse_decisions(draw_rows(2000), broken, asked, EVALUATION)
    assert missed["sentences"][0].endswith("the wanted 90 % is missed")


def test_answers_follow_the_decision():
    names = {0: "a", 1: "b", 2: "c"}
    logits = [np.array([4.0, 0.0, -4.0]), np.array([0.2, 0.1, -4.0])]
    plain = decisions.answer_labels(logits, names, Decision(temperature=2.0))
    assert [answer.keys() for answer in plain] == [{"label", "score"}] * 2
    assert plain[0]["score"] == pytest.approx(np.exp(2) / (np.exp(2) + 1 + np.exp(-2)))
    full = decisions.answer_labels(logits, names, Decision(2.0, threshold=0.6, set_threshold=0.3))
    assert [answer["needs_human"] for answer in full] == [False, True]
    assert [answer["possible_labels"] for answer in full] == [["a"], ["a", "b"]]


@pytest.mark.parametrize("stored", [[1], {"temperature": "2"}, {"temperature": 0}, {"limit": 1}, {"threshold": True}])
def test_a_decision_that_is_none_is_refused(stored):
    with pytest.raises(UserError, match=r"in the model's config\.json: expected"):
        Decision.read(SimpleNamespace(decision=stored))


def test_a_config_without_a_decision_has_none():
    assert Decision.read(SimpleNamespace()) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost_of_error": 5.0}, "expected both or none"),
        ({"target_accuracy": 0.9, "cost_of_error": 5.0, "cost_of_handover": 1.0}, "leave one out"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ClassDecision(**options)


def draw_spans(rows: int, *, sharpness: float = 1.0, seed: int = 0) -> SpanAnswers:
    """Draw two answers a row, each right with the probability of its logit, and make the logits too sharp."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=2 * rows)
    right = rng.random(2 * rows) < 1 / (1 + np.exp(-logits))
    return SpanAnswers(
        lambda temperature: 1 / (1 + np.exp(-sharpness * logits / temperature)), right, np.arange(2 * rows) // 2,
        counted="entities",
    )  # fmt: skip


def test_spans_are_calibrated_and_handed_over_by_the_same_rules():
    asked = HandoverDecision(target_accuracy=0.85)
    found = decisions.analyse_decisions(
        draw_spans(600, sharpness=4), draw_spans(600, sharpness=4, seed=1), asked, EVALUATION
    )
    assert found["temperature"] == pytest.approx(4, rel=0.2)
    assert found["reliability"]["after"]["high"] < found["reliability"]["before"]["low"]
    assert found["stored"].keys() == {"temperature", "threshold"}
    assert found["handover"]["accuracy"]["value"] == pytest.approx(0.85, abs=0.04)
    first, second, last = found["sentences"]
    assert ") of the entities that it finds by itself with 8" in first
    assert "adds none" in second
    assert "from 1200 entities found in the validation rows" in last


def test_answers_of_one_row_are_resampled_together():
    confidence, right = np.tile([0.9, 0.3], 100), np.arange(200) < 120
    alone = decisions.measure_handover(confidence, right, 0.5, EVALUATION)
    pairs = decisions.measure_handover(confidence, right, 0.5, EVALUATION, rows=np.arange(200) // 2)
    assert alone["coverage"]["low"] < pairs["coverage"]["low"] == pairs["coverage"]["high"] == 0.5
    tens = decisions.measure_handover(confidence, right, 0.5, EVALUATION, rows=np.arange(200) // 20)
    assert tens["accuracy"]["high"] > alone["accuracy"]["high"]
    assert tens["accuracy"]["low"] < alone["accuracy"]["low"]
    assert decisions.measure_handover(confidence, right, 0.5, EVALUATION, rows=np.arange(200)) == alone


def test_no_temperature_is_fitted_where_no_answer_is_wrong():
    rows = draw_spans(100)
    right = SpanAnswers(rows.compute, np.ones(200, bool), rows.rows)
    found = decisions.analyse_decisions(right, right, HandoverDecision(), EVALUATION)
    assert (found["temperature"], found["stored"]) == (1.0, None)
    assert "of 200 validation rows none is wrong" in found["sentences"][-1]


def test_a_model_that_finds_nothing_or_all_in_one_row_hands_nothing_over():
    nothing = SpanAnswers(lambda _: np.zeros(0), np.zeros(0, bool), np.zeros(0, int), counted="entities")
    for validation, message in (
        (nothing, "0 entities found in the validation rows"),
        (draw_spans(60), "and in 0 test rows"),
    ):
        found = decisions.analyse_decisions(validation, nothing, HandoverDecision(target_accuracy=0.9), EVALUATION)
        assert (found["stored"], message in found["sentences"][0]) == (None, True)
    long_row = SpanAnswers(draw_spans(60).compute, draw_spans(60).right, np.zeros(120, int), counted="entities")
    found = decisions.analyse_decisions(long_row, draw_spans(60), HandoverDecision(), EVALUATION)
    assert "are found in 1 validation rows, of at least 5" in found["sentences"][0]


def test_a_temperature_that_is_not_shown_to_help_is_not_used():
    right, sharp = draw_rows(300, seed=3), draw_rows(300, sharpness=4, seed=3)
    kept = decisions.analyse_decisions(right, draw_rows(400), ClassDecision(sets=0.9), EVALUATION)
    assert kept["temperature"] == 1 != kept["fitted_temperature"]
    assert kept["loss_change"]["high"] >= 0
    assert kept["stored"]["temperature"] == 1
    assert "is not shown to help" in kept["sentences"][-1]
    assert kept["reliability"]["before"] == kept["reliability"]["after"]
    scaled = decisions.analyse_decisions(sharp, draw_rows(400, sharpness=4), ClassDecision(), EVALUATION)
    assert scaled["temperature"] == scaled["fitted_temperature"] > 2
    assert scaled["loss_change"]["high"] < 0


def test_the_change_of_the_log_loss_is_of_rows_that_the_temperature_was_not_fitted_on():
    few = draw_rows(60, seed=5)
    fitted = decisions.fit_temperature(few)
    own = np.mean(
        [np.log(decisions.compute_probabilities(few.logits)[i, y]) for i, y in enumerate(few.labels)]
    ) - np.mean([np.log(decisions.compute_probabilities(few.logits, fitted)[i, y]) for i, y in enumerate(few.labels)])
    assert own <= 0 < decisions.judge_temperature(few, EVALUATION)["value"] - own
