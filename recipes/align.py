"""Tune a chat checkpoint on what people preferred (DPO, ORPO, KTO), and prove that it now prefers the better answer.

accelerate launch recipes/align.py --config recipes/configs/qwen3_dpo.yaml
accelerate launch recipes/align.py --model.checkpoint runs/NAME/model --data.train_file preferences.jsonl
accelerate launch recipes/align.py --method kto --data.train_file feedback.jsonl
"""

import functools
import shlex
import sys
from pathlib import Path

from startup_llm.command_line import parse_config
from startup_llm.config import AlignConfig, default_run_dir
from startup_llm.errors import run_recipe
from startup_llm.run_folder import RunFolder


def main() -> None:
    config, train_section, config_text = parse_config(AlignConfig, train_section=True)
    run_dir = config.run_dir or default_run_dir(config.data, config.method)
    with RunFolder(run_dir, overwrite=config.overwrite, resume=config.resume, config=config) as run:
        align(config, train_section, config_text, run)


def align(config: AlignConfig, train_section: dict, config_text: str, run: RunFolder) -> None:
    from startup_llm.evaluation.environment import StageClock
    from startup_llm.hub.dataset_card import read_dataset_card
    from startup_llm.runs.finish import finish_run
    from startup_llm.tasks import load_task
    from startup_llm.tasks.checkpoint import load_task_checkpoint, name_checkpoint
    from startup_llm.training import finetuning, preferences
    from startup_llm.training.processes import start_run

    start_run(train_section["seed"])
    stage = StageClock()
    say = functools.partial(print, flush=True) if run.is_writer else lambda *words: None
    task = load_task(config.task)
    name_checkpoint(task, config.model)  # one has to be, before the data is read

    with stage("data"):
        preferences.check_preference_tuning(config, train_section)
        data = task.load_data(config.data, config.evaluation)
        task.check_method(config.method, data)
        say("\n  ".join([f"data: {data.describe()}", *data.notes]))

    with stage("checkpoint"):
        checkpoint = load_task_checkpoint(task, config.model)
        processor = task.load_processor(checkpoint, config.model)
        plan = finetuning.choose_plan(config, run)
        prepared = finetuning.prepare(task, data, config, checkpoint, processor, plan)
        about = f"checkpoint: {checkpoint.name} ({checkpoint.source})"
        say("\n  ".join([about, *prepared.task_model.notes, *prepared.plan.reasons, *prepared.describe_truncation()]))

    with stage("reference"):
        prepared, before = preferences.remember_reference(prepared)

    with stage("train"):
        trained = preferences.train_on_preferences(prepared, config, train_section, run)
        model = finetuning.save_model(trained, prepared, config, run)

    sentences = finish_run(
        run, config, config_text, train_section, prepared, trained, model, {"before": before},
        candidate=config.method,
        base=checkpoint.path,
        stage=stage,
        command=shlex.join(["accelerate", "launch", "recipes/align.py", *sys.argv[1:]]),
        data_card=read_dataset_card(config.data, Path(__file__).parents[1] / "data_cards"),
    )  # fmt: skip
    say("\n".join(sentences))
    say(f"run: {run.final} ({stage.total:.0f} s); look at {run.final}/report.html")


if __name__ == "__main__":
    run_recipe(main)
