"""Train a reference model from scratch on your own data: what the task's rows alone can teach, and what they cannot.

accelerate launch recipes/pretrain.py --data.train_file tickets.csv --model.name transformer
accelerate launch recipes/pretrain.py --config recipes/configs/banking77_dnn.yaml
"""

import functools
import shlex
import sys
from pathlib import Path

from startup_llm.command_line import parse_config
from startup_llm.config import PretrainConfig, default_run_dir
from startup_llm.errors import run_recipe
from startup_llm.run_folder import RunFolder


def main() -> None:
    config, train_section, config_text = parse_config(PretrainConfig, train_section=True)
    run_dir = config.run_dir or default_run_dir(config.data, config.method)
    with RunFolder(run_dir, overwrite=config.overwrite, resume=config.resume, config=config) as run:
        pretrain(config, train_section, config_text, run)


def pretrain(config: PretrainConfig, train_section: dict, config_text: str, run: RunFolder) -> None:
    from startup_llm.evaluation.baselines import predict_baselines
    from startup_llm.evaluation.environment import StageClock
    from startup_llm.hub.dataset_card import read_dataset_card
    from startup_llm.runs.finish import finish_run
    from startup_llm.tasks import load_task
    from startup_llm.training import finetuning, pretraining
    from startup_llm.training.processes import start_run

    start_run(train_section["seed"], shards=True)
    stage = StageClock()
    say = functools.partial(print, flush=True) if run.is_writer else lambda *words: None
    task = load_task(config.task)

    with stage("data"):
        data = task.load_data(config.data, config.evaluation)
        say("\n  ".join([f"data: {data.describe()}", *data.notes]))

    with stage("model"):
        plan = finetuning.choose_plan(config, run)
        prepared = pretraining.prepare(task, data, config, plan)
        about = f"model: {config.method} from random weights"
        say("\n  ".join([about, *prepared.task_model.notes, *prepared.plan.reasons, *prepared.describe_truncation()]))

    predictions = {}
    if run.is_writer:
        with stage("baselines"):
            predictions = predict_baselines(task.baselines(data), data)

    with stage("train"):
        trained = pretraining.train(prepared, config, train_section, run)
        model = pretraining.save_model(trained, prepared, run)

    sentences = finish_run(
        run, config, config_text, train_section, prepared, trained, model, predictions,
        candidate=config.method,
        base=run.model,
        stage=stage,
        command=shlex.join(["accelerate", "launch", "recipes/pretrain.py", *sys.argv[1:]]),
        data_card=read_dataset_card(config.data, Path(__file__).parents[1] / "data_cards"),
        load_code=task.reference_models.find_load_code(config.model.name),
    )  # fmt: skip
    say("\n".join(sentences))
    say(f"run: {run.final} ({stage.total:.0f} s); look at {run.final}/report.html")


if __name__ == "__main__":
    run_recipe(main)
