"""Ways of doing the same work, ours and the public ones, each timed in a process of its own.

A child process is `python -m startup_llm.benchmark.timing REQUEST ANSWER`: so every way pays for its own imports,
has the same threads, and shows its own peak memory.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.benchmark import causal_lm, chat
from startup_llm.benchmark.options import BenchmarkConfig
from startup_llm.config import FinetuneConfig, LabelledTextData, LoraConfig, SpeedConfig
from startup_llm.errors import UserError, nearest, run_recipe
from startup_llm.evaluation.environment import read_peak_memory_bytes
from startup_llm.tasks.text_classification.options import TextClassificationModel
from startup_llm.training.reload_gate import plain_environment
from startup_llm.training.speed import wait_for_device

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerCallback

    from startup_llm.data.task_data import TaskData

LORA_RANK = 16
LEARNING_RATE = 1e-3
BATCH_ROWS = 32
PADDED_LENGTH = 128
LIGER_WAY = "trl-liger-lora"
"""Left out by default where Liger's kernels, which compute on GPUs alone, are not installed or have no GPU."""


def split_by_rows(config: BenchmarkConfig) -> list[BenchmarkConfig]:
    """Return a config for each number of rows, in ascending order.

    Raises:
        UserError: If a list of them is empty.
    """
    if not isinstance(config.rows, list):
        return [config]
    if not config.rows:
        raise UserError("rows []: expected at least one number of rows, or null for each row once")
    return [replace(config, rows=rows) for rows in sorted(set(config.rows))]


def choose_ways(config: BenchmarkConfig) -> list[str]:
    """Return the ways that the config asks for.

    Raises:
        UserError: If there is no such way, a library of another's is missing, or an option makes no sense.
    """
    known = WAYS[config.what]
    ways = config.ways or [way for way in known if way != LIGER_WAY or _has_liger()]
    for way in ways:
        if way not in known:
            raise UserError(f"ways: unknown way {way}{nearest(way, known)}; of {config.what}: {', '.join(known)}")
    _check_libraries(ways)
    if config.what == "causal-lm":
        causal_lm.check_causal_lm_config(config)
    elif config.what == "chat":
        if config.accuracy:
            raise UserError("accuracy was asked for, but a chat model has none; leave --accuracy out")
        if config.rows is not None and config.rows < 2 * chat.ROWS_PER_STEP:
            raise UserError(f"rows {config.rows}: expected at least {2 * chat.ROWS_PER_STEP}, two steps")
    elif config.rows is not None and config.rows < 100:
        raise UserError(f"rows {config.rows}: expected at least 100, or null for each row once")
    if config.what == "inference" and config.accuracy:
        raise UserError("accuracy was asked for, but inference times a model that is not trained; leave it out")
    return ways


def _check_libraries(ways: Sequence[str]) -> None:
    for library in ("setfit", "trl"):
        theirs = [way for way in ways if way.startswith(library)]
        if theirs and not _has_library(library):
            raise UserError(
                f"ways: {', '.join(theirs)} needs {library}; install it: pip install 'startup-llm[benchmark]', "
                "or name other --ways"
            )
    if LIGER_WAY in ways and not _has_liger():
        raise UserError(
            f"ways: {LIGER_WAY} needs liger-kernel and a GPU; install it where a GPU is: pip install liger-kernel, "
            "or name other --ways"
        )


def _has_liger() -> bool:
    import torch

    return _has_library("liger_kernel") and torch.accelerator.is_available()


def _has_library(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def time_way(way: str, config: BenchmarkConfig) -> dict[str, Any]:
    """Run one way in a fresh process.

    Args:
        way: A key of `WAYS[config.what]`.
        config: Rows and data.

    Returns:
        rows_per_second, tokens_per_second, seconds (of the whole process) and peak_memory_bytes; for training also
        accuracy, and seconds_to_target where it was reached; `error` alone where the way does not run.

    Raises:
        UserError: On a mistake in the data or the options, which no way could do with.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        request.write_text(json.dumps({"way": way, "config": asdict(config), "started": time.time()}))
        child = subprocess.run(
            [sys.executable, "-m", __name__, str(request), str(answer)],
            env=plain_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if child.returncode != 0:
            lines = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
            if child.returncode == 2 and lines[-1].startswith("error: "):
                raise UserError(lines[-1].removeprefix("error: "))
            return {"error": lines[-1]}
        return json.loads(answer.read_text())


def count_flop_per_token(model: Any, *, training: bool, kept_blocks: Sequence[Any] = ()) -> float:
    """Return the floating-point operations that a token costs in matrix products (Kaplan et al. 2020, sec. 2.1).

    Two for each weight of a linear layer forwards, two more for the gradient of its input where something before it
    learns, and two for the gradient of a weight that is trained. Attention's own products are left out, and so are
    layers that compute none: the pooling's, whose result has a closed form, and what an adapter's copy stands for.

    Args:
        model: The model.
        training: Whether gradients are computed.
        kept_blocks: Blocks whose states were computed before and kept.
    """
    from torch import nn

    from startup_llm.models.pooling import MeanPooling

    total, learns_before = 0.0, False
    costless = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, MeanPooling) or module in kept_blocks
    )
    for name, module in model.named_modules():
        learns = training and any(p.requires_grad for p in module.parameters(recurse=False))
        if isinstance(module, nn.Linear) and not f"{name}.".startswith(costless) and ".original_module" not in name:
            total += 2 * (1 + learns + learns_before) * module.weight.numel()
        learns_before |= learns
    return total


class _Clock:
    """Seconds and work of training, from the end of the first step on, and the test accuracy after each epoch."""

    def __init__(self, started: float, target: float, measure_accuracy: Callable[[], float] | None) -> None:
        self.started, self.target, self.measure_accuracy = started, target, measure_accuracy
        self.first_step_end = self.end = self.paused = 0.0
        self.steps = 0
        self.accuracy: float | None = None
        self.seconds_to_target: float | None = None

    def callback(self) -> TrainerCallback:
        """Return what tells a Trainer's steps and epochs to this clock."""
        from transformers import TrainerCallback

        clock = self

        class Tell(TrainerCallback):
            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                clock.steps += 1
                if clock.steps == 1:
                    clock.first_step_end = wait_for_device()

            def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
                if clock.end:
                    clock.paused += time.perf_counter() - clock.end

            def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
                clock.end = wait_for_device()
                clock.measure()

        return Tell()

    def measure(self) -> None:
        """Take the accuracy, between epochs and so outside the time of the steps."""
        if self.measure_accuracy is None:
            return
        self.accuracy = accuracy = self.measure_accuracy()
        if self.seconds_to_target is None and accuracy >= self.target:
            self.seconds_to_target = time.time() - self.started

    def read(
        self, rows: int, epochs: int, mean_tokens: float, model: Any, kept_blocks: Sequence[Any] = ()
    ) -> dict[str, Any]:
        """Return rates over all steps but the first.

        Raises:
            UserError: If there was but one.
        """
        if self.steps < 2:
            raise UserError(f"rows {rows}: one training step, and the first is not timed; give more --rows")
        seconds = self.end - self.first_step_end - self.paused
        rate = rows * epochs * (self.steps - 1) / self.steps / seconds
        return {
            "rows_per_second": rate,
            "tokens_per_second": rate * mean_tokens,
            "flop_per_token": count_flop_per_token(model, training=True, kept_blocks=kept_blocks),
            "accuracy": self.accuracy,
            "seconds_to_target": self.seconds_to_target,
        }


def _load(config: BenchmarkConfig) -> TaskData:
    """Load the task's rows, the training ones drawn anew to the number asked for."""
    import datasets

    from startup_llm.data.splits import draw_rows
    from startup_llm.data.task_data import TaskData
    from startup_llm.tasks import load_task

    data = load_task("text-classification").load_data(config.data)
    train = data.splits["train"]
    if config.rows is not None:
        train = draw_rows(train, config.rows, config.data.split_seed)
    return TaskData(
        datasets.DatasetDict({**data.splits, "train": train}), data.label_names, data.problem_type, data.notes
    )


def _train_ours(
    config: BenchmarkConfig,
    started: float,
    method: str,
    plan: str = "auto",
    count_upper: Callable[[int], int] | None = None,
) -> dict[str, Any]:
    """Train as `recipes/finetune.py` does.

    What the probe computes beforehand is not in the rate, but in the seconds of the whole and in those to the target.

    Args:
        config: Rows and data.
        started: When the process was started, in seconds.
        method: lora or full.
        plan: auto or plain.
        count_upper: From the number of blocks to that of the uppermost ones which alone are adapted; None for all.
    """
    from transformers import AutoConfig

    from startup_llm.config import SHARED_TRAIN_DEFAULTS, TRAIN_DEFAULTS
    from startup_llm.run_folder import RunFolder
    from startup_llm.session import Session
    from startup_llm.tasks import load_task
    from startup_llm.tasks.checkpoint import load_task_checkpoint
    from startup_llm.training import finetuning

    task, data = load_task("text-classification"), _load(config)
    checkpoint = load_task_checkpoint(task, config.model)
    blocks = AutoConfig.from_pretrained(checkpoint.path).num_hidden_layers
    lora = LoraConfig(rank=LORA_RANK, upper_layers=count_upper(blocks) if count_upper else None)
    run_config = FinetuneConfig(method=method, model=config.model, lora=lora, speed=SpeedConfig(plan=plan))
    section = {**SHARED_TRAIN_DEFAULTS, **TRAIN_DEFAULTS[method], "num_train_epochs": config.epochs}
    section |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    with tempfile.TemporaryDirectory() as folder, RunFolder(Path(folder) / "run") as run:
        session = Session(run_config, run, section)
        processor = task.load_processor(checkpoint, config.model)
        find_shape = functools.partial(finetuning.find_attention_shape, task, data, checkpoint, processor)
        plan_here = finetuning.choose_plan(session, find_shape)
        prepared = finetuning.prepare(task, data, run_config, checkpoint, processor, plan_here)
        prepared = replace(prepared, probe=finetuning.start_from_probe(prepared))
        test = prepared.encoded["test"]
        references = np.asarray(task.references(data.splits["test"]))
        model: list[Any] = []

        def measure_accuracy() -> float:
            outputs = prepared.predict(model[0], test)
            predictions = np.asarray(task.read_predictions(outputs, test, data.splits["test"], data))
            return float((predictions == references).mean())

        clock = _Clock(started, config.target_accuracy, measure_accuracy if config.accuracy else None)

        def before(trainer: Any) -> None:
            model.append(trainer.model)
            trainer.add_callback(clock.callback())

        finetuning.train(prepared, session, before)
    lengths = prepared.encoded["train"]["length"]
    kept = prepared.kept_states.blocks if prepared.kept_states else ()
    return clock.read(len(lengths), config.epochs, float(np.mean(lengths)), model[0], kept)


def _train_public(
    config: BenchmarkConfig, started: float, *, pad_to_longest: bool, bf16: bool, grouped: bool
) -> dict[str, Any]:
    """Train with transformers' Trainer and PEFT, as their text-classification examples do."""
    import peft
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        default_data_collator,
    )

    from startup_llm.tasks import load_task
    from startup_llm.tasks.checkpoint import load_task_checkpoint

    data, path = _load(config), load_task_checkpoint(load_task("text-classification"), config.model).path
    tokenizer = AutoTokenizer.from_pretrained(path)
    padding = {} if pad_to_longest else {"padding": "max_length"}

    def encode(rows: Dataset) -> Dataset:
        return rows.map(
            lambda batch: tokenizer(batch["text"], truncation=True, max_length=PADDED_LENGTH, **padding),
            batched=True,
            remove_columns=[name for name in rows.column_names if name != "label"],
        ).rename_column("label", "labels")

    train, test = encode(data.splits["train"]), encode(data.splits["test"])
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(data.label_names))
    model = peft.get_peft_model(
        model,
        peft.LoraConfig(task_type="SEQ_CLS", r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear"),
    )
    collator = DataCollatorWithPadding(tokenizer) if pad_to_longest else default_data_collator
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                folder,
                per_device_train_batch_size=BATCH_ROWS,
                per_device_eval_batch_size=BATCH_ROWS,
                learning_rate=LEARNING_RATE,
                num_train_epochs=config.epochs,
                bf16=bf16,
                train_sampling_strategy="group_by_length" if grouped else "random",
                save_strategy="no",
                report_to="none",
                use_cpu=not torch.accelerator.is_available(),
            ),
            train_dataset=train,
            data_collator=collator,
            compute_metrics=lambda outputs: {"accuracy": float((outputs[0].argmax(-1) == outputs[1]).mean())},
        )

        def measure_accuracy() -> float:
            return trainer.evaluate(test)["eval_accuracy"]

        clock = _Clock(started, config.target_accuracy, measure_accuracy if config.accuracy else None)
        trainer.add_callback(clock.callback())
        trainer.train()
    tokens = float(np.mean([sum(mask) for mask in train["attention_mask"]]))
    return clock.read(len(train), config.epochs, tokens, model)


def _train_setfit(config: BenchmarkConfig, started: float) -> dict[str, Any]:
    """Train with SetFit (Tunstall et al. 2022) and its defaults, in as many steps as the rows make batches.

    A row is one text: a step of 16 pairs computes 32 of them.
    """
    import datasets
    from setfit import SetFitModel, Trainer, TrainingArguments

    from startup_llm.tasks import load_task
    from startup_llm.tasks.checkpoint import load_task_checkpoint

    data, path = _load(config), load_task_checkpoint(load_task("text-classification"), config.model).path
    columns = ["text", "label"]
    train, test = (data.splits[name].select_columns(columns) for name in ("train", "test"))
    model = SetFitModel.from_pretrained(str(path))
    clock = _Clock(started, config.target_accuracy, None)
    with tempfile.TemporaryDirectory() as folder:
        steps = config.epochs * -(-len(train) // 32)
        arguments = TrainingArguments(folder, batch_size=16, max_steps=steps, report_to="none", save_strategy="no")
        trainer = Trainer(model=model, args=arguments, train_dataset=datasets.Dataset.from_list(train.to_list()))
        trainer.st_trainer.add_callback(clock.callback())
        trainer.train()
    clock.measure_accuracy = lambda: float(
        (np.asarray(model.predict(test["text"])) == np.asarray(test["label"])).mean()
    )
    if config.accuracy:
        clock.measure()
    tokenizer = model.model_body.tokenizer
    tokens = float(np.mean([len(ids) for ids in tokenizer(list(train["text"]))["input_ids"]]))
    return clock.read(len(train), config.epochs, tokens, model.model_body)


def _build_classifier(config: BenchmarkConfig) -> tuple[Any, Any, Any, Any]:
    """Return task, processor, a classifier with a random head, on which speed does not depend, and rows."""
    from startup_llm.tasks import load_task
    from startup_llm.tasks.checkpoint import load_task_checkpoint

    task, data = load_task("text-classification"), _load(config)
    checkpoint = load_task_checkpoint(task, config.model)
    processor = task.load_processor(checkpoint, config.model)
    return (
        task,
        processor,
        task.build_model(checkpoint, processor, data, config.model, None).model,
        data.splits["train"],
    )


def _predict_ours(config: BenchmarkConfig, started: float, compute_dtype: str | None) -> dict[str, Any]:
    """Predict as `recipes/predict.py` does: encode, compute, and answer with a label and its score."""
    from startup_llm.training.inference import predict_answers
    from startup_llm.training.speed import plan_speed

    task, processor, model, rows = _build_classifier(config)
    plan = plan_speed(SpeedConfig(compute_dtype=compute_dtype))
    rows = rows.select_columns(["text"])

    def answer(questions: Dataset) -> Dataset:
        encoded = task.predictor.encode(questions, processor)
        outputs = predict_answers(task, model, encoded, processor, plan)
        task.predictor.answer(outputs, encoded, questions, processor, model.config)
        return encoded

    answer(rows.select(range(32)))
    start = time.perf_counter()
    encoded = answer(rows)
    rate = len(rows) / (time.perf_counter() - start)
    return _describe_inference(rate, float(np.mean(encoded["length"])), model)


def _predict_pipeline(config: BenchmarkConfig, started: float, batch_size: int) -> dict[str, Any]:
    """Predict with `transformers.pipeline`."""
    from transformers import pipeline

    from startup_llm.training.speed import use_idle_cores

    use_idle_cores()
    _, processor, model, rows = _build_classifier(config)
    texts = list(rows["text"])
    classify = pipeline("text-classification", model=model.eval(), tokenizer=processor)
    list(classify(texts[:32], batch_size=batch_size, truncation=True))
    start = time.perf_counter()
    list(classify(texts, batch_size=batch_size, truncation=True))
    rate = len(texts) / (time.perf_counter() - start)
    tokens = float(np.mean([len(ids) for ids in processor(texts, truncation=True)["input_ids"]]))
    return _describe_inference(rate, tokens, model)


def _describe_inference(rate: float, tokens: float, model: Any) -> dict[str, float]:
    flop = count_flop_per_token(model, training=False)
    return {"rows_per_second": rate, "tokens_per_second": rate * tokens, "flop_per_token": flop}


def _time_steps(config: BenchmarkConfig, started: float) -> _Clock:
    return _Clock(started, config.target_accuracy, None)


def _train_chat_with_trl(variant: str, config: BenchmarkConfig, started: float) -> dict[str, Any]:
    return chat.train_with_trl(config, _time_steps(config, started), variant)


Way = Callable[[BenchmarkConfig, float], dict[str, Any]]

TRAINING_WAYS: dict[str, Way] = {
    "ours": lambda config, started: _train_ours(config, started, "lora"),
    "ours-full": lambda config, started: _train_ours(config, started, "full"),
    "ours-upper": lambda config, started: _train_ours(config, started, "lora", count_upper=lambda blocks: blocks // 2),
    "ours-last": lambda config, started: _train_ours(config, started, "lora", count_upper=lambda blocks: 1),
    "ours-plain": lambda config, started: _train_ours(config, started, "lora", plan="plain"),
    "peft-padded": lambda config, started: _train_public(
        config, started, pad_to_longest=False, bf16=False, grouped=False
    ),
    "peft-dynamic": lambda config, started: _train_public(
        config, started, pad_to_longest=True, bf16=False, grouped=False
    ),
    "peft-grouped": lambda config, started: _train_public(
        config, started, pad_to_longest=True, bf16=False, grouped=True
    ),
    "peft-bf16-grouped": lambda config, started: _train_public(
        config, started, pad_to_longest=True, bf16=True, grouped=True
    ),
    "setfit": _train_setfit,
}
INFERENCE_WAYS: dict[str, Way] = {
    "ours": lambda config, started: _predict_ours(config, started, "float32"),
    "ours-auto": lambda config, started: _predict_ours(config, started, None),
    "pipeline": lambda config, started: _predict_pipeline(config, started, 1),
    "pipeline-8": lambda config, started: _predict_pipeline(config, started, 8),
    "pipeline-32": lambda config, started: _predict_pipeline(config, started, 32),
    "pipeline-128": lambda config, started: _predict_pipeline(config, started, 128),
}
CAUSAL_LM_WAYS: dict[str, Way] = {
    "ours": lambda config, started: causal_lm.train_ours(config, _time_steps(config, started), lora=False),
    "ours-lora": lambda config, started: causal_lm.train_ours(config, _time_steps(config, started), lora=True),
    "trl": lambda config, started: causal_lm.train_with_trl(
        config, _time_steps(config, started), lora=False, tuned=False
    ),
    "trl-lora": lambda config, started: causal_lm.train_with_trl(
        config, _time_steps(config, started), lora=True, tuned=False
    ),
    "trl-tuned": lambda config, started: causal_lm.train_with_trl(
        config, _time_steps(config, started), lora=False, tuned=True
    ),
    "trl-tuned-lora": lambda config, started: causal_lm.train_with_trl(
        config, _time_steps(config, started), lora=True, tuned=True
    ),
    LIGER_WAY: lambda config, started: causal_lm.train_with_trl(
        config, _time_steps(config, started), lora=True, tuned=True, liger=True
    ),
}
CHAT_WAYS: dict[str, Way] = {
    "ours-lora": lambda config, started: chat.train_ours(config, _time_steps(config, started)),
    **{name: functools.partial(_train_chat_with_trl, name) for name in chat.TRL_VARIANTS},
}
WAYS: dict[str, dict[str, Way]] = {
    "training": TRAINING_WAYS,
    "inference": INFERENCE_WAYS,
    "causal-lm": CAUSAL_LM_WAYS,
    "chat": CHAT_WAYS,
}


def _answer(request_file: Path, answer_file: Path) -> None:
    """Run in the fresh process: time one way."""
    import datasets
    import torch

    request = json.loads(request_file.read_text())
    values = request["config"]
    config = BenchmarkConfig(
        **values | {"model": TextClassificationModel(**values["model"]), "data": LabelledTextData(**values["data"])}
    )
    datasets.disable_progress_bars()
    timing = WAYS[config.what][request["way"]](config, request["started"])
    timing |= {"seconds": time.time() - request["started"], "peak_memory_bytes": read_peak_memory_bytes()}
    timing |= {"gpu_memory_bytes": torch.cuda.max_memory_allocated()} if torch.cuda.is_available() else {}
    answer_file.write_text(json.dumps(timing))


if __name__ == "__main__":
    run_recipe(lambda: _answer(Path(sys.argv[1]), Path(sys.argv[2])))
