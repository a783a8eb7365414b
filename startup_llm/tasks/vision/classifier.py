"""A pretrained image checkpoint with a classification head, in its architecture's own class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError
from startup_llm.models.pretrained import (
    find_head_modules,
    find_new_modules,
    load_config_for,
    load_model,
    name_labels,
    renew_outputs,
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
    arguments: dict[str, Any] = {"num_labels": len(label_names), "ignore_mismatched_sizes": True}
    model, loaded = load_model(
        AutoModelForImageClassification,
        checkpoint,
        attention_kernel if hasattr(config, "num_attention_heads") else None,
        trust_remote_code,
        find_new=find_new_modules,
        **arguments,
        **name_labels(label_names),
        problem_type="single_label_classification",
    )
    renewed = renew_outputs(checkpoint.name, model, config, label_names, loaded)
    set_dropout(model, dropout)
    notes = (*loaded.notes, *renewed)
    return TaskModel(model, head_modules=find_head_modules(model), load_arguments=arguments, notes=notes)
