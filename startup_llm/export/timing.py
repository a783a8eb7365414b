"""How fast a run's model and its export answer, measured in turns on the same rows."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from startup_llm.children import run_child
from startup_llm.errors import UserError

BATCH_ROWS = (1, 8, 32, 128)
TIMED_ROWS = 256
ALONE_ROWS = 32
ROUNDS = 5
COLD_STARTS = 3

Answer = Callable[[Sequence[Any], int], object]
"""Answers rows, so many at once."""

_START = """import json, os, sys, time
os.environ["HF_HUB_OFFLINE"] = "1"
start = time.perf_counter()
{imports}
imported = time.perf_counter()
model = {load}
loaded = time.perf_counter()
{answer}
answered = time.perf_counter()
{write}
print(json.dumps({{"import": imported - start, "load": loaded - imported, "total": answered - start,
                  "write": time.perf_counter() - answered, "torch": "torch" in sys.modules}}))
"""
Program = Mapping[str, str]
"""Python of a new process: imports, load, answer, and perhaps write, by which `WRITTEN_TOKENS` tokens are written."""
WRITTEN_TOKENS = 64


def time_answers(models: Mapping[str, Answer], rows: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Time models in turns, so that what else the machine does meets all of them.

    Args:
        models: What answers, by name; the first one is what the others are compared with.
        rows: What is asked.

    Returns:
        For each model `latency_ms_p50` and `latency_ms_p95` of a row that comes alone, `rows_per_second` by rows at
        once (medians over the rounds), and for each but the first `times_faster` at one row and at the best batch of
        either.
    """
    rows = rows[:TIMED_ROWS]
    seconds: dict[str, list[float]] = {name: [] for name in models}
    rates: dict[str, dict[int, list[float]]] = {name: {size: [] for size in BATCH_ROWS} for name in models}
    for answer in models.values():
        answer(rows[:8], 8)
    for _ in range(ROUNDS):
        for name, answer in models.items():
            alone = [_time(answer, [row], 1) for row in rows[:ALONE_ROWS]]
            seconds[name] += alone
            rates[name][1].append(len(alone) / sum(alone))
        for size in BATCH_ROWS[1:]:
            for name, answer in models.items():
                rates[name][size].append(len(rows) / _time(answer, rows, size))
    medians = {name: {size: median(values) for size, values in by_size.items()} for name, by_size in rates.items()}
    first = next(iter(models))
    figures = {}
    for name in models:
        best = max(medians[name], key=lambda size: medians[name][size])
        figures[name] = {
            "latency_ms_p50": 1e3 * float(np.percentile(seconds[name], 50)),
            "latency_ms_p95": 1e3 * float(np.percentile(seconds[name], 95)),
            "rows_per_second": {str(size): value for size, value in medians[name].items()},
            "best_batch_rows": best,
            "best_rows_per_second": medians[name][best],
        }
        if name != first:
            figures[name]["times_faster"] = {
                "one_row": median(ours / theirs for ours, theirs in zip(rates[name][1], rates[first][1], strict=True)),
                "best_batch": medians[name][best] / max(medians[first].values()),
                "best_batch_to_one_row": medians[name][best] / medians[first][1],
            }
    return figures


def _time(answer: Answer, rows: Sequence[Any], size: int) -> float:
    start = time.perf_counter()
    answer(rows, size)
    return time.perf_counter() - start


def time_first_answer(program: Program, tokens: int = 0) -> dict[str, Any]:
    """Return the seconds of a new process's import, of loading, and of all until the first answer; medians.

    Args:
        program: What the process does.
        tokens: That `write` writes; then `tokens_per_second` comes with them.

    Raises:
        UserError: If the process fails.
    """
    code = _START.format(**{"write": "", **program})
    starts = []
    for _ in range(COLD_STARTS):
        done = run_child([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise UserError(f"no answer in a new process, by {program['load']}: {reason[-300:]}")
        starts.append(json.loads(done.stdout.splitlines()[-1]))
    figures = {
        "import_seconds": median(start["import"] for start in starts),
        "load_seconds": median(start["load"] for start in starts),
        "first_answer_seconds": median(start["total"] for start in starts),
        "needs_torch": starts[0]["torch"],
    }
    if tokens:
        figures["tokens_per_second"] = tokens / median(start["write"] for start in starts)
    return figures
