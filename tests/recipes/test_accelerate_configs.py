"""The launcher's own reader takes every file in recipes/accelerate."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_the_file_and_knows_every_key(file):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    assert config.num_processes >= config.num_machines


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_file_tells_its_command_and_whether_it_was_run(file):
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert f"accelerate launch --config_file recipes/accelerate/{file.name}" in head[1]
    assert "Not run for this version." in head[0] or file.stem == "cpu"
