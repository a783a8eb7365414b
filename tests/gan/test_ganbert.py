"""GAN-BERT on a frozen encoder: the recipe as a person runs it, resume, what moves, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict

from startup_llm.config import LabelledTextData
from startup_llm.data.task_data import TaskData
from startup_llm.errors import UserError
from startup_llm.gan.ganbert import (
    SentenceVectors,
    build_ganbert_trainer,
    compute_class_logits,
    load_few_labels,
    load_ganbert,
)
from startup_llm.gan.options import GanBertConfig
from startup_llm.run_folder import RunFolder
from startup_llm.tasks import load_task

ROOT = Path(__file__).parents[2]
TWO_PROCESSES = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
TWO_PROCESSES += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "--"]
TINY = {"noise_size": 8, "hidden_size": 16, "batch_size": 32, "discriminator_learning_rate": 5e-3}


@pytest.fixture(scope="module")
def clusters() -> tuple[SentenceVectors, TaskData]:
    """Three classes around centres of their own: 4 labelled and 60 unlabelled rows of each, 20 to test."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(3, 12))

    def draw(rows: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(rows) % 3
        return (centres[labels] + 0.5 * generator.normal(size=(rows, 12))).astype(np.float32), labels

    (train, labels), (unlabelled, _), (test, test_labels) = draw(12), draw(180), draw(60)
    splits = {"train": Dataset.from_dict({"label": labels}), "test": Dataset.from_dict({"label": test_labels})}
    data = TaskData(DatasetDict(splits), ("a", "b", "c"), "single_label_classification")
    return SentenceVectors(train, unlabelled, test, 1.0, 1.0), data


@pytest.mark.parametrize("adversarial", [True, False])
def test_it_learns_the_classes_and_only_the_adversarial_game_moves_the_generator(clusters, adversarial):
    vectors, data = clusters
    trainer = build_ganbert_trainer(GanBertConfig(epochs=15, **TINY), vectors, data, adversarial=adversarial)
    before = [p.clone() for p in trainer.generator.parameters()]
    list(trainer.run_epochs())
    moved = any(not torch.equal(old, new) for old, new in zip(before, trainer.generator.parameters(), strict=True))
    assert moved == adversarial
    assert ("generator_loss" in trainer.history[-1]) == adversarial
    predicted = compute_class_logits(trainer.unwrap_discriminator(), vectors.test).argmax(1)
    assert (predicted == data.splits["test"]["label"]).mean() > 0.9
    assert trainer.history[-1]["supervised_loss"] < 0.5 * trainer.history[0]["supervised_loss"]


def test_labelled_rows_are_repeated_by_the_logarithm_of_how_rare_they_are(clusters):
    trainer = build_ganbert_trainer(GanBertConfig(**TINY), *clusters)
    targets = torch.cat([labels for _, labels in trainer.loader])
    assert int((targets >= 0).sum()) == 12 * 3  # 180 / 12 = 15, log2(15) = 3.9
    assert int((targets < 0).sum()) == 180


def test_a_resumed_training_ends_with_the_same_weights(clusters, tmp_path):
    whole = build_ganbert_trainer(GanBertConfig(epochs=3, **TINY), *clusters)
    list(whole.run_epochs())
    with RunFolder(tmp_path / "run") as run:
        first = build_ganbert_trainer(GanBertConfig(epochs=2, **TINY), *clusters)
        for _ in first.run_epochs():
            first.save(run)
        second = build_ganbert_trainer(GanBertConfig(epochs=3, **TINY), *clusters)
        second.load(run.last_checkpoint())
        assert list(second.run_epochs()) == [3]
    assert second.history == whole.history
    for name, tensor in whole.discriminator.state_dict().items():
        assert torch.equal(tensor, second.discriminator.state_dict()[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "labels_per_class is not given"),
        ({"labels_per_class": 100_000}, "labels_per_class is 100000, which leaves none of the 1500 training rows"),
    ],
)
def test_few_labels_and_unlabelled_rows_are_asked_for(options, message):
    with pytest.raises(UserError, match=message):
        load_few_labels(load_task("text-classification"), LabelledTextData(**options))


@pytest.mark.parametrize("launch", [[], pytest.param(TWO_PROCESSES, marks=pytest.mark.slow)], ids=["one", "two"])
def test_processes_run_the_config_and_leave_a_run_whose_model_reads_back(launch, tiny_checkpoint, tmp_path):
    for split, rows in (("train", 48), ("test", 12)):
        texts = [{"text": f"{('good', 'bad')[i % 2]} thing {split} {i}", "label": "pn"[i % 2]} for i in range(rows)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    run = tmp_path / "run"
    words = ["--config", ROOT / "recipes" / "configs" / "banking77_ganbert.yaml", "--data.data_dir", tmp_path]
    words += ["--encoder.checkpoint", tiny_checkpoint("bert"), "--run_dir", run, "--text.epochs", 2]
    words += ["--data.labels_per_class", 4, "--evaluation.resamples", 20]
    done = subprocess.run(
        [sys.executable, *launch, str(ROOT / "recipes" / "train_gan.py"), *map(str, words)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((run / "results.json").read_text())
    assert results["method"] == "ganbert"
    assert results["rows"] == {"train": 8, "test": 12, "unlabelled": 40}
    assert set(results["models"]) == {"majority", "tfidf-linear-svm", "linear-probe", "discriminator-alone", "ganbert"}
    assert "low" in results["models"]["ganbert"]["accuracy"]
    assert results["reload_gate"]["saved_max_difference"] < 1e-4
    assert (run / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert "adversarial loss" in (run / "report.html").read_text()
    assert "load_ganbert" in (run / "README.md").read_text()
    model, tokenizer = load_ganbert(run / "model")
    test = [json.loads(line)["text"] for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    kept = [json.loads(line)["ganbert"] for line in (run / "predictions.jsonl").read_text().splitlines()]
    with torch.inference_mode():
        logits = [model(**tokenizer(text, return_tensors="pt"))["logits"][0] for text in test]
    assert [int(row.argmax()) for row in logits] == kept
    assert model.encoder.config.id2label == {0: "n", 1: "p"}
