"""No recipe speaks to another machine that it was not told to: checked with the Hub's client switched on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_checkpoints import build_chat_checkpoint
from forked_recipes import ROOT, run_forked
from preloaded_python import start_preloaded_python

from startup_llm.tasks.text_generation.chat_templates import TEMPLATES

CONFIGS = ROOT / "recipes" / "configs"
FEW = ["--evaluation.resamples", 20]
TRAIN = [*FEW, "--train.max_steps", 2, "--train.per_device_train_batch_size", 4]


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("guard") / "log"


@pytest.fixture(scope="module")
def guarded(log) -> dict[str, str]:
    """The environment of a user who is online, behind the guard."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "DISABLE_TELEMETRY"))}
    paths = os.pathsep.join([str(ROOT / "tests" / "network_guard"), str(ROOT)])
    home = {"HF_HOME": str(log.parent / "hf"), "NETWORK_GUARD_LOG": str(log), "ACCELERATE_USE_CPU": "true"}
    home["HF_TOKEN_PATH"] = os.devnull  # as in the reload gate, which the preloaded Python then starts as well
    return {**plain, **home, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def guarded_python(guarded) -> Iterator[str]:
    with start_preloaded_python(guarded) as executable:
        yield executable


@pytest.fixture(scope="module")
def work(tmp_path_factory, tiny_checkpoint) -> Path:
    """A folder with rows, preferences and tiny checkpoints, where recipes run one after another."""
    folder = tmp_path_factory.mktemp("work")
    texts = [f"{('please refund', 'where is my parcel')[n % 2]} {n},{'ab'[n % 2]}" for n in range(40)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *texts]) + "\n")
    (folder / "base").symlink_to(tiny_checkpoint("bert"))
    build_chat_checkpoint("qwen3", folder / "chat", TEMPLATES["chatml"], tie_word_embeddings=True)
    pairs = []
    for number in range(24):
        question = [{"role": "user", "content": f"where is my parcel {number}"}]
        good, bad = ([*question, {"role": "assistant", "content": f"{words} {number}"}] for words in ("here", "no"))
        pairs.append(json.dumps({"chosen": good, "rejected": bad}) + "\n")
    (folder / "train.jsonl").write_text("".join(pairs[:16]))
    (folder / "test.jsonl").write_text("".join(pairs[16:]))
    return folder


ROWS = ["--data.train_file", "rows.csv"]
BERT = ["--model.checkpoint", "base"]
COMMANDS = {
    "audit": ["audit", *ROWS, "--output", "audited"],
    "finetune": ["finetune", *ROWS, *BERT, *TRAIN, "--run_dir", "tuned"],
    "pretrain": ["pretrain", *ROWS, *TRAIN, "--run_dir", "scratch"],
    "align": [
        *["align", "--config", CONFIGS / "qwen3_dpo.yaml", "--model.checkpoint", "chat", "--data.data_dir", "."],
        *["--data.validation_fraction", 0.1, "--train.gradient_accumulation_steps", 1, *TRAIN, "--run_dir", "aligned"],
    ],
    "train_gan, images": [
        *["train_gan", "--train.epochs", 1, "--train.grids", 1, "--model.width", 4, "--generated_rows", 50, *FEW],
        *["--run_dir", "images"],
    ],
    "train_gan, texts": [
        *["train_gan", "--kind", "text", *ROWS, "--data.labels_per_class", 4, "--encoder.checkpoint", "base"],
        *["--text.epochs", 1, *FEW, "--run_dir", "texts"],
    ],
    "compare": [
        *["compare", *ROWS, "--rungs", "[majority, dnn]", "--budgets", "[4]", "--draws", 1, "--draws_of_all", 1, *FEW],
        *["--data.test_file", "rows.csv", "--options", '{"dnn": {"train.max_steps": 2}}', "--run_dir", "compared"],
    ],
    "evaluate": ["evaluate", "--model", "tuned", "--run_dir", "evaluated", *FEW],
    "predict": ["predict", "--run", "tuned", "--input", "rows.csv", "--output", "answers.csv"],
    "push": ["push", "--run", "tuned", "--repo", "me/tuned", "--dry_run", "shown"],
    "push of rows": [
        *["push", "--dataset", *ROWS, "--repo", "me/rows", "--dry_run", "rows_shown", "--license", "mit"],
        *["--allow_findings", "personal-data,duplicates-across-splits,near-duplicates-across-splits,not-searched"],
    ],
    "benchmark": [
        *["benchmark", "--ways", "[ours]", "--rows", 100, "--repetitions", 1, "--epochs", 1, *ROWS, *BERT],
        *["--run_dir", "timed"],
    ],
    "reproduce": ["reproduce", "tuned", "--yes"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_recipe_speaks_to_no_other_machine(name, guarded_python, guarded, work, log):
    log.write_text("")
    ended = run_forked(guarded_python, *COMMANDS[name], cwd=work, environment=guarded, limit_seconds=600)
    assert log.read_text() == ""
    assert ended.code == 0, ended.err[-3000:]


def test_the_guard_records_and_refuses_in_children_too(guarded, log):
    """Else the test above could not fail."""
    code = (
        "import subprocess, sys\n"
        "child = 'import socket; socket.create_connection((\"192.0.2.1\", 80), timeout=1)'\n"
        "sys.exit(subprocess.run([sys.executable, '-c', child], stderr=subprocess.DEVNULL).returncode)\n"
    )
    log.write_text("")
    assert subprocess.run([sys.executable, "-c", code], env=guarded, check=False).returncode == 1
    assert "192.0.2.1" in log.read_text()


def test_the_package_s_switches_are_set_before_any_library_reads_them(guarded):
    code = "import startup_llm.config, huggingface_hub.constants as c; print(c.HF_HUB_DISABLE_TELEMETRY)"
    done = subprocess.run([sys.executable, "-c", code], env=guarded, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
