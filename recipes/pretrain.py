"""Train a reference model from scratch on your own data: what the task's rows alone can teach, and what they cannot.

accelerate launch recipes/pretrain.py --data.train_file tickets.csv --model.name transformer
accelerate launch recipes/pretrain.py --config recipes/configs/banking77_dnn.yaml
"""

import shlex
import sys
from pathlib import Path

from startup_llm.config import PretrainConfig, default_run_dir, parse_config
from startup_llm.errors import run_recipe
from startup_llm.run_folder import RunFolder

LOAD = """from huggingface_hub import snapshot_download
from startup_llm.models.scratch.text import load_text_classifier

model, tokenizer, label_names = load_text_classifier(snapshot_download("REPOSITORY"))
logits = model(**tokenizer.pad([tokenizer("a text")], return_tensors="pt"))["logits"]"""


def main() -> None:
    config, train_section, config_text = parse_config(PretrainConfig, train_section=True)
    run_dir = config.run_dir or default_run_dir(config.data, config.method)
    with RunFolder(run_dir, overwrite=config.overwrite, resume=config.resume) as run:
        pretrain(config, train_section, config_text, run)


def pretrain(config: PretrainConfig, train_section: dict, config_text: str, run: RunFolder) -> None:
    from startup_llm.evaluation.baselines import predict_baselines
    from startup_llm.evaluation.environment import StageClock
    from startup_llm.evaluation.metrics import rank_metrics
    from startup_llm.evaluation.results import describe_errors, score_models
    from startup_llm.hub.dataset_card import read_dataset_card
    from startup_llm.hub.finished_run import write_finished_run
    from startup_llm.tasks import load_task
    from startup_llm.training import finetuning, pretraining
    from startup_llm.training.inference import predict_logits
    from startup_llm.training.processes import call_on_main_process, start_run
    from startup_llm.training.reload_gate import check_reload
    from startup_llm.training.speed import plan_speed

    start_run(train_section["seed"])
    stage = StageClock()
    say = print if run.is_writer else lambda *words, **options: None
    task = load_task(config.task)

    with stage("data"):
        data = task.load_data(config.data)
        rows = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
        say(f"data: {rows} rows; {data.problem_type}, {len(data.label_names)} labels")
        say(*(f"  {note}" for note in data.notes), sep="\n")

    with stage("model"):
        plan = call_on_main_process(plan_speed)
        prepared = pretraining.prepare(task, data, config, plan)
        say(f"model: {config.method} from random weights")
        say(*(f"  {line}" for line in (*prepared.classifier.notes, *plan.reasons)), sep="\n")

    metrics = rank_metrics(task.metrics(data), config.evaluation.decides)
    test = data.splits["test"]
    predictions = {}
    if run.is_writer:
        with stage("baselines"):
            predictions = predict_baselines(task.baselines(data), data.splits, data.problem_type)

    with stage("train"):
        trained = pretraining.train(prepared, config, train_section, run)

    with stage("evaluate"):
        model = pretraining.save_model(trained, prepared, run)
        first = prepared.encoded["test"].select(range(len(test))[:256])
        finetuning.check_against_training(trained, model, prepared, first)
        predict_start = stage.total
        logits = predict_logits(model, prepared.encoded["test"], prepared.collator, plan)
        predict_seconds = stage.total - predict_start
        predictions[config.method] = task.decide(logits, data.problem_type)

    if not run.is_writer:
        return
    with stage("statistics"):
        scores = score_models(metrics, task.references(test), predictions, config.method, config.evaluation)
        errors = describe_errors(test, task.probabilities(logits, data.problem_type), data)

    with stage("reload gate"):
        sample = test.shuffle(seed=0).select(range(min(64, len(test))))
        exact = predict_logits(model, task.encode(sample, prepared.tokenizer)[0], prepared.collator, plan.exact())
        gate = check_reload(run, task=task.tag, rows=sample, logits=exact, base=run.model, load_arguments={})

    throughput = {**trained.throughput, "predict_examples_per_second": len(test) / predict_seconds}
    write_finished_run(
        run, config, config_text, train_section, prepared, trained, scores, errors, gate,
        predictions=predictions, throughput=throughput, stage=stage,
        command=shlex.join(["accelerate", "launch", "recipes/pretrain.py", *sys.argv[1:]]),
        data_card=read_dataset_card(config.data, Path(__file__).parents[1] / "data_cards"),
        load_code=LOAD,
    )  # fmt: skip
    say(*scores["sentences"], sep="\n")
    say(f"run: {run.final} ({stage.total:.0f} s); look at {run.final}/report.html")


if __name__ == "__main__":
    run_recipe(main)
