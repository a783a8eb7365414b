"""Fine-tune a pretrained checkpoint on your own data, and prove that it helped.

accelerate launch recipes/finetune.py
accelerate launch recipes/finetune.py --data.train_file tickets.csv
accelerate launch recipes/finetune.py --config recipes/configs/banking77_lora.yaml --train.num_train_epochs 2
"""

import functools
import shlex
import sys
from pathlib import Path

from startup_llm.command_line import parse_config
from startup_llm.config import FinetuneConfig, default_run_dir
from startup_llm.errors import UserError, run_recipe
from startup_llm.run_folder import RunFolder


def main() -> None:
    config, train_section, config_text = parse_config(FinetuneConfig, train_section=True)
    run_dir = config.run_dir or default_run_dir(config.data, config.method)
    with RunFolder(run_dir, overwrite=config.overwrite, resume=config.resume, config=config) as run:
        finetune(config, train_section, config_text, run)


def finetune(config: FinetuneConfig, train_section: dict, config_text: str, run: RunFolder) -> None:
    from startup_llm.audit.audit import audit_task_data
    from startup_llm.audit.report import summarize
    from startup_llm.evaluation.baselines import predict_baselines
    from startup_llm.evaluation.environment import StageClock
    from startup_llm.hub.dataset_card import read_dataset_card
    from startup_llm.runs.finish import finish_run
    from startup_llm.tasks import load_task
    from startup_llm.tasks.checkpoint import load_task_checkpoint, name_checkpoint
    from startup_llm.training import finetuning
    from startup_llm.training.preflight import estimate_run
    from startup_llm.training.processes import is_sharded, start_run
    from startup_llm.training.trainer import HeadTrainer

    if config.preflight.only and config.method in ("probe", "zero-shot"):
        raise UserError(
            f"preflight.only: --method {config.method} trains in no steps that could be timed; leave it out"
        )
    if config.preflight.only and is_sharded():
        raise UserError("preflight.only: a model in shards is not timed beforehand; leave it out")
    start_run(train_section["seed"], shards=True)
    stage = StageClock()
    say = functools.partial(print, flush=True) if run.is_writer else lambda *words: None
    task = load_task(config.task)
    name_checkpoint(task, config.model)  # one has to be, before the data is read

    with stage("data"):
        data = task.load_data(config.data, config.evaluation)
        task.check_method(config.method, data)
        say("\n  ".join([f"data: {data.describe()}", *data.notes]))

    audit = None
    if run.is_writer and config.audit != "none":
        with stage("audit"):
            audit = audit_task_data(data, config.audit)
        found = summarize(audit) if audit else ["the rows are no texts, which is all that it looks at"]
        say("\n  ".join([f"audit: {config.audit}", *found]))

    with stage("checkpoint"):
        checkpoint = load_task_checkpoint(task, config.model)
        processor = task.load_processor(checkpoint, config.model, data)
        find_shape = functools.partial(finetuning.find_attention_shape, task, data, checkpoint, processor)
        plan = finetuning.choose_plan(config, run, find_shape)
        prepared = finetuning.prepare(task, data, config, checkpoint, processor, plan)
        data = prepared.data
        about = f"checkpoint: {checkpoint.name} ({checkpoint.source})"
        say("\n  ".join([about, *prepared.task_model.notes, *prepared.plan.reasons, *prepared.describe_truncation()]))

    predictions, feature_norm, estimates = {}, None, []
    if run.is_writer:
        with stage("baselines"):
            predictions = predict_baselines(task.baselines(data), data)

    if task.probe is not None:
        with stage("probe"):
            predictions["linear-probe"], feature_norm = finetuning.start_from_probe(prepared)

    if config.method == "zero-shot":
        with stage("label names"):
            finetuning.start_from_label_names(prepared)

    untuned_gallery = []
    if prepared.task_model.answers_untuned:
        with stage("untuned"):
            untuned, untuned_gallery = finetuning.predict_untuned(prepared, config.evaluation)
            predictions |= untuned

    def preflight(trainer: HeadTrainer) -> None:
        taken = {"elapsed_seconds": stage.total, "probe_seconds": stage.seconds.get("probe")}
        prices = {"dollars_per_hour": config.preflight.dollars_per_hour}
        estimates.append(estimate_run(trainer, prepared, **taken, **prices))
        say(f"preflight: {estimates[0]}")
        if config.preflight.only:
            sys.exit(0)

    with stage("train"):
        before = None if is_sharded() else preflight  # which takes a step with the whole model
        trained = finetuning.train(prepared, config, train_section, run, feature_norm, before)
        model = finetuning.save_model(trained, prepared, config, run)

    sentences = finish_run(
        run, config, config_text, train_section, prepared, trained, model, predictions,
        candidate="linear-probe" if config.method == "probe" else config.method,
        base=checkpoint.path,
        stage=stage,
        command=shlex.join(["accelerate", "launch", "recipes/finetune.py", *sys.argv[1:]]),
        estimate=estimates[0] if estimates else None,
        audit=audit,
        untuned_gallery=untuned_gallery,
        data_card=read_dataset_card(config.data, Path(__file__).parents[1] / "data_cards"),
    )  # fmt: skip
    say("\n".join(sentences))
    say(f"run: {run.final} ({stage.total:.0f} s); look at {run.final}/report.html")


if __name__ == "__main__":
    run_recipe(main)
