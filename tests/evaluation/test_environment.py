from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from startup_llm.evaluation.environment import _ask_git, describe_hardware, withhold_secrets


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    who = ["-c", "user.name=me", "-c", "user.email=me@example.com"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", folder, *words], check=True)
    return folder


@pytest.mark.parametrize("place", ["variables", "own configuration"])
def test_git_is_asked_without_starting_what_its_settings_name(place, repository, tmp_path, monkeypatch):
    payload = tmp_path / "payload"
    command = f"touch {payload}; false"
    if place == "variables":
        settings = {"COUNT": "1", "KEY_0": "core.fsmonitor", "VALUE_0": command}
        for name, value in settings.items():
            monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    else:
        subprocess.run(["git", "-C", repository, "config", "core.fsmonitor", command], check=True)
    assert _ask_git("status", "--porcelain", folder=repository) == ""
    (repository / "__init__.py").write_text("1")
    assert _ask_git("status", "--porcelain", folder=repository)
    assert not payload.exists()


def test_another_repository_named_in_the_environment_is_not_asked(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    assert len(_ask_git("rev-parse", "HEAD", folder=repository)) == 40


def test_secrets_are_withheld_and_nothing_else():
    secret = {"HF_TOKEN": "x", "WANDB_API_KEY": "x", "DB_PASSWORD": "x", "HF_TOKEN_PATH": "/home/me/token"}
    plain = {"TOKENIZERS_PARALLELISM": "false", "PATH": "/bin", "KEYBOARD": "de", "HF_ENDPOINT": "http://127.0.0.1"}
    assert withhold_secrets(secret | plain) == plain | {"HF_TOKEN_PATH": "/dev/null"}


def test_the_hardware_says_which_vector_instructions_are_used():
    import torch

    assert f"({torch.backends.cpu.get_cpu_capability()})" in describe_hardware()
