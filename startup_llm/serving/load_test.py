"""A load test: a real server on loopback, and clients that compare every answer with predict.py's."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import numpy as np

from startup_llm.benchmark.serving_load import summarize_load
from startup_llm.config import ServeConfig
from startup_llm.errors import UserError
from startup_llm.run_folder import follow_link
from startup_llm.runs.prediction import find_run, load_answering_model
from startup_llm.tasks.options import build_section
from startup_llm.training.reload_gate import plain_environment

if TYPE_CHECKING:
    import psutil

    from startup_llm.benchmark.options import BenchmarkConfig

TOLERANCE = 1e-5
MOST_ROWS = 512
"""Test rows that are asked in turn."""
WARM_UP_REQUESTS = 128
START_SECONDS = 300
"""How long the server may take to load its model."""
_ADDRESS = re.compile(r"at (http://\S+)$", re.MULTILINE)
_ONE_BY_ONE = ("--max_wait_ms", "0")
"""One client alone has nobody to wait for, so that its server does not wait."""


@dataclass(frozen=True)
class Question:
    """A request, and what has to come back.

    Attributes:
        body: Its JSON.
        answer: What predict.py answers to the row.
    """

    body: bytes
    answer: Mapping[str, Any]


def check_load_test(config: BenchmarkConfig) -> str:
    """Return the run that is served.

    Raises:
        UserError: If none is named, or it has no texts.
    """
    if config.run is None:
        raise UserError("--what serving needs a finished run to serve; add --run runs/NAME")
    if not config.clients:
        raise UserError("clients []: expected at least one number of clients")
    run = str(follow_link(config.run))
    task, _, results = find_run(ServeConfig(run=run))
    if not results:
        raise UserError(
            f"run {config.run!r} is a plain checkpoint, which has no test rows to ask; name a finished run"
        )
    if task.predictor.reads_files:
        raise UserError(f"run {config.run!r}: {task.tag}; name a run that answers texts")
    return run


def read_questions(run: str) -> list[Question]:
    """Return requests of the run's test rows with the answers of predict.py.

    Raises:
        UserError: If the rows cannot be read.
    """
    config = ServeConfig(run=run)
    task, folder, results = find_run(config)
    model = load_answering_model(config, task, folder)
    if model.reading.columns:
        raise UserError(
            f"{run} joins columns, which its test rows hold no longer; name a run with one column of texts"
        )
    test = task.read_data(build_section(task.tag, "data", results["config"]["data"])).splits["test"]
    places = np.sort(np.random.default_rng(0).permutation(len(test))[:MOST_ROWS])
    columns = {name: test.select(places)[name] for name in task.predictor.columns if name in test.column_names}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    answers = model.answer({name: list(values) for name, values in columns.items()})
    return [
        Question(json.dumps({"inputs": row}).encode(), json.loads(json.dumps(answer)))
        for row, answer in zip(rows, answers, strict=True)
    ]


def is_alike(answer: Any, expected: Any) -> bool:
    """Return whether an answer is the expected one, numbers to 1e-5."""
    if isinstance(expected, Mapping):
        return (
            isinstance(answer, Mapping)
            and answer.keys() == expected.keys()
            and all(is_alike(answer[key], value) for key, value in expected.items())
        )
    if isinstance(expected, list):
        return (
            isinstance(answer, list)
            and len(answer) == len(expected)
            and all(is_alike(one, other) for one, other in zip(answer, expected, strict=True))
        )
    if isinstance(expected, float):
        return isinstance(answer, (int, float)) and abs(answer - expected) <= TOLERANCE
    return answer == expected


def measure_load(
    config: BenchmarkConfig, recipe: Path, questions: Sequence[Question], tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measure one client alone, then each number of clients on one server.

    Args:
        config: Run, clients and times.
        recipe: `recipes/serve.py`.
        questions: What is asked in turn.
        tell: Gets a line for each number of clients.

    Returns:
        A record for each, the one client's first.
    """
    seconds = config.seconds / (1 + len(config.clients))
    command = [sys.executable, str(recipe), "--run", str(config.run), "--port", "0", *config.serve]
    records: list[dict[str, Any]] = []

    def measure(name: str, clients: int, server: Server, least: int = 0) -> None:
        record = server.measure(name, clients, questions, seconds, least)
        tell(f"{name}: {record['requests_per_second']:,.0f} requests/s, p95 {record['p95_ms'] or 0:,.0f} ms")
        records.append(record)

    with run_server([*command, *_ONE_BY_ONE]) as server:
        server.warm_up(questions)
        measure("one by one", 1, server)
    with run_server(command) as server:
        server.warm_up(questions)
        for place, clients in enumerate(config.clients, start=1):
            is_last = place == len(config.clients)
            asked = sum(record["requests"] for record in records[1:])
            least = max(0, config.requests - asked) if is_last and config.requests is not None else 0
            measure(f"{clients} client{'s' * (clients > 1)}", clients, server, least)
    return records


class Server:
    """A running server.

    Args:
        address: Where it listens.
        process: The process, with its workers below it.
    """

    def __init__(self, address: str, process: psutil.Process) -> None:
        self.address, self.process = address, process

    def read_use(self) -> tuple[int, float]:
        """Return the memory that it has in RAM, in bytes, and the seconds that it has computed, with its workers."""
        processes = [self.process, *self.process.children(recursive=True)]
        times = [process.cpu_times() for process in processes]
        memory = sum(process.memory_info().rss for process in processes)
        return memory, sum(time.user + time.system for time in times)

    def warm_up(self, questions: Sequence[Question]) -> None:
        """Ask until buffers of all sizes of batches are there."""
        asyncio.run(_ask(self.address, 32, questions, 0.0, WARM_UP_REQUESTS))

    def measure(
        self, name: str, clients: int, questions: Sequence[Question], seconds: float, least: int
    ) -> dict[str, Any]:
        """Return the record of a number of clients, who ask for so many seconds and at least so many requests."""
        memory, computed = self.read_use()
        started = time.perf_counter()
        latencies, faults = asyncio.run(_ask(self.address, clients, questions, seconds, least))
        taken = time.perf_counter() - started
        memory_after, computed_after = self.read_use()
        return {
            **summarize_load(name, clients, taken, latencies, faults),
            "server_cores": (computed_after - computed) / taken,
            "rss_start_bytes": memory,
            "rss_end_bytes": memory_after,
        }


@contextmanager
def run_server(command: Sequence[str]) -> Iterator[Server]:
    """Start a server, and stop it in order behind the block.

    Args:
        command: That starts it.

    Raises:
        UserError: If it ends, or does not listen in time.
    """
    import psutil

    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=plain_environment(), stdin=subprocess.DEVNULL
        )
        try:
            yield Server(_wait_for_address(process, output), psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_address(process: subprocess.Popen, output: Any) -> str:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        output.seek(0)
        said = output.read()
        if process.poll() is not None:
            raise UserError(f"the server ended: {(said.strip().splitlines() or ['without a word'])[-1]}")
        if (match := _ADDRESS.search(said)) is not None:
            try:
                with urlopen(f"{match[1]}/ready", timeout=30):
                    return match[1]
            except OSError:  # not yet
                pass
        time.sleep(0.1)
    raise UserError(f"the server does not answer within {START_SECONDS} s")


async def _ask(
    address: str, clients: int, questions: Sequence[Question], seconds: float, least: int
) -> tuple[list[float], Counter]:
    """Let clients ask, each its next request after its last answer; return latencies and counts of faults."""
    import aiohttp

    latencies: list[float] = []
    faults: Counter = Counter()
    end, asked = time.perf_counter() + seconds, 0

    async def ask_in_turn() -> None:
        nonlocal asked
        while time.perf_counter() < end or asked < least:
            question = questions[asked % len(questions)]
            asked += 1
            started = time.perf_counter()
            try:
                async with session.post("/predict", data=question.body) as answer:
                    content = json.loads(await answer.read())
            except (aiohttp.ClientError, asyncio.TimeoutError, ValueError):
                faults["lost"] += 1
                continue
            if answer.status != 200:
                faults["refused"] += 1
                await asyncio.sleep(0.05)
                continue
            latencies.append(time.perf_counter() - started)
            faults["wrong"] += not is_alike(content["answers"], [question.answer])

    headers = {"Content-Type": "application/json"}
    limits = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(address, headers=headers, connector=limits) as session:
        await asyncio.gather(*(ask_in_turn() for _ in range(clients)))
    return latencies, faults
