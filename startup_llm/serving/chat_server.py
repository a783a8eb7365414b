"""Chats with streaming, at /v1/chat/completions: transformers' own server, or llama.cpp's for a GGUF file."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from startup_llm.config import ServeConfig
from startup_llm.errors import UserError
from startup_llm.run_folder import find_model
from startup_llm.runs.llama_cpp import GGUF_FILE, holds_gguf
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
    by_llama_cpp = holds_gguf(folder)
    server = "llama.cpp's server" if by_llama_cpp else "transformers' server"
    defaults = ServeConfig(run=config.run)
    known = _OPTIONS - {"compute_dtype"} if by_llama_cpp else _OPTIONS
    changed = [name for name, value in vars(config).items() if value != getattr(defaults, name)]
    unread = [name for name in changed if name not in known]
    if unread:
        raise UserError(f"{unread[0]}: {server}, which answers chats, has no such option; leave it out")
    if not is_loopback(config.host) or os.environ.get(KEY_VARIABLE):
        raise UserError(
            f"chat: {server} asks for no key ({KEY_VARIABLE}), so it listens on this machine alone; leave "
            "out --host and the key, and put a proxy that asks for one before it"
        )
    packages, extra = (("xllamacpp",), "llama-cpp") if by_llama_cpp else (_PACKAGES, "chat")
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise UserError(f"chats need {', '.join(missing)}; pip install 'startup-llm[{extra}]'")
    if by_llama_cpp:
        code = "import sys; from startup_llm.runs.llama_cpp import serve_chats; "
        code += "serve_chats(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
        return [sys.executable, "-c", code, str((Path(folder) / GGUF_FILE).resolve()), config.host, str(config.port)]
    start = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    dtype = [] if config.compute_dtype == "auto" else ["--dtype", config.compute_dtype]
    return [*start, str(Path(folder).resolve()), "--host", config.host, "--port", str(config.port), *dtype]
