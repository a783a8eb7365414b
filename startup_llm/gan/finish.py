"""The last step of a GAN's run: numbers, report and card into its folder, and its final name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.task_data import compute_rows_sha256
from startup_llm.evaluation.environment import describe_hardware, read_peak_memory_bytes, read_versions
from startup_llm.evaluation.metrics import rank_metrics
from startup_llm.evaluation.report import build_report
from startup_llm.evaluation.results import SCHEMA_VERSION, score_models
from startup_llm.gan.ganbert import compute_class_logits
from startup_llm.hub.model_card import FROM_SCRATCH, build_model_card

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from startup_llm.data.digits import LabelledImages
    from startup_llm.evaluation.environment import StageClock
    from startup_llm.gan.ganbert import GanBertTrainer, SentenceVectors
    from startup_llm.gan.image_gan import GanTrainer
    from startup_llm.gan.options import GanConfig
    from startup_llm.run_folder import RunFolder
    from startup_llm.training.finetuning import Prepared


def write_gan_run(
    run: RunFolder,
    config: GanConfig,
    config_text: str,
    data: LabelledImages,
    trainer: GanTrainer,
    scores: Mapping[str, Any],
    gate: Mapping[str, Any],
    samples: Mapping[str, str],
    stage: StageClock,
    *,
    predictions: Mapping[str, np.ndarray],
    load_code: str,
    command: str,
) -> None:
    """Write `config.yaml`, `predictions.jsonl`, the report, the card and `results.json`, and finish the run.

    Args:
        run: The run's folder, the generator already in it.
        config: The run's config.
        config_text: The same as YAML.
        data: Real images.
        trainer: The trained players.
        scores: From `evaluate_generator`.
        gate: How far the reloaded generator's images differ from the trained one's.
        samples: `caption`, and a grid of images as `png_base64`.
        stage: Seconds per stage.
        predictions: Test predictions per classifier.
        load_code: Python that loads the generator from the Hub repository REPOSITORY.
        command: The command line that made the run.
    """
    generator = trainer.average.average
    parameters = sum(p.numel() for p in generator.parameters())
    digest = hashlib.sha256(data.test_images.numpy().tobytes() + data.test_labels.numpy().tobytes())
    results = {
        "schema_version": SCHEMA_VERSION,
        "task": "unconditional-image-generation",
        "method": "gan",
        "run_name": run.final.name,
        "test": {"rows": len(data.test_labels), "sha256": digest.hexdigest()},
        "rows": {"train": len(data.train_labels), "test": len(data.test_labels)},
        **scores,
        "samples": dict(samples),
        "history": trainer.history,
        "checkpoint": {
            "name": "random weights",
            "source": FROM_SCRATCH,
            "license": None,
            "architecture": type(generator).__name__,
            "parameters": parameters,
            "trainable_parameters": parameters,
        },
        "data": {"dataset": "digits", "license": "cc-by-4.0", "notes": list(data.notes)},
        "reload_gate": dict(gate),
        "load": {"python": load_code},
        "command": command,
        "config": asdict(config),
        "seed": config.train.seed,
        "seconds": stage.total,
        "stage_seconds": dict(stage.seconds),
        "energy": stage.energy.read(),
        "peak_memory_bytes": read_peak_memory_bytes(),
        "versions": read_versions(),
        "hardware": describe_hardware(),
    }
    columns = {"row": range(1, len(data.test_labels) + 1), "label": data.test_labels.tolist()}
    _finish(run, config_text, results, {**columns, **{name: found.tolist() for name, found in predictions.items()}})


def write_ganbert_run(
    run: RunFolder,
    config: GanConfig,
    config_text: str,
    prepared: Prepared,
    trainer: GanBertTrainer,
    vectors: SentenceVectors,
    predictions: Mapping[str, np.ndarray],
    gate: Mapping[str, Any],
    stage: StageClock,
    *,
    load_code: str,
    command: str,
    data_card: Mapping[str, Any],
) -> list[str]:
    """Score the test predictions, write what a finished run holds, and finish it.

    Args:
        run: The run's folder, the model already in it.
        config: The run's config.
        config_text: The same as YAML.
        prepared: Rows and encoder.
        trainer: The trained players.
        vectors: What they saw.
        predictions: Test predictions per model; `ganbert` has to prove itself.
        gate: From `save_and_check`.
        stage: Seconds per stage.
        load_code: Python that loads the model from the Hub repository REPOSITORY.
        command: The command line that made the run.
        data_card: License and language of the dataset.

    Returns:
        The comparisons in sentences.
    """
    task, data, checkpoint = prepared.task, prepared.data, prepared.checkpoint
    test, discriminator, encoder = data.splits["test"], trainer.unwrap_discriminator(), prepared.task_model.model
    metrics = rank_metrics(task.metrics(data), config.evaluation.decides)
    scores = score_models(metrics, task.references(test), predictions, "ganbert", config.evaluation)
    logits = compute_class_logits(discriminator, vectors.test)
    trained = sum(p.numel() for p in discriminator.parameters())
    results = {
        "schema_version": SCHEMA_VERSION,
        "task": task.tag,
        "problem_type": data.problem_type,
        "method": "ganbert",
        "run_name": run.final.name,
        "test": {"rows": len(test), "sha256": compute_rows_sha256(test)},
        "rows": {**{name: len(rows) for name, rows in data.splits.items()}, "unlabelled": len(data.unlabelled)},
        "labels": list(data.label_names),
        **scores,
        **task.describe_errors(test, logits, predictions["ganbert"], data),
        "history": trainer.history,
        "checkpoint": {
            "name": checkpoint.name,
            "revision": checkpoint.revision,
            "source": checkpoint.source,
            "sha256": checkpoint.weights_sha256,
            "license": checkpoint.license,
            "architecture": type(encoder).__name__,
            "pooling": prepared.task_model.pooling,
            "parameters": sum(p.numel() for p in encoder.parameters()) + trained,
            "trainable_parameters": trained,
        },
        "data": {
            "dataset": config.data.named_dataset,
            "subset": config.data.subset,
            "revision": config.data.revision,
            **data_card,
            "notes": data.notes,
            "sources": data.sources,
        },
        "reload_gate": dict(gate),
        "load": {"python": load_code},
        "plan": prepared.plan.as_dict(),
        "command": command,
        "config": asdict(config),
        "seed": config.text.seed,
        "seconds": stage.total,
        "stage_seconds": dict(stage.seconds),
        "energy": stage.energy.read(),
        "peak_memory_bytes": read_peak_memory_bytes(),
        "throughput": {"predict_examples_per_second": len(test) / vectors.test_seconds},
        "versions": read_versions(),
        "hardware": describe_hardware(),
    }
    found = {name: np.asarray(values).tolist() for name, values in predictions.items()}
    _finish(run, config_text, results, {"row": test["row"], **found})
    return scores["sentences"]


def _finish(run: RunFolder, config_text: str, results: dict[str, Any], columns: Mapping[str, Sequence[Any]]) -> None:
    results = json.loads(json.dumps(results, default=str))
    run.write_text("config.yaml", config_text)
    lines = [json.dumps(dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
    run.write_text("predictions.jsonl", "\n".join(lines) + "\n")
    run.write_text("report.html", build_report(results))
    run.write_text("README.md", build_model_card(results))
    run.write_json("results.json", results)
    run.finish()
