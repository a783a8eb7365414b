"""Preference tuning through TRL's DPOTrainer: the adapter is trained, and without it the model is the reference."""

from __future__ import annotations

import copy
import dataclasses
import gc
import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.models.adapters import plan_lora
from startup_llm.tasks.text_generation.options import GenerationData
from startup_llm.training.finetuning import Prepared, Trained
from startup_llm.training.trainer import SampleWriter, TrainingClock, build_training_arguments

if TYPE_CHECKING:
    from datasets import Dataset

    from startup_llm.config import AlignConfig
    from startup_llm.run_folder import RunFolder


def check_preference_tuning(config: AlignConfig) -> None:
    """Refuse what TRL's trainer does not do, and a missing TRL, before anything is computed.

    Raises:
        UserError: If either is the case.
    """
    if isinstance(config.data, GenerationData) and config.data.packing:
        raise UserError("data.packing: preferences are compared pair by pair and not packed; leave it out")
    if importlib.util.find_spec("trl") is None:
        raise UserError("preference tuning needs TRL, which is not installed; pip install 'startup-llm[preferences]'")


def remember_reference(prepared: Prepared) -> tuple[Prepared, list[list[float]]]:
    """Compute what the model says of the test rows before it is tuned.

    Returns:
        The same with the reference's nats beside the encoded test rows, and the untuned model's predictions.
    """
    encoded = prepared.encoded["test"]
    outputs = prepared.predict(prepared.task_model.model, encoded)
    wanted = (np.asarray(labels[1:]) != -100 for labels in encoded["labels"])
    nats = [float(row[said].sum()) for row, said in zip(outputs, wanted, strict=True)]
    data = prepared.data
    predictions = prepared.task.read_predictions(outputs, encoded, data.splits["test"], data)
    remembered = {**prepared.encoded, "test": encoded.add_column("_reference", nats)}
    return dataclasses.replace(prepared, encoded=remembered), list(predictions)


def train_on_preferences(prepared: Prepared, config: AlignConfig, section: dict[str, Any], run: RunFolder) -> Trained:
    """Train an adapter by DPO and keep the best checkpoint's weights.

    Args:
        prepared: Rows and model.
        config: Adapter, beta, and whether to resume.
        section: The `train` section.
        run: Where checkpoints go.
    """
    from trl import DPOConfig, DPOTrainer

    splits = {name: _list_pairs(rows) for name, rows in prepared.data.splits.items()}
    validation = splits.get("validation")
    arguments = build_training_arguments(
        section,
        run.checkpoints,
        prepared.plan,
        "loss" if validation is not None else "",
        lower_is_better=True,
        arguments_class=DPOConfig,
        beta=config.beta,
        max_length=prepared.processor.model_max_length,
    )
    clock = TrainingClock()
    writer = SampleWriter(prepared.task, prepared.processor, prepared.data, prepared.plan)
    model = prepared.task_model.model
    trainer = DPOTrainer(
        model=model,
        args=arguments,
        train_dataset=splits["train"],
        eval_dataset=validation,
        processing_class=copy.deepcopy(prepared.processor),
        peft_config=plan_lora(model, config.lora, task_type=prepared.task.peft_task_type),
        callbacks=[clock, writer],
    )
    last = run.last_checkpoint() if config.resume else None
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    throughput = {}
    if clock.seconds:
        rows = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        most = round(len(splits["train"]) * arguments.num_train_epochs)
        throughput = {"train_examples_per_second": min(clock.steps * rows, most) / clock.seconds}
    trained = trainer.accelerator.unwrap_model(trainer.model)
    parameters = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    history = trainer.state.log_history
    del trainer
    gc.collect()
    return Trained(trained, history, parameters, throughput, writer.samples)


def _list_pairs(rows: Dataset) -> Dataset:
    """Return the form that TRL takes: the prompt's messages, and one message for each of the two answers."""
    import datasets

    chosen, rejected = list(rows["chosen"]), list(rows["rejected"])
    return datasets.Dataset.from_dict(
        {
            "prompt": [messages[:-1] for messages in chosen],
            "chosen": [messages[-1:] for messages in chosen],
            "rejected": [messages[-1:] for messages in rejected],
        }
    )
