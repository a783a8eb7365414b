"""Which checkpoint a task tunes: the one that is named, or the packaged one that it takes by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from startup_llm.errors import UserError

if TYPE_CHECKING:
    from startup_llm.config import ModelConfig
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.tasks.base import Task


def name_checkpoint(task: Task, model: ModelConfig) -> str:
    """Return the checkpoint that the config names, else the task's default.

    Raises:
        UserError: If none is named and the task has no default.
    """
    name = model.checkpoint or task.default_checkpoint
    if name is None:
        raise UserError(
            f"--task {task.tag} has no packaged checkpoint; name one with --model.checkpoint, such as "
            f"{task.example_checkpoint}, or a local folder"
        )
    return name


def load_task_checkpoint(task: Task, model: ModelConfig) -> Checkpoint:
    """Find the files of the checkpoint that the config names, else of the task's default.

    Raises:
        UserError: If there is no such checkpoint, or none is named and the task has no default.
    """
    from startup_llm.models.checkpoints import load_checkpoint

    return load_checkpoint(replace(model, checkpoint=name_checkpoint(task, model)))
