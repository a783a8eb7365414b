"""Suites of data sets, what a checkpoint scores on them, and limits that it has to keep."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from startup_llm.config import EvaluationConfig
from startup_llm.errors import UserError, nearest
from startup_llm.evaluation import statistics
from startup_llm.evaluation.metrics import Metric, Values
from startup_llm.evaluation.report import find_run_model, format_interval, format_value, name_metric
from startup_llm.plain_data import parse_json, read_yaml_mapping
from startup_llm.run_folder import read_results


@dataclass(frozen=True)
class SuiteEntry:
    """A data set of a suite.

    Attributes:
        name: Its name in the suite.
        data: Where its rows are.
        metrics: Names of what is measured, the primary metric first. Empty for the task's own.
        task: Hub pipeline tag, or None for the model's.
    """

    name: str
    data: Mapping[str, Any]
    metrics: tuple[str, ...] = ()
    task: str | None = None


def read_suite(
    name: str,
    folder: Path,
    list_metrics: Callable[[str | None], Sequence[str]],
    option_names: Iterable[str],
    only: Sequence[str] | None = None,
) -> list[SuiteEntry]:
    """Read a suite: a YAML mapping from an entry's name to its `data` section, and perhaps `metrics` and `task`.

    Args:
        name: A YAML file, or the name of one in `folder`.
        folder: The shipped suites.
        list_metrics: Names the metrics of the task with a pipeline tag; of every task for None.
        option_names: Names of the options of a data section.
        only: Entries to keep, in the suite's order; default all.

    Raises:
        UserError: If there is no such suite, or an entry holds an unknown key.
    """
    file = folder / f"{name}.yaml" if "/" not in name and not name.endswith((".yaml", ".yml")) else Path(name)
    if not os.path.lexists(file):
        shipped = sorted(path.stem for path in folder.glob("*.yaml"))
        raise UserError(f"no suite {name}{nearest(name, shipped)}; name a YAML file or one of {', '.join(shipped)}")
    values = read_yaml_mapping(file)
    if not all(isinstance(entry, dict) for entry in values.values()):
        raise UserError(f"{file}: expected a mapping from an entry's name to its data section and metrics")
    for entry in only or ():
        if entry not in values:
            raise UserError(f"{file} has no entry {entry}{nearest(entry, values)}; entries: {', '.join(values)}")
    named = {name: entry for name, entry in values.items() if not only or name in only}
    entries = [_read_entry(name, entry, file, option_names) for name, entry in named.items()]
    for read in entries:
        known = list_metrics(read.task)
        for metric in read.metrics:
            if metric not in known:
                raise UserError(f"unknown metric {metric}{nearest(metric, known) or ';'} metrics: {', '.join(known)}")
    return entries


def _read_entry(name: str, entry: Mapping[str, Any], file: Path, option_names: Iterable[str]) -> SuiteEntry:
    options = {f"data.{option}" for option in option_names} | {"data", "metrics", "task"}
    data = entry.get("data")
    if not isinstance(data, dict):
        raise UserError(f"{file}: {name}.data is {data!r}; expected a data section, such as dataset and subset")
    for option in [*entry, *(f"data.{option}" for option in data)]:
        if option not in options:
            raise UserError(f"{file}: {name} has an unknown option {option}{nearest(option, options)}")
    return SuiteEntry(name, data, tuple(entry.get("metrics") or ()), entry.get("task"))


def merge_data(entry: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry's data with what is given in its place; files stand in for a data set that is named.

    Args:
        entry: Options of a data section.
        options: Others, which go first.
    """
    if options.keys() & {"train_file", "test_file", "data_dir", "dataset"}:
        places = ("dataset", "subset", "revision", "data_dir", "train_file", "validation_file", "test_file")
        splits = ("train_split", "validation_split", "test_split")
        entry = {name: value for name, value in entry.items() if name not in (*places, *splits)}
    merged = {**entry, **options}
    if merged.get("test_file") and not merged.get("train_file"):  # nothing is trained: the test rows stand for both
        merged |= {"train_file": merged["test_file"], "validation_fraction": 0.0}
    return merged


def match_labels(model_names: Sequence[str], data_names: Sequence[str], model: str, place: str) -> list[int]:
    """Return for each label of the data which output of the model is its own, by name.

    Args:
        model_names: The model's labels in the order of its outputs.
        data_names: The data's labels in the order of their ids.
        model: The model's name, for the error.
        place: The data's name, for the error.

    Raises:
        UserError: If the two do not have the same labels.
    """
    if set(model_names) == set(data_names):
        return [list(model_names).index(name) for name in data_names]

    def show(names: set[str]) -> str:
        return f"{', '.join(sorted(names)[:5])}{' ...' * (len(names) > 5)}" if names else "none"

    raise UserError(
        f"the labels differ: {model} alone has {show(set(model_names) - set(data_names))}; {place} alone has "
        f"{show(set(data_names) - set(model_names))}; measure the model on rows with its own labels, or rename them "
        "in the model's id2label"
    )


def measure(
    metrics: Sequence[Metric], references: Values, predictions: Values, evaluation: EvaluationConfig
) -> dict[str, dict[str, float]]:
    """Return value, low and high of each metric."""
    return {
        metric.name: asdict(statistics.compute_interval(metric, references, predictions, evaluation))
        for metric in metrics
    }


def read_predictions(run: str | Path, entry: str, sha256: str) -> tuple[str, list[Any]]:
    """Return the name and the test predictions of a finished run, or of an entry of an earlier evaluation.

    Args:
        run: The folder.
        entry: Which entry of an evaluation.
        sha256: The digest of the rows that are compared on, as `compute_rows_sha256` gives it.

    Raises:
        UserError: If the folder holds no predictions for those rows.
    """
    results = read_results(run)
    if "entries" in results:
        record = next((other for other in results["entries"] if other["name"] == entry), None)
        if record is None or "sha256" not in record:
            names = ", ".join(other["name"] for other in results["entries"])
            raise UserError(f"{run} has no predictions for {entry}; it measured {names}")
        name, key, theirs, file = results["model"], "prediction", record["sha256"], f"predictions-{entry}.jsonl"
    else:
        name, key = Path(run).name, find_run_model(results)
        theirs, file = results["test"]["sha256"], "predictions.jsonl"
    if theirs != sha256:
        raise UserError(
            f"{run} was tested on other rows (sha256 {theirs[:12]}..., {entry} has {sha256[:12]}...); a paired test "
            "needs the same rows: measure both models on the same data"
        )
    path = Path(run) / file
    if not path.is_file():
        raise UserError(f"no {file} in {run}; copy the whole folder, or make it again")
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return name, [parse_json(line)[key] for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not as a run writes it ({error}); copy the run again, or make it again") from None


def compare_predictions(
    metrics: Sequence[Metric],
    references: Values,
    ours: tuple[str, Values],
    theirs: tuple[str, list[Any]],
    evaluation: EvaluationConfig,
) -> list[dict[str, Any]]:
    """Test two models on the same rows, by each metric; each comparison has a `sentence` and an `outcome`."""
    name, values = theirs
    other = np.asarray(values) if isinstance(references, np.ndarray) else values
    comparisons = []
    for metric in metrics:
        comparison = asdict(statistics.compare_models(metric, references, ours, (name, other), evaluation))
        lower, level = metric.lower_is_better, evaluation.confidence_level
        comparison["outcome"] = statistics.judge_comparison(comparison, lower_is_better=lower, level=level)
        comparison["sentence"] = statistics.describe_comparison(comparison, lower_is_better=lower, level=level)
        comparisons.append(comparison)
    return comparisons


def parse_limits(text: str | None) -> dict[str, float]:
    """Read `accuracy=0.93,macro_f1=0.9`.

    Raises:
        UserError: If a part is no name and number.
    """
    limits = {}
    for part in () if text is None else text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            limits[name] = float(value)
        except ValueError:
            raise UserError(f"fail_under: {part!r}; expected METRIC=NUMBER, such as accuracy=0.93") from None
    return limits


def find_missed(limits: Mapping[str, float], entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each value beyond its limit; an error may not be above, anything else not below.

    Raises:
        UserError: If no entry measures a metric that has a limit.
    """
    missed = []
    for metric, limit in limits.items():
        measured = [entry for entry in entries if metric in entry["metrics"]]
        if not measured:
            known = sorted({name for entry in entries for name in entry["metrics"]})
            raise UserError(f"fail_under: {metric} is not measured{nearest(metric, known)}; here: {', '.join(known)}")
        for entry in measured:
            value, lower_is_better = entry["metrics"][metric]["value"], metric in entry["lower_is_better"]
            if not (value <= limit if lower_is_better else value >= limit):
                side = "above" if lower_is_better else "under"
                missed.append(f"{entry['name']}: {metric} {value:.6g} is {side} {limit:g}")
    return missed


def find_worse(run: str | None, comparisons: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return a sentence for each entry on which the model is shown to be worse than a run by the primary metric.

    Args:
        run: The run's folder; None where nothing is asked.
        comparisons: Names of entries with their comparisons.
    """
    return [
        f"{name}: {test['sentence']}"
        for name, test in comparisons
        if test["with"] == run and test["decides"] and test["outcome"] == "worse"
    ]


HEADER = ("data", "metric", "value", "interval", "rows")


def build_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the table's rows of text, in the order of `HEADER`."""
    return [
        (entry["name"], name_metric(metric), format_value(metric, figure["value"]), format_interval(metric, figure),
         f"{entry['rows']:,}")
        for entry in results["entries"]
        for metric, figure in entry["metrics"].items()
    ]  # fmt: skip


def build_markdown(results: Mapping[str, Any]) -> str:
    """Write the table and the sentences as Markdown."""
    lines = [HEADER, ("---", "---", "---:", "---", "---:"), *build_rows(results)]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    said = "".join(f"- {sentence}\n" for sentence in results["sentences"])
    return f"# {results['model']}\n\n{table}\n\n{said}".rstrip() + "\n"


def build_page(results: Mapping[str, Any]) -> str:
    """Write the table and the sentences as a page of HTML that needs no other file."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("startup_llm.evaluation", ""), autoescape=True, trim_blocks=True)
    template = environment.get_template("suites.html.jinja")
    return template.render(header=HEADER, rows=build_rows(results), **results)
