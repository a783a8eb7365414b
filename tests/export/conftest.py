"""A tiny finished run, and its export to int8."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MESSAGES

from startup_llm.hub.request_examples import ADDRESS

RECIPES = Path(__file__).parents[2] / "recipes"


def run_words(name: str, *words: object) -> int:
    """Run a recipe in this process, and return its exit code."""
    before, sys.argv = sys.argv, [str(RECIPES / f"{name}.py"), *map(str, words)]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv = before
    return 0


def train_probe(checkpoint: Path, folder: Path, labels: dict[str, str]) -> Path:
    """Return a finished run: a linear probe on a tiny BERT, which knows each kind of message by this name."""
    rows = [
        (f"{text} {end}", labels[kind])
        for kind, texts in MESSAGES.items()
        for text in texts
        for end in ("now", "today")
    ]
    for name, part in (("train", rows), ("test", rows[::2])):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *part])
    options = ["--method", "probe", "--model.checkpoint", checkpoint, "--data.validation_fraction", 0]
    files = ["--data.train_file", folder / "train.csv", "--data.test_file", folder / "test.csv"]
    assert run_words("finetune", *options, *files, "--speed.plan", "plain", "--run_dir", folder / "run") == 0
    return folder / "run"


def ask_docker_folder(folder: Path) -> list[dict]:
    """Return the answers that the README's call gets from the folder's command in an environment of its packages.

    No image is built: that needs a Docker daemon.
    """
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    subprocess.run([sys.executable, "-m", "venv", folder / ".venv"], check=True)
    python = folder / ".venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", "requirements.txt"]
    if subprocess.run(install, cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip("no package index can be reached")
    environment = {"PYTHONPATH": ".", "STARTUP_LLM_API_KEY": "k" * 32, "PATH": os.environ["PATH"]}
    command = [python, "recipes/serve.py", "--run", "run", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = re.search(r"http://[^\s;]+", server.stdout.readline())[0]
            call = re.search(r"^curl .*", (folder / "README.md").read_text(), re.MULTILINE)[0]
            call = call.replace(ADDRESS, address).replace("curl ", "curl --fail-with-body --silent --show-error ", 1)
            done = subprocess.run(["bash", "-c", call], env=environment, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr
        finally:
            server.terminate()
    return json.loads(done.stdout)["answers"]


def export_quickly(run: Path) -> Path:
    """Return a run's export to int8; a drop is taken, as so few rows show one by chance."""
    from startup_llm.export import timing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "ROUNDS", 1)
        patch.setattr(timing, "COLD_STARTS", 1)
        folder = run.with_name("int8")
        assert run_words("export", "--run", run, "--allow_drop", "--run_dir", folder) == 0
    return folder


@pytest.fixture(scope="session")
def finished_run(tiny_checkpoint, tmp_path_factory) -> Path:
    """A linear probe on a tiny BERT."""
    return train_probe(tiny_checkpoint("bert"), tmp_path_factory.mktemp("run"), {kind: kind for kind in MESSAGES})


@pytest.fixture(scope="session")
def exported(finished_run) -> Path:
    """The run's export to int8."""
    return export_quickly(finished_run)


@pytest.fixture(scope="session")
def exported_successor(tiny_checkpoint, tmp_path_factory) -> Path:
    """The export of a run that calls each kind of message by the name of the next."""
    kinds = list(MESSAGES)
    names = dict(zip(kinds, [*kinds[1:], kinds[0]], strict=True))
    return export_quickly(train_probe(tiny_checkpoint("bert"), tmp_path_factory.mktemp("successor"), names))
