"""The steps of a fine-tuning run, in the order in which the recipe calls them."""

from __future__ import annotations

import contextlib
import functools
import gc
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import EvaluationConfig, LinearHead
from startup_llm.data.label_balance import is_skewed
from startup_llm.data.task_data import SEVERAL_LABELS
from startup_llm.errors import UserError
from startup_llm.evaluation.label_thresholds import choose_label_thresholds
from startup_llm.evaluation.metrics import rank_metrics
from startup_llm.models.adapters import ADAPTER_CONFIG, add_lora, choose_layers, settle_bare_base
from startup_llm.models.causal_attention import ARCHITECTURES
from startup_llm.models.checkpoints import read_json
from startup_llm.models.language_model_head import learn_at_targets
from startup_llm.models.sequence_classifier import find_output_layer
from startup_llm.run_folder import PLAN
from startup_llm.tasks.base import Task
from startup_llm.tasks.sentence_similarity.model import SIMILARITY_SCALE
from startup_llm.tasks.text_generation.options import GenerationData
from startup_llm.training.balance import ProbedRows, measure_balance
from startup_llm.training.fused_lora import fuse_lora
from startup_llm.training.inference import extract_features, list_features, predict_outputs, predict_scores
from startup_llm.training.kept_states import KeptStates, find_lower_blocks, number_rows
from startup_llm.training.preflight import UNTUNED, UNTUNED_SAMPLES
from startup_llm.training.probe import compute_feature_norm, fit_linear_probe, write_head
from startup_llm.training.processes import call_on_main_process, is_sharded
from startup_llm.training.progress import TrainingProgress, replace_console
from startup_llm.training.reload_gate import ReloadError
from startup_llm.training.shards import Shards, check_checkpoint
from startup_llm.training.speed import (
    TOKENS_PER_BATCH,
    AttentionShape,
    SpeedPlan,
    compile_blocks,
    plan_speed,
    resume_plan,
    store_frozen_weights,
    use_plan,
)
from startup_llm.training.trainer import HeadRate, SampleWriter, build_trainer, build_training_arguments

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, TrainingArguments

    from startup_llm.config import AlignConfig, FinetuneConfig, PretrainConfig, SpeedConfig
    from startup_llm.data.label_balance import Balance
    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.metrics import Metric, Values
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.models.task_model import TaskModel
    from startup_llm.session import Session
    from startup_llm.tasks.base import Truncation
    from startup_llm.training.trainer import HeadTrainer

MOST_PROBED_TOKENS = 200_000
"""A probe on tokens learns from rows of at most so many, drawn at random, as all are held in memory."""

_LOOKED_AT = 512
_SIZES = (
    ("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads"),
    ("hidden_size", "n_embd", "d_model"),
)


@dataclass(frozen=True)
class ProbeStart:
    """The linear probe that a head starts from.

    Attributes:
        predictions: For the test rows.
        feature_norm: Norm of the features.
        balance: What weights of the classes do to a probe on validation rows, as `measure_balance` returns it; None
            where the classes are of like size, or there are no validation rows.
    """

    predictions: Values
    feature_norm: float
    balance: dict[str, Any] | None = None


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs.

    Attributes:
        task: The task.
        data: Its rows.
        checkpoint: The pretrained files.
        processor: What turns rows into numbers: the checkpoint's tokenizer, or what the task has in its place.
        task_model: The model with its head.
        encoded: Encoded rows per split.
        truncation: What was cut, per split.
        plan: How to compute here.
        kept_states: What stands in for the blocks below the adapter; None where a row's states may change.
        notes: Sentences on what processor and model do not take of the rows as they stand.
        probe: What the head starts from; None where there is no such probe.
    """

    task: Task
    data: TaskData
    checkpoint: Checkpoint
    processor: Any
    task_model: TaskModel
    encoded: dict[str, Dataset]
    truncation: dict[str, Truncation]
    plan: SpeedPlan
    kept_states: KeptStates | None = None
    notes: tuple[str, ...] = ()
    probe: ProbeStart | None = None

    def score(self, model: Any, encoded: Dataset, plan: SpeedPlan | None = None) -> list[np.ndarray]:
        """Return for each encoded row the numbers by which two copies of a model are compared."""
        return predict_scores(self.task, model, encoded, self.processor, plan or self.plan)

    def describe(self) -> list[str]:
        """Return notes on the model, the plan and the rows, and how much of each split was cut."""
        cut_splits = [
            f"{name}: {cut.rows} rows cut{f' ({cut.targets} of them in their target)' if cut.targets else ''}, "
            f"{cut.tokens_share:.2%} of the tokens lost"
            for name, cut in self.truncation.items()
            if cut.rows
        ]
        return [*self.task_model.notes, *self.plan.reasons, *self.notes, *cut_splits]

    def describe_checkpoint(self, trainable_parameters: int) -> dict[str, Any]:
        """Return what `results.json` says of the model that the run began with."""
        checkpoint, network = self.checkpoint, self.task_model.model
        return {
            "name": checkpoint.name,
            "revision": checkpoint.revision,
            "source": checkpoint.source,
            "sha256": checkpoint.weights_sha256,
            "license": checkpoint.license,
            "architecture": type(network).__name__,
            "pooling": self.task_model.pooling,
            "parameters": sum(p.numel() for p in network.parameters()),
            "trainable_parameters": trainable_parameters,
        }

    def rebuild(self, config: FinetuneConfig | AlignConfig) -> PreTrainedModel:
        """Load the checkpoint with a fresh head once more, in float32."""
        kernel = self.plan.attention_kernel
        return self.task.build_model(self.checkpoint, self.processor, self.data, config.model, kernel).model

    def predict(self, model: Any, encoded: Dataset, plan: SpeedPlan | None = None) -> list[np.ndarray]:
        """Return a model's output for each encoded row, by default in float32, in which predict.py answers."""
        return predict_outputs(self.task, model, encoded, self.processor, plan or self.plan.exact())


@dataclass(frozen=True)
class Trained:
    """What training left in memory.

    Attributes:
        model: The trained model, frozen weights in the plan's type.
        history: The trainer's log.
        trainable_parameters: Number of weights that were trained.
        throughput: train_examples_per_second and train_tokens_per_second; empty where nothing was trained.
        samples: What the model wrote after each epoch: items of the report's gallery.
    """

    model: Any
    history: list[dict[str, float]]
    trainable_parameters: int
    throughput: dict[str, float]
    samples: Sequence[dict[str, Any]] = ()


def find_attention_shape(task: Task, data: TaskData, checkpoint: Checkpoint, processor: Any) -> AttentionShape | None:
    """Return what attention does in the middle one of the training batches' parts; None where no text is read.

    Args:
        task: The task, which cuts rows into tokens.
        data: The rows, of which the first few hundred are inspected.
        checkpoint: Tells its number of heads and their width.
        processor: Its tokenizer.
    """
    if not task.reads_text or not hasattr(processor, "pad_token"):
        return None
    rows = data.splits["train"]
    lengths = np.sort(task.encode(rows.select(range(min(_LOOKED_AT, len(rows)))), processor)[0]["length"])
    median = int(lengths[len(lengths) // 2])
    max_rows = min(max(TOKENS_PER_BATCH["cpu"] // median, 1), 64)
    middle = lengths[max((len(lengths) - max_rows) // 2, 0) :][:max_rows]
    file = Path(checkpoint.path, "config.json")
    settings = read_json(file)
    heads, width = (next((settings[name] for name in names if settings.get(name)), None) for names in _SIZES)
    sizes = {"heads": heads, "head_width": width // heads} if heads and width else {}
    sizes["key_heads"] = settings.get("num_key_value_heads")
    return AttentionShape(tuple(map(int, middle)), **sizes, causal=settings.get("model_type") in ARCHITECTURES)


def choose_plan(session: Session, find_shape: Callable[[], AttentionShape | None] | None = None) -> SpeedPlan:
    """Choose one plan for all processes and keep it in the run's folder; a resumed run computes as it began.

    Args:
        session: Its config says what is not to be chosen.
        find_shape: See `plan_speed`.

    Raises:
        UserError: If the config asks for what cannot be, or for another plan than the interrupted run's.
    """
    config = session.config

    def choose() -> SpeedPlan:
        stored = session.run.read_plan() if config.resume else None
        plan = resume_plan(stored, config.speed) if stored else plan_speed(config.speed, find_shape)
        session.run.write_json(PLAN, stored or plan.as_dict())
        return replace(plan, reasons=(*plan.reasons, *_describe_idle_gpus()))

    plan = call_on_main_process(choose)
    use_plan(plan, config.speed)
    return plan


def _describe_idle_gpus() -> list[str]:
    """Say that one process computes on one GPU, where there are more."""
    import torch
    from accelerate import PartialState

    state = PartialState()
    if state.device.type != "cuda" or state.num_processes > 1 or torch.cuda.device_count() < 2:
        return []
    command = "accelerate launch --config_file recipes/accelerate/ddp.yaml"
    return [f"one GPU of {torch.cuda.device_count()} computes, as there is one process; for all of them {command}"]


def prepare(
    task: Task,
    data: TaskData,
    config: FinetuneConfig | AlignConfig,
    checkpoint: Checkpoint,
    processor: Any,
    plan: SpeedPlan,
) -> Prepared:
    """Complete the rows by what the processor tells, build the model and encode every split.

    Raises:
        UserError: If the task's rows cannot be learnt by the method, or the model lacks the kernel asked for.
    """
    task.check_method(config.method, data)
    if config.method == "lora" and config.lora.quantize and is_sharded():
        raise UserError("lora.quantize: weights in four bits are not cut into shards; use recipes/accelerate/ddp.yaml")
    known, data = len(data.notes), task.fit_data(data, processor)
    task_model = task.build_model(checkpoint, processor, data, config.model, plan.attention_kernel)
    plan = settle_kernel(plan, config.speed, task_model.model, checkpoint.name)
    if config.method == "lora" and task_model.no_adapter:
        raise UserError(f"--method lora: {task_model.no_adapter}")
    prepared = encode_splits(task, data, checkpoint, processor, task_model, plan)
    prepared = replace(prepared, notes=tuple(prepared.data.notes[known:]))
    return replace(prepared, kept_states=_keep_states(prepared, config)) if config.method == "lora" else prepared


def _keep_states(prepared: Prepared, config: FinetuneConfig | AlignConfig) -> KeptStates | None:
    """Return what stands in for the blocks below the adapter; None where a row's states may change, or none learn."""
    task, plan, task_model = prepared.task, prepared.plan, prepared.task_model
    texts = task.reads_text and task.splits_batches
    if plan.plain or plan.compile or not texts or is_sharded():
        return None
    adapted = choose_layers(task_model.model, config.lora, task_model.constant_modules)
    blocks = find_lower_blocks(task_model.model, [*adapted, *task_model.head_modules])
    return KeptStates(blocks) if blocks else None


def settle_kernel(plan: SpeedPlan, config: SpeedConfig, model: Any, name: str) -> SpeedPlan:
    """Return the plan with the attention kernel that the model was really built with.

    Args:
        plan: What the model was to be built with.
        config: What was asked for.
        model: The model.
        name: What to call it in an error.

    Raises:
        UserError: If the kernel was asked for, and the model computes with another.
    """
    used = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if plan.attention_kernel is None or used in (None, plan.attention_kernel):
        return plan
    kind = model.config.model_type
    if config.attention_kernel is not None:
        needs = ", which needs a GPU and the package flash-attn," if "flash" in config.attention_kernel else ""
        raise UserError(
            f"speed.attention_kernel {config.attention_kernel}{needs} is not what {name} ({kind}) computes with here: "
            f"it would be {used}; leave the option out"
        )
    reason = f"{used} attention all the same: {kind} does not compute with {plan.attention_kernel} here"
    return replace(plan, attention_kernel=used, reasons=(*plan.reasons, reason))


def encode_splits(
    task: Task,
    data: TaskData,
    checkpoint: Checkpoint,
    processor: Any,
    task_model: TaskModel,
    plan: SpeedPlan,
) -> Prepared:
    """Put the model on the plan's device and encode every split.

    Raises:
        UserError: If the model can never learn some rows, and they are not to be left out.
    """
    known, data = len(data.notes), task.fit_data(data, processor, task_model.model)
    task_model.model.to(plan.device)
    encoded, truncation = {}, {}
    for name in data.splits:
        encoded[name], truncation[name] = task.encode_split(name, data, processor)
    notes = tuple(data.notes[known:])
    return Prepared(task, data, checkpoint, processor, task_model, encoded, truncation, plan, notes=notes)


def start_from_probe(
    prepared: Prepared, evaluation: EvaluationConfig | None = None, balance: Balance = "none"
) -> ProbeStart:
    """Fit a linear probe on frozen features and write it into the head: the LP of LP-FT (Kumar et al. 2022).

    Args:
        prepared: Rows and model.
        evaluation: The primary metric, by which thresholds of several labels are chosen, and how intervals are made.
        balance: How classes of different size are trained on; a probe is weighted for sampling too.

    Raises:
        ValueError: If the task has no linear probe.
    """
    task, data = prepared.task, prepared.data
    if task.probe is None:
        raise ValueError(f"{task.tag} has no linear probe")
    evaluation = evaluation or EvaluationConfig()
    train = _probe_training_rows(prepared)
    output = find_output_layer(prepared.task_model.model)
    weight, bias = fit_linear_probe(
        train.features,
        train.labels,
        data.problem_type,
        classes=output.out_features,
        intercept=output.bias is not None,
        balanced=balance != "none",
    )
    write_head(output, weight, bias)
    outputs = [row @ weight.T + bias for row in _list_split_features(prepared, "test")]
    effect = None
    if (validation := _probe_validation_rows(prepared)) is not None:
        if data.problem_type == SEVERAL_LABELS:
            logits = validation.features @ weight.T + bias
            metric = rank_metrics(task.metrics(data), evaluation.decides)[0]
            outputs = list(choose_label_thresholds(logits, validation.labels, metric, evaluation.seed).shift(outputs))
        if is_skewed(data):
            effect = measure_balance(train, validation, data.problem_type, output.bias is not None, evaluation)
    decided = task.read_predictions(outputs, prepared.encoded["test"], data.splits["test"], data)
    return ProbeStart(decided, compute_feature_norm(train.features), effect)


def _probe_training_rows(prepared: Prepared) -> ProbedRows:
    """Return what a probe learns from; kept states are computed on the way."""
    task, kept = prepared.task, prepared.kept_states
    learnt = prepared.encoded["train"]
    if task.probe is None:
        raise ValueError(f"{task.tag} has no linear probe")
    if kept:
        learnt = number_rows(learnt)
    if task.probe.per_token:
        learnt = _limit_tokens(learnt, MOST_PROBED_TOKENS)
    features = list_features(task, prepared.task_model.model, learnt, prepared.processor, prepared.plan, kept)
    references = task.references(prepared.data.splits["train"])
    return ProbedRows(*task.probe.list_examples(features, learnt, references))


def _probe_validation_rows(prepared: Prepared) -> ProbedRows | None:
    """Return what a probe is measured on before the test rows, where something is chosen by it; else None."""
    task, data = prepared.task, prepared.data
    if "validation" not in prepared.encoded or not (data.problem_type == SEVERAL_LABELS or is_skewed(data)):
        return None
    features = _list_split_features(prepared, "validation")
    return ProbedRows(np.stack(features), np.asarray(task.references(data.splits["validation"])))


def _list_split_features(prepared: Prepared, name: str) -> list[np.ndarray]:
    """Return what the output layer reads of a split's rows."""
    model, encoded = prepared.task_model.model, prepared.encoded[name]
    return list_features(prepared.task, model, encoded, prepared.processor, prepared.plan)


def start_from_label_names(prepared: Prepared) -> None:
    """Write the labels' names into the head: a class's logit is 20 times the cosine of its name with the text.

    A model without labels, such as one that searches, stays as it is.

    The vectors are what the head reads, of a sentence encoder the mean over the tokens, centred and scaled. No row is
    learnt from. Underscores and hyphens in a name are read as blanks.
    """
    import datasets

    task, model = prepared.task, prepared.task_model.model
    if not prepared.data.label_names:
        return
    names = [re.sub(r"[_\-\s]+", " ", name).strip() or name for name in prepared.data.label_names]
    encoded, _ = task.encode(datasets.Dataset.from_dict({"text": names}), prepared.processor)
    vectors = extract_features(task, model, encoded, prepared.processor, prepared.plan)
    weight = SIMILARITY_SCALE * vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    write_head(find_output_layer(model), weight, np.zeros(len(names), dtype=weight.dtype))


def predict_untuned(
    prepared: Prepared, session: Session[FinetuneConfig]
) -> tuple[dict[str, Values], list[dict[str, Any]]]:
    """Return what the checkpoint predicts for the test rows before it is tuned.

    Args:
        prepared: The task and its rows.
        session: The run, whose clock gets the stages `untuned`, `untuned samples` and `few-shot`.

    Returns:
        Predictions of `untuned`, and where prompts have answers of `few-shot`, which has training rows before it; and
        items of the report's gallery, as the tuned model will have them.
    """
    task, model, data = prepared.task, prepared.task_model.model, prepared.data
    test = data.splits["test"]
    with session.stage(UNTUNED):
        outputs = prepared.predict(model, prepared.encoded["test"])
        predictions = {"untuned": task.read_predictions(outputs, prepared.encoded["test"], test, data)}
    gallery = task.describe_errors(test, outputs, predictions["untuned"], data).get("gallery", [])
    with session.stage(UNTUNED_SAMPLES):
        gallery += task.write_samples(model, prepared.processor, test)
    if example_notes := task.predictor.add_examples(data, prepared.processor, model, session.config.evaluation):
        longer, processor = example_notes
        with session.stage("few-shot"):
            encoded, _ = task.encode_split("test", longer, processor)
            outputs = predict_outputs(task, model, encoded, processor, prepared.plan.exact())
        predictions["few-shot"] = task.read_predictions(outputs, encoded, longer.splits["test"], longer)
    return predictions, gallery


def train(
    prepared: Prepared,
    session: Session[FinetuneConfig],
    before: Callable[[HeadTrainer], None] | None = None,
) -> Trained:
    """Train with the method of the config and keep the best checkpoint's weights.

    Args:
        prepared: Rows and model; a head that starts from a probe has a learning rate of its own.
        session: The method, the `train` section, and where checkpoints go.
        before: Called with the trainer before its first step.
    """
    task_model, plan, config = prepared.task_model, prepared.plan, session.config
    model: Any = task_model.model
    kept = None
    if config.method in ("probe", "zero-shot"):
        is_probe = config.method == "probe"
        return Trained(model, [], sum(p.numel() for p in find_output_layer(model).parameters()) if is_probe else 0, {})
    if config.method == "lora":
        model = add_lora(
            model,
            config.lora,
            task_type=prepared.task.peft_task_type,
            base_name=str(prepared.checkpoint.path),
            head_modules=task_model.head_modules,
            constant_modules=task_model.constant_modules,
        )
        store_frozen_weights(model, plan.frozen_dtype)
        if not plan.plain:
            fuse_lora(model)
        if not session.train_section.get("neftune_noise_alpha"):  # which changes what the lower blocks read
            kept = prepared.kept_states
    else:
        for name in task_model.constant_modules:
            model.get_submodule(name).requires_grad_(False)
    head_rate = None
    if prepared.probe is not None and isinstance(config.model, LinearHead):
        parameters = list(_trained_output_layer(model).parameters())
        head_rate = HeadRate(parameters, config.model.head_learning_rate / prepared.probe.feature_norm)
    return run_trainer(prepared, model, session, head_rate=head_rate, before=before, kept_states=kept)


def run_trainer(
    prepared: Prepared,
    model: Any,
    session: Session[FinetuneConfig] | Session[PretrainConfig],
    *,
    head_rate: HeadRate | None = None,
    before: Callable[[HeadTrainer], None] | None = None,
    kept_states: KeptStates | None = None,
) -> Trained:
    """Train a model on the encoded rows and keep the best checkpoint's weights.

    Args:
        prepared: Rows, collator and plan.
        model: What is trained: the weights that ask for a gradient.
        session: The `train` section, early stopping, the deciding metric, whether to resume, and where checkpoints go.
        head_rate: Parameters with a learning rate of their own, or None.
        before: Called with the trainer before its first step.
        kept_states: What stands in for lower blocks that learn nothing.
    """
    plan, config = prepared.plan, session.config
    task, validation = prepared.task, prepared.encoded.get("validation")
    metric = rank_metrics(task.metrics(prepared.data), config.evaluation.decides)[0]
    by_metric = not task.selects_by_loss
    decides = metric.name if by_metric else "loss"
    lower_is_better = not by_metric or metric.lower_is_better
    arguments = build_training_arguments(
        session.train_section,
        session.run.checkpoints,
        plan,
        decides if validation is not None else "",
        lower_is_better=lower_is_better,
    )
    train_rows = prepared.encoded["train"]
    if task.packer is not None and isinstance(config.data, GenerationData) and config.data.packing:
        train_rows = _pack(task.packer, prepared, arguments)
    shards = Shards(model) if is_sharded() else None
    if shards and head_rate:
        head_rate = replace(head_rate, parameters=shards.find(head_rate.parameters))
    trainer, clock = build_trainer(
        shards.model if shards else model,
        arguments,
        prepared,
        train_rows=train_rows,
        compute_metrics=_metric_of(prepared, metric) if by_metric else None,
        head_rate=head_rate,
        early_stopping_patience=config.early_stopping_patience,
        kept_states=kept_states,
        balance=getattr(config, "train_balance", "none"),
    )
    replace_console(trainer, TrainingProgress(session.reporter, decides, lower_is_better=lower_is_better))
    writer = SampleWriter(task, prepared.processor, prepared.data, plan)
    if shards:
        shards.check(trainer)
        trainer.add_callback(shards)
    last = session.run.last_checkpoint() if config.resume else None
    if last:
        call_on_main_process(functools.partial(check_checkpoint, last, arguments.world_size))
    changes = not (plan.plain or shards)
    with (
        compile_blocks(model) if plan.compile else contextlib.nullcontext(),
        learn_at_targets(model, compiled=plan.compile) if changes else contextlib.nullcontext(),
    ):
        if before is not None:
            before(trainer)
        trainer.add_callback(writer)  # behind what times the steps
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # else it computes in bfloat16 for good
    if shards:
        shards.gather()
        trainer.accelerator.free_memory()
    throughput = clock.measure_throughput(arguments, len(train_rows), float(np.mean(train_rows["length"])))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Trained(model, trainer.state.log_history, trainable, throughput, writer.samples)


def _pack(pack: Callable[[Dataset, Any], Dataset], prepared: Prepared, arguments: TrainingArguments) -> Dataset:
    """Return the training rows several to a row.

    Raises:
        UserError: If the model would not tell them apart.
    """
    if prepared.plan.attention_kernel == "flash_attention_2":
        raise UserError("data.packing: flash_attention_2 tells packed rows apart one by one only; use sdpa")
    if arguments.use_cache:
        raise UserError("data.packing: with train.use_cache a model does not tell packed rows apart; leave it out")
    return pack(prepared.encoded["train"], prepared.processor)


def save_model(
    trained: Trained, prepared: Prepared, session: Session[FinetuneConfig] | Session[AlignConfig]
) -> PreTrainedModel:
    """Write the adapter and the merged model, and return the merged one as it was written: float32 throughout.

    An adapter is merged into the checkpoint's own float32 weights, read again, not into those that training kept in
    a shorter type.
    """
    from accelerate import PartialState

    model, run = trained.model, session.run
    if hasattr(model, "peft_config"):
        from peft import PeftModel

        if run.is_writer:
            adapter_config = model.peft_config["default"]
            adapter_config.base_model_name_or_path = prepared.checkpoint.name
            adapter_config.revision = prepared.checkpoint.revision
            model.save_pretrained(run.adapter, save_embedding_layers=False)
            prepared.processor.save_pretrained(run.adapter)
        PartialState().wait_for_everyone()
        gc.collect()
        model = PeftModel.from_pretrained(prepared.rebuild(session.config), str(run.adapter)).merge_and_unload()
    if run.is_writer:
        model.save_pretrained(run.model)
        prepared.processor.save_pretrained(run.model)
        if (run.adapter / ADAPTER_CONFIG).is_file():  # after it was read: here it stands on a base of the whole shape
            settle_bare_base(run.adapter, prepared.checkpoint.path, prepared.task_model.load_arguments)
    PartialState().wait_for_everyone()
    return model.to(prepared.plan.device).eval()


def check_against_training(trained: Trained, merged: Any, prepared: Prepared, rows: Dataset) -> None:
    """Compare the saved model with the one in memory: the same up to the rounding of the type trained in.

    Raises:
        ReloadError: If they differ by more than a tenth of the logits' spread.
    """
    kept, saved = (
        np.concatenate([np.ravel(scores) for scores in prepared.score(model, rows)])
        for model in (trained.model, merged)
    )
    difference, spread = float(np.abs(kept - saved).mean()), float(kept.std())
    if difference > 0.1 * max(spread, 1e-6):
        raise ReloadError(
            f"the saved model's logits differ from the trained model's by {difference:.3g} on average, "
            f"where they spread by {spread:.3g}; the run is not finished"
        )


def _limit_tokens(rows: Dataset, max_tokens: int) -> Dataset:
    """Draw rows at random until they have the number of tokens; all of them where they have fewer."""
    lengths = np.asarray(rows["length"])
    if lengths.sum() <= max_tokens:
        return rows
    order = np.random.default_rng(0).permutation(len(rows))
    return rows.select(np.sort(order[np.cumsum(lengths[order]) <= max_tokens]))


def _trained_output_layer(model: Any) -> Any:
    """Return the output layer, or the copy of it that PEFT trains and saves."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return find_output_layer(inner)


def _metric_of(prepared: Prepared, metric: Metric) -> Callable[[Any], dict[str, float]]:
    def compute_metrics(prediction: Any) -> dict[str, float]:
        outputs, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        return {metric.name: metric.compute(*prepared.task.read_validation(outputs, labels, prepared.data))}

    return compute_metrics
