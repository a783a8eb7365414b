"""Repeated timings of several methods that do the same: medians, a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS: dict[str, tuple[str, float, str]] = {
    "rows_per_second": ("rows/s", 1, ",.1f"),
    "tokens_per_second": ("tokens/s", 1, ",.0f"),
    "peak_share": ("share of peak", 1, ".0%"),
    "peak_memory_bytes": ("peak memory, GiB", 2**-30, ".2f"),
    "gpu_memory_bytes": ("of it on the GPU, GiB", 2**-30, ".2f"),
    "accuracy": ("accuracy", 1, ".2%"),
    "seconds_to_target": ("s to target", 1, ".0f"),
    "seconds": ("total s", 1, ".0f"),
}
"""Figure -> its heading, what it is multiplied by, and its format."""


def summarize_timings(timings: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return for each method and figure the median, the least and the greatest; the error of a method that never ran.

    Args:
        timings: Per method, one record of figures per repetition; a figure may be None, a record may be an `error`.
    """
    summary: dict[str, dict[str, Any]] = {}
    for method, records in timings.items():
        ran = [record for record in records if "error" not in record]
        if not ran:
            summary[method] = {"error": records[-1]["error"]}
            continue
        summary[method] = {"repetitions": len(ran)}
        for name in COLUMNS:
            values = [record[name] for record in ran if record.get(name) is not None]
            if values:
                summary[method][name] = {
                    "median": float(np.median(values)),
                    "low": float(min(values)),
                    "high": float(max(values)),
                }
    return summary


def build_timing_table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table of medians, the rates with their spread and their ratio to the first method."""
    methods = {method: figures for method, figures in summary.items() if "error" not in figures}
    names = [name for name in COLUMNS if any(name in figures for figures in methods.values())]
    first = next(iter(methods.values()), {}).get("rows_per_second", {}).get("median")
    lines = [
        "| method | " + " | ".join(COLUMNS[name][0] for name in names) + " | speed of the first / this |",
        "|---" * (len(names) + 2) + "|",
    ]
    for method, figures in summary.items():
        if "error" in figures:
            lines.append(f"| {method} | does not run: {figures['error']} |" + " |" * len(names))
            continue
        cells = [_show(name, figures.get(name)) for name in names]
        lines.append(f"| {method} | {' | '.join(cells)} | {first / figures['rows_per_second']['median']:.2f} |")
    return "\n".join(lines)


def build_timing_tables(sizes: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of each number of rows, under a heading where there are several.

    Args:
        sizes: Per number of rows `rows` and `summary`, from `summarize_timings`.
    """
    headings = [f"**{size['rows']:,} rows**\n\n" if len(sizes) > 1 else "" for size in sizes]
    tables = [build_timing_table(size["summary"]) for size in sizes]
    return "\n\n".join(heading + table for heading, table in zip(headings, tables, strict=True))


def _show(name: str, figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return ""
    _, scale, form = COLUMNS[name]
    shown = format(figure["median"] * scale, form)
    if name == "rows_per_second" and figure["low"] < figure["high"]:
        shown += f" ({format(figure['low'] * scale, form)} to {format(figure['high'] * scale, form)})"
    return shown


def draw_timings(summary: Mapping[str, Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw the rates as bars with their spread, the first method on top.

    Args:
        summary: From `summarize_timings`.
        title: What was timed, where.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    methods = [method for method, figures in summary.items() if "error" not in figures][::-1]
    rates = [summary[method]["rows_per_second"] for method in methods]
    figure = Figure(figsize=(7, 0.45 * len(methods) + 1.1), layout="constrained")
    axes = figure.subplots()
    middle = np.array([rate["median"] for rate in rates])
    spread = np.abs(np.array([[rate["low"], rate["high"]] for rate in rates]).T - middle)
    bars = axes.barh(methods, middle, xerr=spread, color="#1d5fa8", ecolor="#5b6471", capsize=3)
    axes.bar_label(bars, labels=[f"{value:,.0f}" for value in middle], padding=6)
    axes.margins(x=0.15)
    axes.set_xlabel("rows per second (median, least to greatest)")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def draw_costs(sizes: Sequence[Mapping[str, Any]], title: str, dollars_per_hour: float | None, path: Path) -> None:
    """Draw the seconds of each method's whole process against the rows, both in powers of ten.

    Args:
        sizes: As for `build_timing_tables`, in ascending order of rows.
        title: What was timed, where.
        dollars_per_hour: Price of the machine, for a second axis; None for seconds alone.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for method in sizes[0]["summary"]:
        figures = [(size["rows"], size["summary"][method].get("seconds")) for size in sizes]
        measured = [(rows, seconds) for rows, seconds in figures if seconds is not None]
        if measured:
            middle = np.array([seconds["median"] for _, seconds in measured])
            spread = np.abs(np.array([[seconds["low"], seconds["high"]] for _, seconds in measured]).T - middle)
            axes.errorbar([rows for rows, _ in measured], middle, yerr=spread, marker="o", capsize=3, label=method)
    axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="seconds of the whole process, median")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines["top"].set_visible(False)
    axes.set_xticks([size["rows"] for size in sizes], minor=False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    if dollars_per_hour is not None:
        rate = dollars_per_hour / 3600
        price = axes.secondary_yaxis("right", functions=(lambda s: s * rate, lambda d: d / rate))
        price.set_ylabel(f"dollars, at ${dollars_per_hour:g} an hour")
    else:
        axes.spines["right"].set_visible(False)
    figure.savefig(path, dpi=150)
