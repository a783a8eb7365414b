"""A language model in a GGUF file, which llama.cpp computes; transformers reads it too."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from startup_llm.errors import UserError

GGUF_FILE = "model.gguf"
PACKAGE = "xllamacpp"
"""Carries llama.cpp, compiled."""
CONTEXT_TOKENS = 4096
"""Most tokens of a prompt and its answer; llama.cpp would reserve memory for all that the model was made for."""


def holds_gguf(folder: Path) -> bool:
    """Return whether a folder holds a model in a GGUF file."""
    return (folder / GGUF_FILE).is_file()


def has_llama_cpp() -> bool:
    """Return whether llama.cpp is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def _start_server(file: str | Path, threads: int | None, **settings: Any) -> Any:
    """Load a file into llama.cpp's own server, which answers in this process and at an address."""
    try:
        import xllamacpp
    except ImportError:
        raise UserError("a GGUF file is computed by llama.cpp; pip install 'startup-llm[llama-cpp]'") from None
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(file)
    fixed = {"n_ctx": CONTEXT_TOKENS, "n_gpu_layers": 0, "warmup": False, "verbosity": 0}
    for name, value in {**fixed, "use_jinja": True, **settings}.items():  # Jinja: the file's own chat template
        setattr(parameters, name, value)
    for part in (parameters.cpuparams, parameters.cpuparams_batch):
        part.n_threads = threads or len(os.sched_getaffinity(0))
    try:
        return xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise UserError(f"llama.cpp cannot load {file} ({error}); export the run again") from None


def serve_chats(file: str, host: str, port: int) -> None:
    """Answer at /v1/chat/completions, as OpenAI's servers do, until a signal ends it.

    Raises:
        UserError: If llama.cpp is not installed, or cannot load the file.
    """
    server = _start_server(file, None, hostnames=[host], port=port)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    del server


class LlamaCppModel:
    """A model that llama.cpp loads and computes on the CPU; the likeliest token is written at each step.

    Args:
        file: A GGUF file.
        threads: That compute; default one for each core that this process may use.

    Raises:
        UserError: If llama.cpp is not installed, or cannot load the file.
    """

    def __init__(self, file: str | Path, threads: int | None = None) -> None:
        self._server = _start_server(file, threads, n_parallel=1)

    def complete(self, prompt: str, max_tokens: int, *, ends: bool = True) -> str:
        """Return what is written after a text.

        Args:
            prompt: The text.
            max_tokens: Most tokens to write.
            ends: Whether the model may end before that.
        """
        asked = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0, "ignore_eos": not ends}
        return self._read(self._server.handle_completions(asked))["text"]

    def converse(self, messages: Sequence[Mapping[str, str]], max_tokens: int) -> str:
        """Return the answer to a conversation, in the chat template of the file.

        Args:
            messages: With `role` and `content`.
            max_tokens: Most tokens to write.
        """
        asked = {"messages": list(messages), "max_tokens": max_tokens, "temperature": 0.0}
        return self._read(self._server.handle_chat_completions(asked))["message"]["content"]

    def _read(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        if "choices" not in answer:
            raise UserError(f"llama.cpp gives no answer: {str(answer)[:200]}")
        return answer["choices"][0]
