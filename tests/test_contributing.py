"""The checklists of CONTRIBUTING.md, walked in a copy of the project."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from preloaded_python import COLD_PYTHON, PACKAGE

from startup_llm.models.scratch import SCRATCH_MODELS

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TASK_LINE = '    "language-identification": "startup_llm.tasks.language_identification.task:LanguageIdentification",\n'
SENTENCES = {
    "english": ["the house is old", "we drink water every day", "where is the station", "she reads a long book"],
    "german": ["das haus ist alt", "wir trinken jeden tag wasser", "wo ist der bahnhof", "sie liest ein langes buch"],
}
CONFIG = """# Four sentences in two languages; LoRA on a tiny BERT.
# accelerate launch recipes/finetune.py --config recipes/configs/sentences_lora.yaml
task: language-identification
model:
  checkpoint: CHECKPOINT
data:
  dataset: me/sentences
  data_dir: DATA
  lowercase: true
train:
  max_steps: 2
evaluation:
  resamples: 50
"""
CARD = """---
license: cc0-1.0
language:
- en
- de
---

# Sentences
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_checkpoint) -> Path:
    """A copy of the project with a task, a dataset and a config more, added as the checklists say."""
    project = tmp_path_factory.mktemp("project")
    for name in ("startup_llm", "recipes", "data_cards"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    example = ROOT / "tests" / "tasks" / "language_identification"
    shutil.copytree(example, project / "startup_llm" / "tasks" / example.name)
    tasks = project / "startup_llm" / "tasks" / "__init__.py"
    start = "TASKS: dict[str, str] = {\n"
    assert tasks.read_text().count(start) == 1
    tasks.write_text(tasks.read_text().replace(start, start + TASK_LINE))

    data = project / "sentences"
    data.mkdir()
    for split in ("train", "validation", "test"):
        rows = [
            json.dumps({"text": f"{text} {split} {number}", "label": language})
            for number in range(4)
            for language, texts in SENTENCES.items()
            for text in texts
        ]
        (data / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    config = CONFIG.replace("CHECKPOINT", str(tiny_checkpoint("bert"))).replace("DATA", str(data))
    (project / "recipes" / "configs" / "sentences_lora.yaml").write_text(config)
    (project / "data_cards" / "sentences.md").write_text(CARD)
    return project


@pytest.fixture
def call(project) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs Python with its words in the copy, whose package it imports."""
    environment = {**os.environ, "PYTHONPATH" if sys.executable == COLD_PYTHON else PACKAGE: str(project)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)

    return run


def test_a_task_is_one_folder_and_one_line_and_is_fine_tuned(project, call):
    done = call("recipes/finetune.py", "--config", "recipes/configs/sentences_lora.yaml", "--run_dir", "run")
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((project / "run" / "results.json").read_text())
    assert results["task"] == "language-identification"
    assert list(results["models"]) == ["majority", "linear-probe", "lora"]
    assert (project / "run" / "report.html").is_file()
    card = (project / "run" / "README.md").read_text()
    assert "language:\n- en\n- de\n" in card  # the languages of the dataset's card

    (project / "new.csv").write_text("text\nwo ist das buch\n")
    words = ["--run", "run", "--input", "new.csv", "--output", "answers.csv"]
    done = call("recipes/predict.py", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (project / "answers.csv").read_text().startswith("text,label,score\nwo ist das buch,")


def test_a_task_s_own_option_is_in_its_help_alone(call):
    own = call("recipes/finetune.py", "--task", "language-identification", "--help")
    other = call("recipes/finetune.py", "--help")
    assert "--data.lowercase" in own.stdout
    assert "--data.lowercase" not in other.stdout


def test_a_dataset_with_a_card_and_a_config_is_in_the_index(project, call):
    done = call("-m", "startup_llm.runs.config_index", "recipes/configs", "recipes/results")
    assert done.returncode == 0, done.stderr
    index = (project / "recipes" / "configs" / "README.md").read_text()
    assert "## language-identification" in index
    assert "[me/sentences](../../data_cards/sentences.md)" in index


@pytest.mark.parametrize("name", SCRATCH_MODELS)
def test_a_reference_model_has_a_proof_in_the_tests(name):
    module = SCRATCH_MODELS[name].partition(":")[0].rpartition(".")[2]
    assert (ROOT / "startup_llm" / "models" / "scratch" / f"{module}.py").is_file()
    assert (ROOT / "tests" / "models" / "scratch" / f"test_{module}.py").is_file()


def test_the_guide_names_what_is_there():
    assert TASK_LINE.strip() in GUIDE
    for path in re.findall(r"`((?:startup_llm|tests|recipes|data_cards|docs)/[\w/.]+)`", GUIDE):
        assert re.search("NAME|FILE", path) or (ROOT / path).exists(), path
    folders = {path.name for path in (ROOT / "startup_llm").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {name for name in folders if f"`startup_llm/{name}/`" not in GUIDE} == set()
