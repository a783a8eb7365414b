"""What a run will take, from a few real steps before it."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.evaluation.environment import read_peak_memory_bytes
from startup_llm.evaluation.report import format_duration
from startup_llm.models.memory import read_free_memory_bytes
from startup_llm.training.processes import is_sharded
from startup_llm.training.speed import wait_for_device

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import TrainingArguments

    from startup_llm.config import FinetuneConfig
    from startup_llm.session import Session
    from startup_llm.training.finetuning import Prepared
    from startup_llm.training.trainer import HeadTrainer

UNTUNED, UNTUNED_SAMPLES = "untuned", "untuned samples"
"""The stages of a run in which the untuned model answers the test rows, and writes samples for the report."""

CLOSING_SECONDS, CLOSING_SECONDS_PER_WEIGHT = 16.0, 0.45e-6
"""Writing the model, the intervals and the reload gate hardly depend on the rows, but on the weights, which the gate's
process loads in each form: 18 to 30 s in all for 23 million, 70 to 100 s for 135 million, on two cores."""

STEP_OVERHEAD = 1.08
"""A whole step's time beside its gradient's: the optimizer, the making of batches and the log took 5 to 12 % more."""

TIMED_SECONDS, MOST_STEPS = 4.0, 6
"""Each of the two batches is computed until it took so long or so often; the first time, which warms up, counts only
where there is no second."""

FLOAT32_SLOWER = 2.0
"""How much longer test rows take, which are answered in float32, where training computes in bfloat16: as much as the
products on a CPU, which the plan measured to be 2.2 to 2.9 times as fast in it."""

ONE_SAMPLE = 0.6
"""What a sample takes that is written alone, after an epoch, beside the report's few, which are written together."""

KNOWN_WITHIN = 0.1
"""The interval of an estimate is at least so wide on both sides: what steps do not show, such as a busy machine."""

HEAP_HOLES = 1.2
"""On the CPU, memory for activations beside what one batch takes: batches of other sizes leave holes in the heap."""


@dataclass(frozen=True)
class Estimate:
    """What the whole run will take.

    Attributes:
        seconds: From the start of the process to the finished run.
        seconds_interval: Fewest and most of them, by the fastest and the slowest of the steps that were timed.
        peak_memory_bytes: Largest memory.
        dollars: Cost, or None where no price was given.
    """

    seconds: float
    seconds_interval: tuple[float, float]
    peak_memory_bytes: int
    dollars: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def __str__(self) -> str:
        least, most = map(format_duration, self.seconds_interval)
        parts = [f"{format_duration(self.seconds)} ({least} to {most})"]
        parts.append(f"{self.peak_memory_bytes / 2**30:.1f} GiB")
        parts += [f"${self.dollars:.2f}"] if self.dollars is not None else []
        return "about " + ", ".join(parts)


class Preflight:
    """Estimates a run before its first step; `finetuning.train` calls it with the trainer.

    Args:
        session: Shows the estimate, and says whether the run ends with it.
        prepared: Rows and plan.

    Attributes:
        estimate: What was estimated; None before, and for a model in shards.
    """

    def __init__(self, session: Session[FinetuneConfig], prepared: Prepared) -> None:
        self._session, self._prepared = session, prepared
        self.estimate: Estimate | None = None

    def __call__(self, trainer: HeadTrainer) -> None:
        """Estimate the run; end the process where that is all that is asked for."""
        if is_sharded():
            return  # a step is timed with the whole model
        clock, options = self._session.clock, self._session.config.preflight
        self.estimate = estimate_run(
            trainer,
            self._prepared,
            elapsed_seconds=clock.total,
            probe_seconds=clock.seconds.get("probe"),
            untuned_seconds=clock.seconds.get(UNTUNED),
            sample_seconds=clock.seconds.get(UNTUNED_SAMPLES, 0.0),
            dollars_per_hour=options.dollars_per_hour,
        )
        self._session.report(f"preflight: {self.estimate}")
        if options.only:
            sys.exit(0)


def check_preflight(config: FinetuneConfig) -> None:
    """Refuse to estimate what takes no steps, or steps that are not timed.

    Raises:
        UserError: If nothing but such an estimate is asked for.
    """
    if config.preflight.only and config.method in ("probe", "zero-shot"):
        raise UserError(
            f"preflight.only: --method {config.method} trains in no steps that could be timed; leave it out"
        )
    if config.preflight.only and is_sharded():
        raise UserError("preflight.only: a model in shards is not timed beforehand; leave it out")


def estimate_run(
    trainer: HeadTrainer,
    prepared: Prepared,
    *,
    elapsed_seconds: float,
    probe_seconds: float | None,
    untuned_seconds: float | None = None,
    sample_seconds: float = 0.0,
    dollars_per_hour: float | None = None,
    available_bytes: int | None = None,
) -> Estimate:
    """Time real steps on a median and on the longest batch, forwards and backwards, without moving a weight.

    The time of a step is taken as linear in its padded tokens. Evaluation costs as much for a token as the probe's
    features did; where there was no probe, a third of a step. The trained model answers the test rows in the time that
    the untuned one took, where that is known; the interval begins at the half of it, as it knows when to stop.

    Args:
        trainer: The trainer, before training.
        prepared: Rows and plan.
        elapsed_seconds: Seconds since the process was started.
        probe_seconds: Seconds that the features of the training and test rows took; None without a probe.
        untuned_seconds: Seconds that the untuned model took for the test rows; None where it did not answer them.
        sample_seconds: Seconds that it wrote samples for the report, as the trained one will, after epochs too.
        dollars_per_hour: Price of the machine, if it is known.
        available_bytes: Memory that this process may hold in all; default what the machine says.

    Raises:
        UserError: If it will not fit; it proposes settings that will.
    """
    from startup_llm.training.trainer import MOST_SAMPLED_EPOCHS, writes_after_epochs

    begun = time.perf_counter()
    available = read_available_memory_bytes() if available_bytes is None else available_bytes
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    before = read_memory_bytes()
    if before + 12 * trained > available:  # gradients, and the two figures that Adam keeps, in float32
        raise _explain_memory(trainer, prepared, before + 12 * trained, available, before)
    lengths = np.asarray(trainer.train_dataset["length"])
    batches = [np.asarray(rows) for rows in _cut(list(trainer._get_train_sampler()), trainer.args.train_batch_size)]
    longest = np.array([lengths[rows].max() for rows in batches], dtype=float)
    tokens = longest * [len(rows) for rows in batches]
    order = np.argsort(tokens)
    timed = [order[len(order) // 2], order[-1]]
    try:
        steps = [_time_steps(trainer, prepared, batches[place]) for place in timed]
        if (place := int(longest.argmax())) not in timed:  # attention's memory grows with the square of a row's length
            _time_steps(trainer, prepared, batches[place], most_steps=1)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise _explain_memory(trainer, prepared, None, available, before) from None
    epochs = _count_epochs(trainer.args, len(batches))
    closing = CLOSING_SECONDS + CLOSING_SECONDS_PER_WEIGHT * sum(p.numel() for p in trainer.model.parameters())
    if writes_after_epochs(prepared.task, trainer.args):
        sample_seconds *= 1 + ONE_SAMPLE * min(epochs, MOST_SAMPLED_EPOCHS)
    elapsed_seconds += time.perf_counter() - begun
    counts = {name: float(np.sum(rows["length"])) for name, rows in prepared.encoded.items()}
    totals = []
    for choose, share, untuned_share in (
        (np.median, 1, 1),
        (min, 1 - KNOWN_WITHIN, 0.5),
        (max, 1 + KNOWN_WITHIN, 1.2),
    ):
        per_epoch = _sum_steps(tokens, tokens[timed], [float(choose(seconds)) for seconds in steps])
        per_epoch /= trainer.args.world_size
        test_seconds = None if untuned_seconds is None else untuned_share * untuned_seconds
        slower = FLOAT32_SLOWER if prepared.plan.compute_dtype != "float32" else 1
        after = _estimate_evaluation(trainer, counts, epochs, per_epoch, probe_seconds, test_seconds, slower)
        totals.append(
            elapsed_seconds + share * (STEP_OVERHEAD * epochs * per_epoch + after + sample_seconds + closing)
        )
    total, *interval = totals
    memory = _estimate_memory(trainer, prepared, trained, before)
    if memory > available:
        raise _explain_memory(trainer, prepared, memory, available, before)
    return Estimate(
        total, tuple(interval), memory, None if dollars_per_hour is None else total / 3600 * dollars_per_hour
    )


def _sum_steps(tokens: np.ndarray, measured: np.ndarray, seconds: list[float]) -> float:
    """Return the seconds of an epoch's steps, which grow with their tokens as those of a median and a long one do.

    Args:
        tokens: Padded tokens of each step.
        measured: Those of the median and of the longest step.
        seconds: What these two took.
    """
    median, longest = measured
    slope = (seconds[1] - seconds[0]) / (longest - median) if longest > 1.2 * median else seconds[1] / longest
    slope = min(max(slope, 0.0), seconds[1] / longest)
    return float(np.sum(seconds[0] + slope * (tokens - median)))


def _count_epochs(arguments: TrainingArguments, batches: int) -> float:
    """Return the epochs that the steps come to, given the number of a process's batches in one."""
    if arguments.max_steps <= 0:
        return arguments.num_train_epochs
    return arguments.max_steps * arguments.gradient_accumulation_steps * arguments.world_size / batches


def _estimate_evaluation(
    trainer: HeadTrainer,
    counts: Mapping[str, float],
    epochs: float,
    epoch_seconds: float,
    probe_seconds: float | None,
    test_seconds: float | None,
    slower: float,
) -> float:
    """Return the seconds of all that is computed without a gradient: validation, test rows, and kept states.

    Args:
        trainer: The trainer.
        counts: Tokens of each split.
        epochs: Passes over the training rows.
        epoch_seconds: What a pass takes.
        probe_seconds: Seconds of the features of the training and test rows, or None.
        test_seconds: Seconds of the test rows, where they are known otherwise.
        slower: How much longer a test row takes than one that is computed as training does.
    """
    per_token = epoch_seconds * trainer.args.world_size / counts["train"] / 3
    if probe_seconds is not None:
        per_token = probe_seconds / (counts["train"] + counts["test"])
    kept, rows = trainer.kept_states, len(trainer.train_dataset)
    first_epoch = counts["train"] * (1 - kept.row_count / rows) if kept else 0.0  # of lower blocks, at the most
    if test_seconds is None:
        test_seconds = 1.3 * counts["test"] * per_token * slower
    return (first_epoch + epochs * counts.get("validation", 0.0)) * per_token + test_seconds


def _estimate_memory(trainer: HeadTrainer, prepared: Prepared, trained: int, before: int) -> int:
    """Return the bytes that the run will hold at its peak, after two of its steps.

    Args:
        trainer: Its model.
        prepared: The plan.
        trained: Number of trained weights.
        before: Bytes held before those steps.
    """
    peak, plan = read_peak_memory_bytes(), prepared.plan
    # where freed memory is kept, the steps' peak is what is held after them; an earlier stage's may be higher
    held = read_memory_bytes() if plan.device == "cpu" and not plan.plain else peak
    holes = int((HEAP_HOLES - 1) * max(held - before, 0)) if plan.device == "cpu" else 0
    adapted = hasattr(trainer.model, "peft_config")  # it is merged into a second copy of the weights, in float32
    copy = 4 * sum(p.numel() for p in trainer.model.parameters()) if adapted else 0
    return max(peak, held + holes + 8 * trained + copy)  # Adam keeps two float32 figures for each weight


def read_memory_bytes() -> int:
    """Return what this process holds now: in memory, plus on the GPU."""
    import psutil
    import torch

    return psutil.Process().memory_info().rss + (torch.cuda.memory_allocated() if torch.cuda.is_available() else 0)


def read_available_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how much this process may hold in all: what it holds, and what it can still get.

    The limits of the container (cgroup v2: memory.max) and of the process (ulimit -v) count. A GPU's free memory
    is added, as the estimate adds what a run takes there; a step that needs more than the GPU has says so itself.

    Args:
        cgroup: Folder of the control group.
    """
    import psutil
    import torch

    held = psutil.Process().memory_info().rss + read_free_memory_bytes(cgroup)
    if torch.cuda.is_available():
        held += torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    return held


def propose_settings(
    *,
    available_bytes: int,
    fixed_bytes: int,
    activation_bytes: int,
    tokens: int,
    longest: int,
    trained: int,
    full: bool,
    can_probe: bool,
    plain: bool,
) -> list[str]:
    """Name the options under which a run fits, each with the memory that it will take.

    Args:
        available_bytes: Memory there is.
        fixed_bytes: Memory before the first step.
        activation_bytes: What the longest batch took on top of it; 0 where that is not known.
        tokens: Padded tokens of that batch.
        longest: Tokens of the longest row.
        trained: Number of trained weights.
        full: Whether every weight is trained.
        can_probe: Whether the task has a linear probe.
        plain: Whether batches are computed whole.
    """
    proposals = []
    room = available_bytes - fixed_bytes - 12 * trained
    fits = int(0.8 * tokens * min(room / activation_bytes, 0.5)) if activation_bytes else tokens // 4
    if room > 0 and fits >= longest and not plain:
        memory = fixed_bytes + 12 * trained + activation_bytes * fits / tokens
        proposals.append(f"--speed.tokens_per_batch {fits} (about {_gib(memory)})")
    elif room > 0 and plain:
        proposals.append("a smaller --train.per_device_train_batch_size, or --speed.plan auto")
    elif room > 0 and longest > 16:
        length = max(min(fits, longest // 2), 16)
        proposals.append(f"--model.max_length_tokens {length} --speed.tokens_per_batch {length}")
    lora = fixed_bytes + activation_bytes + 0.24 * trained  # an adapter has about a fiftieth of the weights
    if full and lora <= available_bytes:
        proposals.append(f"--method lora (about {_gib(lora)})")
    if can_probe and fixed_bytes <= available_bytes:
        proposals.append(f"--method probe (about {_gib(fixed_bytes)})")
    return proposals


def _explain_memory(
    trainer: HeadTrainer, prepared: Prepared, needed: int | None, available: int, fixed: int
) -> UserError:
    """Return the error for a run that takes more memory than there is, with what would fit."""
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    activations = max(needed - fixed - 12 * trained, 0) if needed else 0
    longest = int(max(trainer.train_dataset["length"]))
    rows = trainer.args.train_batch_size
    whole = prepared.plan.plain or not prepared.task.splits_batches
    tokens = rows * longest if whole else min(rows * longest, prepared.plan.tokens_per_batch)
    proposals = propose_settings(
        available_bytes=available,
        fixed_bytes=fixed,
        activation_bytes=activations,
        tokens=max(tokens, longest),
        longest=longest,
        trained=trained,
        full=not hasattr(trainer.model, "peft_config"),
        can_probe=prepared.task.probe is not None,
        plain=whole,
    )
    takes = f"training takes about {_gib(needed)}" if needed else "a step on the longest batch ran out of memory"
    remedy = f"what fits: {', or '.join(proposals)}" if proposals else "use a machine with more memory"
    return UserError(f"{takes}, and there are {_gib(available)}; {remedy}")


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    message = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in message


def _gib(number: float) -> str:
    return f"{number / 2**30:.2f} GiB"


def _cut(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _time_steps(
    trainer: HeadTrainer, prepared: Prepared, rows: np.ndarray, most_steps: int = MOST_STEPS
) -> list[float]:
    """Return the seconds of a step's gradient, computed some times, never compiled. No weight moves."""
    import torch

    encoded = trainer.train_dataset.select(rows)
    unused = [name for name in encoded.column_names if name == "length" or name.startswith("_")]
    batch = trainer.data_collator(encoded.remove_columns(unused).to_list())
    trainer.current_gradient_accumulation_steps = 1
    seconds: list[float] = []
    while not seconds or (sum(seconds) < TIMED_SECONDS and len(seconds) < most_steps):
        start = time.perf_counter()
        with prepared.plan.autocast(), torch.compiler.set_stance("force_eager"):
            trainer.training_step(trainer.model, dict(batch))
        seconds.append(wait_for_device() - start)
    trainer.model.zero_grad()
    return seconds[1:] or seconds
