"""Opening an address, and answering there until a signal ends it."""

from __future__ import annotations

import functools
import importlib.util
import ipaddress
import os
import socket
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from startup_llm.config import ServeConfig
from startup_llm.errors import UserError, explain_os_error

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

KEY_VARIABLE = "STARTUP_LLM_API_KEY"
SHORTEST_KEY = 16
KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than clients and proxies keep theirs, or a request that is sent just
when the server closes the connection is lost."""
WORKER_SECONDS = 30
"""How long a worker may give no sign of life, as while it imports its libraries, before another takes its place."""


def require_packages() -> None:
    """Refuse to serve without the packages of the extra.

    Raises:
        UserError: If one is missing.
    """
    packages = ("fastapi", "uvicorn", "prometheus_client")
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise UserError(f"serving needs {', '.join(missing)}; pip install 'startup-llm[serve]'")


def read_key(config: ServeConfig) -> str | None:
    """Return the key that clients have to send; None asks for none, which is for this machine alone.

    Raises:
        UserError: If there is none and others can reach the address, or if it is easily guessed.
    """
    key = os.environ.get(KEY_VARIABLE)
    if key is None:
        if not is_loopback(config.host):
            raise UserError(
                f"host {config.host!r} can be reached by others; set {KEY_VARIABLE} to a long random key that clients "
                "send, or leave out --host"
            )
        return None
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"{KEY_VARIABLE}: expected {SHORTEST_KEY} or more ASCII characters without blanks, got {len(key)}; make "
            "one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return key


def is_loopback(host: str) -> bool:
    """Return whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_socket(config: ServeConfig) -> socket.socket:
    """Listen at the address, before anything that takes time.

    Raises:
        UserError: If it cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        reason = explain_os_error(error)
        raise UserError(f"host {config.host!r}, port {config.port}: {reason}; name another --port or --host") from None
    return opened


def build_server(app: FastAPI, config: ServeConfig) -> uvicorn.Server:
    """Return what speaks HTTP for an application."""
    import uvicorn

    return uvicorn.Server(_build_settings(app, config))


def _build_settings(app: Any, config: ServeConfig, **more: Any) -> uvicorn.Config:
    import uvicorn

    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(config.timeout_seconds) + 1,
        **more,
    )


def _listen(opened: socket.socket, settings: uvicorn.Config) -> str:
    """Listen, and return the address; who comes before the first answer waits for it."""
    opened.listen(settings.backlog)
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(app: FastAPI, opened: socket.socket, config: ServeConfig, tell: Callable[[str], None]) -> None:
    """Answer requests until SIGINT or SIGTERM; those that are on their way then are answered still.

    Args:
        app: What answers.
        opened: Where.
        config: The options.
        tell: Called with the address when it listens.
    """
    server = build_server(app, config)
    tell(_listen(opened, server.config))
    try:
        server.run(sockets=[opened])
    except KeyboardInterrupt:  # uvicorn raises the signal again after it has stopped in order
        return
    finally:
        opened.close()


def run_workers(opened: socket.socket, config: ServeConfig, tell: Callable[[str], None]) -> None:
    """Let several processes answer until SIGINT or SIGTERM, and start another one for each that dies.

    They count together in files of a temporary folder, which prometheus_client reads for each of them.

    Args:
        opened: Where.
        config: The options.
        tell: Called with the address when it listens.

    Raises:
        UserError: If a worker cannot load the model.
    """
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import Multiprocess

    from startup_llm.serving.workers import build_worker_app

    settings = _build_settings(
        functools.partial(build_worker_app, config),
        config,
        factory=True,
        workers=config.workers,
        timeout_worker_healthcheck=WORKER_SECONDS,
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // config.workers)))
    tell(_listen(opened, settings))
    with opened, tempfile.TemporaryDirectory(prefix="startup-llm-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        supervisor = Multiprocess(settings, [opened])
        supervisor.run()
    if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
        raise UserError("a worker could not start, for the reason above")
