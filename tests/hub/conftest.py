from __future__ import annotations

import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants, file_download
from huggingface_hub.utils import _http, disable_progress_bars, enable_progress_bars
from loopback_hub import TOKEN, LoopbackHub


@pytest.fixture
def hurried_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's client waits for nothing before it tries again."""
    clock = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", clock)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hurried_client: None) -> Iterator[LoopbackHub]:
    """A hub, and this process's client logged in to it as `me`."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    disable_progress_bars()
    with LoopbackHub(tmp_path / "hub") as hub:
        yield hub
        close_session()
    enable_progress_bars()
