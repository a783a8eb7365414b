"""What of the `train` section the rows or the model of a run cannot honour.

What no run can honour is refused as the command line is read; see `config.TRAIN_FIELDS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from startup_llm.errors import UserError
from startup_llm.training.balance import check_balance
from startup_llm.training.resumption import check_resumption

if TYPE_CHECKING:
    from collections.abc import Mapping

    from startup_llm.data.label_balance import Balance
    from startup_llm.session import Session
    from startup_llm.training.finetuning import Prepared


def check_run(session: Session[Any], prepared: Prepared) -> None:
    """Check before training that a run can honour its options, and go on with the run that it resumes.

    Args:
        session: The run and its config.
        prepared: The task, its rows, the model and the plan.

    Raises:
        UserError: If it cannot, or was begun with others.
    """
    check_train_section(session, prepared)
    check_resumption(session, prepared)


def check_train_section(session: Session[Any], prepared: Prepared) -> None:
    """Refuse options of the `train` section that would be ignored, or fail in the middle of the run.

    Args:
        session: The section, and the options of a reference model.
        prepared: The task, its rows, the model and the plan.

    Raises:
        UserError: If there is one.
    """
    section, config = session.train_section, session.config
    balance: Balance = getattr(config, "train_balance", "none")
    check_balance(balance, config.method, section.get("label_smoothing_factor") or 0, prepared)
    if section.get("label_smoothing_factor"):
        _check_label_smoothing(section["label_smoothing_factor"], session.config.model, prepared)
    _check_model(section, prepared)
    _check_batches(section, prepared)


def _check_label_smoothing(smoothing: float, model: Any, prepared: Prepared) -> None:
    task, data = prepared.task, prepared.data
    if not (task.token_logits or task.has_one_label(data)):
        kinds = {"regression": " on scores", "multi_label_classification": " of several labels a row"}
        raise UserError(
            f"train.label_smoothing_factor {smoothing}: the loss of {task.tag}{kinds.get(data.problem_type, '')} with "
            f"{type(prepared.task_model.model).__name__} is no cross-entropy between classes, so that no label can be "
            "smoothed; leave it out"
        )
    if own := getattr(model, "label_smoothing", 0):
        raise UserError(
            f"train.label_smoothing_factor {smoothing} and model.label_smoothing {own} smooth the same labels; "
            "leave one out"
        )


def _check_model(section: Mapping[str, Any], prepared: Prepared) -> None:
    network = prepared.task_model.model
    name = type(network).__name__
    noise = section.get("neftune_noise_alpha")
    if noise and not (prepared.task.reads_text and isinstance(network, PreTrainedModel)):
        raise UserError(
            f"train.neftune_noise_alpha {noise}: {name} has no embeddings of tokens to add noise to; leave it out"
        )
    checkpointing = section.get("activation_checkpointing") or section.get("gradient_checkpointing")
    if checkpointing and not getattr(network, "supports_gradient_checkpointing", False):
        raise UserError(f"train.activation_checkpointing {checkpointing}: {name} keeps every activation; leave it out")


def _check_batches(section: Mapping[str, Any], prepared: Prepared) -> None:
    if section.get("dataloader_drop_last"):
        rows, batch = len(prepared.encoded["train"]), section["per_device_train_batch_size"]
        if rows < batch:
            raise UserError(
                f"train.dataloader_drop_last True leaves out all {rows} training rows, as a batch has {batch}; "
                f"leave it out, or add --train.per_device_train_batch_size {rows}"
            )
    sampling = section.get("train_sampling_strategy", "random")
    if sampling != "random" and prepared.task.splits_batches and not prepared.plan.plain:
        raise UserError(
            f"train.train_sampling_strategy {sampling}: rows alike in length are trained together, in an order drawn "
            "by the seed; leave it out, or add --speed.plan plain"
        )
