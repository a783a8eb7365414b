"""A server on 127.0.0.1 that speaks as OpenAI's chat completions do, and fails as it is told to."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class LoopbackLlm:
    """What the server does, and what it was asked.

    Attributes:
        answer: From the messages of a request to what is written.
        faults: Kinds of faults of the next requests, before any is answered: an HTTP status, "slow" or "garbage".
        refuses: Whether a request's messages are answered by HTTP 400.
        requests: Headers and body of every request.
        url: Its address.
    """

    answer: Callable[[list[dict[str, str]]], str]
    faults: list[int | str] = field(default_factory=list)
    refuses: Callable[[list[dict[str, str]]], bool] = lambda messages: False
    requests: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def serve_llm(llm: LoopbackLlm) -> Iterator[LoopbackLlm]:
    """Serve while the block lasts."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                llm.requests.append((dict(self.headers), body))
                fault = llm.faults.pop(0) if llm.faults else None
            if self.path != "/v1/chat/completions":
                self._reply(404, "no such path")
            elif fault == "slow":
                time.sleep(0.6)
                self._reply(200, "{}")
            elif fault == "garbage":
                self._reply(200, "<html>proxy</html>")
            elif fault is not None:
                self._reply(int(fault), f"fault; sent {self.headers.get('Authorization')}")
            elif llm.refuses(body["messages"]):
                self._reply(400, json.dumps({"error": {"message": "content filter"}}))
            else:
                text = llm.answer(body["messages"])
                usage = {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102}
                choices = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
                self._reply(200, json.dumps({"object": "chat.completion", "choices": choices, "usage": usage}))

        def _reply(self, status: int, text: str) -> None:
            content = text.encode()
            with contextlib.suppress(OSError):  # who waited has gone
                self.send_response(status)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    llm.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield llm
    finally:
        server.shutdown()
        server.server_close()
