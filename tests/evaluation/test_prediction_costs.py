import pytest

from startup_llm.evaluation.prediction_costs import describe_prediction_costs, list_prediction_costs


def test_a_price_follows_from_rows_a_second_and_an_hour_s_price():
    costs = describe_prediction_costs([0.010, 0.012, 0.030], 1000.0, 91_000_000, 3.6)
    assert costs["dollars_per_million"] == pytest.approx(1.0)
    assert costs["latency_ms_median"] == pytest.approx(12.0)
    assert dict(list_prediction_costs(costs)) == {
        "latency of one row (p50, p95)": "12.0 ms, 28.2 ms",
        "rows predicted a second": "1,000",
        "saved weights": "91 MB",
        "a million predictions": "$1.00 at $3.6 an hour",
    }


def test_what_is_not_known_is_left_out():
    costs = describe_prediction_costs([], 7.25, 1_000_000, None)
    assert dict(list_prediction_costs(costs)) == {"rows predicted a second": "7.2", "saved weights": "1 MB"}
    assert list_prediction_costs(None) == []
