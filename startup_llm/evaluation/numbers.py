"""How far predicted numbers can be trusted: their calibration, and an interval that holds the true one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.evaluation.statistics import bootstrap_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from startup_llm.config import EvaluationConfig

_TENTHS = 10


def analyse_numbers(
    validation: tuple[np.ndarray, np.ndarray] | None,
    test: tuple[np.ndarray, np.ndarray],
    level: float,
    evaluation: EvaluationConfig,
) -> dict[str, Any]:
    """Measure the calibration of predicted numbers on test rows, and an interval that validation rows choose.

    Args:
        validation: True and predicted numbers of the validation rows, shape (rows,) each; None where there are none.
        test: Those of the test rows.
        level: Share of the intervals that are to hold the true number.
        evaluation: Level, resamples and seed of the figures' own intervals.

    Returns:
        The key `numbers` of `results.json`: calibration, interval (half_width and coverage, or None) and sentences.
    """
    calibration = calibrate_numbers(*test, evaluation)
    half_width = None if validation is None else choose_half_width(*validation, level)
    interval = None if half_width is None else {"level": level, **measure_interval(*test, half_width, evaluation)}
    rows = 0 if validation is None else len(validation[0])
    found = {"calibration": calibration, "validation_rows": rows, "interval": interval}
    return {**found, "sentences": _describe(found, level)}


def calibrate_numbers(references: np.ndarray, predicted: np.ndarray, evaluation: EvaluationConfig) -> dict[str, Any]:
    """Compare true with predicted numbers: by tenths of the predictions, and by a line through all.

    The line is the regression of true on predicted numbers of Mincer & Zarnowitz 1969, "The Evaluation of Economic
    Forecasts": predictions are unbiased where its slope is 1 and its intercept 0.

    Args:
        references: True numbers, shape (rows,).
        predicted: Predicted ones, shape (rows,).
        evaluation: Level, resamples and seed.

    Returns:
        slope and intercept, each with its bootstrap interval (None where all predictions are equal), and tenths: rows,
        mean predicted and mean true number of each.
    """
    tenths = [
        {
            "rows": len(part),
            "predicted": float(predicted[part].mean()),
            "true": float(references[part].mean()),
        }
        for part in np.array_split(np.argsort(predicted, kind="stable"), min(_TENTHS, len(predicted)))
    ]

    def measure(place: int) -> dict[str, float] | None:
        if np.ptp(predicted) == 0:
            return None

        def fit(rows: np.ndarray) -> float:
            return _fit_line(references[rows], predicted[rows])[place]

        every = np.arange(len(references))
        low, high, _ = bootstrap_rows(fit, len(every), evaluation)
        return {"value": fit(every), "low": low, "high": high}

    return {"slope": measure(0), "intercept": measure(1), "tenths": tenths}


def _fit_line(references: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Return slope and intercept of true on predicted numbers; a slope of 0 where all predictions are equal."""
    centred = predicted - predicted.mean()
    square = float(centred @ centred)
    slope = float(centred @ references) / square if square else 0.0
    return slope, float(references.mean()) - slope * float(predicted.mean())


def choose_half_width(references: np.ndarray, predicted: np.ndarray, level: float) -> float | None:
    """Return how far around its prediction a number lies, at a level.

    Split conformal prediction with absolute residuals (Lei et al. 2018, "Distribution-Free Predictive Inference for
    Regression", algorithm 2). The guarantee asks for rows that nothing else was chosen on; the validation rows perhaps
    chose the checkpoint, so the coverage of the test rows is shown beside it.

    Returns:
        None where the rows are too few for the level.
    """
    residuals = np.sort(np.abs(np.asarray(references) - np.asarray(predicted)))
    rank = math.ceil((len(residuals) + 1) * level)
    return None if rank > len(residuals) else float(residuals[rank - 1])


def measure_interval(
    references: np.ndarray, predicted: np.ndarray, half_width: float, evaluation: EvaluationConfig
) -> dict[str, Any]:
    """Return how often the true number lies within the half width of its prediction, with a bootstrap interval."""
    holds = np.abs(references - predicted) <= half_width
    low, high, _ = bootstrap_rows(lambda rows: holds[rows].mean(), len(holds), evaluation)
    return {"half_width": half_width, "coverage": {"value": float(holds.mean()), "low": low, "high": high}}


def _describe(found: Mapping[str, Any], level: float) -> list[str]:
    """Describe what was found in sentences."""
    sentences = []
    if interval := found["interval"]:
        coverage = interval["coverage"]
        sentences.append(
            f"the true number is within {interval['half_width']:.4g} of the predicted one in "
            f"{100 * coverage['value']:.1f} % ({100 * coverage['low']:.1f} to {100 * coverage['high']:.1f}) of the "
            f"test rows; the width is for {100 * level:g} %, from {found['validation_rows']} validation rows"
        )
    else:
        least = math.ceil(level / (1 - level))
        sentences.append(
            f"no interval around the predictions: for {100 * level:g} % expected {least} validation rows, "
            f"got {found['validation_rows']}"
        )
    slope, intercept = found["calibration"]["slope"], found["calibration"]["intercept"]
    if slope is None:
        return [*sentences, "every prediction is the same number"]
    line = (
        f"true numbers follow {intercept['value']:.4g} + {slope['value']:.4g} times the prediction (intercept "
        f"{intercept['low']:.4g} to {intercept['high']:.4g}, slope {slope['low']:.4g} to {slope['high']:.4g})"
    )
    if slope["low"] > 1:
        return [*sentences, f"{line}: predictions spread too little"]
    if slope["high"] < 1:
        return [*sentences, f"{line}: predictions spread too much"]
    biased = intercept["low"] > 0 or intercept["high"] < 0
    return [*sentences, line + (": predictions are shifted" if biased else ", which 0 + 1 times agrees with")]
