"""What training reports: one line for each evaluation, or for each epoch without one."""

from __future__ import annotations

import io

import pytest
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerControl, TrainerState, TrainingArguments

from startup_llm.reporter import Reporter
from startup_llm.training.progress import TrainingProgress, replace_console


@pytest.fixture
def arguments(tmp_path) -> TrainingArguments:
    return TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")


def train(progress: TrainingProgress, arguments: TrainingArguments, epochs: list[dict], state: TrainerState) -> None:
    """Go through epochs of four steps as the Trainer does; each has the losses logged, and perhaps an evaluation."""
    control = TrainerControl()
    progress.on_train_begin(arguments, state, control)
    for epoch in epochs:
        for _ in range(4):
            state.global_step += 1
            progress.on_step_end(arguments, state, control)
            if loss := epoch["losses"].get(state.global_step):
                progress.on_log(arguments, state, control, logs={"loss": loss})
        state.epoch = state.global_step / 4
        control.should_evaluate = "metrics" in epoch
        progress.on_epoch_end(arguments, state, control)
        if control.should_log and epoch.get("rest"):
            progress.on_log(arguments, state, control, logs={"loss": epoch["rest"]})
        if "metrics" in epoch:
            progress.on_evaluate(arguments, state, control, metrics=epoch["metrics"])
    progress.on_train_end(arguments, state, control)


def test_an_epoch_is_one_line_with_the_mean_loss_the_metric_and_the_best_so_far(arguments):
    log = io.StringIO()
    epochs = [
        {"losses": {2: 4.0}, "rest": 2.0, "metrics": {"eval_accuracy": 0.8}},
        {"losses": {}, "rest": 1.5, "metrics": {"eval_accuracy": 0.7}},
        {"losses": {}, "rest": 1.0, "metrics": {"eval_accuracy": 0.9}},
    ]
    progress = TrainingProgress(Reporter(log), "accuracy", lower_is_better=False)
    train(progress, arguments, epochs, TrainerState(max_steps=12, num_train_epochs=3))
    parts = [line.split(", ") for line in log.getvalue().splitlines()]
    assert [line[:2] for line in parts] == [
        ["epoch 1/3: loss 3.0000", "validation accuracy 80.0 % (best so far)"],
        ["epoch 2/3: loss 1.5000", "validation accuracy 70.0 % (best 80.0 %)"],
        ["epoch 3/3: loss 1.0000", "validation accuracy 90.0 % (best so far)"],
    ]
    assert [line[2].split()[-1] == "left" for line in parts] == [True, True, False]


def test_a_lower_loss_is_the_better_one_and_a_resumed_training_knows_its_best(arguments):
    log = io.StringIO()
    state = TrainerState(max_steps=12, num_train_epochs=3, global_step=4, best_metric=2.0)
    epochs = [
        {"losses": {}, "rest": 1.0, "metrics": {"eval_loss": 2.5}},
        {"losses": {}, "rest": 1.0, "metrics": {"eval_loss": 1.5}},
    ]
    train(TrainingProgress(Reporter(log), "loss", lower_is_better=True), arguments, epochs, state)
    lines = log.getvalue().splitlines()
    assert "epoch 2/3: loss 1.0000, validation loss 2.5000 (best 2.0000)" in lines[0]
    assert "epoch 3/3: loss 1.0000, validation loss 1.5000 (best so far)" in lines[1]


def test_an_epoch_without_validation_rows_has_its_line_too_whatever_the_logging_steps(arguments):
    log = io.StringIO()
    epochs = [{"losses": {2: 4.0, 4: 2.0}}, {"losses": {}, "rest": 1.0}]
    progress = TrainingProgress(Reporter(log), "accuracy", lower_is_better=False)
    train(progress, arguments, epochs, TrainerState(max_steps=16, num_train_epochs=4))
    lines = log.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines[:2]] == ["epoch 1/4: loss 3.0000", "epoch 2/4: loss 1.0000"]
    assert lines[2:] == ["stopped early: 8 of 16 steps were not taken"]


@pytest.mark.parametrize("disable_tqdm", [False, True])
def test_the_trainer_s_own_bars_and_dictionaries_are_replaced(tmp_path, disable_tqdm):
    import torch

    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=disable_tqdm)
    trainer = Trainer(torch.nn.Linear(1, 1), arguments)
    progress = TrainingProgress(Reporter(), "loss", lower_is_better=True)
    replace_console(trainer, progress)
    callbacks = trainer.callback_handler.callbacks
    assert progress in callbacks
    assert not [one for one in callbacks if isinstance(one, (PrinterCallback, ProgressCallback))]
