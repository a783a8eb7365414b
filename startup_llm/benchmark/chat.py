"""Training of a chat checkpoint on prompts with answers, by LoRA: as this package does, and with TRL and PEFT.

Every way reads the same conversations, learns the answers alone, and adapts every
linear layer at the same rank. A way's tokens are those of the conversations as the checkpoint's template writes them,
prompts included and padding not, so that all are counted alike.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.benchmark.options import BenchmarkConfig
from startup_llm.config import FinetuneConfig, LoraConfig, convert_section
from startup_llm.errors import UserError
from startup_llm.tasks.text_generation.options import ChatModel, GenerationData

if TYPE_CHECKING:
    from startup_llm.benchmark.causal_lm import Clock
    from startup_llm.data.task_data import TaskData
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.tasks.base import Task

ROWS_PER_STEP = 8
LORA_RANK = 16
LEARNING_RATE = 5e-4
TRL_VARIANTS: dict[str, dict[str, Any]] = {
    "trl-lora": {},
    "trl-tuned-lora": {"gradient_checkpointing": False},
    "trl-grouped-lora": {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"},
    "trl-packed-lora": {
        "gradient_checkpointing": False,
        "packing": True,
        "packing_strategy": "wrapped",
        "per_device_train_batch_size": 2,  # blocks as long as the longest row may be
    },
}
"""Way -> options of TRL's SFTConfig beside the shared ones: its defaults, then what makes it faster on a CPU.

All compute in bfloat16, the default of TRL, only where that is the faster: processors without instructions for it take
many times as long.
"""


def _load(config: BenchmarkConfig) -> tuple[Task, ChatModel, Checkpoint, TaskData]:
    """Load the checkpoint and the conversations, the training ones drawn anew to the number asked for.

    Raises:
        UserError: If the rows are no conversations.
    """
    import datasets

    from startup_llm.data.splits import draw_rows
    from startup_llm.data.task_data import TaskData
    from startup_llm.tasks import load_task
    from startup_llm.tasks.checkpoint import load_task_checkpoint

    task = load_task("text-generation")
    model = ChatModel(checkpoint=config.model.checkpoint, max_length_tokens=config.model.max_length_tokens)
    data = task.load_data(convert_section(config.data, GenerationData))
    train = data.splits["train"]
    if "messages" not in train.column_names:
        raise UserError(f"chat: expected conversations, and the rows have {', '.join(train.column_names)}")
    if config.rows is not None:
        train = draw_rows(train, config.rows, config.data.split_seed)
    splits = datasets.DatasetDict({"train": train, "test": data.splits["test"].select(range(1))})
    return task, model, load_task_checkpoint(task, model), TaskData(splits, data.label_names, notes=data.notes)


def train_ours(config: BenchmarkConfig, clock: Clock) -> dict[str, Any]:
    """Train as `recipes/finetune.py --task text-generation` does."""
    import functools

    from startup_llm.config import SHARED_TRAIN_DEFAULTS, TRAIN_DEFAULTS
    from startup_llm.run_folder import RunFolder
    from startup_llm.session import Session
    from startup_llm.training import finetuning

    task, model, checkpoint, data = _load(config)
    run_config = FinetuneConfig(task="text-generation", model=model, lora=LoraConfig(rank=LORA_RANK))
    section = {**SHARED_TRAIN_DEFAULTS, **TRAIN_DEFAULTS["lora"], "num_train_epochs": config.epochs}
    section |= {"per_device_train_batch_size": ROWS_PER_STEP, "learning_rate": LEARNING_RATE}
    section |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    with tempfile.TemporaryDirectory() as folder, RunFolder(Path(folder) / "run") as run:
        session = Session(run_config, run, section)
        processor = task.load_processor(checkpoint, model, data)
        find_shape = functools.partial(finetuning.find_attention_shape, task, data, checkpoint, processor)
        prepared = finetuning.prepare(
            task, data, run_config, checkpoint, processor, finetuning.choose_plan(session, find_shape)
        )
        trained: list[Any] = []

        def before(trainer: Any) -> None:
            trained.append(trainer.model)
            trainer.add_callback(clock.callback())

        finetuning.train(prepared, session, before)
    lengths = prepared.encoded["train"]["length"]
    return clock.read(len(lengths), config.epochs, float(np.mean(lengths)), trained[0])


def train_with_trl(config: BenchmarkConfig, clock: Clock, variant: str) -> dict[str, Any]:
    """Train with TRL's SFTTrainer and PEFT.

    Args:
        config: Rows and data.
        clock: Times the steps.
        variant: A key of `TRL_VARIANTS`.
    """
    import datasets
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from startup_llm.training.speed import plan_speed, use_idle_cores

    use_idle_cores()
    _, model, checkpoint, data = _load(config)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)
    talks = list(data.splits["train"]["messages"])
    lengths = [
        min(len(ids), model.max_length_tokens)
        for ids in tokenizer.apply_chat_template(talks, return_dict=True)["input_ids"]
    ]
    options = {"per_device_train_batch_size": ROWS_PER_STEP, **TRL_VARIANTS[variant]}
    options["bf16"] = plan_speed().compute_dtype == "bfloat16"
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            folder,
            max_length=model.max_length_tokens,
            learning_rate=LEARNING_RATE,
            num_train_epochs=config.epochs,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=not torch.accelerator.is_available(),
            **options,
        )
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype="float32"),
            args=arguments,
            train_dataset=datasets.Dataset.from_list(
                [{"prompt": talk[:-1], "completion": talk[-1:]} for talk in talks]
            ),
            processing_class=tokenizer,
            peft_config=peft.LoraConfig(
                task_type="CAUSAL_LM", r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear"
            ),
            callbacks=[clock.callback()],
        )
        trainer.train()
    return clock.read(len(talks), config.epochs, float(np.mean(lengths)), trainer.model)
