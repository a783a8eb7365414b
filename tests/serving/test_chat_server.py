import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from chat_checkpoints import build_chat_checkpoint

from startup_llm.config import ServeConfig
from startup_llm.errors import UserError
from startup_llm.serving import chat_server

RECIPE = Path(__file__).parents[2] / "recipes" / "serve.py"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return build_chat_checkpoint("llama", tmp_path_factory.mktemp("chat") / "model", TEMPLATE)


@pytest.fixture
def is_installed(monkeypatch):
    """As with the extra chat, wherever the tests run."""
    monkeypatch.delenv("STARTUP_LLM_API_KEY", raising=False)
    monkeypatch.setattr(chat_server.importlib.util, "find_spec", lambda name: object())


def test_the_command_is_transformers_own_server_of_the_runs_model(chat_model, is_installed):
    config = ServeConfig(run=str(chat_model), task="text-generation", chat=True, port=8123)
    command = chat_server.build_chat_command(config)
    assert command[3:] == ["serve", str(chat_model), "--host", "127.0.0.1", "--port", "8123", "--dtype", "float32"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "text-classification"}, "is for text-classification, which holds no chats"),
        ({"max_rows": 3}, "max_rows: transformers' server"),
        ({"host": "0.0.0.0"}, "asks for no key"),
    ],
)
def test_what_the_chat_server_cannot_do_is_one_line(chat_model, is_installed, options, said):
    config = ServeConfig(**{"run": str(chat_model), "task": "text-generation", "chat": True, **options})
    with pytest.raises(UserError, match=said):
        chat_server.build_chat_command(config)


def test_a_missing_package_of_chats_names_the_extra(chat_model, run_recipe, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = run_recipe("serve", "--run", chat_model, "--task", "text-generation", "--chat")
    assert (code, err.count("\n"), "startup-llm[chat]" in err) == (2, 1, True), err


@pytest.mark.slow
@pytest.mark.cold_start
def test_chats_are_answered_in_openais_form_and_streamed(chat_model, tmp_path):
    if importlib.util.find_spec("openai") is None:
        pytest.skip("needs the extra chat")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--run", str(chat_model), "--task", "text-generation", "--chat", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("STARTUP_LLM_API_KEY", None)
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, str(RECIPE), *words], stdout=log, stderr=log, env=environment)
    try:
        end = time.monotonic() + 600
        while True:
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        for stream in (False, True):
            messages = [{"role": "user", "content": "where is my parcel?"}]
            body = {"model": str(chat_model), "messages": messages, "max_tokens": 8, "stream": stream}
            address = f"http://127.0.0.1:{port}/v1/chat/completions"
            asked = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
            answer = urllib.request.urlopen(asked, timeout=60).read().decode()
            assert ("data: " in answer) == stream
            assert "chat.completion" in answer
    finally:
        server.terminate()
        server.wait()
