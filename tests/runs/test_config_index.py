"""The index of recipes/configs is current, and tells what a config is."""

from __future__ import annotations

from pathlib import Path

import pytest

from startup_llm.errors import UserError
from startup_llm.runs.config_index import build_index, main, read_experiment

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "recipes" / "configs"


def test_the_index_is_that_of_the_configs_and_the_results():
    command = "python -m startup_llm.runs.config_index recipes/configs recipes/results"
    current = (CONFIGS / "README.md").read_text(encoding="utf-8")
    assert current == build_index(CONFIGS, ROOT / "recipes" / "results"), f"write it again: {command}"
    assert current.count(".yaml) |") == len(list(CONFIGS.glob("*.yaml")))


def test_a_config_is_described_by_its_comment_and_its_sections(tmp_path):
    config = tmp_path / "a_b.yaml"
    config.write_text(
        "# Two lines\n# of text.\n# accelerate launch recipes/pretrain.py --config recipes/configs/a_b.yaml\n"
        "task: text-generation\nmodel:\n  name: gpt\ndata:\n  dataset: me/mine\n  subset: small\n"
    )
    experiment = read_experiment(config)
    assert experiment.description == "Two lines of text."
    assert (experiment.task, experiment.recipe) == ("text-generation", "recipes/pretrain.py")
    assert (experiment.dataset, experiment.checkpoint) == ("me/mine, small", "from scratch: gpt")


def test_a_config_without_a_command_is_named(tmp_path):
    (tmp_path / "broken.yaml").write_text("task: summarization\n")
    with pytest.raises(UserError, match=r"broken\.yaml: its first comment has no command"):
        main(str(tmp_path), str(tmp_path))
