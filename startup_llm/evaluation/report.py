"""The report of a finished run: one HTML page that opens anywhere, made from the plain data in results.json.

Nothing here knows a task: a section appears when its key is present.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from startup_llm.access_tokens import redact_tokens
from startup_llm.evaluation import statistics
from startup_llm.evaluation.energy import describe_energy
from startup_llm.evaluation.metrics import is_share
from startup_llm.evaluation.prediction_costs import list_prediction_costs
from startup_llm.pages import THEME, load_page

if TYPE_CHECKING:
    import jinja2
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from startup_llm.evaluation.statistics import Outcome

Results = Mapping[str, Any]

_MAX_TEXT_CHARACTERS = 700
_MAX_OPEN_CLASSES = 30
_FIGURE_WIDTH_INCHES = 4.6
_ABSOLUTE_PATH = re.compile(
    r"(?<![\w.:/\\~<-])(?:file://|~|[A-Za-z]:)?[\\/](?:[^\s\\/'\",;\]\[()]+[\\/])*([^\s\\/'\",;\]\[()]+)"
)


def build_report(results: Results) -> str:
    """Build the report as one HTML page without external assets.

    Args:
        results: A run's results, schema version 1. In `comparisons`, `difference` is a's value minus b's, in the
            metric's own unit.

    Returns:
        The page. Every text that came with the data is escaped.
    """
    return _load_template().render(_build_view(results))


@functools.cache
def _load_template() -> jinja2.Template:
    filters: dict[str, Callable[..., Any]] = {
        "count": format_count,
        "dollars": format_dollars,
        "duration": format_duration,
        "bytes": format_bytes,
        "metric": name_metric,
        "value": format_value,
        "show": _show,
        "shorten": _shorten,
        "cut_spans": cut_spans,
        "cut_words": cut_words,
    }
    return load_page("startup_llm.evaluation", "report.html.jinja", filters)


def cut_spans(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Cut a text at its marked spans.

    Args:
        item: `text`, and `spans` with start and end in characters, label, and whether the mark is right (`true`). A
            span that overlaps one before it is left out.

    Returns:
        Pieces of text in their order, those marked with label and true; joined they are the text.
    """
    pieces, place = [], 0
    for span in sorted(item["spans"], key=lambda span: (span["start"], -span["end"])):
        if span["start"] < place:
            continue
        pieces += [{"text": item["text"][place : span["start"]]}] if span["start"] > place else []
        pieces.append(
            {"text": item["text"][span["start"] : span["end"]], "label": span["label"], "true": span["true"]}
        )
        place = span["end"]
    return [*pieces, {"text": item["text"][place:]}] if place < len(item["text"]) else pieces


def cut_words(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Cut a text at its weighed words.

    Args:
        item: `text`, and `words` in their order with start and end in characters and a weight of at most 1.

    Returns:
        Pieces of text in their order, words with their weight in `percent`; joined they are the text.
    """
    pieces, place = [], 0
    for word in item["words"]:
        pieces.append({"text": item["text"][place : word["start"]]})
        pieces.append({"text": item["text"][word["start"] : word["end"]], "percent": round(100 * word["weight"])})
        place = word["end"]
    return [*pieces, {"text": item["text"][place:]}]


def _build_view(results: Results) -> dict[str, Any]:
    """Arrange the results for the template; what is absent is None or empty."""
    optional = (
        "samples",
        "gallery",
        "groups",
        "confusions",
        "confusion_matrix",
        "calibration",
        "numbers",
        "decision",
        "out_of_scope",
        "label_thresholds",
        "balance",
        "mistakes",
        "explanation",
        "data",
        "truncation",
        "audit",
        "reload_gate",
        "checkpoint",
        "rows",
        "signatures",
        "prompted_llm",
        "export",
    )
    facts = ("seconds", "stage_seconds", "peak_memory_bytes", "throughput", "versions", "hardware", "seed", "test")
    headline, sentences = results.get("headline"), build_verdict(results)
    classes = rank_classes(results)
    config = results.get("config")
    return {
        **{name: results.get(name) for name in (*optional, *facts)},
        "task": results["task"],
        "method": results["method"],
        "decides": results["decides"],
        "run_name": results.get("run_name") or results["method"],
        "energy": describe_energy(results.get("energy")),
        "prediction_costs": list_prediction_costs(results.get("prediction_costs")),
        "lead": " ".join(headline) if headline else sentences[0],
        "further_sentences": sentences if headline else sentences[1:],
        "handover_sentence": _find_handover_sentence(results),
        "data_summary": _summarize_data(results),
        "actions": [
            {**action, "command": action["command"] and redact_tokens(action["command"])}
            for action in results.get("advice") or ()
        ],
        "prompted_scores": {
            name: results["models"][name][results["decides"]]["value"]
            for name in (results.get("prompted_llm") or {}).get("compared", ())
        },
        "threshold_metrics": _list_threshold_metrics(results),
        "models_chart": _draw_models(results),
        "metric_names": list_metrics(results),
        "model_rows": build_metric_table(results),
        "level": format_level(results),
        "threshold": f"{1 - _level(results):.3g}",
        "comparisons": [_view_comparison(comparison, results) for comparison in results.get("comparisons") or []],
        "curves": _draw_curves(results),
        "reliability": _draw_reliability(results.get("calibration")),
        "calibrated_reliability": _draw_reliability(_find_calibrated_reliability(results)),
        "tenths": _draw_tenths(results.get("numbers")),
        "classes": classes,
        "matrix_names": _name_matrix_rows(results.get("confusion_matrix")),
        "counted": results.get("counted") or ("row", "rows"),
        "class_score": find_class_score(results),
        "class_columns": list(classes[0][1]) if classes else [],
        "fold_classes": len(classes) > _MAX_OPEN_CLASSES,
        "files": list_files(results),
        "command": redact_tokens(results["command"]) if results.get("command") else None,
        "config": redact_tokens(_dump_yaml(config)) if config else None,
    }


def _name_matrix_rows(matrix: Mapping[str, Any] | None) -> list[str]:
    if matrix is None:
        return []
    return [*matrix["labels"], *([f"{matrix['others']} other classes"] if matrix["others"] else [])]


# Numbers in words ------------------------------------------------------------------------------------------------


def name_metric(metric: str) -> str:
    """Return a metric's name for reading: `macro_f1` becomes `macro F1`."""
    return re.sub(r"\bf1\b", "F1", metric.replace("_", " "))


def format_value(metric: str, value: float | None) -> str:
    """Write a metric's value: one decimal of a percent for shares, four digits otherwise, a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f} %" if is_share(metric) else f"{value:.4g}"


def format_interval(metric: str, entry: Mapping[str, float | None]) -> str:
    """Write an entry's interval as `93.0 to 95.2`, or an empty string where it has none."""
    low, high = entry.get("low"), entry.get("high")
    if low is None or high is None:
        return ""
    return f"{_scale(metric, low)} to {_scale(metric, high)}"


def format_difference(metric: str, difference: float) -> str:
    """Write a difference with its sign: `+4.2 points` for shares, four digits otherwise."""
    return f"{100 * difference:+.1f} points" if is_share(metric) else f"{difference:+.4g}"


def format_p_value(p_value: float | None) -> str:
    """Write a p-value as `p < 0.001` or `p = 0.012`, or an empty string for none."""
    if p_value is None:
        return ""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def format_level(results: Results) -> str:
    """Write the level of the intervals, as `95 %`."""
    return f"{100 * _level(results):g} %"


def format_count(number: float) -> str:
    """Write a number with thousands separated; a fraction keeps one decimal."""
    return f"{number:,}" if isinstance(number, int) else f"{number:,.1f}"


def format_dollars(dollars: float | None) -> str:
    """Write a price with three digits, as `$0.0123`, or a dash for none."""
    return "–" if dollars is None else f"${dollars:.3g}"


def format_duration(seconds: float) -> str:
    """Write seconds as `4.2 s`, `97 s`, `12 min 5 s` or `3 h 20 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_bytes(number: float) -> str:
    """Write bytes in decimal units, as `1.6 GB`."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _level(results: Results) -> float:
    return ((results.get("config") or {}).get("evaluation") or {}).get("confidence_level") or 0.95


def _scale(metric: str, value: float) -> str:
    return f"{100 * value:.1f}" if is_share(metric) else f"{value:.4g}"


def _show(value: Any) -> str:
    """Write a label of any kind: a name, several names, a number, or a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_show, value)) or "(none)"
    return str(value)


def _shorten(text: str) -> str:
    if len(text) <= _MAX_TEXT_CHARACTERS:
        return text
    return f"{text[:_MAX_TEXT_CHARACTERS].rstrip()} … ({len(text):,} characters in all)"


def _find_calibrated_reliability(results: Results) -> Results | None:
    """Return the reliability after temperature scaling; None where the scores stay as they are."""
    decision = results.get("decision") or {}
    return decision.get("reliability") if decision.get("temperature", 1) != 1 else None


def _find_handover_sentence(results: Results) -> str | None:
    """Return when to hand over, in a sentence; None where nothing is known, or an action proposes it already."""
    sentences = (results.get("decision") or {}).get("sentences") or ()
    proposed = any("--decision." in (action["command"] or "") for action in results.get("advice") or ())
    return None if proposed or not sentences else sentences[0]


def _summarize_data(results: Results) -> str:
    """Return the rows of each split, and how many kinds of faults the audit found."""
    parts = [", ".join(f"{format_count(rows)} {split}" for split, rows in (results.get("rows") or {}).items())]
    if audit := results.get("audit"):
        kinds = len(audit["findings"])
        parts.append(f"{kinds or 'no'} {'finding' if kinds == 1 else 'findings'} of the {audit['level']} audit")
    return "; ".join(filter(None, parts))


def _list_threshold_metrics(results: Results) -> list[str]:
    judged = (results.get("label_thresholds") or {}).get("models") or {}
    return [name for name in list_metrics(results) if name in judged.get("default", {})]


def _dump_yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


# What is separate from the page's form, for the model card too -----------------------------------------------------


def hide_local_paths(text: str) -> str:
    """Cut absolute local paths to their last part and blank out tokens; relative paths and URLs stay."""
    return redact_tokens(_ABSOLUTE_PATH.sub(r"\1", text))


def list_metrics(results: Results) -> list[str]:
    """Return the names of the metrics of any model, the deciding one first."""
    names = dict.fromkeys([results["decides"]])
    for metrics in results["models"].values():
        names |= dict.fromkeys(metrics)
    return list(names)


def find_run_model(results: Results) -> str | None:
    """Return the name of the model that the run made: its method, or the one that every comparison starts from."""
    if results["method"] in results["models"]:
        return results["method"]
    starts = {comparison["a"] for comparison in results.get("comparisons") or ()}
    return starts.pop() if len(starts) == 1 else None


def rank_models(results: Results) -> list[str]:
    """Return the models' names, best first by the deciding metric; those without it come last."""
    decides, models = results["decides"], results["models"]
    sign = 1 if decides in (results.get("lower_is_better") or ()) else -1
    return sorted(
        models, key=lambda name: sign * models[name][decides]["value"] if decides in models[name] else math.inf
    )


def build_metric_table(results: Results) -> list[dict[str, Any]]:
    """Build one row per model, best first: its name, whether the run trained it, and (value, interval) by metric."""
    rows = []
    for name in rank_models(results):
        entries = {metric: results["models"][name].get(metric) for metric in list_metrics(results)}
        cells = [
            (format_value(metric, entry["value"]), format_interval(metric, entry)) if entry else ("–", "")
            for metric, entry in entries.items()
        ]
        rows.append({"name": name, "is_run": name == find_run_model(results), "cells": cells})
    return rows


def find_class_score(results: Results) -> str | None:
    """Return the name of the score by which classes are ranked: F1, or else the first; None without classes."""
    scores = next(iter((results.get("per_class") or {}).values()), None)
    return None if scores is None else "f1" if "f1" in scores else next(iter(scores))


def rank_classes(results: Results) -> list[tuple[str, dict[str, Any]]]:
    """Return each class with its scores, the weakest first."""
    score = find_class_score(results)
    return sorted((results.get("per_class") or {}).items(), key=lambda item: item[1].get(score) or 0.0)


def judge_comparison(comparison: Mapping[str, Any], results: Results) -> Outcome:
    """Return whether a is significantly better or worse than b, at the run's level."""
    return statistics.judge_comparison(comparison, **_how_to_judge(comparison, results))


def describe_comparison(comparison: Mapping[str, Any], results: Results) -> str:
    """Describe a comparison in one sentence, at the run's level."""
    return statistics.describe_comparison(comparison, **_how_to_judge(comparison, results))


def _how_to_judge(comparison: Mapping[str, Any], results: Results) -> dict[str, Any]:
    lower_is_better = comparison["metric"] in (results.get("lower_is_better") or ())
    return {"lower_is_better": lower_is_better, "level": _level(results)}


def build_verdict(results: Results) -> list[str]:
    """Return the run's sentences, or make them from its comparisons, or state the score alone; never empty."""
    if sentences := results.get("sentences"):
        return list(sentences)
    if comparisons := results.get("comparisons"):
        return [describe_comparison(comparison, results) for comparison in comparisons]
    decides = results["decides"]
    best = rank_models(results)
    name = find_run_model(results) or best[0]
    value = format_value(decides, results["models"][name].get(decides, {}).get("value"))
    return [f"{name} reaches {value} of {name_metric(decides)}; it was compared with no other model"]


def list_files(results: Results) -> list[dict[str, Any]]:
    """Flatten the data's sources to one record per file or Hub split: split, name, rows, sha256 (or revision)."""
    records = []
    for source in (results.get("data") or {}).get("sources") or ():
        files = source.get("files")
        if not files:
            name = " ".join(filter(None, (source.get("dataset"), source.get("subset"), source.get("hub_split"))))
            records.append({**source, "name": name or "–", "digest": source.get("sha256") or source.get("revision")})
            continue
        for file in files:
            described = file if isinstance(file, Mapping) else {"path": file}
            alone = len(files) == 1
            records.append(
                {
                    "split": source.get("split"),
                    "name": _last_part(described["path"]),
                    "rows": described.get("rows", source.get("rows") if alone else None),
                    "digest": described.get("sha256") or (source.get("sha256") if alone else None),
                }
            )
    return records


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _view_comparison(comparison: Mapping[str, Any], results: Results) -> dict[str, Any]:
    metric = comparison["metric"]
    return {
        "a": comparison["a"],
        "b": comparison["b"],
        "metric": metric,
        "difference": format_difference(metric, comparison["difference"]),
        "interval": format_interval(metric, comparison),
        "p_value": format_p_value(comparison.get("p_value")) or "–",
        "test": comparison.get("test") or "–",
        "outcome": judge_comparison(comparison, results),
    }


# Figures -----------------------------------------------------------------------------------------------------------


def _color(name: str) -> str:
    return THEME[name][0]


def _new_figure(height_inches: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(_FIGURE_WIDTH_INCHES, height_inches), layout="constrained", facecolor="none")


def _style_axes(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_color("line"))
    axes.tick_params(colors=_color("muted"), labelsize=10, length=0, pad=5)
    axes.xaxis.label.set(color=_color("muted"), size=10.5)
    axes.yaxis.label.set(color=_color("muted"), size=10.5)
    axes.grid(color=_color("line"), linewidth=0.6)
    axes.set_axisbelow(True)


def _render_svg(figure: Figure, description: str) -> Any:
    """Render a figure as inline SVG that takes its colours and its font from the page.

    Args:
        figure: Drawn in the light colours of `THEME`.
        description: What the figure shows, for those who do not see it.

    Returns:
        Markup, safe to put into the page as it is.
    """
    import io

    import matplotlib
    from markupsafe import Markup, escape
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        FigureCanvasSVG(figure)  # texts are measured as they are written
        if (layout := figure.get_layout_engine()) is not None:
            layout.execute(figure)
            figure.set_layout_engine("none")  # else saving draws the figure once more, to lay it out
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", svg)
    svg = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", svg)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
    for name, (light, _) in THEME.items():
        svg = svg.replace(light, f"var(--{name})")
    return Markup(svg)


def _draw_models(results: Results) -> Any:
    """Draw each model's deciding metric as a bar with its interval, best on top."""
    decides = results["decides"]
    names = [name for name in rank_models(results) if decides in results["models"][name]]
    if not names:
        return None
    factor = 100 if is_share(decides) else 1
    entries = [results["models"][name][decides] for name in names]
    ends = [
        factor * (entry.get(end) if entry.get(end) is not None else entry["value"])
        for entry in entries
        for end in ("low", "high")
    ]
    left, right = min(0.0, *ends), max(ends) if factor == 1 else 100.0
    figure = _new_figure(0.35 + 0.52 * len(names))
    axes = figure.subplots()
    _style_axes(axes)
    spoken = []
    for height, (name, entry) in enumerate(zip(names, entries, strict=True)):
        value, is_run = factor * entry["value"], name == find_run_model(results)
        axes.barh(height, value, height=0.3, color=_color("accent" if is_run else "baseline"))
        interval = format_interval(decides, entry)
        if interval:
            whisker = [[max(0.0, value - factor * entry["low"])], [max(0.0, factor * entry["high"] - value)]]
            axes.errorbar(value, height, xerr=whisker, color=_color("ink"), elinewidth=1.3, capsize=3, capthick=1.3)
        text = format_value(decides, entry["value"]) + (f" ({interval})" if interval else "")
        style: dict[str, Any] = {"va": "bottom", "parse_math": False, "fontsize": 11, "color": _color("ink")}
        style["fontweight"] = "bold" if is_run else "normal"
        axes.text(0, height - 0.2, name, transform=axes.get_yaxis_transform(), **style)
        axes.text(1, height - 0.2, text, ha="right", transform=axes.get_yaxis_transform(), **style)
        spoken.append(f"{name} {text}")
    axes.set(xlim=(left, right or 1.0), ylim=(len(names) - 0.6, -0.75), yticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(visible=False)
    axes.axvline(0, color=_color("line"), linewidth=1)
    if factor == 100:
        axes.xaxis.set_major_formatter("{x:.0f} %")
    return _render_svg(figure, f"{name_metric(decides)} on the test rows, best first: {'; '.join(spoken)}")


def _draw_curves(results: Results) -> list[Any]:
    """Draw the losses, and the deciding metric on the validation rows, over the optimiser's steps."""
    history, decides = results.get("history") or (), results["decides"]
    plots = [
        ("loss", [("training", "loss", "accent"), ("validation", "eval_loss", "second")], 1),
        (name_metric(decides), [("validation", f"eval_{decides}", "second")], 100 if is_share(decides) else 1),
        (
            "adversarial loss",
            [("discriminator", "discriminator_loss", "accent"), ("generator", "generator_loss", "second")],
            1,
        ),
    ]
    return [curve for plot in plots if (curve := _draw_curve(history, *plot)) is not None]


def _draw_curve(
    history: Iterable[Mapping[str, Any]], title: str, lines: Sequence[tuple[str, str, str]], factor: int
) -> Any:
    from matplotlib.ticker import MaxNLocator

    series = {}
    for label, key, color in lines:
        points = [(record["step"], factor * record[key]) for record in history if record.get(key) is not None]
        points = [point for point in points if math.isfinite(point[1])]
        if points:
            series[label] = (points, color)
    if not series:
        return None
    figure = _new_figure(2.9)
    axes = figure.subplots()
    _style_axes(axes)
    spoken = []
    for label, (points, color) in series.items():
        marker = "o" if label == "validation" or len(points) == 1 else None
        axes.plot(
            *zip(*points, strict=True), color=_color(color), label=label, linewidth=1.8, marker=marker, markersize=5
        )
        spoken.append(
            f"{label} from {points[0][1]:.4g} at step {points[0][0]} to {points[-1][1]:.4g} at step {points[-1][0]}"
        )
    axes.set(xlabel="optimiser step", ylabel=title)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(visible=False, axis="x")
    if factor == 100:
        axes.yaxis.set_major_formatter("{x:g} %")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=10.5, labelcolor=_color("ink"))
    return _render_svg(figure, f"{title}: {'; '.join(spoken)}")


def _draw_reliability(calibration: Results | None) -> Any:
    """Draw accuracy over confidence by bin, with the number of rows in each bin underneath."""
    bins = [entry for entry in (calibration or {}).get("bins") or () if entry["rows"]]
    if not bins:
        return None
    confidence = [100 * entry["confidence"] for entry in bins]
    accuracy = [100 * entry["accuracy"] for entry in bins]
    figure = _new_figure(4.6)
    above, below = figure.subplots(2, sharex=True, height_ratios=[3.4, 1])
    for axes in (above, below):
        _style_axes(axes)
        axes.grid(visible=False, axis="x")
    above.plot([0, 100], [0, 100], color=_color("muted"), linewidth=1, linestyle=(0, (4, 4)))
    above.text(100, 3, "dashed: perfect calibration", color=_color("muted"), fontsize=10, ha="right")
    above.plot(confidence, accuracy, color=_color("accent"), linewidth=1.8, marker="o", markersize=6)
    above.set(ylabel="accuracy", ylim=(0, 104), xlim=(0, 102), yticks=range(0, 101, 25), xticks=range(0, 101, 25))
    above.yaxis.set_major_formatter("{x:.0f} %")
    middles = [50 * (entry["low"] + entry["high"]) for entry in bins]
    widths = [90 * (entry["high"] - entry["low"]) for entry in bins]
    below.bar(middles, [entry["rows"] for entry in bins], width=widths, color=_color("baseline"))
    below.set(ylabel="rows", xlabel="confidence")
    below.yaxis.set_major_locator(_few_ticks())
    below.xaxis.set_major_formatter("{x:.0f} %")
    spoken = [
        f"confidence {mean:.0f} %: accuracy {right:.0f} % ({entry['rows']} rows)"
        for mean, right, entry in zip(confidence, accuracy, bins, strict=True)
    ]
    return _render_svg(figure, f"Accuracy by confidence: {'; '.join(spoken)}")


def _draw_tenths(numbers: Results | None) -> Any:
    """Draw the mean true number over the mean prediction of each tenth of the predictions."""
    if not numbers:
        return None
    tenths = numbers["calibration"]["tenths"]
    predicted, true = ([part[name] for part in tenths] for name in ("predicted", "true"))
    figure = _new_figure(3.6)
    axes = figure.subplots()
    _style_axes(axes)
    ends = [min(predicted + true), max(predicted + true)]
    axes.plot(ends, ends, color=_color("muted"), linewidth=1, linestyle=(0, (4, 4)))
    axes.plot(predicted, true, color=_color("accent"), linewidth=1.8, marker="o", markersize=6)
    axes.set(xlabel="mean prediction", ylabel="mean true number")
    spoken = [
        f"{a:.4g} predicted: {b:.4g} ({part['rows']} rows)" for a, b, part in zip(predicted, true, tenths, strict=True)
    ]
    return _render_svg(figure, f"Mean true number by prediction: {'; '.join(spoken)}")


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(2, integer=True)
