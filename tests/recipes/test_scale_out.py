"""Runs of several processes, on one machine and on two, and runs that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from chat_checkpoints import build_chat_checkpoint
from safetensors.numpy import load_file

from startup_llm.tasks.text_generation.chat_templates import TEMPLATES

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "finetune.py"
# not what a busy machine happens to measure
SAME_PLAN = ["--speed.compute_dtype", "float32", "--speed.attention_kernel", "sdpa"]
KILLS = int(os.environ.get("STARTUP_LLM_KILLS", "2"))
"""How often a run is killed; 20 takes some minutes."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TWO_PROCESSES = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--"]


def write_rows(path: Path, rows: int) -> Path:
    """Write rows of two classes and of several lengths."""
    texts = {"greeting": "hello good morning", "parting": "goodbye see you"}
    labels = [list(texts)[number % 2] for number in range(rows)]
    lines = [f"{texts[label]} {'and so on ' * (i % 5)}{i},{label}" for i, label in enumerate(labels)]
    path.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return path


def start(folder: Path, *words: object, launcher: list[str] | None = None) -> subprocess.Popen:
    """Start the recipe in a process group of its own, its output in a file of the folder."""
    command = [sys.executable, *(launcher or []), RECIPE, *words]
    with open(folder / "output.txt", "a", encoding="utf-8") as output:
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(folder: Path, process: subprocess.Popen) -> None:
    assert process.wait(timeout=300) == 0, (folder / "output.txt").read_text()[-3000:]


def options(folder: Path, checkpoint: Path, *, rows: int, batch: int) -> list[object]:
    write_rows(folder / "train.csv", rows)
    write_rows(folder / "test.csv", 11)
    files = ["--data.train_file", "train.csv", "--data.test_file", "test.csv", "--data.validation_fraction", "0"]
    words = ["--model.checkpoint", checkpoint, "--evaluation.resamples", "50", "--train.logging_steps", "1"]
    return [*files, *words, "--train.per_device_train_batch_size", batch, *SAME_PLAN]


def talk_options(folder: Path, rows: int) -> list[object]:
    """Write conversations of several lengths and a GPT that knows their template."""
    lines = []
    for number in range(rows):
        asked, said = f"who is {number}?", f"you {'and so on ' * (number % 5)}{number}"
        lines.append(json.dumps({"prompt": asked, "completion": said}) + "\n")
    (folder / "talk").mkdir(exist_ok=True)
    for name, count in (("train", rows), ("validation", rows), ("test", 11)):
        (folder / "talk" / f"{name}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    checkpoint = build_chat_checkpoint("gpt2", folder / "gpt", TEMPLATES["chatml"])
    return ["--task", "text-generation", "--data.data_dir", folder / "talk", "--model.checkpoint", checkpoint]


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "tag"), [(45, "text-classification"), (43, "text-generation")])
def test_a_short_last_batch_gives_one_processs_losses(rows, tag, tiny_checkpoint, tmp_path):
    """45 rows leave one row to the second process in the last batch of 4 + 4, 43 rows leave it none."""
    losses, measured = [], []
    for name, launcher, batch in (("one", None, 8), ("two", TWO_PROCESSES, 4)):
        words = options(tmp_path, tiny_checkpoint("bert"), rows=rows, batch=batch)
        if tag == "text-generation":
            words = [*words[4:], *talk_options(tmp_path, rows)]
        else:
            words += ["--data.validation_file", write_rows(tmp_path / "validation.csv", rows)]
        words += ["--train.per_device_eval_batch_size", 4, "--train.num_train_epochs", 2, "--run_dir", name]
        finish(tmp_path, start(tmp_path, *words, launcher=launcher))
        history = json.loads((tmp_path / name / "results.json").read_text())["history"]
        losses.append([entry["loss"] for entry in history if "loss" in entry])
        measured.append([entry["eval_loss"] for entry in history if "eval_loss" in entry])
    assert len(losses[0]) == 12
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert len(measured[0]) == 2
    assert measured[0] == pytest.approx(measured[1], abs=1e-4)


def read_weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_weights_of_one_never_killed(tiny_checkpoint, tmp_path):
    words = options(tmp_path, tiny_checkpoint("bert"), rows=60, batch=4)
    words += ["--train.num_train_epochs", max(KILLS, 2), "--train.save_strategy", "steps", "--train.save_steps", 3]
    finish(tmp_path, start(tmp_path, *words, "--run_dir", "whole"))
    drawn, killed = random.Random(0), 0
    for kill in range(KILLS):
        checkpoints = tmp_path / "cut.partial" / "checkpoints"
        before = {folder.name for folder in checkpoints.glob("checkpoint-*")}
        process = start(tmp_path, *words, "--run_dir", "cut", *["--resume"] * bool(kill))
        while process.poll() is None and {f.name for f in checkpoints.glob("checkpoint-*")} <= before:
            time.sleep(0.01)
        time.sleep(drawn.uniform(0, 0.3))  # any place in a step, a save or after it
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
    assert killed >= min(KILLS, 2)
    finish(tmp_path, start(tmp_path, *words, "--run_dir", "cut", "--resume"))
    whole, cut = read_weights(tmp_path / "whole"), read_weights(tmp_path / "cut")
    assert all(np.array_equal(whole[name], cut[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.cold_start
def test_a_process_that_dies_ends_the_run_and_leaves_whole_checkpoints(tiny_checkpoint, tmp_path):
    import psutil

    words = options(tmp_path, tiny_checkpoint("bert"), rows=60, batch=2)
    words += ["--train.num_train_epochs", 300, "--train.save_strategy", "steps", "--train.save_steps", 5]
    process = start(tmp_path, *words, "--run_dir", "run", launcher=TWO_PROCESSES)
    checkpoints = tmp_path / "run.partial" / "checkpoints"
    while process.poll() is None and not list(checkpoints.glob("checkpoint-*/trainer_state.json")):
        time.sleep(0.05)
    workers = [
        p for p in psutil.Process(process.pid).children(recursive=True) if "finetune.py" in " ".join(p.cmdline())
    ]
    second = next(worker for worker in workers if worker.environ().get("RANK") == "1")
    os.kill(second.pid, signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    assert "-9" in (tmp_path / "output.txt").read_text()  # the launcher names the signal
    assert not (tmp_path / "run").exists()
    last = max(checkpoints.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    assert load_file(last / "adapter_model.safetensors")
    assert json.loads((last / "trainer_state.json").read_text())["global_step"] == int(last.name.split("-")[1])


@pytest.mark.slow
def test_two_machines_give_one_processs_result(tiny_checkpoint, tmp_path):
    """Two launchers that meet on loopback, each with its own rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = options(tmp_path, tiny_checkpoint("bert"), rows=48, batch=4)
    launch = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    launch += ["--master_addr", "127.0.0.1", "--master_port", str(port), "--node_rank"]
    machines = [
        start(tmp_path, *words, "--train.num_train_epochs", 1, "--run_dir", "two", launcher=[*launch, rank, "--"])
        for rank in ("0", "1")
    ]
    for machine in machines:
        finish(tmp_path, machine)
    words = options(tmp_path, tiny_checkpoint("bert"), rows=48, batch=8)
    finish(tmp_path, start(tmp_path, *words, "--train.num_train_epochs", 1, "--run_dir", "one"))
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    losses = [[entry["loss"] for entry in run["history"] if "loss" in entry] for run in (one, two)]
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert one["models"]["lora"] == two["models"]["lora"]
    assert (tmp_path / "one" / "predictions.jsonl").read_text() == (tmp_path / "two" / "predictions.jsonl").read_text()
