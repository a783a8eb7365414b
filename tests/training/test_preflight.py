"""What will not fit is said before training, with what will."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from startup_llm.training import preflight
from startup_llm.training.preflight import propose_settings, read_available_memory_bytes
from startup_llm.training.trainer import HeadTrainer

RECIPE = Path(__file__).parents[2] / "recipes" / "finetune.py"
SIZES = {"available_bytes": 4 * 2**30, "fixed_bytes": 2**30, "activation_bytes": 6 * 2**30, "tokens": 4096}
MODEL = {"longest": 128, "trained": 10**6, "full": False, "can_probe": True, "plain": False}


def test_the_limit_of_a_control_group_counts(tmp_path):
    free = read_available_memory_bytes(tmp_path)
    (tmp_path / "memory.max").write_text("900000000\n")
    (tmp_path / "memory.current").write_text("800000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50000000\n")
    import psutil

    limited = read_available_memory_bytes(tmp_path)
    assert limited < free
    assert limited == pytest.approx(psutil.Process().memory_info().rss + 150_000_000, abs=20_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert read_available_memory_bytes(tmp_path) > limited


def test_the_limit_of_the_process_counts():
    code = (
        "import resource, psutil, torch\n"
        "from startup_llm.training.preflight import read_available_memory_bytes\n"
        "used = psutil.Process().memory_info()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used.vms + 10**8, -1))\n"
        "print(read_available_memory_bytes() - used.rss)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(answer.stdout) <= 10**8 + 2 * 10**7


def test_fewer_tokens_at_once_are_proposed_where_the_weights_fit():
    proposals = propose_settings(**SIZES, **MODEL)
    assert proposals[0].startswith("--speed.tokens_per_batch 16")
    assert "--method probe (about 1.00 GiB)" in proposals


def test_lora_is_proposed_for_full_and_shorter_texts_where_one_row_is_too_much():
    proposals = propose_settings(**SIZES, **{**MODEL, "full": True, "longest": 4096})
    assert proposals[0].startswith("--model.max_length_tokens 16")
    assert not any(proposal.startswith("--method lora") for proposal in proposals), "7 GiB, and there are 4"
    small = {**SIZES, "activation_bytes": 2**30}
    proposals = propose_settings(**small, **{**MODEL, "full": True, "trained": 10**9})
    assert any(proposal.startswith("--method lora (about 2.2") for proposal in proposals)
    assert not propose_settings(**{**SIZES, "fixed_bytes": 5 * 2**30}, **MODEL)


def test_a_run_that_does_not_fit_is_one_line_with_settings_that_do(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    rows = [f"hello number {i},{'ab'[i % 2]}" for i in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    words = ["--data.train_file", "rows.csv", "--model.checkpoint", str(tiny_checkpoint("bert")), "--method", "full"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(RECIPE), *words, "--run_dir", "run"])
    held = preflight.read_memory_bytes
    monkeypatch.setattr(preflight, "read_available_memory_bytes", lambda: held() + 200_000)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(RECIPE), run_name="__main__")
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: training takes about ")
    assert "what fits: " in line
    assert "--method lora (about" in line
    assert not (tmp_path / "run").exists()


def test_the_batch_of_the_longest_row_is_computed_though_another_has_more_tokens(
    tiny_checkpoint, tmp_path, monkeypatch, capsys
):
    rows = [f"{'hello ' * (60 if i == 7 else 1)}{i},{'ab'[i % 2]}" for i in range(130)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (tmp_path / "test.csv").write_text("\n".join(["text,label", *rows[:20]]) + "\n")
    words = ["--data.train_file", "rows.csv", "--data.test_file", "test.csv", "--data.validation_fraction", "0"]
    words += ["--model.checkpoint", str(tiny_checkpoint("bert")), "--train.per_device_train_batch_size", "64"]
    computed, compute = [], HeadTrainer.training_step

    def record(self: HeadTrainer, model, inputs, *more):
        computed.append(tuple(inputs["input_ids"].shape))
        return compute(self, model, inputs, *more)

    monkeypatch.setattr(HeadTrainer, "training_step", record)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(RECIPE), *words, "--preflight.only", "true"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(RECIPE), run_name="__main__")
    assert not stop.value.code
    assert (2, 64) in computed, "two batches of 64 short rows, and one of two rows, of which one is as long as can be"
    assert max(rows * length for rows, length in computed) > 2 * 64
