"""The models that a task trains from random weights: what pretrain.py asks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from startup_llm.config import ScratchModelConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.models.task_model import TaskModel
    from startup_llm.tasks.base import Task


class ReferenceModels:
    """Builds and saves a task's reference models; a task without any keeps this class.

    Args:
        task: The task.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    def build(self, data: TaskData, model: ScratchModelConfig, attention_kernel: str) -> tuple[Any, TaskModel]:
        """Return a processor fitted on the training rows alone, and a model with random weights.

        Args:
            data: The rows.
            model: Which model, and its sizes.
            attention_kernel: eager or sdpa.

        Raises:
            UserError: If the task has no such reference model.
        """
        raise UserError(f"model.name {model.name}: {self.task.tag} has no reference model of that name")

    def save(self, model: Any, processor: Any, data: TaskData, folder: Path) -> None:
        """Write a model from `build` so that the task's saved model loads it."""
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    def find_load_code(self, name: str) -> str | None:
        """Return Python that loads a model from the Hub repository REPOSITORY; None where an Auto class does.

        Args:
            name: The model's, as `model.name` has it.
        """
        return None
