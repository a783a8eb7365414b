from __future__ import annotations

import numpy as np
import pytest

from startup_llm.config import EvaluationConfig
from startup_llm.evaluation.numbers import analyse_numbers, calibrate_numbers, choose_half_width

EVALUATION = EvaluationConfig(resamples=100)


def draw(rows: int, seed: int, slope: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw predictions, and true numbers on a line over them with normal noise."""
    rng = np.random.default_rng(seed)
    predicted = rng.normal(scale=2, size=rows)
    return shift + slope * predicted + rng.normal(scale=0.5, size=rows), predicted


@pytest.mark.parametrize(
    ("slope", "shift", "words"),
    [(1.0, 0.0, "agrees with"), (1.5, 0.0, "too little"), (0.5, 0.0, "too much"), (1.0, 3.0, "are shifted")],
)
def test_the_line_of_true_on_predicted_numbers_tells_spread_and_shift(slope, shift, words):
    found = analyse_numbers(None, draw(500, 0, slope, shift), 0.9, EVALUATION)
    line = found["calibration"]
    assert line["slope"]["low"] < slope < line["slope"]["high"]
    assert line["intercept"]["value"] == pytest.approx(shift, abs=0.1)
    assert words in found["sentences"][-1]


def test_tenths_hold_every_row_in_the_order_of_the_predictions():
    references, predicted = draw(95, 1)
    tenths = calibrate_numbers(references, predicted, EVALUATION)["tenths"]
    assert [part["rows"] for part in tenths] == [10] * 5 + [9] * 5
    assert [part["predicted"] for part in tenths] == sorted(part["predicted"] for part in tenths)
    assert sum(part["rows"] * part["true"] for part in tenths) == pytest.approx(references.sum())


def test_the_interval_holds_the_true_number_as_often_as_asked():
    found = analyse_numbers(draw(1000, 2), draw(1000, 3), 0.9, EVALUATION)
    interval = found["interval"]
    assert interval["half_width"] == pytest.approx(1.645 * 0.5, rel=0.1)
    assert interval["coverage"]["value"] == pytest.approx(0.9, abs=0.03)
    assert interval["coverage"]["low"] < interval["coverage"]["value"] < interval["coverage"]["high"]
    assert "the width is for 90 %, from 1000 validation rows" in found["sentences"][0]


def test_too_few_rows_for_a_level_give_no_interval_and_equal_predictions_no_line():
    assert choose_half_width(np.zeros(18), np.ones(18), 0.95) is None
    assert choose_half_width(np.zeros(19), np.ones(19), 0.95) == 1
    found = analyse_numbers((np.zeros(8), np.ones(8)), (np.arange(30.0), np.ones(30)), 0.95, EVALUATION)
    assert found["sentences"] == [
        "no interval around the predictions: for 95 % expected 19 validation rows, got 8",
        "every prediction is the same number",
    ]
