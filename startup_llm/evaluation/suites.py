"""Suites of data sets, what a checkpoint scores on them, and limits that it has to keep."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from startup_llm.config import EvaluationConfig
from startup_llm.errors import UserError, nearest
from startup_llm.evaluation import statistics
from startup_llm.evaluation.matched_rows import (
    MatchedPredictions,
    OwnRows,
    match_predictions,
    name_predictions,
    take_rows,
)
from startup_llm.evaluation.metrics import Metric, Values
from startup_llm.evaluation.report import find_run_model, format_interval, format_value, name_metric
from startup_llm.evaluation.sample_size import describe_gate
from startup_llm.pages import load_page
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
        places = (
            "dataset",
            "subset",
            "revision",
            "data_dir",
            "train_file",
            "validation_file",
            "test_file",
            "oos_file",
            "oos_test_file",
        )
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


def place_labels(model_names: Sequence[str], data_names: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """Return the labels of the data and behind them those that the model alone has, and each one's output.

    Args:
        model_names: The model's labels in the order of its outputs.
        data_names: The data's labels in the order of their ids.

    Returns:
        The labels, and for each the place of its output; -1 for one that the model does not know.
    """
    places = {name: place for place, name in enumerate(model_names)}
    labels = (*data_names, *(name for name in model_names if name not in set(data_names)))
    return labels, [places.get(name, -1) for name in labels]


def measure(
    metrics: Sequence[Metric], references: Values, predictions: Values, evaluation: EvaluationConfig
) -> dict[str, dict[str, float]]:
    """Return value, low and high of each metric."""
    return {
        metric.name: asdict(statistics.compute_interval(metric, references, predictions, evaluation))
        for metric in metrics
    }


def read_predictions(run: str | Path, entry: str, ours: OwnRows, *, some: bool = False) -> MatchedPredictions:
    """Return the predictions of a finished run, or of an entry of an earlier evaluation, for the same rows.

    Args:
        run: The folder.
        entry: Which entry of an evaluation.
        ours: The rows.
        some: Whether the rows that an evaluation has too are enough, from whichever entry if it has only one.

    Raises:
        UserError: If the folder holds no predictions for those rows.
    """
    results = read_results(run)
    if "entries" in results:
        record = _find_entry(results["entries"], entry, any_entry=some)
        if record is None or "sha256" not in record:
            names = ", ".join(other["name"] for other in results["entries"])
            raise UserError(f"{run} has no predictions for {entry}; it measured {names}")
        name, column, theirs = results["model"], "prediction", record["sha256"]
        file, labels, has_keys = f"predictions-{record['name']}.jsonl", record.get("labels"), "labels" in record
    else:
        name, column, theirs = Path(run).name, find_run_model(results), results["test"]["sha256"]
        file, labels, has_keys = "predictions.jsonl", results.get("labels"), False
    if theirs != ours.sha256 and not (some and has_keys):
        raise UserError(
            f"{run} was tested on other rows (sha256 {theirs[:12]}..., {entry} has {ours.sha256[:12]}...); a paired "
            "test needs the same rows: measure both models on the same data"
        )
    lines = _read_lines(Path(run) / file, str(column))
    values = name_predictions([line[column] for line in lines], labels or ours.labels)
    if theirs == ours.sha256:
        return match_predictions(name, ours, dict(enumerate(values)), range(len(values)))
    return match_predictions(name, ours, {line.get("key"): value for line, value in zip(lines, values, strict=True)})


def _find_entry(entries: Sequence[Mapping[str, Any]], name: str, *, any_entry: bool) -> Mapping[str, Any] | None:
    """Return an evaluation's entry of a name, or its only one where the rows are matched one by one."""
    named = next((entry for entry in entries if entry["name"] == name), None)
    return entries[0] if named is None and any_entry and len(entries) == 1 else named


def _read_lines(path: Path, column: str) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"no {path.name} in {path.parent}; copy the whole folder, or make it again")
    try:
        lines = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if all(column in line for line in lines):
            return lines
        raise KeyError(column)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not as a run writes it ({error}); copy the run again, or make it again") from None


def compare_predictions(
    metrics: Sequence[Metric],
    references: Values,
    ours: tuple[str, Values],
    theirs: MatchedPredictions,
    evaluation: EvaluationConfig,
) -> list[dict[str, Any]]:
    """Test two models on the rows that both answered, by each metric.

    Each comparison has a `sentence`, an `outcome` and the number of `rows`.
    """
    name, values, rows = theirs.model, theirs.predictions, len(theirs.places)
    other = np.asarray(values) if isinstance(references, np.ndarray) else values
    on_rows = "" if rows == len(references) else f", on the {rows:,} of {len(references):,} rows that both have"
    references, ours = take_rows(references, theirs.places), (ours[0], take_rows(ours[1], theirs.places))
    comparisons = []
    for metric in metrics:
        comparison = asdict(statistics.compare_models(metric, references, ours, (name, other), evaluation))
        lower, level = metric.lower_is_better, evaluation.confidence_level
        comparison["outcome"] = statistics.judge_comparison(comparison, lower_is_better=lower, level=level)
        sentence = statistics.describe_comparison(comparison, lower_is_better=lower, level=level)
        comparison |= {"sentence": sentence + on_rows, "rows": rows}
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


def find_missed(
    limits: Mapping[str, float], entries: Sequence[Mapping[str, Any]], gate: Literal["point", "lower"] = "point"
) -> list[str]:
    """Return a sentence for each value beyond its limit; an error may not be above, anything else not below.

    Args:
        limits: By metric.
        entries: What was measured.
        gate: What is held against the limit: the figure, or the end of its interval that is the worse one.

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
            score, lower_is_better = entry["metrics"][metric], metric in entry["lower_is_better"]
            value, what = score["value"], ""
            if gate == "lower":
                end = "high" if lower_is_better else "low"
                value, what = score[end], f" (from {score['low']:.6g} to {score['high']:.6g}): the {end} end"
            if not (value <= limit if lower_is_better else value >= limit):
                side = "above" if lower_is_better else "under"
                if what:
                    more = describe_gate(score, entry["rows"], limit, lower_is_better=lower_is_better)
                    missed.append(f"{entry['name']}: {metric} {score['value']:.6g}{what} is {side} {limit:g}{more}")
                else:
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
    template = load_page("startup_llm.evaluation", "suites.html.jinja")
    return template.render(header=HEADER, rows=build_rows(results), **results)
