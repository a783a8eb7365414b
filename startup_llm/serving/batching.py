"""Requests that arrive at about the same time are computed as one batch."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any


class QueueFull(Exception):
    """More rows wait than are allowed."""


class Stopped(Exception):
    """The server takes no more requests."""


@dataclass(eq=False)
class WaitingRequest:
    """A request on its way.

    Attributes:
        rows: What is asked.
        result: Gets one result per row.
        arrived: Seconds of the loop's clock.
    """

    rows: Sequence[Any]
    result: asyncio.Future[list[Any]]
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Gathers requests, and computes them one batch after the other in a thread of its own.

    A batch begins when the first request has waited `max_wait_seconds`, or when there are `max_batch_rows`. While one
    is computed the next one gathers, so that under load nobody waits for the clock.

    Args:
        compute: From rows to one result per row; called in the thread.
        max_wait_seconds: How long a request waits for others.
        max_batch_rows: Rows of a batch; a request with more is a batch of its own.
        max_queue_rows: Rows that may wait.
        observe: Called with the rows of each batch and the seconds that it took.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Any]], list[Any]],
        *,
        max_wait_seconds: float,
        max_batch_rows: int,
        max_queue_rows: int,
        observe: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        self._compute, self._observe = compute, observe
        self._max_wait, self._max_batch_rows, self._max_queue_rows = max_wait_seconds, max_batch_rows, max_queue_rows
        self._waiting: deque[WaitingRequest] = deque()
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def waiting_rows(self) -> int:
        """Rows that no batch has begun with."""
        return sum(len(request.rows) for request in self._waiting if not request.result.done())

    @property
    def is_running(self) -> bool:
        """Whether requests are taken and answered."""
        return self._task is not None and not self._task.done() and not self._stopping

    def start(self) -> None:
        """Begin to answer; called inside the loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Take no more requests, answer those that wait, and end."""
        self._stopping = True
        self._changed.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def submit(self, rows: Sequence[Any], timeout_seconds: float) -> list[Any]:
        """Return one result per row.

        Raises:
            QueueFull: If too many rows wait already.
            Stopped: If the server is stopping.
            asyncio.TimeoutError: If there is no answer in time; rows that still wait are then not computed.
        """
        if not self.is_running:
            raise Stopped
        if (waiting := self.waiting_rows) and waiting + len(rows) > self._max_queue_rows:
            raise QueueFull(f"{waiting:,} rows wait already, the limit is {self._max_queue_rows:,}; try again later")
        request = WaitingRequest(rows, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._changed.set()
        return await asyncio.wait_for(request.result, timeout_seconds)

    async def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the model's thread, between two batches, and return its value."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _run(self) -> None:
        while not self._stopping or self._waiting:
            if not self._waiting:
                self._changed.clear()
                await self._changed.wait()
                continue
            await self._gather()
            if batch := self._take():
                await self._answer(batch)

    async def _gather(self) -> None:
        """Wait until the first request has waited long enough, or the batch is full."""
        end = self._waiting[0].arrived + self._max_wait
        while not self._stopping and self.waiting_rows < self._max_batch_rows and (left := end - time.monotonic()) > 0:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except asyncio.TimeoutError:  # before Python 3.11 not the built-in one
                return

    def _take(self) -> list[WaitingRequest]:
        """Return the requests of the next batch; those that nobody waits for any more are dropped."""
        batch: list[WaitingRequest] = []
        rows = 0
        while self._waiting:
            request = self._waiting[0]
            if request.result.done():
                self._waiting.popleft()
                continue
            if batch and rows + len(request.rows) > self._max_batch_rows:
                break
            batch.append(self._waiting.popleft())
            rows += len(request.rows)
        return batch

    async def _answer(self, batch: Sequence[WaitingRequest]) -> None:
        """Compute a batch; where it fails each request is computed alone, so that one cannot spoil the others'."""
        rows = [row for request in batch for row in request.rows]
        started = time.monotonic()
        try:
            results = await self.call(functools.partial(self._compute, rows))
        except Exception as error:
            if len(batch) > 1:
                for request in batch:
                    await self._answer([request])
            elif not batch[0].result.done():
                batch[0].result.set_exception(error)
            return
        self._observe(len(rows), time.monotonic() - started)
        start = 0
        for request in batch:
            end = start + len(request.rows)
            if not request.result.done():
                request.result.set_result(results[start:end])
            start = end
