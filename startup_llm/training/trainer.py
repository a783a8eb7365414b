"""transformers' Trainer with what this package adds: a learning rate for the head, and lengths kept together."""

from __future__ import annotations

import contextlib
import functools
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.utils.memory import clear_device_cache
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_pt_utils import LabelSmoother

from startup_llm.data.batching import LengthGroupedSampler, split_by_length
from startup_llm.errors import UserError
from startup_llm.tasks.base import TARGET_LENGTH, Task
from startup_llm.training.balance import build_weighted_loss, compute_row_weights
from startup_llm.training.kept_states import ROW_NUMBER, KeptStates, NumberedCollator, number_rows, use_kept_states
from startup_llm.training.processes import is_sharded
from startup_llm.training.shards import choose_shards

MOST_SAMPLED_EPOCHS = 10

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor, nn
    from torch.utils.data import Sampler
    from transformers import EvalPrediction
    from transformers.trainer_utils import EvalLoopOutput

    from startup_llm.data.label_balance import Balance
    from startup_llm.data.task_data import TaskData
    from startup_llm.training.balance import WeightedLoss
    from startup_llm.training.finetuning import Prepared
    from startup_llm.training.speed import SpeedPlan


class HeadTrainer(Trainer):
    """A Trainer whose head has a learning rate of its own, and which computes a batch in parts of like length.

    The parts of a batch give the batch's own gradient: each part's mean loss counts by its share of the targets, over
    all processes. So memory is bounded by tokens, whatever the batch size, and hardly any padding is computed. Without
    a number of tokens per batch, samples and batches are the Trainer's own.
    """

    optimizer: Any

    def __init__(
        self,
        *args: Any,
        task: Task,
        head_parameters: list[nn.Parameter],
        head_learning_rate: float,
        tokens_per_batch: int | None,
        mask_positions: int = 1,
        kept_states: KeptStates | None = None,
        weighted_loss: WeightedLoss | None = None,
        row_weights: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        arguments = kwargs["args"]
        smoothing, arguments.label_smoothing_factor = arguments.label_smoothing_factor, 0.0
        super().__init__(*args, **kwargs)  # which asks for the model's config where labels are smoothed
        arguments.label_smoothing_factor = smoothing
        self.label_smoother = LabelSmoother(epsilon=smoothing) if smoothing else None
        choose_shards(self)
        self._task = task
        self.kept_states = kept_states
        self._weighted_loss, self._row_weights = weighted_loss, row_weights
        self._longest = max(self.train_dataset["length"])
        self._tokens_per_batch, self._mask_positions = tokens_per_batch, mask_positions
        self._head_ids = {id(parameter) for parameter in head_parameters}
        self._head_learning_rate = head_learning_rate
        if task.computes_loss:  # such a loss is a mean: accumulated ones are averaged
            self.model_accepts_loss_kwargs = False

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Return the task's loss, or else the model's own; in evaluation it is the mean over this process's batch."""
        if not model.training:
            kwargs = {}
        if self.label_smoother is not None:
            loss, outputs = self._smooth_loss(model, inputs, **kwargs)
            return (loss, outputs) if return_outputs else loss
        if self._weighted_loss is not None and model.training:
            loss, outputs = self._weigh_loss(model, inputs, self._weighted_loss, **kwargs)
            return (loss, outputs) if return_outputs else loss
        if not self._task.computes_loss:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        loss, outputs = self._task.compute_loss(model, inputs, self.processing_class)
        return (loss, {"logits": outputs}) if return_outputs else loss

    def _smooth_loss(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of smoothed labels, and the outputs.

        The model gets its labels, from which an encoder-decoder makes what its decoder reads.
        """
        outputs = {name: values for name, values in model(**inputs).items() if name != "loss"}
        shifted = self._task.token_logits == "next"
        loss = self.label_smoother(outputs, inputs["labels"], shifted, num_items_in_batch)
        if num_items_in_batch is not None:  # those of all processes, whose gradients are averaged
            loss = loss * self.accelerator.num_processes
        return loss, outputs

    def _weigh_loss(
        self, model: nn.Module, inputs: dict[str, Any], weighted: WeightedLoss, num_items_in_batch: Any = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss in which the classes count alike, and the outputs."""
        outputs = model(**{name: values for name, values in inputs.items() if name != "labels"})
        terms = weighted.compute_terms(outputs["logits"], inputs["labels"])
        if num_items_in_batch is None:
            return terms.mean(), outputs
        return terms.sum() / num_items_in_batch * self.accelerator.num_processes, outputs

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """Make the optimizer of `train.optim` over the head and the rest, biases and norms without weight decay."""
        if self.optimizer is None:
            model = model or self.model
            decayed = set(self.get_decay_parameter_names(model))
            groups: dict[tuple[bool, bool], dict[str, Any]] = {}
            for name, parameter in model.named_parameters():
                if not parameter.requires_grad:
                    continue
                in_head, decays = id(parameter) in self._head_ids, name in decayed
                rate = {"lr": self._head_learning_rate} if in_head else {}
                decay = self.args.weight_decay if decays else 0.0
                group = groups.setdefault((in_head, decays), {"params": [], "weight_decay": decay, **rate})
                group["params"].append(parameter)
            try:
                optimizer_class, arguments = self.get_optimizer_cls_and_kwargs(self.args, model)
            except (ImportError, ValueError) as error:
                raise UserError(f"train.optim {self.args.optim.value}: {' '.join(str(error).split())}") from None
            self.optimizer = optimizer_class(list(groups.values()), **arguments)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule of `train.lr_scheduler_type`.

        Raises:
            UserError: If it does not take `train.lr_scheduler_kwargs`.
        """
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        except (TypeError, ValueError) as error:
            kind, options = self.args.lr_scheduler_type.value, self.args.lr_scheduler_kwargs
            raise UserError(
                f"train.lr_scheduler_type {kind} with train.lr_scheduler_kwargs {options}: {error}"
            ) from None

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return batches of every row: `train.dataloader_drop_last` leaves out rows of training alone."""
        drops, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drops

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write a checkpoint whose weights are called as they are in memory: by these names it is read back.

        Some architectures, such as DETR, would be written under the names of older releases, and half of such a
        checkpoint would be passed over when training goes on from it.
        """
        if isinstance(self.model, PreTrainedModel):
            save = functools.partial(self.model.save_pretrained, save_original_format=False)
            self.model.save_pretrained = save
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.model.__dict__.pop("save_pretrained", None)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | LengthGroupedSampler | None:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        if self._tokens_per_batch is None:
            if self._row_weights is None:
                return super()._get_train_sampler(train_dataset)
            ones = np.ones(len(self._row_weights), dtype=int)
            return LengthGroupedSampler(ones, 1, seed, row_weights=self._row_weights)
        batch_rows = self.args.train_batch_size * self.args.world_size
        rows = self.train_dataset
        if TARGET_LENGTH not in rows.column_names:
            lengths = np.asarray(rows["length"])
            return LengthGroupedSampler(lengths, batch_rows, seed, row_weights=self._row_weights)
        # two lengths need a long window, or one is sorted and the other is padded
        lengths, targets = np.asarray(rows["length"]), np.asarray(rows[TARGET_LENGTH])
        return LengthGroupedSampler(lengths, batch_rows, seed, window_batches=500, target_lengths=targets)

    def _run_epoch(self, *, epoch: int, train_dataloader: Any, **kwargs: Any) -> None:
        """Go through an epoch in its own order, also from its middle on.

        Where several processes skip an interrupted epoch's first batches, the sampler is wrapped more deeply than the
        Trainer and Accelerate reach, and would give the first epoch's order.
        """
        batches = train_dataloader
        while hasattr(batches, "batch_sampler"):
            batches = batches.batch_sampler
        if hasattr(batches.sampler, "set_epoch"):
            batches.sampler.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def _measure_lengths(self, inputs: dict[str, Any]) -> Tensor:
        """Return what each row of a batch costs; rows without a mask are all of one size."""
        if "attention_mask" in inputs:
            return inputs["attention_mask"].sum(dim=1)
        longest = self._longest * self._mask_positions
        return inputs["labels"].new_full((len(inputs["labels"]),), longest, dtype=int)

    def _count_own_rows(self, rows: int, dataset: Dataset, batch_rows: int) -> int:
        """Return how many of this process's rows are its own; accelerate fills up the last batch by others."""
        state = self.accelerator.gradient_state
        # not accelerate's remainder, which it does not know in an epoch that is taken up in its middle
        rest = len(dataset) % (batch_rows * self.args.world_size)
        drops = self.args.dataloader_drop_last and dataset is self.train_dataset
        if drops or rest == 0 or not (state.end_of_dataloader and state.sync_gradients):
            return rows
        return min(max(rest - self.accelerator.process_index * batch_rows, 0), rows)

    def _count_parts(self, own: int, device: torch.device) -> int:
        """Return how many parts to compute: the most that any process has, where each takes weights from all."""
        import torch

        if not is_sharded():
            return own
        return int(self.accelerator.gather(torch.tensor([own], device=device)).max())

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self.kept_states and ROW_NUMBER not in self._signature_columns:
            self._signature_columns.append(ROW_NUMBER)

    @contextlib.contextmanager
    def _hold_back(self, model: nn.Module) -> Iterator[None]:
        """Within, a backward ends no batch: whole models exchange no gradients, and DeepSpeed takes no step."""
        if self.is_deepspeed_enabled:
            state = self.accelerator.gradient_state
            ends = state.sync_gradients
            state._set_sync_gradients(False)
            try:
                yield
            finally:
                state._set_sync_gradients(ends)
        elif self.is_fsdp_enabled:
            yield
        else:
            with self.accelerator.no_sync(model):
                yield

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Compute a batch's gradient part by part; processes exchange gradients once, with the last part.

        A model in shards exchanges with every part, as a process would else keep whole gradients; and as each forward
        gathers weights from all processes, one that has fewer parts computes its last one again, for nothing.
        """
        import torch

        if self._tokens_per_batch is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        if hasattr(self.optimizer, "train"):  # schedule-free ones train and evaluate at different weights
            self.optimizer.train()
        inputs = self._prepare_inputs(inputs)
        own = self._count_own_rows(len(inputs["labels"]), self.train_dataset, self.args.train_batch_size)
        inputs = {name: values[: max(own, 1)] for name, values in inputs.items()}
        lengths = self._measure_lengths(inputs)
        targets = self._task.count_targets(inputs) * (own > 0)
        mean_targets = self.accelerator.reduce(targets.sum().float(), reduction="mean")  # over the processes
        budget = self._tokens_per_batch * self._mask_positions
        parts = list(split_by_length(lengths.cpu().numpy(), budget))
        total = torch.zeros((), device=lengths.device)
        count = self._count_parts(len(parts), lengths.device)
        scaled = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
        for number in range(count):
            rows = parts[min(number, len(parts) - 1)]
            index = torch.from_numpy(rows).to(lengths.device)
            part = _select_rows(inputs, index, int(lengths[rows[0]]))
            share = targets[index].sum() / mean_targets * (number < len(parts))
            with contextlib.nullcontext() if number == count - 1 else self._hold_back(model):
                with self.compute_loss_context_manager(), use_kept_states(self.kept_states, part):
                    loss = self.compute_loss(model, part) * share
                self.accelerator.backward(loss / self.current_gradient_accumulation_steps, **scaled)
            total += loss.detach()
        every = self.args.torch_empty_cache_steps
        if every is not None and self.state.global_step % every == 0:
            clear_device_cache()
        return total / self.current_gradient_accumulation_steps

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """Measure a split, its loss as the mean over all targets whose loss is a number.

        The Trainer multiplies a batch's loss by the number of processes, which is right only for a model that has
        divided it by the targets of all of them, and then takes the mean over batches.
        """
        import torch

        self._evaluated = torch.zeros(2, device=self.args.device)  # the sum of the loss, and the number of its terms
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if f"{metric_key_prefix}_loss" in output.metrics:
            total, targets = self.accelerator.reduce(self._evaluated, reduction="sum")
            output.metrics[f"{metric_key_prefix}_loss"] = (total / targets).item()
        return output

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, Any, Any]:
        """Compute a batch's loss and outputs, and count the loss of the rows that are the process's own.

        Of several processes each computes its last batch again without the rows that fill it up, as the loss of the
        batch holds theirs.
        """
        import torch

        inputs = self._prepare_inputs(inputs)
        loss, outputs, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if loss is None:
            return loss, outputs, labels
        own = self._count_own_rows(len(inputs["labels"]), self.eval_dataset, self.args.eval_batch_size)
        if self.args.world_size > 1 and self.accelerator.gradient_state.end_of_dataloader:  # all do, for shards
            inputs = {name: values[: max(own, 1)] for name, values in inputs.items()}
            with torch.no_grad(), self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs)
        targets = self._task.count_targets(inputs).sum() * (own > 0) * loss.isfinite()
        self._evaluated += torch.stack([loss.nan_to_num(0, 0, 0).float() * targets, targets.float()])
        return loss, outputs, labels


def _select_rows(inputs: dict[str, Tensor], rows: Tensor, length: int) -> dict[str, Tensor]:
    """Take rows of a right-padded batch and cut the padding that none of them needs.

    What is as wide as the attention mask, or else as the tokens, is cut with it, except labels in floats, which are
    not per token; labels of another width are cut behind their last target, and none loses a target.
    """
    width = next((inputs[name].shape[1] for name in ("attention_mask", "input_ids") if name in inputs), None)
    part = {}
    for name, values in inputs.items():
        part[name] = values[rows]
        if values.dim() < 2 or (name == "labels" and values.is_floating_point()):
            continue
        targets = int((part[name] != -100).sum(dim=1).max()) if name == "labels" and values.dim() == 2 else 0
        if values.shape[1] == width:
            part[name] = part[name][:, : max(length, targets)]
        elif name == "labels" and values.dim() == 2 and bool((values == -100).any()):
            part[name] = part[name][:, :targets]
    return {name: values.contiguous() for name, values in part.items()}  # T5 takes views of its labels


class TrainingClock(TrainerCallback):
    """Measures the seconds spent in training steps, without evaluation and saving."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.steps = 0
        self._start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter() - self._start
        self.steps += 1

    def measure_throughput(
        self, arguments: TrainingArguments, rows: int, tokens_per_row: float | None = None
    ) -> dict[str, float]:
        """Return train_examples_per_second and train_tokens_per_second; empty where no step was taken.

        Args:
            arguments: Say how many rows a step takes.
            rows: Training rows.
            tokens_per_row: Their mean length; None where it is not known.
        """
        if not self.seconds:
            return {}
        taken = self.steps * arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        examples = min(taken, round(rows * arguments.num_train_epochs))
        throughput = {"train_examples_per_second": examples / self.seconds}
        if tokens_per_row is not None:
            throughput["train_tokens_per_second"] = examples * tokens_per_row / self.seconds
        return throughput


class SampleWriter(TrainerCallback):
    """Keeps what the model writes after epochs, where the task has such a thing and one process trains alone.

    It writes for the first validation row, or the first training row where there is no validation split, after ten
    epochs at most, evenly spread and the last among them. Training goes on as if nothing had been written.

    Attributes:
        samples: Items of the report's gallery.
    """

    def __init__(self, task: Task, processor: Any, data: TaskData, plan: SpeedPlan) -> None:
        self.samples: list[dict[str, Any]] = []
        self._task, self._processor, self._data, self._plan = task, processor, data, plan

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Let the model write."""
        if not writes_after_epochs(self._task, args) or not _is_chosen(
            math.ceil(round(state.epoch, 6)), state.num_train_epochs
        ):
            return
        rows = self._data.splits.get("validation", self._data.splits["train"]).select(range(1))
        was_training = model.training
        with _keep_random_state(), tempfile.TemporaryDirectory() as folder, self._plan.autocast():
            writer = model.eval()
            if not hasattr(model, "generation_config"):  # a reference model writes in the format that it is saved in
                self._task.reference_models.save(model, self._processor, self._data, Path(folder))
                writer = self._task.saved_model.load(folder).to(args.device).eval()
            items = self._task.write_samples(writer, self._processor, rows)
        model.train(was_training)
        self.samples += [{**item, "title": f"{item['title']}, after epoch {state.epoch:.3g}"} for item in items]


def writes_after_epochs(task: Task, arguments: TrainingArguments) -> bool:
    """Say whether a model writes samples after epochs: the task has such a thing, and one process trains alone."""
    return task.samples_each_epoch and arguments.world_size == 1 and not is_sharded()


def _is_chosen(epoch: int, epochs: int) -> bool:
    """Say whether an epoch, from 1, is one of the at most `MOST_SAMPLED_EPOCHS` after which the model writes."""
    return epochs <= MOST_SAMPLED_EPOCHS or (epoch * MOST_SAMPLED_EPOCHS // epochs) > (
        (epoch - 1) * MOST_SAMPLED_EPOCHS // epochs
    )


@contextlib.contextmanager
def _keep_random_state() -> Iterator[None]:
    """Give every generator of random numbers the state back that it had."""
    import torch

    drawn, state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(drawn)
        np.random.set_state(state)


def build_training_arguments(
    train: Mapping[str, Any],
    output_dir: Path,
    plan: SpeedPlan,
    metric: str,
    *,
    lower_is_better: bool = False,
    arguments_class: type[TrainingArguments] = TrainingArguments,
    **further: Any,
) -> TrainingArguments:
    """Complete the `train` section with the run's folder and the plan's number type.

    Args:
        train: Keyword arguments of `TrainingArguments`.
        output_dir: Where checkpoints go.
        plan: The speed plan.
        metric: The metric that decides which checkpoint is best; empty without validation rows.
        lower_is_better: Whether it is an error.
        arguments_class: What is built.
        **further: Its own fields.

    Raises:
        UserError: If `TrainingArguments` refuses the values.
    """
    arguments = dict(train)
    if arguments.get("save_strategy") == "best" and (not metric or arguments.get("eval_strategy", "no") == "no"):
        raise UserError(
            "train.save_strategy best: no checkpoint is the best without an evaluation; it needs a validation split, "
            "and train.eval_strategy epoch or steps"
        )
    if not metric:
        arguments |= {"eval_strategy": "no", "load_best_model_at_end": False}
    elif (evaluated := arguments.get("eval_strategy", "no")) != "no" and arguments.get("save_strategy") in (
        evaluated,
        "best",
    ):
        arguments |= {
            "load_best_model_at_end": True,
            "metric_for_best_model": metric,
            "greater_is_better": not lower_is_better,
        }
    arguments |= {
        "output_dir": str(output_dir),
        "bf16": plan.compute_dtype == "bfloat16",
        "use_cpu": plan.device == "cpu",
        "remove_unused_columns": True,
    }
    try:
        built = arguments_class(**arguments, **further)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"train section: {' '.join(str(error).split())}") from None
    known = get_available_reporting_integrations()
    if missing := [name for name in built.report_to if name not in known]:
        raise UserError(
            f"train.report_to {missing[0]!r}: expected none or an installed one of transformers' trackers; "
            f"installed: {', '.join(known) or 'none'}"
        )
    built.mixed_precision = "bf16" if plan.compute_dtype == "bfloat16" else "no"  # else the launcher's goes first
    built._n_gpu = min(built.n_gpu, 1)  # with several, Trainer would split each batch by DataParallel
    return built


@dataclass(frozen=True)
class HeadRate:
    """A learning rate of the head's own.

    Attributes:
        parameters: Parameters of the output layer.
        learning_rate: Theirs.
    """

    parameters: list[nn.Parameter]
    learning_rate: float


def build_trainer(
    model: Any,
    arguments: TrainingArguments,
    prepared: Prepared,
    *,
    train_rows: Dataset,
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None,
    head_rate: HeadRate | None,
    early_stopping_patience: int | None,
    kept_states: KeptStates | None = None,
    balance: Balance = "none",
) -> tuple[HeadTrainer, TrainingClock]:
    """Build the trainer of a run.

    Args:
        model: The model, with its adapter if it has one.
        arguments: The completed `train` section.
        prepared: The task, which makes the batches and counts their targets, validation rows, processor and plan.
        train_rows: Encoded rows.
        compute_metrics: From an `EvalPrediction` to figures; None where the loss is enough.
        head_rate: A learning rate of the head's own, or None.
        early_stopping_patience: Evaluations without a better score before training stops, or None.
        kept_states: What stands in for lower blocks that learn nothing.
        balance: How classes of different size are trained on.

    Raises:
        UserError: If early stopping is asked for without validation rows.
    """
    if "labels" in train_rows.column_names:
        arguments.label_names = ["labels"]  # a forward may take others too, which no row has
    clock = TrainingClock()
    callbacks: list[TrainerCallback] = [clock]
    if early_stopping_patience is not None:
        if not arguments.load_best_model_at_end:
            raise UserError(
                "early_stopping_patience needs a validation split, and eval_strategy equal to save_strategy; "
                "set data.validation_fraction above 0"
            )
        callbacks.append(EarlyStoppingCallback(early_stopping_patience))
    task, plan, validation = prepared.task, prepared.plan, prepared.encoded.get("validation")
    collator = task.build_collator(prepared.processor)
    if kept_states:
        train_rows = number_rows(train_rows)
        collator = NumberedCollator(collator)
    trainer = HeadTrainer(
        model=model,
        args=arguments,
        train_dataset=train_rows,
        eval_dataset=validation.sort("length") if validation is not None else None,
        data_collator=collator,
        processing_class=prepared.processor,
        task=task,
        compute_metrics=compute_metrics,
        callbacks=callbacks,
        head_parameters=head_rate.parameters if head_rate else [],
        head_learning_rate=head_rate.learning_rate if head_rate else 0.0,
        tokens_per_batch=None if plan.plain or not task.splits_batches else plan.tokens_per_batch,
        mask_positions=prepared.task_model.mask_positions,
        kept_states=kept_states,
        weighted_loss=build_weighted_loss(prepared.data) if balance == "weights" else None,
        row_weights=compute_row_weights(prepared.data) if balance == "sampling" else None,
    )
    return trainer, clock
