"""Every config is run for two steps on rows of its own form, and takes from the Hub what has a revision."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from startup_llm.command_line import parse_config
from startup_llm.config import AlignConfig, CompareConfig, EvaluateConfig, FinetuneConfig, PretrainConfig
from startup_llm.gan.options import GanConfig
from startup_llm.models.checkpoints import PACKAGED
from startup_llm.runs.decision import check_decision
from startup_llm.tasks import TASKS, load_task
from startup_llm.tasks.checkpoint import name_checkpoint

ROOT = Path(__file__).parents[2]
ALL = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
CONFIGS = [
    file
    for file in ALL
    if "recipes/finetune.py" in file.read_text() and "task" not in yaml.safe_load(file.read_text())
]
LIKE_OTHERS = (
    *("banking77_smollm2", "banking77_zeroshot", "helpdesk_full", "helpdesk_probe", "helpdesk_zeroshot"),
    *("glue_cola", "glue_mnli", "glue_mrpc", "glue_qnli", "glue_qqp", "glue_rte", "glue_sst2", "glue_wnli"),
)
"""Configs of which another differs in the names of its columns, its rows or its checkpoint alone."""
CLASSES = {
    "align": (AlignConfig, True),
    "compare": (CompareConfig, False),
    "evaluate": (EvaluateConfig, False),
    "finetune": (FinetuneConfig, True),
    "pretrain": (PretrainConfig, True),
    "train_gan": (GanConfig, False),
}
"""Recipe -> its config, and whether that has a `train` section."""
QUICK = ["--train.max_steps", "2", "--evaluation.resamples", "50", "--train.per_device_train_batch_size", "8"]
FINE = ["the parcel came today", "i like the new filter", "thanks for the quick help", "all is well here"]
POOR = ["the parcel never came", "my filter is broken", "nobody answers me", "this is the wrong item"]

REVISION = re.compile(r"[0-9a-f]{40}|main|refs/(convert/parquet|pr/\d+)")

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


def write_config_s_rows(config: Path, folder: Path) -> list[object]:
    """Write rows in the form that a config reads, and return the words that name them."""
    data = yaml.safe_load(config.read_text())["data"]
    if data["dataset"] == "helpdesk":
        return ["--data.max_train_rows", 60, "--data.max_test_rows", 60]
    for split in [
        "train",
        *{data.get("validation_split", "validation"), data.get("test_split", "test"), "validation"},
    ]:
        write_rows(folder, split, data, 32 if split == "train" else 12)
    words: list[object] = ["--data.data_dir", folder]
    if "oos_file" in data:
        (folder / "oos.csv").write_text("text\n" + "".join(f"which prime is {i}\n" for i in range(20)))
        words += ["--data.oos_file", folder / "oos.csv", "--data.oos_test_file", folder / "oos.csv"]
    return words


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_rows_of_a_config_are_read_in_its_columns_and_its_primary_metric_is_measured(config, tmp_path):
    words = ["--config", str(config), *map(str, write_config_s_rows(config, tmp_path))]
    parsed = parse_config(FinetuneConfig, words, train_section=True)[0]
    task = load_task("text-classification")
    data = task.load_data(parsed.data, parsed.evaluation)
    check_decision(parsed, task, data)
    assert {name: len(rows) > 0 for name, rows in data.splits.items()}.items() >= {("train", True), ("test", True)}
    overlap = [note for note in data.notes if "stand in" in note and "test" in note]
    assert not overlap, overlap


@pytest.mark.parametrize(
    "config",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem in LIKE_OTHERS), id=path.stem) for path in CONFIGS],
)
def test_a_config_runs(config, run_recipe, tiny_checkpoint, tmp_path):
    content = yaml.safe_load(config.read_text())
    words = ["--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", tmp_path / "run", *QUICK]
    words += write_config_s_rows(config, tmp_path)
    if "upper_layers" in content.get("lora", {}):
        words += ["--lora.upper_layers", 1]  # the tiny checkpoint has two blocks
    code, _, err = run_recipe("finetune", "--config", config, *words)
    assert code == 0, err[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["method"] == content["method"]
    assert results["decides"] == content.get("evaluation", {}).get("decides", "accuracy")


@pytest.mark.parametrize("config", ALL, ids=lambda path: path.stem)
def test_a_config_s_header_tells_its_command(config):
    command = r"^# (?:accelerate launch|python) recipes/(\w+)\.py --config (\S+)$"
    commands = re.findall(command, config.read_text(), re.MULTILINE)
    assert len(commands) == 1
    recipe, named = commands[0]
    assert (ROOT / "recipes" / f"{recipe}.py").is_file()
    assert named == f"recipes/configs/{config.name}"


@pytest.mark.parametrize("config", ALL, ids=lambda path: path.stem)
def test_every_option_of_a_config_and_of_its_header_is_known_and_used_by_its_task(config, monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = list_commands(config)
    longer = [command for command in commands if len(command[1]) > 2]
    for recipe, words in longer or commands:
        kind, has_train_section = CLASSES[recipe]
        parsed = parse_config(kind, words, train_section=has_train_section)[0]
        if recipe == "evaluate":
            continue
        assert words[:2] == ["--config", f"recipes/configs/{config.name}"]
        if recipe in ("align", "finetune"):
            name_checkpoint(load_task(parsed.task), parsed.model)


@pytest.mark.parametrize("config", ALL, ids=lambda path: path.stem)
def test_what_a_config_takes_from_the_hub_has_its_revision(config):
    for section, name in (("data", "dataset"), ("model", "checkpoint"), ("encoder", "checkpoint")):
        content = yaml.safe_load(config.read_text()).get(section) or {}
        if is_hub_id(content.get(name)):
            assert REVISION.fullmatch(content.get("revision") or ""), content
        elif "revision" in content:  # a packaged checkpoint's id with a revision names the Hub's own weights
            assert content.get(name) in PACKAGED, content
            assert REVISION.fullmatch(content["revision"]), content


@pytest.mark.parametrize("tag", TASKS)
def test_each_task_has_a_config_of_a_checkpoint_and_a_data_set_of_the_hub(tag):
    contents = [yaml.safe_load(file.read_text()) for file in ALL]
    found = [one for one in contents if one.get("task", "text-classification") == tag and "checkpoint" in str(one)]
    assert any(is_hub_id(one["model"]["checkpoint"]) and is_hub_id(one["data"]["dataset"]) for one in found)


def test_each_config_is_named_by_a_test():
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("*.py"))
    others = [file.stem for file in ALL if "task" in yaml.safe_load(file.read_text())]
    assert [name for name in others if not re.search(rf"\b{name}\b", tests)] == []


@pytest.mark.slow
def test_a_config_of_images_trains_an_adapter(run_recipe, tmp_path):
    words = ["--model.checkpoint", build_vit(tmp_path / "vit"), "--train.per_device_train_batch_size", 8]
    words += ["--data.max_train_rows", 100, "--data.max_test_rows", 60]
    words += ["--data.data_dir", write_images(tmp_path / "rows")]
    run_well(run_recipe, "finetune", "cifar10_vit", tmp_path / "run", *words)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {"majority", "lora"} < set(results["models"])
    assert "adapter_max_difference" in results["reload_gate"]


def test_banking77_gpt_begins_to_write(run_recipe, tmp_path):
    rows = [json.dumps({"text": f"{(FINE + POOR)[number % 8]} {number}", "label": 0}) for number in range(60)]
    for split, part in (("train", rows[:48]), ("test", rows[48:])):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(part) + "\n")
    words = ["--data.data_dir", tmp_path, "--model.layers", 1, "--model.width", 32]
    run_well(run_recipe, "pretrain", "banking77_gpt", tmp_path / "run", *words)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["decides"] == "bits_per_byte"


def list_commands(config: Path) -> list[tuple[str, list[str]]]:
    """Return the recipe and the words of each whole command of a config's header."""
    pattern = r"^# (?:accelerate launch|python|torchrun .*?) recipes/(\w+)\.py (.*)$"
    found = re.findall(pattern, config.read_text(), re.MULTILINE)
    return [(recipe, shlex.split(words)) for recipe, words in found if "..." not in words]


def is_hub_id(name: str | None) -> bool:
    """Say whether a name is OWNER/NAME, and neither packaged nor a folder of runs."""
    return bool(name) and name.count("/") == 1 and name not in PACKAGED and not name.startswith("runs/")


def run_well(run_recipe, recipe: str, config: str, run_dir: Path, *words: object) -> None:
    path = ROOT / "recipes" / "configs" / f"{config}.yaml"
    code, _, err = run_recipe(recipe, "--config", path, "--run_dir", run_dir, *QUICK[:4], *words)
    assert code == 0, err[-3000:]


def build_vit(folder: Path) -> Path:
    """Write a tiny ViT with random weights that reads squares of 32 pixels."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_images(folder: Path) -> Path:
    """Write pictures of two kinds in the columns of CIFAR-10's Parquet files."""
    import datasets
    from PIL import Image

    generator = np.random.default_rng(0)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "light"])})
    folder.mkdir()
    for split, count in (("train", 40), ("test", 12)):
        images, labels = [], [number % 2 for number in range(count)]
        for label in labels:
            stream = io.BytesIO()
            pixels = generator.integers(128 * label, 128 * label + 128, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(stream, "png")
            images.append({"bytes": stream.getvalue(), "path": None})
        rows = datasets.Dataset.from_dict({"img": images, "label": labels}, features=features)
        rows.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder
