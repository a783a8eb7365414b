"""Fine-tune a pretrained checkpoint on your own data, and prove that it helped.

accelerate launch recipes/finetune.py
accelerate launch recipes/finetune.py --data.train_file tickets.csv
accelerate launch recipes/finetune.py --config recipes/configs/banking77_lora.yaml --train.num_train_epochs 2
"""

import functools
import shlex
import sys
from pathlib import Path

from startup_llm.config import FinetuneConfig, default_run_dir, parse_config
from startup_llm.errors import run_recipe
from startup_llm.run_folder import RunFolder


def main() -> None:
    config, train_section, config_text = parse_config(FinetuneConfig, train_section=True)
    run_dir = config.run_dir or default_run_dir(config.data, config.method)
    with RunFolder(run_dir, overwrite=config.overwrite, resume=config.resume) as run:
        finetune(config, train_section, config_text, run)


def finetune(config: FinetuneConfig, train_section: dict, config_text: str, run: RunFolder) -> None:
    from startup_llm.evaluation.baselines import predict_baselines
    from startup_llm.evaluation.environment import StageClock
    from startup_llm.evaluation.metrics import rank_metrics
    from startup_llm.evaluation.results import describe_errors, score_models
    from startup_llm.hub.dataset_card import read_dataset_card
    from startup_llm.hub.finished_run import write_finished_run
    from startup_llm.models.checkpoints import load_checkpoint, load_tokenizer
    from startup_llm.tasks import load_task
    from startup_llm.training import finetuning
    from startup_llm.training.inference import predict_logits
    from startup_llm.training.preflight import estimate_run
    from startup_llm.training.processes import start_run
    from startup_llm.training.reload_gate import check_reload
    from startup_llm.training.trainer import HeadTrainer

    start_run(train_section["seed"])
    stage = StageClock()
    say = functools.partial(print, flush=True) if run.is_writer else lambda *words: None
    task = load_task(config.task)

    with stage("data"):
        data = task.load_data(config.data)
        rows = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
        about = f"data: {rows} rows; {data.problem_type}, {len(data.label_names)} labels"
        say("\n  ".join([about, *data.notes]))

    with stage("checkpoint"):
        checkpoint = load_checkpoint(config.model)
        tokenizer = load_tokenizer(checkpoint, config.model.max_length_tokens, config.model.trust_remote_code)
        plan = finetuning.choose_plan(config, run)
        prepared = finetuning.prepare(task, data, config, checkpoint, tokenizer, plan)
        about = f"checkpoint: {checkpoint.name} ({checkpoint.source}), pooling {prepared.classifier.pooling}"
        say("\n  ".join([about, *prepared.classifier.notes, *plan.reasons]))
        for name, cut in prepared.truncation.items():
            cut_at = f"{cut.rows} rows cut at {tokenizer.model_max_length} tokens"
            say(f"  {name}: {cut_at}, {cut.tokens_share:.2%} of the tokens lost")

    metrics = rank_metrics(task.metrics(data), config.evaluation.decides)
    test, references = data.splits["test"], task.references(data.splits["test"])
    predictions = {}
    if run.is_writer:
        with stage("baselines"):
            predictions = predict_baselines(task.baselines(data), data.splits, data.problem_type)

    with stage("probe"):
        predictions["linear-probe"], feature_norm = finetuning.start_from_probe(prepared)

    estimates = []

    def preflight(trainer: HeadTrainer) -> None:
        taken = {"elapsed_seconds": stage.total, "probe_seconds": stage.seconds["probe"]}
        prices = {"dollars_per_hour": config.preflight.dollars_per_hour}
        estimates.append(estimate_run(trainer, prepared, **taken, **prices))
        say(f"preflight: {estimates[0]}")
        if config.preflight.only:
            sys.exit(0)

    with stage("train"):
        trained = finetuning.train(prepared, config, train_section, run, feature_norm, preflight)

    with stage("evaluate"):
        model = finetuning.save_model(trained, prepared, config, run)
        finetuning.check_against_training(
            trained, model, prepared, prepared.encoded["test"].select(range(len(test))[:256])
        )
        predict_start = stage.total
        logits = predict_logits(model, prepared.encoded["test"], prepared.collator, plan)
        predict_seconds = stage.total - predict_start
        candidate = "linear-probe" if config.method == "probe" else config.method
        predictions[candidate] = task.decide(logits, data.problem_type)
        sample = test.shuffle(seed=0).select(range(min(64, len(test))))
        exact = predict_logits(model, task.encode(sample, tokenizer)[0], prepared.collator, plan.exact())

    if not run.is_writer:
        return
    with stage("statistics"):
        scores = score_models(metrics, references, predictions, candidate, config.evaluation)
        errors = describe_errors(test, task.probabilities(logits, data.problem_type), data)

    with stage("reload gate"):
        base, arguments = checkpoint.path, prepared.classifier.load_arguments
        gate = check_reload(run, task=task.tag, rows=sample, logits=exact, base=base, load_arguments=arguments)

    throughput = {**trained.throughput, "predict_examples_per_second": len(test) / predict_seconds}
    command = shlex.join(["accelerate", "launch", "recipes/finetune.py", *sys.argv[1:]])
    write_finished_run(
        run, config, config_text, train_section, prepared, trained, scores, errors, gate,
        predictions=predictions, throughput=throughput, stage=stage, command=command,
        estimate=estimates[0] if estimates else None,
        data_card=read_dataset_card(config.data, Path(__file__).parents[1] / "data_cards"),
    )  # fmt: skip
    say("\n".join(scores["sentences"]))
    say(f"run: {run.final} ({stage.total:.0f} s); look at {run.final}/report.html")


if __name__ == "__main__":
    run_recipe(main)
