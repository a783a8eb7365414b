"""What a load test of a server measured: a record for each number of clients, a table and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

GOAL = 3.0
"""How many times as many requests a second batches have to answer as one client alone has answered."""
_BATCHING_CLIENTS = 32
"""Clients from which on batches are judged."""


def summarize_load(name: str, clients: int, seconds: float, latencies: Sequence[float], faults: Any) -> dict[str, Any]:
    """Return the record of a number of clients.

    Args:
        name: What was done.
        clients: How many asked at once, each its next request after its last answer.
        seconds: How long they did.
        latencies: Seconds of each request that was answered.
        faults: How many answers were wrong, refused and lost.
    """
    p50, p95, p99 = (1e3 * np.percentile(latencies, [50, 95, 99])).tolist() if latencies else [None] * 3
    return {
        "name": name,
        "clients": clients,
        "requests": len(latencies),
        "seconds": seconds,
        "requests_per_second": len(latencies) / seconds,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        **{fault: faults[fault] for fault in ("wrong", "refused", "lost")},
    }


def build_load_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table with a line for each number of clients, and what it shows in sentences."""
    lines = [
        "| clients | requests | requests/s | times one by one | p50, ms | p95, ms | p99, ms | wrong | refused | lost "
        "| cores of the server | memory of the server, MiB |",
        "|---" + "|---:" * 11 + "|",
    ]
    first = records[0]["requests_per_second"]
    for record in records:
        times = [f"{record[key]:,.0f}" if record[key] is not None else "" for key in ("p50_ms", "p95_ms", "p99_ms")]
        memory = " to ".join(f"{record[key] / 2**20:,.0f}" for key in ("rss_start_bytes", "rss_end_bytes"))
        cells = [
            record["name"],
            f"{record['requests']:,}",
            f"{record['requests_per_second']:,.0f}",
            f"{record['requests_per_second'] / first:.1f}" if first else "",
            *times,
            *(f"{record[fault]:,}" for fault in ("wrong", "refused", "lost")),
            f"{record['server_cores']:.1f}",
            memory,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", " ".join(judge_load(records))])


def judge_load(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in sentences whether batches are worth it, whether an answer was wrong or lost, and what memory did."""
    requests = sum(record["requests"] for record in records)
    faults = {fault: sum(record[fault] for record in records) for fault in ("wrong", "refused", "lost")}
    sentences = [
        f"{requests:,} answers, each compared with predict.py's (to 1e-5): {faults['wrong']:,} wrong, "
        f"{faults['refused']:,} refused, {faults['lost']:,} lost."
    ]
    batched = [record for record in records[1:] if record["clients"] >= _BATCHING_CLIENTS]
    if batched and records[0]["requests_per_second"]:
        best = max(batched, key=lambda record: record["requests_per_second"])
        ratio = best["requests_per_second"] / records[0]["requests_per_second"]
        sentences.append(
            f"With {best['clients']} clients batches answer {ratio:.1f} times as many requests a second as one by "
            f"one; the goal of {GOAL:g} times is {'reached' if ratio >= GOAL else 'not reached'}."
        )
    grown = (records[-1]["rss_end_bytes"] - records[1 if len(records) > 1 else 0]["rss_start_bytes"]) / 2**20
    return [*sentences, f"The memory of the server changed by {grown:+,.0f} MiB from its first to its last request."]
