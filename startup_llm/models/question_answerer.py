"""A pretrained encoder with a head that points at the first and the last token of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError
from startup_llm.models.sequence_classifier import _head_modules, _quiet_loading, set_dropout
from startup_llm.models.task_model import TaskModel

if TYPE_CHECKING:
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
    import transformers
    from transformers import AutoConfig, AutoModelForQuestionAnswering

    try:
        config = AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=trust_remote_code)
    except ValueError as error:
        raise UserError(f"checkpoint {checkpoint.name}: {str(error).strip().splitlines()[0]}") from None
    if type(config) not in AutoModelForQuestionAnswering._model_mapping and not trust_remote_code:
        raise UserError(
            f"checkpoint {checkpoint.name} is of type {config.model_type}, which has no question answerer in "
            f"transformers {transformers.__version__}; choose a BERT-, RoBERTa- or DeBERTa-style checkpoint"
        )
    shape = {"num_labels": 2}  # a checkpoint may have had labels of its own
    arguments: dict[str, Any] = {**shape, "dtype": "float32", "trust_remote_code": trust_remote_code}
    with _quiet_loading():
        try:
            model = AutoModelForQuestionAnswering.from_pretrained(
                checkpoint.path, attn_implementation=attention_kernel, **arguments
            )
        except ValueError:
            model = AutoModelForQuestionAnswering.from_pretrained(checkpoint.path, **arguments)
    model.config.null_threshold = null_threshold
    set_dropout(model, dropout)
    return TaskModel(model, head_modules=_head_modules(model, set(), []), load_arguments=shape)
