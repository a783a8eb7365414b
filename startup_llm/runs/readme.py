"""Tables of Markdown pages, written from results files, so that no figure on them was typed.

`python -m startup_llm.runs.readme README.md docs/*.md recipes/results` writes what is between the markers of a page:

- `<!-- results: NAME -->` to `<!-- /results -->`: the models of `NAME.json`, a list of shortened `results.json`.
- `<!-- summary -->` to `<!-- /summary -->`: one line per such file; of some alone, `<!-- summary: NAME NAME -->`.
- `<!-- comparison: NAME -->` to `<!-- /comparison -->`: a comparison of models, kept as `comparisons/NAME.json`.
- `<!-- out-of-scope: NAME -->` to `<!-- /out-of-scope -->`: the scores of `NAME.json` that tell inputs out of scope.
- `<!-- label-thresholds: NAME -->` to `<!-- /label-thresholds -->`: what thresholds of several labels bring there.
- `<!-- benchmark: NAME -->` to `<!-- /benchmark -->`: a benchmark's tables, kept as `benchmarks/NAME.json`.
- `<!-- labelling: NAME -->` to `<!-- /labelling -->`: a simulation of suggested labels, kept as `labelling/NAME.json`.
- `<!-- export: NAME -->` to `<!-- /export -->`: an export beside its run, kept as `exports/NAME.json`.

With `NAME=RUN,RUN` behind the folder, it first writes that file: from finished runs, which differ by their seed alone,
or from a comparison, a benchmark or an export.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from startup_llm.benchmark.label_faults import build_label_fault_tables
from startup_llm.benchmark.labelling import build_labelling_table
from startup_llm.benchmark.serving_load import build_load_table
from startup_llm.benchmark.tables import build_timing_tables
from startup_llm.errors import UserError, nearest, run_recipe
from startup_llm.evaluation.metrics import is_share
from startup_llm.run_folder import read_results
from startup_llm.written_files import write_atomically

_MARKED = re.compile(
    r"(<!-- (?P<kind>results|summary|comparison|benchmark|labelling|out-of-scope|label-thresholds|export)"
    r"(: (?P<names>[^>]+?))? -->\n)"
    r".*?(<!-- /(?P=kind) -->)",
    re.DOTALL,
)
_PRIVATE = ("mistakes", "confusions", "gallery", "samples", "history", "config", "command", "per_class", "plan")


def read_kept_results(file: Path) -> Any:
    """Read a results file that `keep_results` wrote: a list of runs, a comparison or a benchmark.

    Raises:
        UserError: If there is no such file.
    """
    if not file.is_file():
        names = [other.stem for other in file.parent.glob("*.json")]
        raise UserError(f"no results file {file}{nearest(file.stem, names)}")
    return json.loads(file.read_text(encoding="utf-8"))


def render_page(page: str, folder: Path) -> str:
    """Return the page with its tables written anew.

    Args:
        page: Markdown with marker lines.
        folder: Where NAME.json lies.
    """

    def fill(marked: re.Match[str]) -> str:
        names = (marked["names"] or "").split()
        if marked["kind"] == "summary":
            names = names or sorted(file.stem for file in folder.glob("*.json"))
            table = render_summary({name: read_kept_results(folder / f"{name}.json") for name in names})
        else:
            place, render = _KINDS[marked["kind"]]
            table = render(read_kept_results(folder / place / f"{marked['names']}.json"))
        return f"{marked[1]}{table}\n{marked[5]}"

    return _MARKED.sub(fill, page)


@dataclass(frozen=True)
class ExperimentSummary:
    """An experiment in one line: the trained model beside the best of the others.

    Attributes:
        task: Hub pipeline tag.
        metric: Name of the primary metric, and whether lower is better.
        baseline: Figure and name of the best other model.
        trained: Figure, name and interval of the trained model.
        minutes: Duration of the run.
    """

    task: str
    metric: str
    baseline: str
    trained: str
    minutes: str


def summarize_experiment(results: Mapping[str, Any]) -> ExperimentSummary:
    """Read the line of an experiment from its shortened results, whose last model is the trained one."""
    metric, models = results["decides"], results["models"]
    lower_is_better = metric in results["lower_is_better"]
    *others, trained = [model for model in models if metric in models[model]]
    best = (min if lower_is_better else max)(others, key=lambda model: models[model][metric]["value"])
    scale, unit, places = _choose_form(metric, models[trained][metric]["value"])
    low, value, high = (scale * models[trained][metric][key] for key in ("low", "value", "high"))
    return ExperimentSummary(
        task=results["task"],
        metric=metric + " (lower is better)" * lower_is_better,
        baseline=f"{scale * models[best][metric]['value']:.{places}f}{unit} {best}",
        trained=f"{value:.{places}f}{unit} {trained} ({low:.{places}f} to {high:.{places}f})",
        minutes=f"{results['seconds'] / 60:.1f}",
    )


def _choose_form(metric: str, value: float) -> tuple[float, str, int]:
    """Return how a metric's figures are written: their scale, their unit, and places behind the point.

    Args:
        metric: Its name.
        value: One of the figures, such as the best.
    """
    if is_share(metric):
        return 100, " %", 1
    return 1, "", 1 if value >= 10 else 2


def render_summary(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Write a line per experiment as Markdown: the trained model, and the best of what it stands beside.

    Args:
        runs: NAME -> the experiment's runs, which differ by their seed.
    """
    lines = [
        "| experiment | task | primary metric | best baseline | trained model (95 % interval) | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for name, (first, *_) in runs.items():
        lines.append(f"| {' | '.join((name, *astuple(summarize_experiment(first))))} |")
    return "\n".join(lines)


def render_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Write the models of one run, or of several that differ by their seed, as Markdown."""
    first, metric = runs[0], runs[0]["decides"]
    models = [name for name, scores in first["models"].items() if metric in scores]
    scale, unit, places = _choose_form(metric, first["models"][models[-1]][metric]["value"])
    lines = [f"| model | {metric} | 95 % interval |", "|---|---|---|"]
    for name in models:
        scores = [run["models"][name][metric] for run in runs]
        values = [f"{scale * score['value']:.{places}f}" for score in scores]
        mean = f"{sum(scale * score['value'] for score in scores) / len(scores):.{places}f}{unit}"
        spread = f" (mean of {len(runs)} seeds: {', '.join(values)})" if len(set(values)) > 1 else ""
        low, high = (scale * scores[0][end] for end in ("low", "high"))
        lines.append(f"| {name} | {mean}{spread} | {low:.{places}f} to {high:.{places}f} |")
    seconds = ", ".join(f"{run['seconds']:.0f} s" for run in runs)
    memory = max(run["peak_memory_bytes"] for run in runs) / 2**30
    cost = f"Run time {seconds}, peak memory {memory:.1f} GiB"
    if speed := first["throughput"].get("train_examples_per_second"):
        cost += f", {speed:.{0 if speed >= 10 else 1}f} training examples per second"
    conclusions = " ".join(f"{sentence}." for sentence in first["sentences"])
    if signature := first.get("signatures", {}).get(metric):
        conclusions += f" sacreBLEU's signature: `{signature}`."
    return "\n".join([*lines, "", conclusions, "", f"{cost}, on {first['hardware']}."])


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """Write a comparison of recipes/compare.py as Markdown: a line per model, the best at the largest budget first."""
    budgets, metric = comparison["budgets"], comparison["decides"]
    budget_models = [{model["name"]: model for model in entry["rungs"]} for entry in budgets]
    scale, unit, places = _choose_form(metric, max(model["mean"] for model in budget_models[-1].values()))
    order = sorted(
        budget_models[-1].values(), key=lambda model: model["mean"], reverse=not comparison["lower_is_better"]
    )
    names = [model["name"] for model in order]
    names += [name for models in budget_models for name in models if name not in names]
    lines = [
        f"| {metric} | {' | '.join(str(entry['budget']) for entry in budgets)} |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    for name in dict.fromkeys(names):
        cells = [
            f"{scale * models[name]['mean']:.{places}f}{unit} ({scale * models[name]['least']:.{places}f} to "
            f"{scale * models[name]['most']:.{places}f})"
            if name in models
            else ""
            for models in budget_models
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", " ".join(comparison["sentences"]), "", f"On {comparison['hardware']}."])


def render_benchmark(benchmark: Mapping[str, Any]) -> str:
    """Write the timings of recipes/benchmark.py as Markdown."""
    if "loads" in benchmark:
        tables = build_load_table(benchmark["loads"])
    else:
        tables = (build_label_fault_tables if "tables" in benchmark else _build_timings)(benchmark)
    return f"{tables}\n\nOn {benchmark['hardware']}."


def _build_timings(benchmark: Mapping[str, Any]) -> str:
    return build_timing_tables(benchmark["sizes"])


def render_labelling(results: Mapping[str, Any]) -> str:
    """Write the labels that suggested rows need beside random ones as Markdown."""
    return f"{build_labelling_table(results)}\n\nOn {results['hardware']}."


def render_export(results: Mapping[str, Any]) -> str:
    """Write the figures of an export beside those of its run, and what they say, as Markdown."""
    proof = results["export"]
    header, rows = proof["table"]["header"], proof["table"]["rows"]
    lines = [f"| {' | '.join(line)} |" for line in (header, ["---", *["---:"] * (len(header) - 1)], *rows)]
    return "\n".join(
        [*lines, "", _list_sentences([*proof["sentences"], proof["note"]]), "", f"On {proof['hardware']}."]
    )


def render_out_of_scope(runs: Sequence[Mapping[str, Any]]) -> str:
    """Write the scores that tell inputs out of scope as Markdown, the chosen one in bold, and what the run says."""
    found = runs[0]["out_of_scope"]
    groups = list(found["judged"]["groups"])
    header = " | ".join(f"AUROC {name} | false positives at 95 % recall" for name in groups)
    lines = [f"| score | {header} |", "|---" + "|---:" * 2 * len(groups) + "|"]
    for entry in found["scores"]:
        figures = [entry["test"][name] for name in groups]
        cells = " | ".join(f"{part['auroc']:.3f} | {100 * part['fpr_at_95_recall']:.1f} %" for part in figures)
        mark = "**" if entry["score"] == found["score"] else ""
        lines.append(f"| {mark}{entry['score']}{mark} ({entry['source']}) | {cells} |")
    return "\n".join([*lines, "", _list_sentences(found["sentences"])])


def render_label_thresholds(runs: Sequence[Mapping[str, Any]]) -> str:
    """Write what thresholds of several labels, and weights of the classes, bring, as Markdown."""
    found, balance = runs[0]["label_thresholds"], runs[0].get("balance") or {"sentences": []}
    metrics = [name for name in found["models"]["default"] if name != "unlabelled"]
    lines = [f"| thresholds | {' | '.join(metrics)} | no label |", "|---" + "|---:" * (len(metrics) + 1) + "|"]
    for name, title in (("default", "0.5 for every label"), ("chosen", found["kind"])):
        figures = found["models"][name]
        cells = [_format_share(figures[metric]) for metric in metrics] + [f"{100 * figures['unlabelled']:.1f} %"]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _list_sentences([*found["sentences"], *balance["sentences"]])])


def _format_share(figure: Mapping[str, float]) -> str:
    low, value, high = (100 * figure[key] for key in ("low", "value", "high"))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def _list_sentences(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


_KINDS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "results": ("", render_table),
    "out-of-scope": ("", render_out_of_scope),
    "label-thresholds": ("", render_label_thresholds),
    "comparison": ("comparisons", render_comparison),
    "benchmark": ("benchmarks", render_benchmark),
    "labelling": ("labelling", render_labelling),
    "export": ("exports", render_export),
}


def _drop_private(results: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in results.items() if name not in _PRIVATE}


def shorten_benchmark(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """Return a benchmark without its single timings and its command, whose paths are local."""
    kept = _drop_private(benchmark)
    if "sizes" in benchmark:
        kept["sizes"] = [{"rows": size["rows"], "summary": size["summary"]} for size in benchmark["sizes"]]
    return kept


def shorten_comparison(comparison: Mapping[str, Any]) -> dict[str, Any]:
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
    if advice := kept.get("advice"):  # whose commands name local folders
        kept["advice"] = [{key: value for key, value in action.items() if key != "command"} for action in advice]
    return {**kept, "data": data, "calibration": {}}


def keep_results(folder: Path, name: str, runs: Sequence[str]) -> None:
    """Write the results file NAME: of runs, a comparison, a benchmark, a simulation of labels or an export.

    Args:
        folder: Where results files lie.
        name: The file's name without its extension.
        runs: Folders; several where runs differ by their seed alone.
    """
    first, *others = (read_results(run) for run in runs)
    shortened: Any
    if "budgets" in first:
        kind, shortened = "comparison", shorten_comparison(first)
    elif "curves" in first:
        kind, shortened = "labelling", _drop_private(first)
    elif "export" in first:
        kind, shortened = "export", {"export": _drop_private(first["export"])}
    elif any(key in first for key in ("sizes", "tables", "loads")):
        kind, shortened = "benchmark", shorten_benchmark(first)
    else:
        kind, shortened = "results", [shorten_results(results) for results in (first, *others)]
    write_atomically(folder / _KINDS[kind][0] / f"{name}.json", json.dumps(shortened, indent=1) + "\n")


def main(*words: str) -> None:
    """Keep the results of runs, then write the tables of pages.

    Args:
        *words: Markdown files with marker lines, the folder of results files, then perhaps `NAME=RUN,RUN`.

    Raises:
        UserError: If no page or no folder is named.
    """
    paths = [Path(word) for word in words if "=" not in word]
    if len(paths) < 2 or not paths[-1].is_dir():
        raise UserError(
            f"{shlex.join(words) or 'nothing is named'}; expected pages, then the folder of results files, such as "
            "README.md docs/*.md recipes/results"
        )
    *pages, folder = paths
    for name, _, runs in (word.partition("=") for word in words if "=" in word):
        keep_results(folder, name, runs.split(","))
    for page in pages:
        write_atomically(page, render_page(page.read_text(encoding="utf-8"), folder))


if __name__ == "__main__":
    run_recipe(lambda: main(*sys.argv[1:]))
