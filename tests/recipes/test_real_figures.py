"""What the product promises about real data, on real data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.cold_start]
ROOT = Path(__file__).parents[2]


def run(folder: Path, *words: object) -> dict:
    command = [sys.executable, ROOT / "recipes" / "finetune.py", "--run_dir", folder / "run", *words]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, cwd=ROOT)
    return json.loads((folder / "run" / "results.json").read_text())


def check_cost(results: dict) -> None:
    """Compare a run with its estimate, loosely: other tests may share the cores, and the heap's holes differ."""
    estimate = results["estimate"]
    assert results["peak_memory_bytes"] < 2.5 * 2**30
    assert 0.65 < estimate["peak_memory_bytes"] / results["peak_memory_bytes"] < 1.5
    assert 0.5 < estimate["seconds"] / results["seconds"] < 2


def test_on_the_shipped_messages_the_default_run_beats_a_baseline_that_has_room_above_it(tmp_path):
    results = run(tmp_path)
    assert results["models"]["tfidf-linear-svm"]["accuracy"]["value"] < 0.88
    svm = next(c for c in results["comparisons"] if c["b"] == "tfidf-linear-svm" and c["metric"] == "accuracy")
    assert svm["difference"] > 0
    assert svm["p_value"] < 0.05
    check_cost(results)


@pytest.mark.real_data
def test_one_epoch_on_banking77_is_past_ninety_three_percent(tmp_path, real_data):
    config = ROOT / "recipes" / "configs" / "banking77_lora.yaml"
    words = ["--config", config, "--data.data_dir", real_data / "banking77", "--train.num_train_epochs", 1]
    results = run(tmp_path, *words)
    assert results["models"]["lora"]["accuracy"]["value"] > 0.93
    assert results["models"]["linear-probe"]["accuracy"]["value"] > 0.92
    assert results["models"]["tfidf-linear-svm"]["accuracy"]["value"] < 0.91
    check_cost(results)


@pytest.mark.real_data
def test_a_few_hundred_messages_of_wnut_2017_teach_more_of_new_names_than_words_and_shapes_do(tmp_path, real_data):
    config, folder = ROOT / "recipes" / "configs" / "wnut17_lora.yaml", real_data / "wnut17"
    words = [
        "--config",
        config,
        "--data.train_file",
        folder / "train.conll",
        "--data.test_file",
        folder / "test.conll",
    ]
    words += ["--data.validation_fraction", 0, "--data.max_train_rows", 400, "--data.max_test_rows", 250]
    results = run(tmp_path, *words, "--train.num_train_epochs", 1, "--evaluation.resamples", 200)
    check_cost(results)
    f1 = {name: scores["entity_f1"]["value"] for name, scores in results["models"].items()}
    assert f1["lora"] > 0.2
    assert f1["most-frequent-tag"] < f1["lora"]
    compared = next(c for c in results["comparisons"] if c["b"] == "linear-tagger" and c["metric"] == "entity_f1")
    assert compared["difference"] > 0.05
    assert compared["p_value"] < 0.05
