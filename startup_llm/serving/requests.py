"""What is done with every request before and after it is answered: its key, its limits, its figures and its log."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from startup_llm.serving.figures import Figures

OPEN_PATHS = ("/health", "/ready", "/docs", "/openapi.json")
"""What a client without the key may ask for, beside the page at / ; nothing of it tells the run's texts."""


class RequestGate:
    """ASGI middleware: refuses requests without the key or with too large or too slow a body, counts and logs them.

    Args:
        app: What answers.
        key: What `Authorization: Bearer KEY` has to say; None asks for none.
        max_body_bytes: Size of a body.
        timeout_seconds: How long a body may take to arrive.
        figures: What counts requests.
        log: Gets a line of JSON for each request; None writes no log.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        key: str | None,
        max_body_bytes: int,
        timeout_seconds: float,
        figures: Figures,
        log: Callable[[str], None] | None,
    ) -> None:
        self._app, self._figures, self._log = app, figures, log
        self._key = None if key is None else key.encode()
        self._max_body_bytes, self._timeout_seconds = max_body_bytes, timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, log = time.perf_counter(), 0, {}
        scope["request_log"] = log

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if (refusal := self._refuse(scope)) is not None:
                await refusal(scope, receive, note_status)
            else:
                await self._app(scope, self._limit(receive), note_status)
        except Exception:
            status = 500
            raise
        finally:
            seconds = time.perf_counter() - started
            path = getattr(
                scope.get("route"), "path", "other"
            )  # a client's own path is no label: it could be anything
            self._figures.count_request(path, status, seconds)
            if self._log is not None:
                line = {
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round(1e3 * seconds, 1),
                }
                self._log(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **line, **log}))

    def _refuse(self, scope: Scope) -> JSONResponse | None:
        headers = dict(scope["headers"])
        is_open = scope["path"] in OPEN_PATHS or (scope["path"], scope["method"]) == ("/", "GET")
        if self._key is not None and not is_open:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            if not (hmac.compare_digest(token.strip(), self._key) and scheme.lower() == b"bearer"):
                reason = "no valid key; send the header Authorization: Bearer KEY"
                return JSONResponse({"error": reason}, 401, {"WWW-Authenticate": "Bearer"})
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_body_bytes:
            return JSONResponse({"error": self._explain_size()}, 413)
        return None

    def _explain_size(self) -> str:
        return f"the body is larger than {self._max_body_bytes:,} bytes; send fewer rows at once"

    def _limit(self, receive: Receive) -> Receive:
        """Return a `receive` that raises what the app answers with where a body is too large or too slow."""
        size, is_whole = 0, False
        end = time.monotonic() + self._timeout_seconds

        async def receive_limited() -> Message:
            nonlocal size, is_whole
            if is_whole:  # what follows is a disconnect, which may take as long as the answer
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), end - time.monotonic())
            except asyncio.TimeoutError:
                reason = f"the body did not arrive within {self._timeout_seconds:g} s"
                raise HTTPException(408, reason, {"Connection": "close"}) from None
            size += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if size > self._max_body_bytes:
                raise HTTPException(413, self._explain_size(), {"Connection": "close"})
            return message

        return receive_limited


def add_to_log(scope: Scope, **values: Any) -> None:
    """Add to a request's line of the log."""
    scope["request_log"].update(values)
