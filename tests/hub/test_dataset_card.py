from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard, constants
from loopback_hub import SIZE_CATEGORIES

from startup_llm.config import DataConfig
from startup_llm.data.sources import list_shipped_datasets
from startup_llm.hub.dataset_card import read_dataset_card
from startup_llm.hub.dataset_figures import count_rows, fill_card, list_named_configs, load_rows, read_config
from startup_llm.tasks.vision.labelled_images import DIGITS

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "data_cards"
CONFIGS = ROOT / "recipes" / "configs"
REAL_FOLDERS = {"go_emotions": "goemotions", "tiny_shakespeare": "tinyshakespeare", "wnut_17": "wnut17"}
"""Folder of the real data by the card's name, where they differ."""
FILES = sorted(path.name for path in CARDS.glob("*.md"))
WITHOUT_WORDS = {"image-classification", "object-detection", "image-segmentation", "unconditional-image-generation"}


def list_uses() -> list[tuple[str, str, dict]]:
    """Return where a data set is named, for which task, and the `data` section, over all configs and suites."""
    uses = []
    for path in sorted(CONFIGS.glob("*.yaml")):
        config = yaml.safe_load(path.read_text())
        if "dataset" in (config.get("data") or {}):
            uses.append((path.stem, config.get("task", "text-classification"), config["data"]))
    for path in sorted((ROOT / "recipes" / "suites").glob("*.yaml")):
        for name, entry in yaml.safe_load(path.read_text()).items():
            uses.append((f"{path.stem}-{name}", entry.get("task", "text-classification"), entry["data"]))
    return uses


def card_of(data: dict) -> DatasetCard:
    return DatasetCard.load(CARDS / f"{data['dataset'].rsplit('/', 1)[-1]}.md")


def infos_of(card: DatasetCard) -> list[dict]:
    """Return the card's `dataset_info`, one for each subset."""
    infos = card.data.to_dict()["dataset_info"]
    return infos if isinstance(infos, list) else [infos]


def is_at_hand(config: str) -> bool:
    data = read_config(CONFIGS / f"{config}.yaml")[1]
    return data.named_dataset in (*list_shipped_datasets(), DIGITS)


def list_figures(file: str) -> list[str]:
    return list_named_configs((CARDS / file).read_text(encoding="utf-8"))


WITH_FIGURES = [file for file in FILES if list_figures(file)]
AT_HAND = [file for file in WITH_FIGURES if all(map(is_at_hand, list_figures(file)))]
LONG = ("banking77.md", "go_emotions.md", "multi30k.md", "wnut_17.md")
ELSEWHERE = [file for file in WITH_FIGURES if file not in AT_HAND]


@pytest.mark.parametrize("data", [DataConfig(), DataConfig(dataset="helpdesk")])
def test_the_shipped_dataset_has_its_card(data):
    assert read_dataset_card(data, CARDS) == {"license": "cc-by-4.0", "language": ["en"]}


def test_a_hub_dataset_with_a_card_at_hand_needs_no_network():
    assert read_dataset_card(DataConfig(dataset="PolyAI/banking77"), CARDS)["license"] == "cc-by-4.0"


def test_rows_of_ones_own_have_no_card():
    assert read_dataset_card(DataConfig(train_file="tickets.csv"), CARDS) == {}


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_that_cannot_be_reached_costs_the_licence_and_not_the_run(monkeypatch, hurried_client, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert read_dataset_card(DataConfig(dataset="owner/rows"), CARDS) == {}


@pytest.mark.parametrize(
    ("use", "task", "data"), list_uses(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_dataset_that_is_named_has_a_card_for_its_task_and_subset(use, task, data):
    card = card_of(data)
    assert task in card.data.task_categories
    subsets = {info.get("config_name", "default") for info in infos_of(card)}
    assert data.get("subset", "default") in subsets or subsets == {"default"}
    splits = {split["name"] for info in infos_of(card) for split in info["splits"]}
    if "data_dir" not in data:
        assert {data[key] for key in ("train_split", "validation_split", "test_split") if key in data} <= splits


def test_no_card_is_of_a_dataset_that_nobody_names():
    assert {f"{data['dataset'].rsplit('/', 1)[-1]}.md" for _, _, data in list_uses()} == set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_a_card_says_what_the_hub_asks_for_and_the_hub_takes_it(hub, monkeypatch, file):
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    card = DatasetCard.load(CARDS / file)
    card.validate(repo_type="dataset")
    assert ("POST", "/api/validate-yaml") in hub.requests
    assert card.data.pretty_name
    assert card.data.license
    assert card.data.language or set(card.data.task_categories) <= WITHOUT_WORDS
    (size,) = card.data.size_categories
    least, most = SIZE_CATEGORIES[size]
    assert least <= sum(split["num_examples"] for info in infos_of(card) for split in info["splits"]) < most
    for section in ("Use and limits", "Licence"):
        assert f"## {section}" in card.text or f"## {section.split()[0]}\n" in card.text


@pytest.mark.parametrize("file", FILES)
def test_a_card_says_what_its_rows_must_not_be_used_for(file):
    (use,) = re.findall(r"^## Use.*?(?=^## )", (CARDS / file).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert re.search(r"\bmust\s+not\b|^Not for:", use, re.MULTILINE)


def test_a_card_that_the_hub_does_not_take_is_refused(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    card = DatasetCard("---\nlicense: mit\ntask_categories:\n- intent-classification\n---\n# Rows\n")
    with pytest.raises(ValueError, match="intent-classification"):
        card.validate(repo_type="dataset")


@pytest.mark.parametrize("file", AT_HAND)
def test_a_card_of_rows_at_hand_has_their_figures(file):
    check_figures(file, data_dir=None)


def test_rows_at_hand_have_figures_in_their_card():
    named = {data.get("dataset"): use for use, _, data in list_uses()}
    for name in (*list_shipped_datasets(), DIGITS):
        assert list_figures(f"{name}.md"), named[name]


@pytest.mark.real_data
@pytest.mark.parametrize("file", [pytest.param(file, marks=[pytest.mark.slow] * (file in LONG)) for file in ELSEWHERE])
def test_a_card_of_real_rows_has_their_figures(file, real_data, tmp_path):
    name = file.removesuffix(".md")
    folder = real_data / REAL_FOLDERS.get(name, name)
    check_figures(file, write_emotions(folder, tmp_path) if name == "go_emotions" else folder)


def write_emotions(folder: Path, target: Path) -> Path:
    """Write GoEmotions as its card says: JSON lines of text and names of labels, for tables of text and numbers."""
    names = (folder / "labels.txt").read_text("utf-8").split()
    for split, file in {"train": "train", "validation": "dev", "test": "test"}.items():
        with (target / f"{split}.jsonl").open("w", encoding="utf-8") as lines:
            for row in (folder / f"{file}.tsv").read_text("utf-8").split("\n")[:-1]:
                text, labels, _ = row.split("\t")
                values = {"text": text, "labels": [names[int(number)] for number in labels.split(",")]}
                lines.write(json.dumps(values, ensure_ascii=False) + "\n")
    return target


def check_figures(file: str, data_dir: Path | None) -> None:
    """Compute a card's figures anew, and compare the text and the front matter with them."""
    text = (CARDS / file).read_text(encoding="utf-8")
    assert fill_card(text, CONFIGS, data_dir) == text
    rows = load_rows(*read_config(CONFIGS / f"{list_figures(file)[0]}.yaml"), data_dir)
    (info,) = infos_of(DatasetCard(text))
    assert count_rows(rows) == {split["name"]: split["num_examples"] for split in info["splits"]}
