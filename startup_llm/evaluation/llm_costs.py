"""What prompting a language model costs beside a tuned model, and the volume at which fine-tuning pays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from startup_llm.evaluation.prediction_costs import summarize_latencies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

PROMPTED = "prompted-llm"
"""What results call the language model that was asked."""


@dataclass(frozen=True)
class PromptedAnswers:
    """What a language model answered to the test rows, and what that took.

    Attributes:
        predictions: Class ids, shape (rows,); one beyond the last where an answer names no label.
        model: The model's name at the endpoint.
        endpoint: Address of the API.
        examples: How many training rows were shown.
        asked: Answers that came from the endpoint now; the others were read from the file.
        file: The answers' JSONL.
        refused_rows: Test rows whose prompt the endpoint refused.
        unreadable: Further rows whose answer names no label.
        input_tokens: Of all prompts; None where the endpoint does not tell.
        output_tokens: Of all answers; None where the endpoint does not tell.
        dollars: Price of all; None without prices or tokens.
        latency_seconds: Of each answer.
        seconds: Spent on asking.
    """

    predictions: np.ndarray
    model: str
    endpoint: str
    examples: str
    asked: int
    file: str
    refused_rows: tuple[int, ...]
    unreadable: int
    input_tokens: int | None
    output_tokens: int | None
    dollars: float | None
    latency_seconds: tuple[float, ...]
    seconds: float

    def describe(self) -> str:
        """Return a line about the answers."""
        rows = len(self.predictions)
        tokens = "" if self.input_tokens is None else f", {self.input_tokens / rows:,.0f} tokens a prompt"
        price = "" if self.dollars is None else f", ${1000 * self.dollars / rows:.4g} per 1,000"
        parts = f"{rows - self.asked:,} answers from {self.file}, {self.asked:,} from {self.endpoint}"
        return f"{self.model}: {parts}{tokens}{price}"


@dataclass(frozen=True)
class TunedCosts:
    """What the run's own model takes.

    Attributes:
        name: The model's name in the results.
        seconds: Of the whole run, without what the language model took.
        rows_per_second: Predicted in batches.
        latency_seconds: Of single rows.
        dollars_per_hour: Price of the machine; None where it is not known.
    """

    name: str
    seconds: float
    rows_per_second: float
    latency_seconds: Sequence[float]
    dollars_per_hour: float | None

    @property
    def training_dollars(self) -> float | None:
        """Price of the run."""
        return None if self.dollars_per_hour is None else self.seconds / 3600 * self.dollars_per_hour

    @property
    def dollars_per_1000(self) -> float | None:
        """Price of 1,000 predictions in batches."""
        return None if self.dollars_per_hour is None else 1000 / self.rows_per_second / 3600 * self.dollars_per_hour


def describe_costs(prompted: PromptedAnswers, tuned: TunedCosts) -> dict[str, Any]:
    """Return what `results.json` says of the two ways: costs, latencies and the rows from which fine-tuning pays."""
    rows = len(prompted.predictions)
    prompted_price = None if prompted.dollars is None else 1000 * prompted.dollars / rows
    break_even = _find_break_even(prompted_price, tuned)
    costs = {
        "model": prompted.model,
        "endpoint": prompted.endpoint,
        "examples": prompted.examples,
        "rows": rows,
        "asked": prompted.asked,
        "answers": prompted.file,
        "refused_rows": list(prompted.refused_rows),
        "unreadable": prompted.unreadable,
        "input_tokens_per_row": None if prompted.input_tokens is None else prompted.input_tokens / rows,
        "output_tokens_per_row": None if prompted.output_tokens is None else prompted.output_tokens / rows,
        "training_dollars": tuned.training_dollars,
        "break_even_rows": break_even,
        "compared": {
            PROMPTED: {"dollars_per_1000": prompted_price, **summarize_latencies(prompted.latency_seconds)},
            tuned.name: {"dollars_per_1000": tuned.dollars_per_1000, **summarize_latencies(tuned.latency_seconds)},
        },
    }
    return {**costs, "sentences": _write_sentences(costs, tuned)}


def _find_break_even(prompted_price: float | None, tuned: TunedCosts) -> int | None:
    """Return the rows from which training and predicting cost less than prompting; None for never or not known."""
    if prompted_price is None or tuned.training_dollars is None or tuned.dollars_per_1000 is None:
        return None
    saved = (prompted_price - tuned.dollars_per_1000) / 1000
    return max(1, math.ceil(tuned.training_dollars / saved)) if saved > 0 else None


def _write_sentences(costs: Mapping[str, Any], tuned: TunedCosts) -> list[str]:
    ours, theirs = costs["compared"][tuned.name], costs["compared"][PROMPTED]
    sentences = [
        f"{PROMPTED} is {costs['model']}, asked with the labels' names and examples: {costs['examples']}."
        + _name_no_label(costs)
    ]
    if theirs["dollars_per_1000"] is None:
        sentences.append(
            "Its cost is not known: give baselines.llm.dollars_per_million_input_tokens and _output_tokens."
            if costs["input_tokens_per_row"] is not None
            else "Its cost is not known: the endpoint does not tell tokens."
        )
    elif ours["dollars_per_1000"] is None:
        sentences.append("The volume at which fine-tuning pays is not known: give preflight.dollars_per_hour.")
    elif costs["break_even_rows"] is None:
        sentences.append(f"By cost {tuned.name} does not pay at any volume: a prediction costs no less than a prompt.")
    else:
        sentences.append(
            f"{tuned.name} pays from {costs['break_even_rows']:,} rows: the run cost "
            f"${costs['training_dollars']:.4g}, and 1,000 rows cost ${ours['dollars_per_1000']:.4g} instead of "
            f"${theirs['dollars_per_1000']:.4g}; what the labels cost is not counted."
        )
    return sentences


def _name_no_label(costs: Mapping[str, Any]) -> str:
    refused, unreadable = costs["refused_rows"], costs["unreadable"]
    parts = [f"{unreadable:,} answers name no label"] if unreadable else []
    if refused:
        shown = ", ".join(map(str, refused[:10])) + (", ..." if len(refused) > 10 else "")
        parts.append(f"{len(refused):,} prompts were refused (test rows {shown})")
    return f" Of {costs['rows']:,} rows {' and '.join(parts)}, which counts as wrong." if parts else ""
