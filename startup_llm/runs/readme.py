"""Tables of a page, written from results files, so that no figure on it was typed.

`python -m startup_llm.runs.readme README.md recipes/results` fills each pair of marker lines
`<!-- results: NAME -->` and `<!-- /results -->` from `recipes/results/NAME.json`, a list of shortened `results.json`.
Likewise `<!-- ladder: NAME -->` and `<!-- /ladder -->`, from a comparison kept as `recipes/results/ladders/NAME.json`,
and `<!-- benchmark: NAME -->` and `<!-- /benchmark -->`, from timings kept as `recipes/results/benchmarks/NAME.json`.
Between `<!-- summary -->` and `<!-- /summary -->` stands a line for each such file. With `NAME=RUN,RUN` behind it, it
first makes that file anew: from finished runs, which differ by their seed alone, or from a comparison or benchmark.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from startup_llm.benchmark.tables import build_timing_tables
from startup_llm.evaluation.metrics import is_share
from startup_llm.run_folder import read_results
from startup_llm.written_files import write_atomically

_MARKED = re.compile(
    r"(<!-- (?P<kind>results|ladder|benchmark): (?P<name>\S+) -->\n).*?(<!-- /(?P=kind) -->)", re.DOTALL
)
_SUMMARY = re.compile(r"(<!-- summary -->\n).*?(<!-- /summary -->)", re.DOTALL)
_PRIVATE = ("mistakes", "confusions", "gallery", "samples", "history", "config", "command", "per_class", "plan")


def render_page(page: str, folder: Path) -> str:
    """Return the page with its tables written anew.

    Args:
        page: Markdown with marker lines.
        folder: Where NAME.json lies.
    """

    def fill(found: re.Match[str]) -> str:
        place, render = _KINDS[found["kind"]]
        kept = json.loads((folder / place / f"{found['name']}.json").read_text(encoding="utf-8"))
        return f"{found[1]}{render(kept)}\n{found[4]}"

    runs = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    return _SUMMARY.sub(lambda found: f"{found[1]}{render_summary(runs)}\n{found[2]}", _MARKED.sub(fill, page))


def render_summary(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Write a line per experiment as Markdown: what was trained, and the best of what it stands beside.

    Args:
        runs: NAME -> the experiment's runs, which differ by their seed. The last model of a run is the trained one.
    """
    lines = ["| experiment | task | decides | best of the others | trained | minutes |", "|---|---|---|---|---|---|"]
    for name, (first, *_) in runs.items():
        metric, models = first["decides"], first["models"]
        *others, trained = [model for model in models if metric in models[model]]
        values = {model: models[model][metric]["value"] for model in others}
        best = (min if metric in first["lower_is_better"] else max)(values, key=lambda model: values[model])
        scale, unit = (100, " %") if is_share(metric) else (1, "")
        low, value, high = (scale * models[trained][metric][key] for key in ("low", "value", "high"))
        places = 1 if unit or value >= 10 else 2
        other, value, low, high = (f"{number:.{places}f}" for number in (scale * values[best], value, low, high))
        figures = f"{other}{unit} {best}", f"{value}{unit} {trained} ({low} to {high})"
        arrow = " (lower is better)" * (metric in first["lower_is_better"])
        cells = (name, first["task"], f"{metric}{arrow}", *figures, f"{first['seconds'] / 60:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def render_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Write the ladder of one run, or of several that differ by their seed, as Markdown."""
    first, metric = runs[0], runs[0]["decides"]
    scale, unit = (100, " %") if is_share(metric) else (1, "")
    lines = [f"| model | {metric} | 95 % interval |", "|---|---|---|"]
    for name in [name for name, scores in first["models"].items() if metric in scores]:
        scores = [run["models"][name][metric] for run in runs]
        values = [f"{scale * score['value']:.1f}" for score in scores]
        mean = f"{sum(scale * score['value'] for score in scores) / len(scores):.1f}{unit}"
        spread = f" (mean of {len(runs)} seeds: {', '.join(values)})" if len(set(values)) > 1 else ""
        low, high = (scale * scores[0][end] for end in ("low", "high"))
        lines.append(f"| {name} | {mean}{spread} | {low:.1f} to {high:.1f} |")
    seconds = ", ".join(f"{run['seconds']:.0f} s" for run in runs)
    memory = max(run["peak_memory_bytes"] for run in runs) / 2**30
    speed = first["throughput"].get("train_examples_per_second")
    took = f"{seconds}, {memory:.1f} GiB at the most" + (
        f", {speed:.0f} examples a second in training" if speed else ""
    )
    told = " ".join(f"{sentence}." for sentence in first["sentences"])
    if signature := first.get("signatures", {}).get(metric):
        told += f" sacreBLEU's signature: `{signature}`."
    return "\n".join([*lines, "", told, f"It took {took}, on {first['hardware']}."])


def render_ladder(comparison: Mapping[str, Any]) -> str:
    """Write a comparison of recipes/compare.py as Markdown: a line per rung, the best at the largest budget first."""
    budgets, metric = comparison["budgets"], comparison["decides"]
    scale, unit = (100, " %") if is_share(metric) else (1, "")
    means = [{rung["name"]: rung for rung in entry["rungs"]} for entry in budgets]
    order = sorted(means[-1].values(), key=lambda rung: rung["mean"], reverse=not comparison["lower_is_better"])
    names = [rung["name"] for rung in order]
    names += [name for rungs in means for name in rungs if name not in names]
    lines = [
        f"| {metric} | {' | '.join(str(entry['budget']) for entry in budgets)} |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    for name in dict.fromkeys(names):
        cells = [
            f"{scale * rungs[name]['mean']:.1f}{unit} ({scale * rungs[name]['least']:.1f} to "
            f"{scale * rungs[name]['most']:.1f})"
            if name in rungs
            else ""
            for rungs in means
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", " ".join(comparison["sentences"]), f"On {comparison['hardware']}."])


def render_benchmark(benchmark: Mapping[str, Any]) -> str:
    """Write the timings of recipes/benchmark.py as Markdown."""
    return f"{build_timing_tables(benchmark['sizes'])}\n\nOn {benchmark['hardware']}."


_KINDS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "results": ("", render_table),
    "ladder": ("ladders", render_ladder),
    "benchmark": ("benchmarks", render_benchmark),
}


def _drop_private(results: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in results.items() if name not in _PRIVATE}


def shorten_benchmark(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """Return a benchmark without its single timings and its command, whose paths are local."""
    sizes = [{"rows": size["rows"], "summary": size["summary"]} for size in benchmark["sizes"]]
    return {**_drop_private(benchmark), "sizes": sizes}


def shorten_ladder(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Return a comparison without commands, whose paths are local."""
    budgets = [
        {**entry, "rungs": [{**rung, "draws": [draw["value"] for draw in rung["draws"]]} for rung in entry["rungs"]]}
        for entry in comparison["budgets"]
    ]
    return {**_drop_private(comparison), "budgets": budgets}


def shorten_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of a run, or of pooled folds, without texts, paths and long lists, to be kept by a page."""
    kept = _drop_private(results)
    if "folds" in kept:
        return kept
    data = {key: value for key, value in results["data"].items() if key not in ("notes", "sources")}
    if checkpoint := kept.get("checkpoint"):  # of a local folder, the run's name and the folder's
        kept["checkpoint"] = {**checkpoint, "name": "/".join(Path(checkpoint["name"]).parts[-2:])}
    return {**kept, "data": data, "calibration": {}}


def main(page: str | Path, folder: str | Path, *kept: str) -> None:
    """Keep the results of runs, then write the page's tables.

    Args:
        page: Markdown file with marker lines.
        folder: Where NAME.json lies.
        *kept: `NAME=RUN,RUN`, `NAME=COMPARISON` or `NAME=BENCHMARK`.
    """
    page, folder = Path(page), Path(folder)
    for name, _, runs in (word.partition("=") for word in kept):
        first, *others = (read_results(run) for run in runs.split(","))
        if "budgets" in first:
            kind, shortened = "ladder", shorten_ladder(first)
        elif "sizes" in first:
            kind, shortened = "benchmark", shorten_benchmark(first)
        else:
            kind, shortened = "results", [shorten_results(found) for found in (first, *others)]
        write_atomically(folder / _KINDS[kind][0] / f"{name}.json", json.dumps(shortened, indent=1) + "\n")
    write_atomically(page, render_page(page.read_text(encoding="utf-8"), folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
