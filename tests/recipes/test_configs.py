"""Every config is run for two steps on rows of its own form."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ALL = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
CONFIGS = [
    file
    for file in ALL
    if "recipes/finetune.py" in file.read_text() and "task" not in yaml.safe_load(file.read_text())
]
QUICK = ["--train.max_steps", "2", "--evaluation.resamples", "50", "--train.per_device_train_batch_size", "8"]
FINE = ["the parcel came today", "i like the new filter", "thanks for the quick help", "all is well here"]
POOR = ["the parcel never came", "my filter is broken", "nobody answers me", "this is the wrong item"]

GLUE_COLUMNS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}


def write_rows(folder: Path, split: str, data: dict, rows: int) -> None:
    """Write one split in the columns of the Hub dataset, other texts in each split."""
    columns = GLUE_COLUMNS.get(data.get("subset"), ("text",))
    lines = []
    for i in range(rows):
        texts = {name: f"{(FINE, POOR)[i % 2][i % 4]} {split} {i} {name}" for name in columns}
        label = {"stsb": i % 11 / 2 + 0.1, "mnli": i % 3}.get(data.get("subset"), i % 2)
        lines.append(json.dumps({**texts, "label": label, "idx": i}))
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_runs(config, run_recipe, tiny_checkpoint, tmp_path):
    content = yaml.safe_load(config.read_text())
    data = content["data"]
    given = ["train", *{data.get("validation_split", "validation"), data.get("test_split", "test"), "validation"}]
    for split in given:
        write_rows(tmp_path, split, data, 32 if split == "train" else 12)
    words = ["--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", tmp_path / "run", *QUICK]
    if data["dataset"] == "helpdesk":
        words += ["--data.max_train_rows", 60, "--data.max_test_rows", 60]
    else:
        words += ["--data.data_dir", tmp_path]
    code, _, err = run_recipe("finetune", "--config", config, *words)
    assert code == 0, err[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["method"] == content["method"]
    assert results["decides"] == content.get("evaluation", {}).get("decides", "accuracy")
    overlap = [note for note in results["data"]["notes"] if "stand in" in note and "test" in note]
    assert not overlap, overlap


@pytest.mark.parametrize("config", ALL, ids=lambda path: path.stem)
def test_a_config_s_header_tells_its_command(config):
    command = r"^# (?:accelerate launch|python) recipes/(\w+)\.py --config (\S+)$"
    commands = re.findall(command, config.read_text(), re.MULTILINE)
    assert len(commands) == 1
    recipe, named = commands[0]
    assert (ROOT / "recipes" / f"{recipe}.py").is_file()
    assert named == f"recipes/configs/{config.name}"
