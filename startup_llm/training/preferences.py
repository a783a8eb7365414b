"""Preference tuning through TRL's trainers: the adapter is trained, and without it the model is the reference."""

from __future__ import annotations

import copy
import dataclasses
import gc
import importlib.util
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.models.adapters import plan_lora
from startup_llm.tasks.text_generation.chat import read_arguments
from startup_llm.tasks.text_generation.conversations import count_shared
from startup_llm.tasks.text_generation.messages import list_template_messages
from startup_llm.tasks.text_generation.options import GenerationData
from startup_llm.training.finetuning import Prepared, Trained
from startup_llm.training.progress import TrainingProgress, replace_console
from startup_llm.training.trainer import SampleWriter, TrainingClock, build_training_arguments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Dataset

    from startup_llm.config import AlignConfig
    from startup_llm.session import Session


def check_preference_tuning(config: AlignConfig, section: Mapping[str, Any]) -> None:
    """Refuse what TRL's trainers do not do, and a missing TRL, before anything is computed.

    Args:
        config: Its method and data.
        section: The `train` section.

    Raises:
        UserError: If either is the case.
    """
    if isinstance(config.data, GenerationData) and config.data.packing:
        raise UserError("data.packing: preferences are compared pair by pair and not packed; leave it out")
    if config.method == "kto" and section["per_device_train_batch_size"] < 2:
        raise UserError(
            "train.per_device_train_batch_size 1: kto compares an answer with another of its batch; use at least 2"
        )
    if smoothing := section.get("label_smoothing_factor"):
        raise UserError(
            f"train.label_smoothing_factor {smoothing}: {config.method} compares answers and smooths no label; "
            "leave it out"
        )
    strategy = section["train_sampling_strategy"]
    if config.method == "kto" and strategy not in ("random", "sequential"):
        raise UserError(
            f"train.train_sampling_strategy {strategy}: kto compares each answer with its neighbour, so the rows are "
            "shuffled once and keep their order; leave it out"
        )
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


def train_on_preferences(prepared: Prepared, session: Session[AlignConfig]) -> Trained:
    """Train an adapter by the config's method and keep the best checkpoint's weights.

    Args:
        prepared: Rows and model.
        session: Method, adapter, beta, the `train` section, whether to resume, and where checkpoints go.
    """
    config, run = session.config, session.run
    trainer_class, arguments_class = _load_trainer(config.method)
    list_rows = _list_feedback if config.method == "kto" else _list_pairs
    splits = {name: list_rows(rows) for name, rows in prepared.data.splits.items()}
    validation, section = splits.get("validation"), dict(session.train_section)
    if config.method == "kto" and section["train_sampling_strategy"] == "random":
        splits["train"] = splits["train"].shuffle(seed=section["seed"])
        section["train_sampling_strategy"] = "sequential"  # TRL pairs neighbours beforehand
    arguments = build_training_arguments(
        section,
        run.checkpoints,
        prepared.plan,
        "loss" if validation is not None else "",
        lower_is_better=True,
        arguments_class=arguments_class,
        beta=config.beta,
        max_length=prepared.processor.model_max_length,
    )
    clock = TrainingClock()
    writer = SampleWriter(prepared.task, prepared.processor, prepared.data, prepared.plan)
    model = prepared.task_model.model
    trainer = trainer_class(
        model=model,
        args=arguments,
        train_dataset=splits["train"],
        eval_dataset=validation,
        processing_class=copy.deepcopy(prepared.processor),
        peft_config=plan_lora(model, config.lora, task_type=prepared.task.peft_task_type),
        callbacks=[clock, writer],
    )
    replace_console(trainer, TrainingProgress(session.reporter, "loss", lower_is_better=True))
    last = run.last_checkpoint() if config.resume else None
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    throughput = clock.measure_throughput(arguments, len(splits["train"]))
    trained = trainer.accelerator.unwrap_model(trainer.model)
    parameters = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    history = trainer.state.log_history
    del trainer
    gc.collect()
    return Trained(trained, history, parameters, throughput, writer.samples)


def _load_trainer(method: str) -> tuple[Any, Any]:
    """Return TRL's trainer of a method and the class of its arguments."""
    if method == "dpo":
        from trl import DPOConfig, DPOTrainer

        return DPOTrainer, DPOConfig
    if method == "kto":
        from trl import KTOConfig, KTOTrainer

        return KTOTrainer, KTOConfig
    with warnings.catch_warnings():  # that its place in TRL may change
        warnings.simplefilter("ignore")
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    return ORPOTrainer, ORPOConfig


def _list_pairs(rows: Dataset) -> Dataset:
    """Return the form that TRL takes: the messages that two conversations share, and those of each behind them."""
    import datasets

    pairs = []
    for row in rows:
        shared = count_shared(row["chosen"], row["rejected"])
        chosen, rejected = list_template_messages(row["chosen"]), list_template_messages(row["rejected"])
        parts = {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}
        pairs.append({**parts, **_list_arguments(row)})
    return datasets.Dataset.from_list(pairs)


def _list_feedback(rows: Dataset) -> Dataset:
    """Return the form that TRL takes: the prompt's messages, the judged answer, and whether it is good."""
    import datasets

    examples = []
    for row in rows:
        messages = list_template_messages(row["messages"])
        parts = {"prompt": messages[:-1], "completion": messages[-1:], "label": row["label"]}
        examples.append({**parts, **_list_arguments(row)})
    return datasets.Dataset.from_list(examples)


def _list_arguments(row: dict[str, Any]) -> dict[str, Any]:
    """Return TRL's columns of what a chat template takes beside the messages."""
    arguments = read_arguments(row)
    options = {**arguments.get("chat_template_kwargs", {}), **{k: v for k, v in arguments.items() if k == "documents"}}
    columns = {"tools": arguments["tools"]} if "tools" in arguments else {}
    return {**columns, "chat_template_kwargs": options} if options else columns
