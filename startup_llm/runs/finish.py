"""The last step of a run: numbers, report and card into its folder, and its final name."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from startup_llm.data.task_data import compute_rows_sha256
from startup_llm.evaluation.environment import describe_hardware, read_peak_memory_bytes, read_versions
from startup_llm.evaluation.metrics import rank_metrics
from startup_llm.evaluation.report import build_report
from startup_llm.evaluation.results import SCHEMA_VERSION, score_models
from startup_llm.hub.model_card import build_model_card
from startup_llm.run_folder import RUN_LOCK
from startup_llm.runs.lock import build_run_lock
from startup_llm.training.finetuning import check_against_training
from startup_llm.training.reload_gate import check_reload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from startup_llm.config import AlignConfig, FinetuneConfig, PretrainConfig
    from startup_llm.evaluation.environment import StageClock
    from startup_llm.run_folder import RunFolder
    from startup_llm.training.finetuning import Prepared, Trained
    from startup_llm.training.preflight import Estimate


def finish_run(
    run: RunFolder,
    config: FinetuneConfig | AlignConfig | PretrainConfig,
    config_text: str,
    train_section: Mapping[str, Any],
    prepared: Prepared,
    trained: Trained,
    model: Any,
    predictions: dict[str, Sequence[Any]],
    *,
    candidate: str,
    base: Path,
    stage: StageClock,
    command: str,
    data_card: Mapping[str, Any],
    estimate: Estimate | None = None,
    audit: Mapping[str, Any] | None = None,
    load_code: str | None = None,
    untuned_gallery: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Predict the test rows, score every model on them, pass the reload gate, and write what a finished run holds.

    Every process predicts; the main one does the rest.

    Args:
        run: The run's folder, models already in it.
        config: The run's config.
        config_text: The same as YAML.
        train_section: The `train` section.
        prepared: Data, checkpoint and model.
        trained: What training left.
        model: The model as it was saved.
        predictions: Test predictions of the baselines, by name; the candidate's are added.
        candidate: Name of the model that has to prove itself.
        base: Folder of the checkpoint that an adapter stands on.
        stage: Seconds per stage.
        command: The command line that made the run.
        data_card: License and language of the dataset.
        estimate: What the run was expected to take.
        audit: What was found in the rows before training, as `audit_task_data` tells it.
        load_code: Python that loads the model from the Hub repository REPOSITORY, where no pipeline does.
        untuned_gallery: Items of the gallery that the checkpoint gave before it was tuned.

    Returns:
        The comparisons in sentences.

    Raises:
        ReloadError: If what was saved does not give the model's outputs.
    """
    task, data, test = prepared.task, prepared.data, prepared.data.splits["test"]
    with stage("evaluate"):
        encoded = prepared.encoded["test"]
        first = encoded.select(range(min(256, len(test), len(encoded))))  # without what stands behind the rows
        check_against_training(trained, model, prepared, first)
        start = stage.total
        outputs = prepared.predict(model, encoded)
        predict_seconds = stage.total - start
        predictions[candidate] = task.read_predictions(outputs, encoded, test, data)
        sample = test.shuffle(seed=0).select(range(min(64, len(test))))
        exact = prepared.score(
            model, task.saved_model.encode_sample(sample, prepared.processor), prepared.plan.exact()
        )
    if not run.is_writer:
        return []
    with stage("statistics"):
        metrics = rank_metrics(task.metrics(data), config.evaluation.decides)
        scores = score_models(metrics, task.references(test), predictions, candidate, config.evaluation)
        errors = task.describe_errors(test, outputs, predictions[candidate], data)
        written = task.write_samples(model, prepared.processor, test)
        gallery = _add_untuned([*errors.pop("gallery", []), *written], untuned_gallery) + trained.samples
        errors |= {"gallery": gallery} if gallery else {}
        task.predictor.write_files(run.path, data, outputs, prepared.processor)
    with stage("reload gate"):
        arguments = prepared.task_model.load_arguments
        gate = check_reload(run, task=task.tag, rows=sample, outputs=exact, base=base, load_arguments=arguments)
    throughput = {**trained.throughput, "predict_examples_per_second": len(test) / predict_seconds}
    checkpoint, network = prepared.checkpoint, prepared.task_model.model
    results = {
        "schema_version": SCHEMA_VERSION,
        "task": prepared.task.tag,
        "problem_type": data.problem_type,
        "method": config.method,
        "run_name": run.final.name,
        "test": {"rows": len(test), "sha256": compute_rows_sha256(test)},
        "rows": {name: len(rows) for name, rows in data.splits.items()},
        "columns": test.column_names,
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
            "architecture": type(network).__name__,
            "pooling": prepared.task_model.pooling,
            "parameters": sum(p.numel() for p in network.parameters()),
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
        "audit": audit,
        "truncation": {
            "max_length_tokens": getattr(prepared.processor, "model_max_length", None)
            if task.cuts_long_rows
            else None,
            **{name: asdict(cut) for name, cut in prepared.truncation.items()},
        },
        "processor": dict(prepared.task_model.processor_details),
        "reload_gate": dict(gate),
        "load": {
            "adapter_model_kwargs": dict(prepared.task_model.load_arguments),
            "auto_class": None if load_code else task.saved_model.find_auto_class(str(run.model)),
            "auto_processor": task.saved_model.auto_processor,
            "pipeline_arguments": dict(task.saved_model.pipeline_arguments),
            "python": load_code or task.saved_model.load_code,
            "library": "startup-llm" if load_code else task.saved_model.library,
        },
        "plan": prepared.plan.as_dict(),
        "command": command,
        "lock": RUN_LOCK,
        "config": {**asdict(config), "train": dict(train_section)},
        "seed": train_section["seed"],
        "estimate": estimate.as_dict() if estimate else None,
        "seconds": stage.total,
        "stage_seconds": dict(stage.seconds),
        "energy": stage.energy.read(),
        "peak_memory_bytes": read_peak_memory_bytes(),
        "throughput": dict(throughput),
        "versions": read_versions(),
        "hardware": describe_hardware(),
    }
    results = json.loads(json.dumps(results, default=str))
    run.write_text("config.yaml", config_text)
    columns = [values.tolist() if hasattr(values, "tolist") else values for values in predictions.values()]
    lines = [
        json.dumps({"row": row, **dict(zip(predictions, values, strict=True))})
        for row, *values in zip(test["row"], *columns, strict=True)
    ]
    run.write_text("predictions.jsonl", "\n".join(lines) + "\n")
    run.write_text("report.html", build_report(results))
    run.write_text("README.md", build_model_card(results))
    run.write_json(RUN_LOCK, build_run_lock(run, config_text, train_section, prepared, results))
    run.write_json("results.json", results)
    run.finish()
    return scores["sentences"]


def _add_untuned(
    gallery: Sequence[Mapping[str, Any]], untuned: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Put what the checkpoint wrote before it was tuned beside what the tuned model writes for the same row."""
    before = {json.dumps(_name_item(item)): item["pairs"][-1][1] for item in untuned if _is_written(item)}
    return [
        {**item, "pairs": [*item["pairs"][:-1], ["untuned", before[key]], item["pairs"][-1]]}
        if _is_written(item) and (key := json.dumps(_name_item(item))) in before
        else item
        for item in gallery
    ]


def _is_written(item: Mapping[str, Any]) -> bool:
    return bool(item.get("pairs")) and item["pairs"][-1][0] == "written"


def _name_item(item: Mapping[str, Any]) -> list[Any]:
    return [item["title"], item["pairs"][:-1]]
