"""Asking a large language model over HTTP, as OpenAI's chat completions do, and keeping what it answers.

https://platform.openai.com/docs/api-reference/chat, which most servers of language models speak.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from startup_llm.errors import UserError

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0
"""Between two attempts: twice as long each time, or as the server's Retry-After says."""
MOST_FAILURES = 8
"""So many failures, one after the other, end the asking: the endpoint is gone."""
_TRY_AGAIN = (408, 409, 425, 429)
_REFUSED_KEY = (401, 403)


@dataclass(frozen=True)
class ChatAnswer:
    """An answer as it is kept: a line of the answers' file.

    Attributes:
        prompt_sha256: SHA-256 of endpoint and request, by which a line is found again.
        model: The model that was asked.
        text: What it wrote; empty where the endpoint refused the prompt.
        input_tokens: Tokens of the prompt; None where the endpoint does not tell.
        output_tokens: Tokens written; None where the endpoint does not tell.
        latency_seconds: From the request to the whole answer, of the attempt that succeeded.
        dollars: Price of the tokens when they were asked for; None without prices.
        refused: What the endpoint said where it took the request for a bad one.
    """

    prompt_sha256: str
    model: str
    text: str
    input_tokens: int | None
    output_tokens: int | None
    latency_seconds: float
    dollars: float | None = None
    refused: str | None = None


class EndpointFailure(Exception):
    """The endpoint gave no answer to a request, after all attempts."""


class AnswerFile:
    """The answers' JSONL; every answer is appended as it comes.

    Args:
        path: The file, which need not exist yet.

    Raises:
        UserError: If it holds anything but answers. What stands behind the last line break is left out: a process
            that was ended wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.answers = path, {}
        self._lock = threading.Lock()
        if path.is_dir():
            raise UserError(f"baselines.llm.answers {str(path)!r} is a folder, expected a JSONL file")
        if not path.exists():
            return
        whole, _, rest = path.read_bytes().rpartition(b"\n")
        for number, line in enumerate(whole.splitlines(), start=1):
            answer = _read_line(line)
            if answer is None:
                raise UserError(
                    f"baselines.llm.answers {str(path)!r}: line {number} is no answer of a language model; name "
                    "another file"
                )
            self.answers[answer.prompt_sha256] = answer
        if rest:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size - len(rest))

    def keep(self, answer: ChatAnswer) -> None:
        """Append an answer."""
        line = json.dumps(asdict(answer), ensure_ascii=False) + "\n"
        with self._lock:
            self.answers[answer.prompt_sha256] = answer
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line.encode())


def _read_line(line: bytes) -> ChatAnswer | None:
    """Return the answer in a line; None where it holds none."""
    try:
        values = json.loads(line)
        if not isinstance(values["prompt_sha256"], str) or not isinstance(values["text"], str):
            return None
        return ChatAnswer(**{field.name: values.get(field.name) for field in fields(ChatAnswer)})
    except (ValueError, TypeError, AttributeError, KeyError):
        return None


class ChatEndpoint:
    """An endpoint that speaks as OpenAI's chat completions do.

    Args:
        base_url: Address of the API, such as https://api.openai.com/v1.
        model: Name of the model there.
        parameters: Further fields of each request; None leaves one out.
        api_key_variable: Environment variable with the key; without it requests carry none.
        timeout_seconds: How long to wait for bytes of an answer.
        attempts: How often a request is sent that fails for the time being.
        parallel_requests: Requests under way at once.
        prices: Dollars per million tokens of input and of output; None where they are not known.

    Raises:
        UserError: If the address is none, or holds a secret.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        parameters: Mapping[str, Any],
        api_key_variable: str,
        timeout_seconds: float,
        attempts: int,
        parallel_requests: int,
        prices: tuple[float | None, float | None] = (None, None),
    ) -> None:
        parts = urlsplit(base_url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UserError(
                "baselines.llm.base_url holds a user, a password or a query, which would be kept with the run; "
                f"give the plain address, and a key in the environment variable {api_key_variable}"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"baselines.llm.base_url {base_url!r}: expected an address such as https://HOST/v1")
        self.url, self.model = f"{base_url.rstrip('/')}/chat/completions", model
        self.parameters = {name: value for name, value in parameters.items() if value is not None}
        self.attempts, self.timeout_seconds, self.parallel_requests = attempts, timeout_seconds, parallel_requests
        self.prices, self.key_variable = prices, api_key_variable
        self._key = os.environ.get(api_key_variable, "")

    def build_request(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """Return the body of a request."""
        return {"model": self.model, "messages": list(messages), **self.parameters}

    def hash_request(self, request: Mapping[str, Any]) -> str:
        """Return the SHA-256 by which an answer is found again: the key has no part in it."""
        text = json.dumps([self.url, request], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def compute_dollars(self, answer: ChatAnswer) -> float | None:
        """Return what an answer costs at the prices of the tokens; None where prices or tokens are not known."""
        counts = (answer.input_tokens, answer.output_tokens)
        if None in self.prices or None in counts:
            return None
        return sum(price * count for price, count in zip(self.prices, counts, strict=True)) / 1e6

    def ask(self, request: Mapping[str, Any], *, may_refuse: bool) -> ChatAnswer:
        """Send a request until it is answered.

        Args:
            request: The body.
            may_refuse: Whether a request that the endpoint takes for a bad one is the prompt's fault, which is an
                answer, and not that of every request.

        Raises:
            EndpointFailure: If no attempt succeeded.
            UserError: If the key or the model is refused, or the very form of the request.
        """
        said = ""
        for attempt in range(self.attempts):
            try:
                status, headers, text, seconds = self._post(request)
            except OSError as error:  # timeouts and broken connections among them
                wait, said = None, self._hide(f"{type(error).__name__}: {error}")
            else:
                if status == 200 and (read := _read_answer(text)) is not None:
                    answer = ChatAnswer(self.hash_request(request), self.model, *read, seconds)
                    return ChatAnswer(**{**asdict(answer), "dollars": self.compute_dollars(answer)})
                said = self._hide(f"HTTP {status}: {' '.join(text.split())[:200]}")
                wait = headers.get("Retry-After")
                if 400 <= status < 500 and status not in _TRY_AGAIN:
                    return self._refuse(request, status, said, seconds, may_refuse=may_refuse)
            if attempt < self.attempts - 1:
                time.sleep(_choose_wait(wait, attempt))
        raise EndpointFailure(said)

    def _post(self, request: Mapping[str, Any]) -> tuple[int, Mapping[str, str], str, float]:
        import requests

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        start = time.perf_counter()
        response = requests.post(
            self.url, json=request, headers=headers, timeout=self.timeout_seconds, allow_redirects=False
        )
        response.encoding = "utf-8"
        return response.status_code, response.headers, response.text, time.perf_counter() - start

    def _refuse(
        self, request: Mapping[str, Any], status: int, said: str, seconds: float, *, may_refuse: bool
    ) -> ChatAnswer:
        if status in _REFUSED_KEY:
            state = "is refused" if self._key else "is not set"
            raise UserError(f"baselines.llm: {self.url}: {said}; the key in {self.key_variable} {state}")
        if status == 404 or not may_refuse:
            raise UserError(
                f"baselines.llm: {self.url} does not take the request for model {self.model!r}: {said}; look at "
                "baselines.llm.base_url, model and request"
            )
        return ChatAnswer(self.hash_request(request), self.model, "", None, None, seconds, refused=said)

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _choose_wait(header: str | None, attempt: int) -> float:
    try:
        seconds = float(header) if header is not None else FIRST_WAIT_SECONDS * 2**attempt
    except ValueError:  # a date
        seconds = FIRST_WAIT_SECONDS * 2**attempt
    return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)


def _read_answer(text: str) -> tuple[str, int | None, int | None] | None:
    """Return the words and the tokens of input and output; None for what is no answer."""
    try:
        content = json.loads(text)
        written = content["choices"][0]["message"]["content"]
        usage = content.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, TypeError, AttributeError, KeyError, IndexError):
        return None
    if not isinstance(written, str):
        return None
    read, wrote = (count if isinstance(count, int) else None for count in counts)
    return written, read, wrote


def ask_all(
    endpoint: ChatEndpoint,
    prompts: Sequence[Sequence[Mapping[str, str]]],
    file: AnswerFile,
    *,
    offline: bool = False,
    names: Sequence[int],
) -> tuple[list[ChatAnswer], int]:
    """Return an answer to each prompt: from the file, else from the endpoint, which the file then keeps.

    Args:
        endpoint: Whom to ask.
        prompts: Messages of each.
        file: Answers that are known, by endpoint and request.
        offline: Ask nothing.
        names: The number of each prompt's row, for a message.

    Returns:
        The answers, and how many prompts were asked now.

    Raises:
        UserError: If rows stay without an answer, which it names; the file keeps what came.
    """
    requests = [endpoint.build_request(messages) for messages in prompts]
    digests = [endpoint.hash_request(request) for request in requests]
    wanted = {digest: request for digest, request in zip(digests, requests, strict=True) if digest not in file.answers}
    if wanted and offline:
        missed = [name for name, digest in zip(names, digests, strict=True) if digest in wanted]
        raise UserError(
            f"baselines.llm.offline: {file.path} has no answer to {_name_rows(missed)}; ask for them without it"
        )
    said = _ask_wanted(endpoint, list(wanted.values()), file)
    missed = [name for name, digest in zip(names, digests, strict=True) if digest not in file.answers]
    if missed:
        kept = f"{len(names) - len(missed):,} answers are kept in {file.path}"
        raise UserError(
            f"baselines.llm: {endpoint.url} gave no answer to {_name_rows(missed)} ({said}); {kept}: run again to ask "
            "for the rest, or leave the section out"
        )
    return [file.answers[digest] for digest in digests], len(wanted)


def _ask_wanted(endpoint: ChatEndpoint, wanted: Sequence[Mapping[str, Any]], file: AnswerFile) -> str:
    """Ask for answers, the first alone, and return the last failure's words."""
    said: list[str] = []
    failures = 0

    def ask(request: Mapping[str, Any]) -> None:
        nonlocal failures
        if failures >= MOST_FAILURES:
            return
        try:
            file.keep(endpoint.ask(request, may_refuse=any(a.refused is None for a in list(file.answers.values()))))
            failures = 0
        except EndpointFailure as error:
            failures += 1
            said.append(str(error))

    for run in _run_in_turn(ask, wanted, endpoint.parallel_requests):
        run()
        if said and not file.answers:  # the first one: no other is worth its attempts
            break
    return said[-1] if said else ""


def _run_in_turn(
    ask: Callable[[Mapping[str, Any]], None], wanted: Sequence[Mapping[str, Any]], workers: int
) -> Iterator[Callable[[], None]]:
    def ask_rest() -> None:
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(ask, request) for request in wanted[1:]]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    if wanted:
        yield lambda: ask(wanted[0])
        yield ask_rest


def _name_rows(rows: Sequence[int], max_shown: int = 10) -> str:
    shown = ", ".join(map(str, rows[:max_shown])) + (", ..." if len(rows) > max_shown else "")
    return f"{len(rows):,} test row{'s' * (len(rows) != 1)} ({shown})"
