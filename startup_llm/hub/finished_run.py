"""The last step of a run: numbers, report and card into its folder, and its final name."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from startup_llm.data.classification import compute_rows_sha256
from startup_llm.evaluation.environment import describe_hardware, read_peak_memory_bytes, read_versions
from startup_llm.evaluation.report import build_report
from startup_llm.evaluation.results import SCHEMA_VERSION
from startup_llm.hub.model_card import build_model_card
from startup_llm.hub.run_lock import build_run_lock
from startup_llm.run_folder import RUN_LOCK

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from startup_llm.config import FinetuneConfig, PretrainConfig
    from startup_llm.evaluation.environment import StageClock
    from startup_llm.run_folder import RunFolder
    from startup_llm.training.finetuning import Prepared, Trained
    from startup_llm.training.preflight import Estimate


def write_finished_run(
    run: RunFolder,
    config: FinetuneConfig | PretrainConfig,
    config_text: str,
    train_section: Mapping[str, Any],
    prepared: Prepared,
    trained: Trained,
    scores: Mapping[str, Any],
    errors: Mapping[str, Any],
    gate: Mapping[str, Any],
    *,
    predictions: Mapping[str, np.ndarray],
    throughput: Mapping[str, float],
    stage: StageClock,
    command: str,
    data_card: Mapping[str, Any],
    load_code: str | None = None,
    estimate: Estimate | None = None,
) -> None:
    """Write `config.yaml`, `predictions.jsonl`, report, card, lock and `results.json`, and finish the run.

    Args:
        run: The run's folder, models already in it.
        config: The run's config.
        config_text: The same as YAML.
        train_section: The `train` section.
        prepared: Data, checkpoint and model.
        trained: What training left.
        scores: From `score_models`.
        errors: From the task's `describe_errors`.
        gate: From `check_reload`.
        predictions: Test predictions per model name.
        throughput: Examples and tokens per second.
        stage: Seconds per stage.
        command: The command line that made the run.
        data_card: License and language of the dataset.
        estimate: What the run was expected to take.
        load_code: Python that loads the model from the Hub repository REPOSITORY, where no pipeline does.
    """
    data, checkpoint, model = prepared.data, prepared.checkpoint, prepared.classifier.model
    results = {
        "schema_version": SCHEMA_VERSION,
        "task": prepared.task.tag,
        "problem_type": data.problem_type,
        "method": config.method,
        "run_name": run.final.name,
        "test": {"rows": len(data.splits["test"]), "sha256": compute_rows_sha256(data.splits["test"])},
        "rows": {name: len(rows) for name, rows in data.splits.items()},
        "labels": list(data.label_names),
        **scores,
        **errors,
        "history": trained.history,
        "checkpoint": {
            "name": checkpoint.name,
            "revision": checkpoint.revision,
            "source": checkpoint.source,
            "sha256": checkpoint.weights_sha256,
            "license": checkpoint.license,
            "architecture": type(model).__name__,
            "pooling": prepared.classifier.pooling,
            "parameters": sum(p.numel() for p in model.parameters()),
            "trainable_parameters": trained.trainable_parameters,
        },
        "data": {
            "dataset": config.data.named_dataset,
            "subset": config.data.subset,
            "revision": config.data.revision,
            **data_card,
            "notes": data.notes,
            "sources": data.sources,
        },
        "truncation": {
            "max_length_tokens": prepared.tokenizer.model_max_length,
            **{name: asdict(cut) for name, cut in prepared.truncation.items()},
        },
        "reload_gate": dict(gate),
        "load": {"adapter_model_kwargs": dict(prepared.classifier.load_arguments), "python": load_code},
        "plan": prepared.plan.as_dict(),
        "command": command,
        "config": {**asdict(config), "train": dict(train_section)},
        "seed": train_section["seed"],
        "estimate": estimate.as_dict() if estimate else None,
        "seconds": stage.total,
        "stage_seconds": dict(stage.seconds),
        "peak_memory_bytes": read_peak_memory_bytes(),
        "throughput": dict(throughput),
        "versions": read_versions(),
        "hardware": describe_hardware(),
    }
    results = json.loads(json.dumps(results, default=str))
    run.write_text("config.yaml", config_text)
    rows = zip(data.splits["test"]["row"], *(values.tolist() for values in predictions.values()), strict=True)
    lines = [json.dumps({"row": row, **dict(zip(predictions, values, strict=True))}) for row, *values in rows]
    run.write_text("predictions.jsonl", "\n".join(lines) + "\n")
    run.write_text("report.html", build_report(results))
    run.write_text("README.md", build_model_card(results))
    run.write_json(RUN_LOCK, build_run_lock(run, config_text, train_section, prepared, results))
    run.write_json("results.json", results)
    run.finish()
