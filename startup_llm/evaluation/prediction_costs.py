"""What a run's predictions take: latency, rows a second, memory, and dollars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ROWS_OF_A_PRICE = 1_000_000


def summarize_latencies(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median and the 95th percentile in milliseconds."""
    milliseconds = 1000 * np.asarray(seconds)
    return {
        "latency_ms_median": float(np.median(milliseconds)),
        "latency_ms_p95": float(np.quantile(milliseconds, 0.95)),
    }


def describe_prediction_costs(
    latency_seconds: Sequence[float], rows_per_second: float, model_bytes: int, dollars_per_hour: float | None
) -> dict[str, Any]:
    """Return what `results.json` says of the price of predictions.

    Args:
        latency_seconds: Of single rows, encoded before.
        rows_per_second: Predicted in batches.
        model_bytes: Of the saved weights.
        dollars_per_hour: Price of the machine; None where it is not known.
    """
    price = None
    if dollars_per_hour is not None:
        price = ROWS_OF_A_PRICE / rows_per_second / 3600 * dollars_per_hour
    return {
        **(summarize_latencies(latency_seconds) if latency_seconds else {}),
        "rows_timed": len(latency_seconds),
        "rows_per_second": rows_per_second,
        "model_bytes": model_bytes,
        "dollars_per_hour": dollars_per_hour,
        "dollars_per_million": price,
    }


def list_prediction_costs(costs: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return name and value of each figure, for the report and the card; empty where a run has none."""
    if not costs:
        return []
    facts = []
    if "latency_ms_median" in costs:
        median, high = costs["latency_ms_median"], costs["latency_ms_p95"]
        facts.append(("latency of one row (p50, p95)", f"{median:,.1f} ms, {high:,.1f} ms"))
    rate = costs["rows_per_second"]
    facts.append(("rows predicted a second", f"{rate:,.0f}" if rate >= 100 else f"{rate:,.1f}"))
    facts.append(("saved weights", f"{costs['model_bytes'] / 1e6:,.0f} MB"))
    if (price := costs.get("dollars_per_million")) is not None:
        facts.append(("a million predictions", f"${price:,.2f} at ${costs['dollars_per_hour']:g} an hour"))
    return facts
