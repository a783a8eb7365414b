"""What each of several processes does that answer at one address."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from startup_llm.config import ServeConfig
from startup_llm.errors import UserError
from startup_llm.reporter import Reporter

if TYPE_CHECKING:
    from fastapi import FastAPI


def build_worker_app(config: ServeConfig) -> FastAPI:
    """Load the model in a worker, and return the application; a fault of the user ends it, and with it the server.

    Args:
        config: The options.
    """
    from uvicorn.config import STARTUP_FAILURE

    from startup_llm.serving.app import Service, build_app
    from startup_llm.serving.served_model import load_served_model
    from startup_llm.serving.server import read_key

    threading.Thread(target=_stop_behind_parent, daemon=True).start()
    reporter = Reporter(sys.stdout)
    try:
        model = load_served_model(config, config.run)
        app = build_app(Service(config, model, read_key(config)), log=reporter.report)
    except UserError as error:
        Reporter(sys.stderr).report(f"error: {error}")
        sys.exit(STARTUP_FAILURE)
    reporter.report(f"worker {os.getpid()}: {model.task.tag}, {model.model.describe()}")
    return app


def _stop_behind_parent() -> None:
    """Stop in order where the process that started this one was killed, so that none keeps the address."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
