"""What `results.json` says of a GAN's run."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from startup_llm.data.task_data import compute_rows_sha256
from startup_llm.evaluation.metrics import rank_metrics
from startup_llm.evaluation.results import SCHEMA_VERSION, score_models
from startup_llm.gan.ganbert import compute_class_logits
from startup_llm.hub.dataset_card import describe_dataset
from startup_llm.hub.model_card import FROM_SCRATCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from startup_llm.data.digits import LabelledImages
    from startup_llm.evaluation.metrics import Values
    from startup_llm.gan.ganbert import GanBertTrainer, SentenceVectors
    from startup_llm.gan.image_gan import GanTrainer
    from startup_llm.gan.options import GanConfig
    from startup_llm.session import Session
    from startup_llm.training.finetuning import Prepared

LOAD_GENERATOR = """import torch
from huggingface_hub import snapshot_download
from startup_llm.models.scratch.formats import load_generator

generator = load_generator(snapshot_download("REPOSITORY"))
images = generator(torch.randn(10, generator.noise_size), torch.arange(10))"""
LOAD_GANBERT = """from huggingface_hub import snapshot_download
from startup_llm.gan.ganbert import load_ganbert

model, tokenizer = load_ganbert(snapshot_download("REPOSITORY"))
logits = model(**tokenizer("a text", return_tensors="pt"))["logits"]"""


def describe_image_gan(
    session: Session[GanConfig],
    data: LabelledImages,
    trainer: GanTrainer,
    scores: Mapping[str, Any],
    gate: Mapping[str, Any],
    samples: Mapping[str, str],
) -> dict[str, Any]:
    """Return what `results.json` says of an image GAN.

    Args:
        session: The run.
        data: Real images.
        trainer: The trained players.
        scores: From `evaluate_generator`.
        gate: How far the reloaded generator's images differ from the trained one's.
        samples: `caption`, and a grid of images as `png_base64`.
    """
    generator = trainer.average.average
    parameters = sum(p.numel() for p in generator.parameters())
    digest = hashlib.sha256(data.test_images.numpy().tobytes() + data.test_labels.numpy().tobytes())
    return {
        "schema_version": SCHEMA_VERSION,
        "task": "unconditional-image-generation",
        "method": "gan",
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
        "load": {"python": LOAD_GENERATOR},
        "seed": session.config.train.seed,
        **session.describe(),
    }


def describe_ganbert(
    session: Session[GanConfig],
    prepared: Prepared,
    trainer: GanBertTrainer,
    vectors: SentenceVectors,
    predictions: Mapping[str, Values],
    gate: Mapping[str, Any],
) -> dict[str, Any]:
    """Score the test predictions, and return what `results.json` says of a GAN-BERT.

    Args:
        session: The run.
        prepared: Rows and encoder.
        trainer: The trained players.
        vectors: What they saw.
        predictions: Test predictions per model; `ganbert` has to prove itself.
        gate: From `save_and_check`.
    """
    task, data, config = prepared.task, prepared.data, session.config
    test, discriminator = data.splits["test"], trainer.unwrap_discriminator()
    metrics = rank_metrics(task.metrics(data), config.evaluation.decides)
    logits = compute_class_logits(discriminator, vectors.test)
    trained = sum(p.numel() for p in discriminator.parameters())
    checkpoint = prepared.describe_checkpoint(trained)
    return {
        "schema_version": SCHEMA_VERSION,
        "task": task.tag,
        "problem_type": data.problem_type,
        "method": "ganbert",
        "test": {"rows": len(test), "sha256": compute_rows_sha256(test)},
        "rows": {**{name: len(rows) for name, rows in data.splits.items()}, "unlabelled": len(data.unlabelled)},
        "labels": list(data.label_names),
        **score_models(metrics, task.references(test), predictions, "ganbert", config.evaluation),
        **task.describe_errors(test, logits, predictions["ganbert"], data),
        "history": trainer.history,
        "checkpoint": {**checkpoint, "parameters": checkpoint["parameters"] + trained},
        "data": describe_dataset(config.data, data, session.data_cards),
        "reload_gate": dict(gate),
        "load": {"python": LOAD_GANBERT},
        "plan": prepared.plan.as_dict(),
        "seed": config.text.seed,
        "throughput": {"predict_examples_per_second": len(test) / vectors.test_seconds},
        **session.describe(),
    }
