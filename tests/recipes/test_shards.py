"""Runs whose model is in shards (FSDP2, ZeRO-3) over two CPU processes, against runs of one process."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from startup_llm.errors import UserError
from startup_llm.training.shards import check_checkpoint
from startup_llm.written_files import Marker

ROOT = Path(__file__).parents[2]
LAUNCHER = ["-m", "accelerate.commands.launch", "--num_processes", 2, "--main_process_port", 0]
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


def run_in_shards(way: str, folder: Path, *commands: list[object]) -> None:
    """Run recipes, each given by its name and its options, one after another in the same two processes."""
    words: list[object] = [sys.executable, *LAUNCHER, "--config_file", ROOT / "recipes" / "accelerate" / f"{way}.yaml"]
    words.append(ROOT / "tests" / "recipes" / "shard_on_cpu.py")
    for recipe, *options in commands:
        words += [ROOT / "recipes" / f"{recipe}.py", *options, "--next"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if way == "fsdp2":
        environment["ACCELERATE_USE_CPU"] = "true"  # by which Accelerate would leave DeepSpeed out
    done = subprocess.run(
        [str(word) for word in words[:-1]],
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


@pytest.fixture(scope="module", params=["fsdp2", "deepspeed_zero3"])
def way(request) -> str:
    """How a model is cut: a file of Accelerate's."""
    if request.param == "deepspeed_zero3" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    return request.param


@pytest.fixture(scope="module")
def sharded(way, recipes, tmp_path_factory) -> Path:
    """The folder in which every recipe has run in shards."""
    folder = tmp_path_factory.mktemp("sharded")
    write_data(folder)
    run_in_shards(way, folder, *([*words, 4, "--run_dir", name] for name, words in recipes.items()))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of the runs of one process, which each test leaves to those of the other way."""
    folder = tmp_path_factory.mktemp("whole")
    write_data(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lora", "gpt"])
def test_a_model_in_shards_gives_one_processs_losses_and_weights(
    sharded, whole, recipes, run_recipe, monkeypatch, name
):
    monkeypatch.chdir(whole)
    if not (whole / name).exists():
        assert run_recipe(*recipes[name], 8, "--run_dir", name)[0] == 0
    runs = whole / name, sharded / name
    results = [json.loads((run / "results.json").read_text()) for run in runs]
    losses, measured = (
        [[entry[key] for entry in found["history"] if key in entry] for found in results]
        for key in ("loss", "eval_loss")
    )
    assert len(losses[0]) == 7
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert bool(measured[0]) == (name != "lora")
    assert measured[0] == pytest.approx(measured[1], abs=1e-4)
    one, two = (load_file(run / "model" / "model.safetensors") for run in runs)
    assert one.keys() == two.keys()
    for weight, values in one.items():
        np.testing.assert_allclose(values, two[weight], atol=2e-4, err_msg=weight)
    assert results[0]["checkpoint"] == results[1]["checkpoint"]
    assert results[1]["reload_gate"]["merged_max_difference"] < 1e-4
    assert {path.name for path in runs[0].iterdir()} == {path.name for path in runs[1].iterdir()}


@pytest.mark.slow
def test_a_run_in_shards_goes_on_from_the_middle_of_an_epoch(way, sharded, recipes):
    """After the first of the second epoch's three steps, the last of which has 5 rows for 4 + 4."""
    checkpoint = Path("checkpoints", "checkpoint-4")
    assert (sharded / "lora" / checkpoint / "global_step4").exists() == (way == "deepspeed_zero3")
    shutil.copytree(sharded / "lora" / checkpoint, sharded / "cut.partial" / checkpoint)
    Marker().write(sharded / "cut.partial")
    run_in_shards(way, sharded, [*recipes["lora"], 4, "--run_dir", "cut", "--resume"])
    whole, cut = (load_file(sharded / name / "adapter" / "adapter_model.safetensors") for name in ("lora", "cut"))
    assert whole.keys() == cut.keys()
    assert all(np.array_equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize(
    ("wrote", "asked", "told"),
    [
        (2, True, None),
        (0, False, None),
        (2, False, "was written in 2 processes of DeepSpeed, and this run is without DeepSpeed"),
        (4, True, "was written in 4 processes of DeepSpeed, and this run is in 2 processes of DeepSpeed"),
        (0, True, "was written without DeepSpeed, and this run is in 2 processes of DeepSpeed"),
    ],
)
def test_a_run_goes_on_under_deepspeed_as_it_began(monkeypatch, tmp_path, wrote, asked, told):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", str(asked))
    parts = tmp_path / "global_step4"
    parts.mkdir()
    for rank in range(wrote):
        (parts / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    if told is None:
        check_checkpoint(tmp_path, 2)
        return
    with pytest.raises(UserError) as raised:
        check_checkpoint(tmp_path, 2)
    assert str(raised.value) == f"--resume: {tmp_path} {told}; start it as it was started"


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
