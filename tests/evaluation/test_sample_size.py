import numpy as np
import pytest

from startup_llm.evaluation.sample_size import (
    count_rows_for_difference,
    count_rows_for_width,
    describe_gate,
    describe_sample,
)


def test_the_rows_for_a_difference_show_it_four_times_in_five():
    from scipy.stats import binomtest

    disagreement, difference = 0.2, 0.05
    rows = count_rows_for_difference(difference, disagreement, 0.95)
    draw, shown = np.random.default_rng(0), 0
    shares = [(disagreement + difference) / 2, (disagreement - difference) / 2, 1 - disagreement]
    for _ in range(400):
        better, worse, _ = draw.multinomial(rows, shares)
        shown += binomtest(int(better), int(better + worse)).pvalue < 0.05
    assert shown / 400 == pytest.approx(0.8, abs=0.06)  # the exact test is a little strict


def test_four_times_the_rows_halve_an_interval():
    score = {"value": 0.9, "low": 0.86, "high": 0.94}
    assert count_rows_for_width(score, 100, 0.02) == 400
    assert "100 rows give accuracy 90.0 % to within 4.0 points" in describe_sample("accuracy", score, 100, 0.95)
    assert "measure more rows" in describe_sample("accuracy", {"value": 1.0, "low": 1.0, "high": 1.0}, 9, 0.95)
    assert "half of that takes about 400 rows" in describe_sample("rmse", score, 100, 0.95)


def test_a_gate_names_the_rows_that_would_keep_it_unless_the_figure_misses_it_itself():
    score = {"value": 0.92, "low": 0.88, "high": 0.95}
    assert "about 400 rows" in describe_gate(score, 100, 0.90, lower_is_better=False)
    assert describe_gate(score, 100, 0.93, lower_is_better=False) == ""
    assert "rows with the same figure" in describe_gate(score, 100, 0.94, lower_is_better=True)
