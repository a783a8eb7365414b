"""Answer requests over HTTP with a finished run's model.

python recipes/serve.py --run runs/helpdesk-lora
curl http://127.0.0.1:8000/predict -H 'Content-Type: application/json' -d '{"inputs": "where is my parcel?"}'
python recipes/serve.py --run runs/production --watch_seconds 5
python recipes/serve.py --run runs/helpdesk-lora --workers 4
python recipes/serve.py --run runs/smollm2-chat --chat
STARTUP_LLM_API_KEY=... python recipes/serve.py --run runs/helpdesk-lora --host 0.0.0.0 --port 8080
"""

import os
import socket
import sys

from startup_llm.command_line import read_session
from startup_llm.config import ServeConfig
from startup_llm.errors import run_recipe
from startup_llm.reporter import Reporter
from startup_llm.session import Session


def main() -> None:
    serve(read_session(__file__, ServeConfig, Reporter(sys.stdout), one_process=True))


def serve(session: Session[ServeConfig]) -> None:
    from startup_llm.serving.server import open_socket, read_key, require_packages, run_server

    config = session.config
    if config.chat:
        start_chat_server(session)
    require_packages()
    key, opened = read_key(config), open_socket(config)
    if config.workers > 1:
        return serve_with_workers(session, opened)

    with session.stage("model"):
        from startup_llm.serving.app import Service, build_app
        from startup_llm.serving.served_model import load_served_model

        model = load_served_model(config, config.run)
    app = build_app(Service(config, model, key), log=session.report)

    def tell(address: str) -> None:
        session.report(
            f"{config.run}: {model.task.tag}, {model.model.describe()}, at {address}",
            f"open {address} to try it; POST {address}/predict answers rows; {address}/docs describes all",
            *(f"{what}" for what in [model.note] if what),
        )
        if other := model.task.predictor.find_other_server(model.model.checkpoint.path):
            session.report(f"for chats with streaming, at /v1/chat/completions: add --chat, or run {other}")

    run_server(app, opened, config, tell)
    session.report("stopped; every request that had arrived was answered")


def serve_with_workers(session: Session[ServeConfig], opened: socket.socket) -> None:
    from startup_llm.runs.prediction import find_run, follow_run
    from startup_llm.serving.server import run_workers

    config = session.config
    task, _, _ = find_run(follow_run(config))
    what = f"{config.run}: {task.tag}, {config.workers} workers"
    run_workers(opened, config, lambda address: session.report(f"{what}, at {address}"))
    session.report("stopped; every request that had arrived was answered")


def start_chat_server(session: Session[ServeConfig]) -> None:
    """Become transformers' own server, which gets the signals then."""
    from startup_llm.serving.chat_server import build_chat_command

    config = session.config
    command = build_chat_command(config)
    session.report(f"{config.run}: chats at http://{config.host}:{config.port}/v1/chat/completions; Ctrl-C ends it")
    os.execv(command[0], command)


if __name__ == "__main__":
    run_recipe(main)
