"""What a run will take, from a few real steps before it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.evaluation.environment import read_peak_memory_bytes

if TYPE_CHECKING:
    from startup_llm.training.finetuning import Prepared
    from startup_llm.training.trainer import HeadTrainer

CLOSING_SECONDS = 12.0
"""Writing the model, the intervals and the reload gate's fresh process, which hardly depend on the rows."""


@dataclass(frozen=True)
class Estimate:
    """What the whole run will take.

    Attributes:
        seconds: From the start of the process to the finished run.
        peak_memory_bytes: Largest memory.
        dollars: Cost, or None where no price was given.
    """

    seconds: float
    peak_memory_bytes: int
    dollars: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        parts = [f"{minutes} min {seconds} s" if minutes else f"{seconds} s"]
        parts.append(f"{self.peak_memory_bytes / 2**30:.1f} GiB")
        parts += [f"${self.dollars:.2f}"] if self.dollars is not None else []
        return "about " + ", ".join(parts)


def estimate_run(
    trainer: HeadTrainer,
    prepared: Prepared,
    *,
    elapsed_seconds: float,
    probe_seconds: float | None,
    dollars_per_hour: float | None = None,
) -> Estimate:
    """Time real steps on a median and on the longest batch, forwards and backwards, without moving a weight.

    The time of a step is taken as linear in its padded tokens. Evaluation costs as much for a token as the probe's
    features did; where there was no probe, a third of a step.

    Args:
        trainer: The trainer, before training.
        prepared: Rows and plan.
        elapsed_seconds: Seconds since the process was started.
        probe_seconds: Seconds that the features of the training and test rows took; None without a probe.
        dollars_per_hour: Price of the machine, if it is known.
    """
    lengths = np.asarray(prepared.encoded["train"]["length"])
    batches = [np.asarray(rows) for rows in _cut(list(trainer._get_train_sampler()), trainer.args.train_batch_size)]
    tokens = np.array([len(rows) * lengths[rows].max() for rows in batches], dtype=float)
    order = np.argsort(tokens)
    chosen = [batches[order[len(order) // 2]], batches[order[-1]]]
    seconds = [_time_step(trainer, prepared, rows) for rows in chosen]
    median, longest = (float(len(rows) * lengths[rows].max()) for rows in chosen)
    slope = (seconds[1] - seconds[0]) / (longest - median) if longest > 1.2 * median else seconds[1] / longest
    slope = min(max(slope, 0.0), seconds[1] / longest)
    per_epoch = float(np.sum(seconds[0] + slope * (tokens - median)))
    epochs = trainer.args.num_train_epochs
    if trainer.args.max_steps > 0:
        epochs = trainer.args.max_steps * trainer.args.gradient_accumulation_steps / len(batches)
    counted = {name: float(np.sum(rows["length"])) for name, rows in prepared.encoded.items()}
    per_token = per_epoch / counted["train"] / 3
    if probe_seconds is not None:
        per_token = probe_seconds / (counted["train"] + counted["test"])
    evaluated = 1.3 * counted["test"] + epochs * counted.get("validation", 0.0)
    total = elapsed_seconds + epochs * per_epoch + evaluated * per_token + CLOSING_SECONDS
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    memory = read_peak_memory_bytes() + 8 * trained  # Adam keeps two float32 figures for each weight
    return Estimate(total, memory, None if dollars_per_hour is None else total / 3600 * dollars_per_hour)


def _cut(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _time_step(trainer: HeadTrainer, prepared: Prepared, rows: np.ndarray) -> float:
    """Return the seconds of one step's gradient; the first of two warms up. No weight moves."""
    encoded = prepared.encoded["train"].select(rows)
    unused = [name for name in encoded.column_names if name == "length" or name.startswith("_")]
    batch = prepared.task.build_collator(prepared.processor)(encoded.remove_columns(unused).to_list())
    trainer.current_gradient_accumulation_steps = 1
    for _ in range(2):
        start = time.perf_counter()
        with prepared.plan.autocast():
            trainer.training_step(trainer.model, dict(batch))
        seconds = time.perf_counter() - start
    trainer.model.zero_grad()
    return seconds
