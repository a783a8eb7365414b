"""The comparison of models at several label budgets: many runs on the same test rows, in figures and plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.evaluation import report
from startup_llm.evaluation.metrics import Metric, Values, is_share
from startup_llm.evaluation.statistics import compare_models, compute_interval, judge_comparison
from startup_llm.pages import THEME, load_page

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from startup_llm.config import EvaluationConfig

ALL = "all"
"""The budget that takes every label."""

Budget = int | str

_LINE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c7a5b", "#808080")
"""Okabe and Ito's palette without yellow and black, which one kind of paper swallows."""

_TOP_SHARE = 0.12
"""Models that come this close to the best at the first budget are drawn once more, larger."""


@dataclass(frozen=True)
class ComparedRun:
    """One model, trained once at one budget.

    Attributes:
        model: Its name.
        budget: Labels per class, or `ALL`.
        draw: Number of the draw of rows and of the training's seed.
        predictions: On the test rows, in their order.
        test_sha256: Of the test rows.
        train_rows: Rows trained on.
        seconds: What the run took, from reading the rows to the checked model.
        parameters: Weights of the model; None where it is no network.
        trainable_parameters: How many of them were trained.
        peak_memory_bytes: Most memory that its process held.
        milliseconds_per_prediction: Per test row, in batches.
        command: What made it.
    """

    model: str
    budget: Budget
    draw: int
    predictions: Values
    test_sha256: str
    train_rows: int
    seconds: float
    parameters: int | None = None
    trainable_parameters: int | None = None
    peak_memory_bytes: int | None = None
    milliseconds_per_prediction: float | None = None
    command: str | None = None

    def describe(self) -> str:
        """Return in one line what was run and how long it took."""
        return f"{self.model}, labels per class: {self.budget}, draw {self.draw}: {self.seconds:.0f} s"


def check_measurable(run: ComparedRun, metric: Metric) -> None:
    """Refuse a model whose predictions do not tell what is compared.

    Raises:
        UserError: If it is one.
    """
    if not metric.is_measurable(run.predictions):
        raise UserError(
            f"rungs: {run.model} gives no {metric.name}, by which the models are compared; leave it out, or choose "
            "another with --evaluation.decides"
        )


def build_comparison(
    runs: Sequence[ComparedRun], references: Values, metric: Metric, evaluation: EvaluationConfig
) -> dict[str, Any]:
    """Score every run on the same test rows, and at each budget the best model against each other one.

    A model's figure at a budget is the mean over its draws. Two models are compared draw by draw on the same rows;
    one is better where more than half of the draws show it.

    Args:
        runs: Of every model at every budget, each with the same draws at a budget.
        references: True values of the test rows.
        metric: By which the models are compared.
        evaluation: Level, resamples and seed.

    Returns:
        Plain data: decides, lower_is_better, budgets (each with its models as rungs, best first, its
        comparisons, the one to use and the sentence that says so) and sentences.

    Raises:
        UserError: If two runs were tested on different rows.
    """
    first = runs[0]
    for run in runs:
        if run.test_sha256 != first.test_sha256:
            raise UserError(
                f"{run.model} (labels per class: {run.budget}, draw {run.draw}) was tested on other rows "
                f"({run.test_sha256[:12]}) than {first.model} ({first.test_sha256[:12]}); "
                "give the test rows as a split of their own, so that no draw changes them"
            )
    budgets = []
    for budget in dict.fromkeys(run.budget for run in runs):
        by_model: dict[str, list[ComparedRun]] = {}
        for run in runs:
            if run.budget == budget:
                by_model.setdefault(run.model, []).append(run)
        models = []
        for name, draws in by_model.items():
            scored = [asdict(compute_interval(metric, references, run.predictions, evaluation)) for run in draws]
            values = [score["value"] for score in scored]
            models.append(
                {
                    "name": name,
                    "mean": float(np.mean(values)),
                    "least": min(values),
                    "most": max(values),
                    "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                    "train_rows": round(np.mean([run.train_rows for run in draws])),
                    "seconds": float(np.mean([run.seconds for run in draws])),
                    **{key: _mean_of(draws, key) for key in _COSTS},
                    "draws": [
                        {"draw": run.draw, **score, "seconds": run.seconds, "command": run.command}
                        for run, score in zip(draws, scored, strict=True)
                    ],
                }
            )
        models.sort(key=lambda model: model["mean"], reverse=not metric.lower_is_better)
        leader = models[0]["name"]
        comparisons = [
            _compare(by_model[leader], by_model[model["name"]], references, metric, evaluation) for model in models[1:]
        ]
        entry = {"budget": budget, "rungs": models, "comparisons": comparisons}
        budgets.append({**entry, **_recommend(entry, metric.name)})
    return {
        "decides": metric.name,
        "lower_is_better": metric.lower_is_better,
        "level": evaluation.confidence_level,
        "test": {"rows": len(references), "sha256": first.test_sha256},
        "budgets": budgets,
        "sentences": [entry["sentence"] for entry in budgets],
    }


_COSTS = ("parameters", "trainable_parameters", "peak_memory_bytes", "milliseconds_per_prediction")


def _mean_of(draws: Sequence[ComparedRun], key: str) -> float | int | None:
    values = [getattr(run, key) for run in draws]
    if any(value is None for value in values):
        return None
    mean = float(np.mean(values))
    return mean if isinstance(values[0], float) else round(mean)


def _compare(
    a: Sequence[ComparedRun],
    b: Sequence[ComparedRun],
    references: Values,
    metric: Metric,
    evaluation: EvaluationConfig,
) -> dict[str, Any]:
    """Compare two models draw by draw; the first draw's test stands for the rest, which are counted."""
    others, name = {run.draw: run.predictions for run in b}, b[0].model
    tests = [
        asdict(
            compare_models(
                metric,
                references,
                (run.model, run.predictions),
                (name, others[run.draw]),
                evaluation,
            )
        )
        for run in a
    ]
    lower, level = metric.lower_is_better, evaluation.confidence_level
    shown = sum(judge_comparison(test, lower_is_better=lower, level=level) == "better" for test in tests)
    mean = float(np.mean([test["difference"] for test in tests]))
    return {**tests[0], "mean_difference": mean, "draws": len(tests), "draws_that_show_it": shown}


def _recommend(entry: Mapping[str, Any], metric: str) -> dict[str, str]:
    """Choose the quickest model that the best is not shown to beat, and say why."""
    leader, *_ = entry["rungs"]
    beaten = {c["b"] for c in entry["comparisons"] if 2 * c["draws_that_show_it"] > c["draws"]}
    level = [model for model in entry["rungs"] if model["name"] not in beaten]
    chosen = min(level, key=lambda model: model["seconds"])
    draws = len(chosen["draws"])
    spread = f", {_range(metric, chosen)} over {draws} draws" if draws > 1 else ""
    said = (
        f"{name_budget(entry['budget'], long=True)}, use {chosen['name']}: "
        f"{report.format_value(metric, chosen['mean'])} {report.name_metric(metric)}{spread}, "
        f"in {report.format_duration(chosen['seconds'])}"
    )
    if chosen is not leader:
        said += (
            f"; {leader['name']} has {report.format_value(metric, leader['mean'])} "
            f"in {report.format_duration(leader['seconds'])}, which is not shown to be better"
        )
    elif beaten and len(beaten) == len(entry["comparisons"]):
        said += "; it is shown to beat every other model"
    elif entry["comparisons"]:
        names = [model["name"] for model in level if model is not leader]
        said += f"; {' and '.join(names)} cannot be told apart from it, and took longer"
    return {"use": chosen["name"], "sentence": f"{said}."}


def _range(metric: str, model: Mapping[str, Any]) -> str:
    return report.format_interval(metric, {"low": model["least"], "high": model["most"]})


def name_budget(budget: Budget, *, long: bool = False) -> str:
    """Write a budget: `10` or `all`; the long form begins a sentence."""
    if not long:
        return str(budget)
    if budget == ALL:
        return "With all labels"
    return f"With {budget} {'label' if budget == 1 else 'labels'} per class"


def draw_budget_curve(comparison: Mapping[str, Any], classes: int) -> Figure:
    """Draw each model's figure over the label budget: the line is the mean of the draws, the band their range.

    Args:
        comparison: What `build_comparison` returns.
        classes: Number of labels, which places the budget `all`.
    """
    from matplotlib.figure import Figure

    metric, budgets = comparison["decides"], comparison["budgets"]
    factor = 100 if is_share(metric) else 1
    lines: dict[str, list[tuple[float, ...]]] = {}
    for entry in budgets:
        for model in entry["rungs"]:
            place = model["train_rows"] / max(classes, 1) if entry["budget"] == ALL else entry["budget"]
            lines.setdefault(model["name"], []).append(
                (float(place), *(factor * model[key] for key in ("mean", "least", "most")))
            )
    lower = comparison["lower_is_better"]
    order = sorted(lines, key=lambda name: lines[name][-1][1], reverse=not lower)
    near = (1 - _TOP_SHARE) * factor * max(model["mean"] for model in budgets[0]["rungs"])
    top = [name for name in order if not lower and lines[name][0][1] >= near] or order
    figure = Figure(figsize=(9.2, 4.4), layout="constrained", facecolor="none")
    panels = figure.subplots(1, 2)
    for axes, shown, title in ((panels[0], order, "every model"), (panels[1], top, "the top, larger")):
        report._style_axes(axes)
        for name in shown:
            places, means, lowest, highest = zip(*sorted(lines[name]), strict=True)
            place = order.index(name)
            color, style = _LINE_COLORS[place % len(_LINE_COLORS)], "-" if place < len(_LINE_COLORS) else "--"
            axes.fill_between(places, lowest, highest, color=color, alpha=0.18, linewidth=0)
            axes.plot(
                places, means, color=color, linestyle=style, marker="o", markersize=4.5, linewidth=1.7, label=name
            )
        ticks = {}
        for entry in budgets:
            name, rows = name_budget(entry["budget"]), entry["rungs"][0]["train_rows"] / max(classes, 1)
            ticks[rows if entry["budget"] == ALL else float(entry["budget"])] = name
        axes.set_xscale("log")
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xticks([], minor=True)
        axes.set(xlabel="labels per class", ylabel=report.name_metric(metric))
        axes.set_title(title, loc="left", fontsize=10.5, color=THEME["muted"][0])
        if factor == 100:
            axes.yaxis.set_major_formatter("{x:g} %")
    handles, names = panels[0].get_legend_handles_labels()
    ink = THEME["ink"][0]
    figure.legend(handles, names, loc="outside upper left", ncols=4, frameon=False, fontsize=10, labelcolor=ink)
    return figure


def write_curve(figure: Figure, path: Path) -> None:
    """Write the curve as PNG on light paper."""
    figure.savefig(path, dpi=160, facecolor=THEME["paper"][0])


def build_comparison_page(comparison: Mapping[str, Any], figure: Figure) -> str:
    """Build the comparison as one HTML page without external assets.

    Args:
        comparison: What `build_comparison` returns, with title, hardware, command and data notes.
        figure: What `draw_budget_curve` returns.
    """
    metric = comparison["decides"]
    spoken = "; ".join(
        f"{name_budget(entry['budget'], long=True)}: "
        + ", ".join(f"{model['name']} {report.format_value(metric, model['mean'])}" for model in entry["rungs"])
        for entry in comparison["budgets"]
    )
    filters: dict[str, Callable[..., Any]] = {
        "count": report.format_count,
        "duration": report.format_duration,
        "bytes": report.format_bytes,
        "metric": report.name_metric,
        "budget": name_budget,
        "value": lambda value: report.format_value(metric, value),
        "interval": lambda entry: report.format_interval(metric, entry),
        "range": lambda model: _range(metric, model),
        "difference": lambda value: report.format_difference(metric, value),
        "p_value": report.format_p_value,
    }
    return load_page("startup_llm.evaluation", "comparison.html.jinja", filters).render(
        comparison,
        curve=report._render_svg(figure, spoken),
        level=f"{100 * comparison['level']:g} %",
    )
