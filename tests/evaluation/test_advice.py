from __future__ import annotations

import copy

import pytest

from startup_llm.evaluation import advice
from startup_llm.evaluation.advice import advise, build_headline, change_command
from startup_llm.evaluation.report import build_report


def compare(other: str, difference: float, spread: float = 0.02) -> dict:
    return {
        "a": "lora", "b": other, "metric": "accuracy", "difference": difference, "low": difference - spread,
        "high": difference + spread, "p_value": 0.001 if abs(difference) > spread else 0.4, "test": "exact McNemar",
    }  # fmt: skip


def build_results(**changes: object) -> dict:
    """Build the results of a run in which nothing is left to do."""
    return {
        "schema_version": 1,
        "task": "text-classification",
        "method": "lora",
        "run_name": "tickets-lora",
        "decides": "accuracy",
        "lower_is_better": [],
        "test": {"rows": 111},
        "rows": {"train": 900, "validation": 100, "test": 111},
        "models": {"lora": {"accuracy": {"value": 0.847, "low": 0.8, "high": 0.9}}},
        "comparisons": [compare("linear-probe", 0.05), compare("tfidf-linear-svm", 0.1)],
        "stage_seconds": {"probe": 10.0, "train": 100.0},
        "history": [{"step": 1, "eval_accuracy": 0.84}, {"step": 2, "eval_accuracy": 0.842}],
        "config": {"train": {"num_train_epochs": 4}, "data": {"train_file": "tickets.csv"}},
        "command": "python recipes/finetune.py --data.train_file 'my tickets.csv' --run_dir out/a --overwrite",
        "seconds": 110.0,
        **changes,
    }


def classes(recall: float) -> dict:
    return {name: {"recall": value, "rows": 37} for name, value in {"a": 0.9, "b": 0.9, "c": recall}.items()}


def confusions(back: int) -> list[dict]:
    return [{"label": "a", "predicted": "b", "rows": 3}, {"label": "b", "predicted": "a", "rows": back}]


def decision(accuracy: float, **more: object) -> dict:
    def share(value: float) -> dict:
        return {"value": value, "low": value - 0.01, "high": value + 0.01}

    first = {"threshold": 0.0, "coverage": share(0.99), "accuracy": share(0.85)}
    return {"risk_coverage": [first, {"threshold": 0.7, "coverage": share(0.8), "accuracy": share(accuracy)}], **more}


def balance(gain: float, used: str = "none") -> dict:
    effect = {
        "none": 0.4,
        "weights": 0.4 + gain,
        "difference": {"value": gain, "low": gain - 0.01, "high": gain + 0.01},
    }
    return {"used": used, "ratio": 12.5, "effect": effect}


FIRES = {
    advice.propose_probe: {"comparisons": [compare("linear-probe", 0.001)]},
    advice.propose_suspects: {"audit": {"findings": [{"kind": "suspect-labels", "count": 12}]}},
    advice.propose_epochs: {"history": [{"eval_accuracy": 0.8}, {"eval_accuracy": 0.84}]},
    advice.propose_threshold: {"decision": decision(0.95)},
    advice.propose_balance: {"balance": balance(0.03)},
    advice.propose_merge: {"confusions": confusions(2)},
    advice.propose_labels: {"per_class": classes(0.5)},
}
SILENT = {
    advice.propose_probe: {"comparisons": [compare("linear-probe", 0.05)]},
    advice.propose_suspects: {"audit": {"findings": [{"kind": "duplicates", "count": 12}]}},
    advice.propose_epochs: {"history": [{"eval_accuracy": 0.84}, {"eval_accuracy": 0.83}]},
    advice.propose_threshold: {"decision": decision(0.86)},
    advice.propose_balance: {"balance": balance(0.001)},
    advice.propose_merge: {"confusions": confusions(1)},
    advice.propose_labels: {"per_class": classes(0.85)},
}


def test_every_rule_has_a_case_of_either_kind():
    assert set(FIRES) == set(SILENT) == set(advice.RULES)


@pytest.mark.parametrize("rule", advice.RULES)
def test_a_rule_fires_where_its_figures_ask_for_it(rule):
    results = build_results(**FIRES[rule])
    action = rule(results)
    assert action["action"]
    assert action["gain"]
    assert advise(results) == [action]


@pytest.mark.parametrize("rule", advice.RULES)
def test_a_rule_stays_silent_where_they_do_not(rule):
    assert rule(build_results(**SILENT[rule])) is None
    assert rule(build_results()) is None


def test_a_threshold_that_was_chosen_is_not_proposed_again():
    results = build_results(decision=decision(0.95, handover={"threshold": 0.7}))
    assert advice.propose_threshold(results) is None


def test_a_run_limited_by_steps_is_not_told_to_train_for_more_epochs():
    config = {"train": {"num_train_epochs": 4, "max_steps": 10}}
    assert advice.propose_epochs(build_results(**FIRES[advice.propose_epochs], config=config)) is None


def test_gains_and_commands_are_those_of_the_figures():
    results = build_results(**FIRES[advice.propose_probe] | FIRES[advice.propose_merge] | FIRES[advice.propose_labels])
    probe, merge, labels = advise(results)
    assert probe["gain"] == "-0.1 points accuracy, in a tenth of the training time"
    assert probe["command"] == (
        "python recipes/finetune.py --data.train_file 'my tickets.csv' --method probe --run_dir out/a-probe"
    )
    assert merge["gain"] == "up to 4.5 points of accuracy: 5 test rows are taken for the other one"
    assert labels["gain"] == "+8.9 points of accuracy if it were found as often as the others"
    assert labels["command"] == "python recipes/suggest.py --run out/a --pool unlabelled.csv"


def test_at_most_five_actions_are_proposed():
    everything = {name: value for changes in FIRES.values() for name, value in changes.items()}
    assert len(advise(build_results(**everything))) == advice.MAX_ACTIONS


def test_a_command_without_a_folder_gets_one_and_an_unknown_one_stays_unknown():
    results = build_results(command="python recipes/finetune.py --method=lora")
    assert change_command(results, "probe", {"method": "probe"}) == (
        "python recipes/finetune.py --method probe --run_dir runs/tickets-lora-probe"
    )
    assert change_command(build_results(command=None), "probe", {}) is None


@pytest.mark.parametrize(
    ("comparisons", "expected"),
    [
        (
            [compare("linear-probe", 0.001), compare("tfidf-linear-svm", 0.1)],
            "The linear probe is as good, as far as these rows can show: "
            "use it, it takes a tenth of the training time.",
        ),
        ([compare("tfidf-linear-svm", -0.1)], "tfidf-linear-svm is better by 10.0 points: use it."),
        ([compare("prompted-llm", 0.0)], "prompted-llm is as good, as far as these rows can show."),
        (
            [compare("linear-probe", 0.05), compare("majority", 0.7)],
            "It beats every other model; the next best is the linear probe, 5.0 points behind.",
        ),
        ([], "It was compared with no other model."),
    ],
)
def test_the_headline_says_how_good_and_what_to_use(comparisons, expected):
    headline = build_headline(build_results(comparisons=comparisons))
    assert headline == ["The tuned model is right on 84.7 % of 111 test rows.", expected]


def test_the_headline_says_what_is_handed_over():
    share = {"value": 0.8, "low": 0.7, "high": 0.9}
    results = build_results(decision={"handover": {"threshold": 0.7, "coverage": share, "accuracy": share}})
    assert (
        build_headline(results)[2] == "It answers 80.0 % by itself with 80.0 % right, and hands the rest to a person."
    )
    assert len(build_headline(build_results(decision={"handover": {"threshold": None}}))) == 2


def test_another_metric_is_not_called_right():
    results = build_results(decides="macro_f1", comparisons=[])
    results["models"]["lora"] = {"macro_f1": {"value": 0.5}}
    assert build_headline(results)[0] == "The tuned model reaches 50.0 % macro F1 on 111 test rows."


def test_the_report_begins_with_the_headline_and_the_actions():
    results = build_results(**FIRES[advice.propose_probe])
    results |= {"headline": build_headline(results), "advice": advise(results)}
    page = build_report(copy.deepcopy(results))
    places = [
        page.index(text) for text in ("<h1>The tuned model", "Do this next", "lora does not beat", "Models compared")
    ]
    assert places == sorted(places)
    assert "--method probe --run_dir out/a-probe" in page


def test_balancing_is_proposed_with_the_gain_that_was_measured_and_once():
    proposed = advice.propose_balance(build_results(balance=balance(0.03)))
    assert proposed is not None
    assert proposed["action"] == "Give the classes the same weight: the largest has 12.5 times the smallest's rows"
    gain = "+3.0 points macro F1 (2.0 to 4.0) for a linear probe on the validation rows; accuracy may fall"
    assert proposed["gain"] == gain
    assert "--train_balance weights --run_dir out/a-balanced" in str(proposed["command"])
    assert advice.propose_balance(build_results(balance=balance(0.03, used="weights"))) is None
    unmeasured = advice.propose_balance(build_results(balance={"used": "none", "ratio": 6.0, "effect": None}))
    assert unmeasured is not None
    assert unmeasured["gain"] == "not measured, as there are no validation rows"


def test_of_several_labels_the_gain_is_that_with_chosen_thresholds_and_accuracy_is_not_promised():
    several = {"problem_type": "multi_label_classification", "confusions": confusions(2), "per_class": classes(0.5)}
    measured = balance(0.1)
    measured["effect"]["tuned"] = {"none": 0.45, "weights": 0.452}
    results = build_results(**several, balance=measured)
    for rule in (advice.propose_balance, advice.propose_merge, advice.propose_labels):
        assert rule(results) is None
    measured["effect"]["tuned"]["weights"] = 0.46
    assert "+1.0 points macro F1 for a linear probe" in str(advice.propose_balance(results))
