"""What a server counts, in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Figures:
    """Counts of one server, kept apart from those of other servers in the process.

    Args:
        count_waiting: Returns how many rows wait.
    """

    def __init__(self, count_waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
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
        self._model = Info("model", "The model that answers", **prefix)
        Gauge("queue_rows", "Rows that wait", **prefix).set_function(count_waiting)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request by the path of its route; status 0 for a client that left."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_batch(self, rows: int, seconds: float) -> None:
        """Count a batch."""
        self._batch_rows.observe(rows)
        self._batch_seconds.observe(seconds)

    def count_answers(self, answers: Iterable[Mapping[str, Any]]) -> None:
        """Count answers by their labels."""
        for answer in answers:
            self._rows.inc()
            self._hand_overs.inc(bool(answer.get("needs_human")))
            self._out_of_scope.inc(bool(answer.get("out_of_scope")))
            labels = answer.get("labels", [answer["label"]] if "label" in answer else [])
            for label in labels:
                self._labels.labels(str(label)).inc()

    def name_model(self, run: str, sha256: str) -> None:
        """Set which model answers from now on."""
        self._model.info({"run": run, "sha256": sha256})

    def write(self) -> bytes:
        """Return all figures as text."""
        return generate_latest(self._registry)
