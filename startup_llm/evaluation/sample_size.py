"""What a number of test rows can show: how wide a figure is, and how many rows a difference takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from startup_llm.evaluation.metrics import is_share
from startup_llm.evaluation.report import format_value, name_metric

DIFFERENCES = (0.01, 0.02, 0.05)
"""Differences of shares that a sentence gives the rows for."""
POWER = 0.8
"""How often a difference of that size would be shown."""


def count_rows_for_width(score: Mapping[str, float], rows: int, half_width: float) -> int:
    """Return the rows at which an interval would be as narrow, as its width falls with their square root.

    Args:
        score: Value, low and high.
        rows: Rows that it comes from.
        half_width: Half of the width that is wanted.
    """
    own = (score["high"] - score["low"]) / 2
    return max(1, math.ceil(rows * (own / half_width) ** 2))


def count_rows_for_difference(difference: float, disagreement: float, level: float) -> int:
    """Return the rows at which a paired test of two models' accuracy shows a difference, with a power of 80 %.

    Connor (1987), Sample size for testing differences in proportions for the paired-sample design, Biometrics 43.

    Args:
        difference: Of the two accuracies, above 0.
        disagreement: Share of the rows that one model alone has right.
        level: Level of the test's interval, such as 0.95.
    """
    disagreement = max(disagreement, difference)
    normal = NormalDist()
    error, power = normal.inv_cdf(1 - (1 - level) / 2), normal.inv_cdf(POWER)
    spread = error * math.sqrt(disagreement) + power * math.sqrt(disagreement - difference**2)
    return math.ceil((spread / difference) ** 2)


def describe_sample(metric: str, score: Mapping[str, float], rows: int, level: float) -> str:
    """Say how wide a figure is and how many rows smaller differences take.

    Args:
        metric: Its name.
        score: Value, low and high.
        rows: Rows that it comes from.
        level: Level of the interval.
    """
    width, name = (score["high"] - score["low"]) / 2, name_metric(metric)
    if not is_share(metric):
        half = count_rows_for_width(score, rows, width / 2) if width else rows
        return f"{rows:,} rows give {name} to within {width:.3g}; half of that takes about {_round(half):,} rows"
    text = f"{rows:,} rows give {name} {format_value(metric, score['value'])} to within {100 * width:.1f} points"
    if not 0 < score["value"] < 1:
        return f"{text}; no row went the other way, so that the interval shows too little: measure more rows"
    errors = 2 * score["value"] * (1 - score["value"])
    needed = [count_rows_for_difference(difference, errors, level) for difference in DIFFERENCES]
    points = ", ".join(
        f"{100 * part:g} {'point' if part == DIFFERENCES[0] else 'points'} about {_round(count):,}"
        for part, count in zip(DIFFERENCES, needed, strict=True)
    )
    return (
        f"{text}; to show a difference from another model takes, if they err on different rows (else fewer): {points}"
    )


def describe_gate(score: Mapping[str, Any], rows: int, limit: float, *, lower_is_better: bool) -> str:
    """Say how many rows would keep a limit that the interval's end misses; empty where the figure itself misses it."""
    distance = limit - score["value"] if lower_is_better else score["value"] - limit
    end = score["high"] - score["value"] if lower_is_better else score["value"] - score["low"]
    if distance <= 0 or end <= 0:
        return ""
    return f"; about {_round(math.ceil(rows * (end / distance) ** 2)):,} rows with the same figure would keep it"


def _round(count: int) -> int:
    """Round up to two digits: it is an estimate."""
    step = 10 ** max(0, len(str(count)) - 2)
    return -(-count // step) * step
