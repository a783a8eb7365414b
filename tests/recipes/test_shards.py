"""Runs whose model is in shards (FSDP2) over two CPU processes, against runs of one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
LAUNCHER = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "recipes" / "accelerate" / "fsdp2.yaml"]
LAUNCHER += ["--num_processes", 2, "--main_process_port", 0, ROOT / "tests" / "recipes" / "shard_on_cpu.py"]
QUICK = ["--evaluation.resamples", 20, "--train.logging_steps", 1, "--train.max_steps", 7]
# not what a busy machine happens to measure
QUICK += ["--speed.compute_dtype", "float32", "--speed.attention_kernel", "sdpa"]
ROWS = ["--data.train_file", "train.csv", "--data.test_file", "test.csv"]
PASSAGES = ["--data.train_file", "train.txt", "--data.test_file", "test.txt", "--task", "text-generation"]
GPT = ["--model.name", "gpt", "--model.tokenizer", "character", "--model.width", 16, "--model.layers", 2]
GPT += ["--model.heads", 2, "--model.dropout", 0, "--model.max_length_tokens", 32]
KEPT = ["--train.save_strategy", "steps", "--train.save_steps", 2, "--train.save_total_limit", 9]


def write_data(folder: Path) -> None:
    """Write rows of two classes, of many lengths, and a text."""
    texts = {"greeting": "hello good morning", "parting": "goodbye see you"}
    for name, count in (("train", 21), ("test", 11)):
        labels = [list(texts)[number % 2] for number in range(count)]
        lines = [f"{texts[label]} {'and so on ' * (i * i % 7)}{i},{label}" for i, label in enumerate(labels)]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
        lines = [f"{i} birds saw a cat run to town and {i * i} dogs.\n" for i in range(6 * count)]
        (folder / f"{name}.txt").write_text("".join(lines), encoding="utf-8")


def run_in_shards(folder: Path, *commands: list[object]) -> None:
    """Run recipes, each given by its name and its options, one after another in the same two processes."""
    words: list[object] = []
    for recipe, *options in commands:
        words += ["--next"] * bool(words) + [ROOT / "recipes" / f"{recipe}.py", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [str(word) for word in (sys.executable, *LAUNCHER, *words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert done.stdout.count("\nrun: ") == len(commands)  # the main process alone speaks


@pytest.fixture(scope="module")
def recipes(tiny_checkpoint) -> dict[str, list[object]]:
    """Each run's recipe and options; the last option wants the rows of a process."""
    checkpoint = ["--model.checkpoint", tiny_checkpoint("bert")]
    size = "--train.per_device_train_batch_size"
    return {
        # in parts of 20 tokens, of which an epoch's last batch has some in one process and one in the other
        "full": ["finetune", *ROWS, *QUICK, *checkpoint, "--method", "full", "--speed.tokens_per_batch", 20, size],
        "lora": ["finetune", *ROWS, *QUICK, *checkpoint, *KEPT, "--data.validation_fraction", 0, size],
        "gpt": ["pretrain", *PASSAGES, *QUICK, *GPT, size],
    }


@pytest.fixture(scope="module")
def sharded(recipes, tmp_path_factory) -> Path:
    """The folder in which every recipe has run in shards."""
    folder = tmp_path_factory.mktemp("sharded")
    write_data(folder)
    run_in_shards(folder, *([*words, 4, "--run_dir", name] for name, words in recipes.items()))
    return folder


@pytest.mark.parametrize("name", ["full", "lora", "gpt"])
def test_a_model_in_shards_gives_one_processs_losses_and_weights(
    sharded, recipes, run_recipe, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    assert run_recipe(*recipes[name], 8, "--run_dir", name)[0] == 0
    runs = tmp_path / name, sharded / name
    results = [json.loads((run / "results.json").read_text()) for run in runs]
    losses = [[entry["loss"] for entry in found["history"] if "loss" in entry] for found in results]
    assert len(losses[0]) == 7
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    one, two = (load_file(run / "model" / "model.safetensors") for run in runs)
    assert one.keys() == two.keys()
    for weight, values in one.items():
        np.testing.assert_allclose(values, two[weight], atol=2e-4, err_msg=weight)
    assert results[0]["checkpoint"] == results[1]["checkpoint"]
    assert results[1]["reload_gate"]["merged_max_difference"] < 1e-4
    assert {path.name for path in runs[0].iterdir()} == {path.name for path in runs[1].iterdir()}


def test_a_run_in_shards_goes_on_from_the_middle_of_an_epoch(sharded, recipes):
    """After the first of the second epoch's three steps, the last of which has 5 rows for 4 + 4."""
    checkpoint = Path("checkpoints", "checkpoint-4")
    shutil.copytree(sharded / "lora" / checkpoint, sharded / "cut.partial" / checkpoint)
    run_in_shards(sharded, [*recipes["lora"], 4, "--run_dir", "cut", "--resume"])
    whole, cut = (load_file(sharded / name / "adapter" / "adapter_model.safetensors") for name in ("lora", "cut"))
    assert whole.keys() == cut.keys()
    assert all(np.array_equal(whole[name], cut[name]) for name in whole)


def test_what_is_not_done_in_shards_is_refused(tiny_checkpoint, run_recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    words = ["finetune", *ROWS, *QUICK, "--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", "run"]
    code, _, err = run_recipe(*words)
    assert (code, err.splitlines()[-1]) == (
        2,
        "error: ACCELERATE_USE_FSDP=true: Accelerate cuts a model into shards on GPUs, and here is cpu; use "
        "recipes/accelerate/cpu_two_processes.yaml",
    )
    assert run_recipe(*words, "--lora.quantize", "4bit")[::2] == (
        2,
        "error: lora.quantize: weights in four bits are not cut into shards; use recipes/accelerate/ddp.yaml\n",
    )
    assert run_recipe(*words, "--preflight.only", "true")[::2] == (
        2,
        "error: preflight.only: a model in shards is not timed beforehand; leave it out\n",
    )
    assert not (tmp_path / "run").exists()
