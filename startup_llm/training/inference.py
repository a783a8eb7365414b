"""Prediction in length-sorted batches of bounded size, shared among the processes of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.batching import split_encoded
from startup_llm.errors import UserError
from startup_llm.models.sequence_classifier import capture_features, pool_features
from startup_llm.training.kept_states import KeptStates, NumberedCollator, use_kept_states

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from startup_llm.tasks.base import Collator, Task
    from startup_llm.training.speed import SpeedPlan


def predict_outputs(task: Task, model: Any, encoded: Dataset, processor: Any, plan: SpeedPlan) -> list[np.ndarray]:
    """Return the task's output for each encoded row, in their order.

    Args:
        task: The task, which says what an output is.
        model: Its model, perhaps with an adapter; put into evaluation mode.
        encoded: Encoded rows with a column `length`.
        processor: What encoded them.
        plan: Number type and batch size.

    Raises:
        UserError: If an output is NaN or infinite.
    """
    collator = task.build_collator(processor)
    with _LogitsWatch(model) as watch:
        outputs = _collect(lambda batch: task.compute_outputs(model, batch, processor), model, encoded, collator, plan)
    return _check_finite(outputs, watch)


def predict_answers(task: Task, model: Any, encoded: Dataset, processor: Any, plan: SpeedPlan) -> list[np.ndarray]:
    """Return what the task's predictor answers from, for each row that it encoded."""
    collator, compute = task.build_collator(processor), task.predictor.compute_outputs
    with _LogitsWatch(model) as watch:
        outputs = _collect(lambda batch: compute(model, batch, processor), model, encoded, collator, plan)
    return _check_finite(outputs, watch)


def predict_scores(task: Task, model: Any, encoded: Dataset, processor: Any, plan: SpeedPlan) -> list[np.ndarray]:
    """Return for each encoded row the numbers by which the task compares two copies of a model."""
    collator, compute = task.build_collator(processor), task.saved_model.compute_scores
    return _collect(lambda batch: compute(model, batch, processor), model, encoded, collator, plan)


class _LogitsWatch:
    """Notices NaN among a model's logits while it computes, for outputs that do not show them, such as a text.

    Args:
        model: The model, perhaps with an adapter.
    """

    def __init__(self, model: Any) -> None:
        self._model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._seen: Tensor | None = None

    def __enter__(self) -> _LogitsWatch:
        self._handle = self._model.register_forward_hook(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _look(self, module: Any, inputs: Any, output: Any) -> None:
        import torch

        logits = getattr(output, "logits", None)
        if isinstance(logits, torch.Tensor) and logits.is_floating_point():
            has_nan = logits.isnan().any()  # read at the end: a GPU is not waited for at each token
            self._seen = has_nan if self._seen is None else self._seen | has_nan

    def has_seen_nan(self) -> bool:
        """Say whether there was one in any of the run's processes."""
        from accelerate.utils import gather_object

        return any(gather_object([self._seen is not None and bool(self._seen)]))


def _check_finite(outputs: list[np.ndarray], watch: _LogitsWatch) -> list[np.ndarray]:
    """Return a model's outputs; each process has all of them, so all of them end where one is not finite."""
    cause = (
        "is not finite (NaN or infinite): training diverged, or its numbers overflow; train with a lower "
        "train.learning_rate, or compute in float32"
    )
    for row, output in enumerate(outputs):
        values = np.asarray(output)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(f"the model's output for row {row + 1} of {len(outputs)} {cause}")
    if watch.has_seen_nan():
        raise UserError(f"the model's output for one of {len(outputs)} rows {cause}")
    return outputs


def extract_features(task: Task, model: Any, encoded: Dataset, processor: Any, plan: SpeedPlan) -> np.ndarray:
    """Return what the output layer reads: one vector per row.

    Returns:
        float32, shape (rows, width).
    """
    return np.stack(list_features(task, model, encoded, processor, plan))


def list_features(
    task: Task, model: Any, encoded: Dataset, processor: Any, plan: SpeedPlan, kept_states: KeptStates | None = None
) -> list[np.ndarray]:
    """Return what the output layer reads for each encoded row.

    Args:
        task: The task.
        model: Its model; put into evaluation mode.
        encoded: Encoded rows with a column `length`, and where states are kept `row_number`.
        processor: What encoded them.
        plan: Number type and batch size.
        kept_states: Keeps what the lower blocks give for the rows.

    Returns:
        float32, shape (width,) each, or (tokens, width) where the task's outputs are per token.
    """
    return [features for _, features in predict_with_features(task, model, encoded, processor, plan, kept_states)]


def predict_with_features(
    task: Task, model: Any, encoded: Dataset, processor: Any, plan: SpeedPlan, kept_states: KeptStates | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each encoded row the task's output, and what the output layer read for it, as `list_features`."""
    import torch

    with capture_features(model) as seen:

        def pool(batch: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
            seen.clear()
            outputs = task.compute_outputs(model, batch, processor)
            if task.probe is not None and task.probe.per_token:
                features = torch.cat(seen).float().cpu().numpy()
                lengths = batch["attention_mask"].sum(dim=1).tolist()
                rows = [row[:length] for row, length in zip(features, lengths, strict=True)]
                return list(zip(outputs, rows, strict=True))
            features = pool_features(seen, batch, getattr(model.config, "pad_token_id", None)).cpu().numpy()
            return list(zip(outputs, features, strict=True))

        collator = NumberedCollator(task.build_collator(processor))
        return _collect(pool, model, encoded, collator, plan, kept_states)


def _collect(
    compute: Callable[[dict[str, Any]], Sequence[Any]],
    model: Any,
    encoded: Dataset,
    collator: Collator,
    plan: SpeedPlan,
    kept_states: KeptStates | None = None,
) -> list[Any]:
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState()
    model.eval()
    inputs = encoded.remove_columns(
        [name for name in encoded.column_names if name in ("labels", "length") or name.startswith("_")]
    )
    outputs: list[tuple[int, Any]] = []
    batches = list(split_encoded(encoded, plan.tokens_per_batch))
    with torch.inference_mode(), plan.autocast():
        for index in batches[state.process_index :: state.num_processes]:
            batch = {name: tensor.to(state.device) for name, tensor in collator(_as_rows(inputs[index])).items()}
            with use_kept_states(kept_states, batch):
                values = compute(batch)
            outputs += zip(index.tolist(), values, strict=True)
    return [value for _, value in sorted(gather_object(outputs), key=lambda item: item[0])]


def _as_rows(columns: dict[str, list]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
