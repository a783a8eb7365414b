"""Measure a checkpoint on a data set, a suite or lm-eval's tasks, with intervals and paired tests.

python recipes/evaluate.py --model runs/helpdesk-lora
python recipes/evaluate.py --model runs/banking77-lora --suite intents --only '[banking77]' --fail_under accuracy=0.93
python recipes/evaluate.py --model runs/helpdesk-full --fail_if_worse_than runs/helpdesk-lora
python recipes/evaluate.py --model runs/gpt --lm_tasks '[my_task]' --lm_task_folder tasks
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from startup_llm.command_line import parse_config, require_one_process
from startup_llm.config import EvaluateConfig, list_changed
from startup_llm.errors import UserError, run_recipe
from startup_llm.run_folder import RESULTS, RunFolder, read_results
from startup_llm.tasks.options import build_section, list_options

SUITES = Path(__file__).with_name("suites")


def main() -> None:
    config, _, config_text = parse_config(EvaluateConfig)
    require_one_process("recipes/evaluate.py")
    with RunFolder(config.run_dir, overwrite=config.overwrite, resume=False, config=config) as run:
        failures = evaluate(config, config_text, run)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


def evaluate(config: EvaluateConfig, config_text: str, run: RunFolder) -> list[str]:
    """Measure, write the tables, and return what was missed."""
    from startup_llm.evaluation import suites as benchmarks
    from startup_llm.evaluation.environment import describe_hardware, read_versions

    limits = benchmarks.parse_limits(config.fail_under)
    others = list(dict.fromkeys(other for other in (config.compare, config.fail_if_worse_than) if other))
    for other in others:
        read_results(other)
    if config.lm_tasks:
        if "generate" in list_changed(config.evaluation):
            raise UserError("evaluation.generate: lm-eval's tasks say themselves what is written; leave it out")
        if others:
            raise UserError("compare: lm-eval's tasks have no stored predictions; leave compare or lm_tasks out")
        entries = measure_language_model(config)
    else:
        entries = [measure_entry(entry, config, others, run) for entry in list_entries(config)]
    missed = benchmarks.find_missed(limits, entries)
    comparisons = [(entry, one) for entry in entries for one in entry.get("comparisons", ())]
    worse = [
        f"{entry['name']}: {one['sentence']}"
        for entry, one in comparisons
        if one["with"] == config.fail_if_worse_than and one["decides"] and one["outcome"] == "worse"
    ]
    results = {
        "model": config.model,
        "entries": entries,
        "sentences": [f"{entry['name']}: {one['sentence']}" for entry, one in comparisons],
        "failed": [*missed, *worse],
        "command": shlex.join(["python", "recipes/evaluate.py", *sys.argv[1:]]),
        "versions": read_versions(),
        "hardware": describe_hardware(),
    }
    table = benchmarks.build_markdown(results)
    run.write_text("config.yaml", config_text)
    run.write_text("table.md", table)
    run.write_text("table.html", benchmarks.build_page(results))
    run.write_json(RESULTS, results)
    run.finish()
    print(table)
    return results["failed"]


def list_entries(config: EvaluateConfig) -> list:
    """Return the suite's entries, or one for the data that is named, by default the run's own."""
    from startup_llm.evaluation.suites import SuiteEntry, read_suite
    from startup_llm.tasks import list_metric_names

    if config.suite:
        return read_suite(config.suite, SUITES, list_metric_names, list_options(type(config.data)), config.only)
    if config.only:
        raise UserError("only: chooses entries of a suite; name the suite too")
    data = {}
    if not list_changed(config.data):
        for folder in (Path(config.model), Path(config.model).parent):
            if (folder / RESULTS).is_file():
                data = read_results(folder).get("config", {}).get("data", {})
                break
    return [SuiteEntry("test", data)]


def measure_entry(entry: Any, config: EvaluateConfig, others: list[str], run: RunFolder) -> dict[str, Any]:
    from startup_llm.data.task_data import compute_rows_sha256
    from startup_llm.evaluation import suites as benchmarks
    from startup_llm.evaluation.metrics import rank_metrics
    from startup_llm.tasks.base import find_metric
    from startup_llm.training.inference import predict_outputs
    from startup_llm.training.speed import plan_speed
    from startup_llm.training.trained_model import load_trained_model

    name = config.model.replace("{entry}", entry.name)
    task, model, processor = load_trained_model(name, config, entry.task)
    given = benchmarks.merge_data(entry.data, list_changed(config.data))
    evaluation = build_section(task.tag, "evaluation", list_changed(config.evaluation))
    loaded = task.load_data(build_section(task.tag, "data", given), evaluation)
    data = task.fit_data(loaded, processor)
    for note in data.notes[len(loaded.notes) :]:
        print(note)
    test = data.splits["test"]
    encoded, _ = task.encode_split("test", data, processor)
    plan = plan_speed().exact()
    outputs = predict_outputs(task, model.to(plan.device), encoded, processor, plan)
    if data.label_names:
        known = [model.config.id2label[place] for place in range(len(model.config.id2label))]
        order = benchmarks.match_labels(known, data.label_names, name, entry.name)
        outputs = task.order_labels(outputs, order)
    elif data.problem_type == "regression" and outputs[0].shape[-1] != 1:
        raise UserError(f"{name} has {outputs[0].shape[-1]} outputs; {entry.name} has numbers, which need one output")
    predictions, references = task.read_predictions(outputs, encoded, test, data), task.references(test)
    metrics = [find_metric(task, metric) for metric in entry.metrics]
    alone = [metric for metric in task.metrics(data) if not metric.relative]  # no model before it is measured here
    metrics = metrics or rank_metrics(alone, config.evaluation.decides)
    sha256, comparisons = compute_rows_sha256(test), []
    for other in others:
        theirs = benchmarks.read_predictions(other.replace("{entry}", entry.name), entry.name, sha256)
        found = benchmarks.compare(metrics, references, (name, predictions), theirs, config.evaluation)
        comparisons += [{**one, "with": other, "decides": one["metric"] == metrics[0].name} for one in found]
    plain = predictions.tolist() if hasattr(predictions, "tolist") else predictions
    lines = [json.dumps({"row": row, "prediction": value}) for row, value in zip(test["row"], plain, strict=True)]
    run.write_text(f"predictions-{entry.name}.jsonl", "\n".join(lines) + "\n")
    return {
        "name": entry.name,
        "model": name,
        "task": task.tag,
        "rows": len(test),
        "sha256": sha256,
        "sources": data.sources,
        "metrics": benchmarks.measure(metrics, references, predictions, config.evaluation),
        "lower_is_better": [metric.name for metric in metrics if metric.lower_is_better],
        "comparisons": comparisons,
    }


def measure_language_model(config: EvaluateConfig) -> list[dict[str, Any]]:
    from startup_llm.tasks.text_generation.lm_eval import evaluate_language_model
    from startup_llm.training.trained_model import load_trained_model

    _, model, tokenizer = load_trained_model(config.model, config, "text-generation")
    return evaluate_language_model(
        model, tokenizer, config.lm_tasks, config.evaluation,
        task_folder=config.lm_task_folder, batch_size=config.batch_size, limit=config.lm_limit,
    )  # fmt: skip


if __name__ == "__main__":
    run_recipe(main)
