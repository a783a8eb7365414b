"""A pretrained language model, as its architecture's own class has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from startup_llm.errors import UserError
from startup_llm.models.pretrained import load_model, set_dropout
from startup_llm.models.task_model import TaskModel

if TYPE_CHECKING:
    from startup_llm.models.checkpoints import Checkpoint


def build_causal_language_model(
    checkpoint: Checkpoint,
    *,
    dropout: float = 0.0,
    attention_kernel: str | None = None,
    trust_remote_code: bool = False,
) -> TaskModel:
    """Load a checkpoint that predicts the next token.

    Args:
        checkpoint: Where its files are.
        dropout: Dropout inside the checkpoint.
        attention_kernel: eager, sdpa, flash_attention_2; default what transformers picks.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Raises:
        UserError: If the checkpoint is no language model: of another kind, or without the weights of its output.
    """
    from transformers import AutoModelForCausalLM

    remedy = "it is no language model: choose a GPT-style checkpoint that was pretrained to predict the next token"
    model, loaded = load_model(AutoModelForCausalLM, checkpoint, attention_kernel, trust_remote_code, remedy=remedy)
    if getattr(model.config, "is_encoder_decoder", False) or type(model).__name__.startswith(("Bert", "Roberta")):
        raise UserError(f"checkpoint {checkpoint.name} ({type(model).__name__}) does not read from left to right")
    set_dropout(model, dropout)
    return TaskModel(model, notes=loaded.notes, answers_untuned=True)
