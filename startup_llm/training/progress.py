"""What a person sees of training: a bar on a terminal, and one line for each evaluation or epoch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from startup_llm.evaluation.report import format_duration, format_value, name_metric

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from startup_llm.reporter import ProgressBar, Reporter


class TrainingProgress(TrainerCallback):
    """Reports an epoch, or an evaluation within it, in one line: loss, primary metric, best so far, time left.

    It asks for the loss to be logged at the end of each epoch, whatever the logging steps. `disable_tqdm` leaves the
    bar out.

    Args:
        reporter: Where to show it; silent in every process but the main one.
        metric: The primary metric, or loss for the loss of the validation rows.
        lower_is_better: Whether it is an error.
    """

    def __init__(self, reporter: Reporter, metric: str, *, lower_is_better: bool) -> None:
        self._reporter, self._metric, self._sign = reporter, metric, -1 if lower_is_better else 1
        self._bar: ProgressBar | None = None
        self._start, self._first_step = 0.0, 0
        self._loss_sum, self._loss_steps, self._logged_step = 0.0, 0, 0
        self._best: float | None = None
        self._epoch_ended = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the bar; a resumed training goes on from its checkpoint's step and best figure."""
        self._start, self._first_step = time.perf_counter(), state.global_step
        self._logged_step = state.global_step
        self._best = state.best_metric
        if not args.disable_tqdm:
            self._bar = self._reporter.open_progress("training", total=state.max_steps, unit="steps")
            self._bar.advance(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar."""
        self._advance(1, "training")

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Name the evaluation on the bar."""
        self._advance(0, "validation")

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Have the loss logged, so that each epoch has its line."""
        control.should_log = self._epoch_ended = True
        if state.global_step == self._logged_step and not control.should_evaluate:
            self._report(state, {})

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Add a logged loss, the mean over the steps since the last; report it where no evaluation follows."""
        if "loss" in logs:
            steps = state.global_step - self._logged_step
            self._loss_sum += logs["loss"] * steps
            self._loss_steps += steps
            self._logged_step = state.global_step
        if self._epoch_ended and not control.should_evaluate and "loss" in logs:
            self._report(state, {})

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **_: Any
    ) -> None:
        """Report the evaluation."""
        self._report(state, metrics)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar, and say where training ended before its last step."""
        if self._bar is not None:
            self._bar.close()
        if state.global_step < state.max_steps:
            rest = state.max_steps - state.global_step
            self._reporter.report(f"stopped early: {rest:,} of {state.max_steps:,} steps were not taken")

    def _advance(self, steps: int, title: str) -> None:
        if self._bar is not None:
            self._bar.advance(steps, title)

    def _report(self, state: TrainerState, metrics: dict[str, float]) -> None:
        parts = []
        if self._loss_steps:
            parts.append(f"loss {self._loss_sum / self._loss_steps:.4f}")
        if (value := metrics.get(f"eval_{self._metric}")) is not None:
            parts.append(self._describe(value))
        self._loss_sum, self._loss_steps, self._epoch_ended = 0.0, 0, False
        if not parts:
            return
        seconds = time.perf_counter() - self._start
        if rest := state.max_steps - state.global_step:
            steps = max(state.global_step - self._first_step, 1)
            parts.append(f"{format_duration(seconds / steps * rest)} left")
        else:
            parts.append(f"trained in {format_duration(seconds)}")
        self._reporter.report(f"epoch {round(state.epoch or 0, 2):g}/{state.num_train_epochs}: {', '.join(parts)}")

    def _describe(self, value: float) -> str:
        """Write the primary metric of an evaluation and the best so far."""
        is_best = self._best is None or self._sign * value > self._sign * self._best
        best = "best so far" if is_best else f"best {self._format(self._best)}"
        self._best = value if is_best else self._best
        return f"validation {name_metric(self._metric)} {self._format(value)} ({best})"

    def _format(self, value: float | None) -> str:
        if self._metric == "loss" and value is not None:
            return f"{value:.4f}"
        return format_value(self._metric, value)


def replace_console(trainer: Trainer, progress: TrainingProgress) -> None:
    """Report what a trainer does by our lines instead of the Trainer's own bars and dictionaries."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(progress)
