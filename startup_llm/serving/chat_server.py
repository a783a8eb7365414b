"""Chats with streaming, at /v1/chat/completions: transformers' own server with a run's model."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from startup_llm.config import ServeConfig
from startup_llm.errors import UserError
from startup_llm.run_folder import find_model
from startup_llm.serving.server import KEY_VARIABLE, is_loopback
from startup_llm.tasks import load_task

_PACKAGES = ("fastapi", "uvicorn", "pydantic", "openai")
_OPTIONS = {"run", "host", "port", "task", "chat", "compute_dtype"}
"""Options of the server that transformers' own one has too."""


def build_chat_command(config: ServeConfig) -> list[str]:
    """Return the command that starts the server.

    Args:
        config: Names the run and the address.

    Raises:
        UserError: If the run writes no texts, others could reach the address, an option has no counterpart, or a
            package is missing.
    """
    folder, results = find_model(config.run)
    tag = results.get("task", config.task)
    if load_task(tag).predictor.find_other_server(folder) is None:
        raise UserError(f"chat: {config.run} is for {tag}, which holds no chats; leave --chat out")
    defaults = ServeConfig(run=config.run)
    unread = [
        name for name, value in vars(config).items() if value != getattr(defaults, name) and name not in _OPTIONS
    ]
    if unread:
        raise UserError(f"{unread[0]}: transformers' server, which answers chats, has no such option; leave it out")
    if not is_loopback(config.host) or os.environ.get(KEY_VARIABLE):
        raise UserError(
            f"chat: transformers' server asks for no key ({KEY_VARIABLE}), so it listens on this machine alone; leave "
            "out --host and the key, and put a proxy that asks for one before it"
        )
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(f"chats need {', '.join(missing)}; pip install 'startup-llm[chat]'")
    start = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    dtype = [] if config.compute_dtype == "auto" else ["--dtype", config.compute_dtype]
    return [*start, str(Path(folder).resolve()), "--host", config.host, "--port", str(config.port), *dtype]
