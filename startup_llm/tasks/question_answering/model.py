"""A pretrained encoder with a head that points at the first and the last token of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from startup_llm.models.pretrained import (
    find_head_modules,
    find_new_modules,
    load_config_for,
    load_model,
    set_dropout,
)
from startup_llm.models.task_model import TaskModel

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from startup_llm.models.checkpoints import Checkpoint


def build_question_answerer(
    checkpoint: Checkpoint,
    *,
    null_threshold: float | None,
    dropout: float = 0.0,
    attention_kernel: str | None = None,
    trust_remote_code: bool = False,
) -> TaskModel:
    """Load a checkpoint with its architecture's own question answerer; a head that it brings along is kept.

    Args:
        checkpoint: Where its files are.
        null_threshold: How much larger than the best span's the score of no answer must be; None for a model that
            answers every question. It is kept in the model's config.
        dropout: Dropout inside the checkpoint.
        attention_kernel: eager, sdpa, flash_attention_2; where the architecture lacks it, its own choice.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Raises:
        UserError: If the architecture has no question answerer.
    """
    from transformers import AutoModelForQuestionAnswering

    load_config_for(
        AutoModelForQuestionAnswering,
        checkpoint,
        trust_remote_code,
        lacks="has no question answerer",
        choose="a BERT-, RoBERTa- or DeBERTa-style checkpoint",
    )
    shape: dict[str, Any] = {"num_labels": 2}  # a checkpoint may have had labels of its own
    model, loaded = load_model(
        AutoModelForQuestionAnswering,
        checkpoint,
        attention_kernel,
        trust_remote_code,
        find_new=find_new_modules,
        **shape,
    )
    model.config.null_threshold = null_threshold
    set_dropout(model, dropout)
    heads = find_head_modules(model)
    return TaskModel(
        model, head_modules=heads, load_arguments=shape, notes=loaded.notes, answers_untuned=not loaded.new
    )


def compute_span_logits(model: Any, batch: dict[str, Tensor]) -> list[np.ndarray]:
    """Return the model's own logits of each window, without padding, shape (2, tokens)."""
    import torch

    outputs = model(**batch)
    logits = torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=1).float().cpu().numpy()
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    return [output[:, :length].copy() for output, length in zip(logits, lengths, strict=True)]
