"""A pretrained encoder-decoder, as its architecture's own class has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from startup_llm.errors import UserError
from startup_llm.models.sequence_classifier import set_dropout
from startup_llm.models.task_model import TaskModel

if TYPE_CHECKING:
    from startup_llm.models.checkpoints import Checkpoint


def build_sequence_to_sequence(
    checkpoint: Checkpoint, *, dropout: float, attention_kernel: str | None, trust_remote_code: bool
) -> TaskModel:
    """Load a T5-, BART- or Marian-style checkpoint.

    Args:
        checkpoint: Where its files are.
        dropout: Dropout inside the checkpoint.
        attention_kernel: eager, sdpa, flash_attention_2; where the architecture lacks it, its own choice.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Raises:
        UserError: If the checkpoint is no encoder-decoder, or lacks weights.
    """
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    config = AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=trust_remote_code)
    if not config.is_encoder_decoder:
        raise UserError(
            f"checkpoint {checkpoint.name} is of type {config.model_type}, without a decoder that reads an encoder; "
            "choose a T5-, BART- or Marian-style checkpoint"
        )
    arguments = {"dtype": "float32", "trust_remote_code": trust_remote_code, "output_loading_info": True}
    try:
        model, loading = AutoModelForSeq2SeqLM.from_pretrained(
            checkpoint.path, attn_implementation=attention_kernel, **arguments
        )
    except ValueError:
        model, loading = AutoModelForSeq2SeqLM.from_pretrained(checkpoint.path, **arguments)
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"checkpoint {checkpoint.name} has no weights {missing[0]}; choose one with its output layer")
    set_dropout(model, dropout)
    return TaskModel(model)
