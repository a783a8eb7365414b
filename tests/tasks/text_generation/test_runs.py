"""A GPT from scratch, and LoRA on it as on any checkpoint: the configs, run for a few steps on a short text."""

from __future__ import annotations

import contextlib
import json
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "recipes" / "configs"
TEXT = "".join(f"ANNA {number % 7}:\nWhat news, my lord of {'abcdefg'[number % 5]}?\n\n" for number in range(400))
QUICK = ["--evaluation.resamples", 50, "--train.disable_tqdm", "true"]


@pytest.fixture
def call(monkeypatch, capsys):
    """Return a function that runs a recipe in this process and returns its results."""

    def run(recipe: str, folder: Path, *words: object) -> dict:
        path = str(ROOT / "recipes" / f"{recipe}.py")
        monkeypatch.setattr(sys, "argv", [path, *map(str, [*words, "--run_dir", folder, *QUICK])])
        with contextlib.suppress(SystemExit):
            runpy.run_path(path, run_name="__main__")
        assert (folder / "results.json").is_file(), capsys.readouterr().err[-2000:]
        return json.loads((folder / "results.json").read_text())

    return run


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "input.txt").write_text(TEXT)
    return folder


@pytest.mark.slow
def test_the_five_minute_config_runs(call, text, tmp_path):
    words = ["--data.data_dir", text, "--model.width", 16, "--model.layers", 1, "--train.max_steps", 2]
    results = call("pretrain", tmp_path / "gpt", "--config", CONFIGS / "shakespeare_gpt_longer.yaml", *words)
    assert results["decides"] == "bits_per_byte"


@pytest.mark.fresh_gate
def test_a_gpt_is_pretrained_and_then_fine_tuned_with_lora(call, text, tmp_path):
    small = ["--data.data_dir", text, "--model.width", 32, "--model.layers", 2, "--train.max_steps", 40]
    small += ["--train.warmup_steps", 5, "--train.learning_rate", 1e-2]
    first = call("pretrain", tmp_path / "gpt", "--config", CONFIGS / "shakespeare_gpt.yaml", *small)
    assert first["decides"] == "bits_per_byte"
    assert set(first["lower_is_better"]) == {"bits_per_byte", "loss", "perplexity", "byte_perplexity"}
    assert {"character-unigram", "character-trigram", "character-sixgram", "gpt"} == set(first["models"])
    assert first["models"]["gpt"]["loss"]["value"] < first["models"]["character-unigram"]["loss"]["value"]
    assert first["reload_gate"]["pipeline_max_difference"] == 0
    samples = [item for item in first["gallery"] if "after epoch" in item["title"]]
    assert samples[-1] == first["gallery"][-1]
    assert 1 <= len(samples) <= 10
    for item in (first["gallery"][2], *samples):
        prompt, written = item["pairs"][0]
        assert prompt in TEXT
        assert 0 < len(written) <= 65
    words = ["--data.data_dir", text, "--model.checkpoint", tmp_path / "gpt" / "model"]
    words += ["--train.max_steps", 20, "--data.test_fraction", 0.1]
    second = call("finetune", tmp_path / "lora", "--config", CONFIGS / "shakespeare_gpt_lora.yaml", *words)
    assert (tmp_path / "lora" / "adapter" / "adapter_model.safetensors").is_file()
    assert second["reload_gate"]["adapter_max_difference"] <= second["reload_gate"]["tolerance"]
    assert second["models"]["lora"]["loss"]["value"] < first["models"]["gpt"]["loss"]["value"]
    assert second["checkpoint"]["trainable_parameters"] < second["checkpoint"]["parameters"]
    assert "after epoch" in second["gallery"][-1]["title"]
