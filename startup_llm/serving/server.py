"""Opening an address, and answering there until a signal ends it."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

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

    settings = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(config.timeout_seconds) + 1,
    )
    return uvicorn.Server(settings)


def run_server(app: FastAPI, opened: socket.socket, config: ServeConfig, tell: Callable[[str], None]) -> None:
    """Answer requests until SIGINT or SIGTERM; those that are on their way then are answered still.

    Args:
        app: What answers.
        opened: Where.
        config: The options.
        tell: Called with the address when it listens.
    """
    server = build_server(app, config)
    opened.listen(server.config.backlog)  # who comes before the first answer waits for it
    host, port = opened.getsockname()[:2]
    tell(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    try:
        server.run(sockets=[opened])
    except KeyboardInterrupt:  # uvicorn raises the signal again after it has stopped in order
        return
    finally:
        opened.close()
