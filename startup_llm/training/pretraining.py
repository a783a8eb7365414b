"""The steps of a run from scratch that differ from fine-tuning's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.config import ScratchTransformer
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import Checkpoint
from startup_llm.models.memory import check_blocks_memory
from startup_llm.training.finetuning import Prepared, Trained, encode_splits, run_trainer, settle_kernel

if TYPE_CHECKING:
    from startup_llm.config import PretrainConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.session import Session
    from startup_llm.tasks.base import Task
    from startup_llm.training.speed import SpeedPlan

RANDOM_WEIGHTS = Checkpoint("random weights", Path(), "from scratch", None, "", None)
"""Stands where a run names the checkpoint that it started from."""


def prepare(task: Task, data: TaskData, config: PretrainConfig, plan: SpeedPlan) -> Prepared:
    """Fit the processor on the training rows, draw the model's weights and encode every split.

    Raises:
        UserError: If the model lacks the attention kernel asked for, or does not fit into memory.
    """
    if config.speed.attention_kernel not in (None, "eager", "sdpa"):
        raise UserError(
            f"speed.attention_kernel {config.speed.attention_kernel}: a model from scratch computes with eager or sdpa"
        )
    if isinstance(config.model, ScratchTransformer):
        check_blocks_memory(config.model.width, config.model.layers)
    processor, task_model = task.reference_models.build(data, config.model, plan.attention_kernel or "sdpa")
    plan = settle_kernel(plan, config.speed, task_model.model, config.model.name)
    return encode_splits(task, data, RANDOM_WEIGHTS, processor, task_model, plan)


def train(prepared: Prepared, session: Session[PretrainConfig]) -> Trained:
    """Train every weight and keep the best checkpoint's."""
    return run_trainer(prepared, prepared.task_model.model, session)


def save_model(trained: Trained, prepared: Prepared, session: Session[PretrainConfig]) -> Any:
    """Write the model and return it as it reads back from the run's folder."""
    from accelerate import PartialState

    run = session.run
    if run.is_writer:
        run.model.mkdir(parents=True, exist_ok=True)
        prepared.task.reference_models.save(trained.model, prepared.processor, prepared.data, run.model)
    PartialState().wait_for_everyone()
    return prepared.task.saved_model.load(str(run.model)).to(prepared.plan.device).eval()
