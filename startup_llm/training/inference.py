"""Prediction in length-sorted batches of bounded size, shared among the processes of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.batching import split_by_length
from startup_llm.models.sequence_classifier import find_output_layer, gather_last_token

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel

    from startup_llm.training.speed import SpeedPlan

Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]


def predict_logits(model: Any, rows: Dataset, collator: Collator, plan: SpeedPlan) -> np.ndarray:
    """Return the logits of encoded rows, in their order.

    Args:
        model: A classifier, perhaps with an adapter; put into evaluation mode.
        rows: Encoded rows with a column `length`.
        collator: Makes a batch of rows.
        plan: Number type and batch size.

    Returns:
        float32, shape (rows, labels).
    """
    return _collect(model, rows, collator, plan, lambda batch, output: output["logits"])


def extract_features(model: PreTrainedModel, rows: Dataset, collator: Collator, plan: SpeedPlan) -> np.ndarray:
    """Return what the output layer reads: one vector per row.

    Returns:
        float32, shape (rows, width).
    """
    seen: list[Tensor] = []
    handle = find_output_layer(model).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    def pooled(batch: dict[str, Any], output: object) -> Tensor:
        features = seen.pop()
        if features.dim() == 3:
            return gather_last_token(features, batch["input_ids"], model.config.pad_token_id)
        return features

    try:
        return _collect(model, rows, collator, plan, pooled)
    finally:
        handle.remove()


def _collect(
    model: Any, rows: Dataset, collator: Collator, plan: SpeedPlan, pick: Callable[[dict[str, Any], Any], Tensor]
) -> np.ndarray:
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState()
    model.eval()
    unused = [name for name in ("labels", "length") if name in rows.column_names]
    inputs = rows.remove_columns(unused)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    batches = list(split_by_length(np.asarray(rows["length"]), plan.tokens_per_batch))
    with torch.inference_mode(), plan.autocast():
        for index in batches[state.process_index :: state.num_processes]:
            batch = {name: values.to(state.device) for name, values in collator(_as_rows(inputs[index])).items()}
            parts.append((index, pick(batch, model(**batch)).float().cpu().numpy()))
    parts = gather_object(parts)
    order = np.concatenate([index for index, _ in parts])
    values = np.concatenate([value for _, value in parts])
    return values[np.argsort(order)]


def _as_rows(columns: dict[str, list]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
