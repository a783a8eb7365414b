"""The last step of a GAN's run: numbers, report and card into its folder, and its final name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from startup_llm.evaluation.environment import describe_hardware, read_peak_memory_bytes, read_versions
from startup_llm.evaluation.report import build_report
from startup_llm.evaluation.results import SCHEMA_VERSION
from startup_llm.hub.model_card import FROM_SCRATCH, build_model_card

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from startup_llm.config import GanConfig
    from startup_llm.data.images import LabelledImages
    from startup_llm.evaluation.environment import StageClock
    from startup_llm.run_folder import RunFolder
    from startup_llm.training.gan import GanTrainer


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
        "peak_memory_bytes": read_peak_memory_bytes(),
        "versions": read_versions(),
        "hardware": describe_hardware(),
    }
    results = json.loads(json.dumps(results))
    run.write_text("config.yaml", config_text)
    lines = [
        json.dumps(dict(zip(("row", "label", *predictions), values, strict=True)))
        for values in zip(
            range(1, len(data.test_labels) + 1),
            data.test_labels.tolist(),
            *(found.tolist() for found in predictions.values()),
            strict=True,
        )
    ]
    run.write_text("predictions.jsonl", "\n".join(lines) + "\n")
    run.write_text("report.html", build_report(results))
    run.write_text("README.md", build_model_card(results))
    run.write_json("results.json", results)
    run.finish()
