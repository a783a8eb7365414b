"""What a run says of classes of different size, and what weights of them bring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from startup_llm.data.label_balance import BALANCE_RATIO, count_training_labels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from startup_llm.data.label_balance import Balance
    from startup_llm.training.finetuning import Prepared


def describe_balance(prepared: Prepared, balance: Balance) -> dict[str, Any] | None:
    """Return the key `balance` of `results.json`; None for rows without classes, or with some of like size.

    Args:
        prepared: The task, its rows, and what weights of the classes do to a probe.
        balance: How classes of different size were trained on.
    """
    counted = count_training_labels(prepared.data)
    if counted is None or (counted.ratio < BALANCE_RATIO and balance == "none"):
        return None
    effect = prepared.probe and prepared.probe.balance
    sentences = [f"{counted.describe()}: {counted.ratio:.3g} times as many; train_balance {balance}"]
    sentences += [_describe_effect(effect)] if effect else []
    return {
        "used": balance,
        "ratio": counted.ratio,
        "largest": {"label": counted.names[counted.largest], "rows": int(counted.counts[counted.largest])},
        "smallest": {"label": counted.names[counted.smallest], "rows": int(counted.counts[counted.smallest])},
        "unlabelled": counted.unlabelled / counted.rows,
        "effect": effect,
        "sentences": sentences,
    }


def _describe_effect(effect: Mapping[str, Any]) -> str:
    """Describe what weights of the classes do to a probe, from `measure_balance`."""
    none, weights = 100 * effect["none"], 100 * effect["weights"]
    low, value, high = (100 * effect["difference"][key] for key in ("low", "value", "high"))
    text = (
        f"with weights of the classes a linear probe on {effect['rows']:,} rows goes from {none:.1f} to "
        f"{weights:.1f} % macro F1 on the validation rows: {value:+.1f} points ({low:.1f} to {high:.1f})"
    )
    if not (tuned := effect.get("tuned")):
        return text
    none, weights = 100 * tuned["none"], 100 * tuned["weights"]
    return f"{text}; with chosen thresholds from {none:.1f} to {weights:.1f} %, by cross-fitting"
