"""A pretrained image checkpoint with a classification head, in its architecture's own class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from startup_llm.errors import UserError
from startup_llm.models.pretrained import (
    find_head_modules,
    load_config_for,
    load_labelled_model,
    set_dropout,
)
from startup_llm.models.task_model import TaskModel

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

    from startup_llm.models.checkpoints import Checkpoint


def load_image_processor(checkpoint: Checkpoint, trust_remote_code: bool = False) -> BaseImageProcessor:
    """Load what turns images into a checkpoint's numbers.

    Raises:
        UserError: If the folder holds no image processor.
    """
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(checkpoint.path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"no usable image processor in {checkpoint.name}: {reason}") from None


def build_image_classifier(
    checkpoint: Checkpoint,
    *,
    label_names: tuple[str, ...],
    dropout: float = 0.0,
    attention_kernel: str | None = None,
    trust_remote_code: bool = False,
) -> TaskModel:
    """Load a checkpoint and put a classification head of its own kind on it.

    Args:
        checkpoint: Where its files are.
        label_names: Names of the classes.
        dropout: Dropout inside the checkpoint.
        attention_kernel: eager, sdpa, flash_attention_2; default what transformers picks. Networks without attention
            take none.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Raises:
        UserError: If the architecture has no image classifier.
    """
    from transformers import AutoModelForImageClassification

    config = load_config_for(
        AutoModelForImageClassification,
        checkpoint,
        trust_remote_code,
        lacks="has no image classifier",
        choose="a ViT, Swin, ConvNeXt or ResNet checkpoint",
    )
    model, loaded, arguments = load_labelled_model(
        AutoModelForImageClassification,
        checkpoint,
        config,
        label_names,
        attention_kernel if hasattr(config, "num_attention_heads") else None,
        trust_remote_code,
        problem_type="single_label_classification",
    )
    set_dropout(model, dropout)
    return TaskModel(model, head_modules=find_head_modules(model), load_arguments=arguments, notes=loaded.notes)
