"""What a server counts, in the form that Prometheus reads."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Figures:
    """Counts of one server, kept apart from those of other servers in the process.

    Several workers count together: where PROMETHEUS_MULTIPROC_DIR names a folder, each writes its counts there, and
    shows the sums of all, also of those that have died; of rows that wait and models those of workers that live.

    Args:
        count_waiting: Returns how many rows wait.
    """

    def __init__(self, count_waiting: Callable[[], int]) -> None:
        self._registry, self._count_waiting = CollectorRegistry(), count_waiting
        self._shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        self._named: tuple[str, str] | None = None
        prefix: dict[str, Any] = {"namespace": "startup_llm", "registry": self._registry}
        self._requests = Counter("requests", "Requests that were answered", ["path", "status"], **prefix)
        self._seconds = Histogram("request_seconds", "From request to answer", ["path"], buckets=SECONDS, **prefix)
        self._batch_rows = Histogram("batch_rows", "Rows of a batch", buckets=ROWS, **prefix)
        self._batch_seconds = Histogram("batch_seconds", "Computation of a batch", buckets=SECONDS, **prefix)
        self._rows = Counter("rows", "Rows that were answered", **prefix)
        self._labels = Counter(
            "labels", "Rows answered with a label; its share is this by all rows", ["label"], **prefix
        )
        self._hand_overs = Counter("hand_overs", "Rows whose answer needs a person", **prefix)
        self._out_of_scope = Counter("out_of_scope", "Rows that fit no label", **prefix)
        prefix["multiprocess_mode"] = "livesum"
        self._models = Gauge("model_info", "Workers that answer with a model", ["run", "sha256"], **prefix)
        self._queue_rows = Gauge("queue_rows", "Rows that wait", **prefix)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request by the path of its route; status 0 for a client that left."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_batch(self, rows: int, seconds: float) -> None:
        """Count a batch."""
        self._batch_rows.observe(rows)
        self._batch_seconds.observe(seconds)
        self._queue_rows.set(self._count_waiting())

    def count_answers(self, answers: Iterable[Mapping[str, Any]]) -> None:
        """Count answers by their labels."""
        for answer in answers:
            self._rows.inc()
            judged = [answer, *answer.get("entities", ())]
            self._hand_overs.inc(any(item.get("needs_human") for item in judged))
            self._out_of_scope.inc(bool(answer.get("out_of_scope")))
            labels = answer.get("labels", [answer["label"]] if "label" in answer else [])
            for label in labels:
                self._labels.labels(str(label)).inc()

    def name_model(self, run: str, sha256: str) -> None:
        """Set which model answers from now on."""
        if self._named is not None:
            self._models.labels(*self._named).set(0)
        self._named = (run, sha256)
        self._models.labels(run, sha256).set(1)

    def write(self) -> bytes:
        """Return all figures as text."""
        self._queue_rows.set(self._count_waiting())
        if self._shared is None:
            return generate_latest(self._registry)
        from prometheus_client.multiprocess import MultiProcessCollector

        _forget_dead_workers(Path(self._shared))
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self._shared)
        return generate_latest(registry)


def _forget_dead_workers(folder: Path) -> None:
    """Remove what workers that live no longer said of themselves; their counts stay."""
    from prometheus_client.multiprocess import mark_process_dead

    for file in folder.glob("gauge_live*.db"):
        if (match := re.search(r"_(\d+)\.db$", file.name)) and not _is_alive(int(match[1])):
            with contextlib.suppress(FileNotFoundError):  # another worker was faster
                mark_process_dead(int(match[1]), str(folder))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
