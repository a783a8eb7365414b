"""Models compared over label budgets, on predictions whose accuracies are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from startup_llm.config import EvaluationConfig
from startup_llm.errors import UserError
from startup_llm.evaluation.comparison import ComparedRun, build_comparison, build_comparison_page, draw_budget_curve
from startup_llm.evaluation.metrics import ACCURACY

ROWS, CLASSES = 1000, 5
REFERENCES = np.arange(ROWS) % CLASSES
EVALUATION = EvaluationConfig(resamples=200)


def make_run(model: str, budget: int | str, draw: int, right: int, seconds: float) -> ComparedRun:
    """Return a run that has the first `right` rows right and the others wrong."""
    predictions = np.where(np.arange(ROWS) < right, REFERENCES, (REFERENCES + 1) % CLASSES)
    rows = 800 if budget == "all" else budget * CLASSES
    return ComparedRun(model, budget, draw, predictions, "a" * 64, rows, seconds, 22_000_000, 600_000, 10**9, 1.25)


def make_runs() -> list[ComparedRun]:
    return [
        make_run(model, budget, draw, right + 2 * draw, seconds)
        for model, seconds, rights in (
            ("svm", 1.0, (500, 890)),
            ("probe", 20.0, (848, 900)),
            ("lora", 60.0, (850, 960)),
        )
        for budget, right in zip((10, "all"), rights, strict=True)
        for draw in range(3)
    ]


@pytest.fixture(scope="module")
def comparison():
    return build_comparison(make_runs(), REFERENCES, ACCURACY, EVALUATION)


def test_a_model_s_figure_is_the_mean_of_its_draws_with_their_range(comparison):
    model = next(model for model in comparison["budgets"][0]["rungs"] if model["name"] == "probe")
    assert (model["mean"], model["least"], model["most"]) == pytest.approx((0.850, 0.848, 0.852))
    assert model["deviation"] == pytest.approx(0.002)
    assert [draw["value"] for draw in model["draws"]] == pytest.approx([0.848, 0.850, 0.852])


def test_the_quickest_model_that_the_best_is_not_shown_to_beat_is_used(comparison):
    few, every = comparison["budgets"]
    assert [model["name"] for model in few["rungs"]] == ["lora", "probe", "svm"]
    assert few["use"] == "probe"
    assert every["use"] == "lora"
    assert few["sentence"] == (
        "With 10 labels per class, use probe: 85.0 % accuracy, 84.8 to 85.2 over 3 draws, in 20 s; "
        "lora has 85.2 % in 60 s, which is not shown to be better."
    )
    assert every["sentence"].endswith("it is shown to beat every other model.")


def test_pairs_are_tested_draw_by_draw(comparison):
    pairs = {pair["b"]: pair for pair in comparison["budgets"][1]["comparisons"]}
    assert (pairs["probe"]["draws_that_show_it"], pairs["probe"]["draws"]) == (3, 3)
    assert pairs["probe"]["p_value"] == pytest.approx(2 * 0.5**60)
    assert pairs["probe"]["mean_difference"] == pytest.approx(0.060)


def test_runs_on_other_test_rows_are_refused():
    runs = make_runs()
    runs[4] = dataclasses.replace(runs[4], test_sha256="b" * 64)
    with pytest.raises(UserError, match=r"svm .*all, draw 1.*b{12}.*a{12}"):
        build_comparison(runs, REFERENCES, ACCURACY, EVALUATION)


def test_the_curve_has_a_line_per_model_and_places_all_by_its_rows(comparison):
    axes, larger = draw_budget_curve(comparison, CLASSES).axes
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    assert lines.keys() == {"svm", "probe", "lora"}
    assert lines["lora"] == pytest.approx(np.array([[10, 85.2], [160, 96.2]]))
    assert {line.get_label() for line in larger.get_lines()} == {"probe", "lora"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "all"]


def test_the_page_says_what_to_use_and_escapes_what_it_is_given(comparison):
    about = {"title": "<b>ladder", "command": "python recipes/compare.py", "hardware": "a machine"}
    page = build_comparison_page({**comparison, **about}, draw_budget_curve(comparison, CLASSES))
    assert "<b>ladder" not in page
    for sentence in comparison["sentences"]:
        assert sentence in page
    assert "22,000,000" in page
    assert "3 of 3" in page
    assert page.count('<tr class="run">') == 2
