"""What a run means in plain words, and what to do next: rules over the plain data of results.json.

Each rule reads figures that were computed already and gives at most one action; nothing here knows a task.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from startup_llm.evaluation.decisions import describe_coverage
from startup_llm.evaluation.metrics import is_share
from startup_llm.evaluation.report import (
    Results,
    find_run_model,
    format_count,
    format_difference,
    format_value,
    judge_comparison,
    name_metric,
)

MAX_ACTIONS = 5

Action = dict[str, str | None]
"""What to do (`action`), what it is expected to bring (`gain`), and the `command`; None where a person edits rows."""

_NAMES = {"linear-probe": "the linear probe", "lora": "the tuned model", "full": "the tuned model"}
_PROBE = "linear-probe"
_DEARER = ("few-shot", "prompted-llm")
"""Models whose answers cost more than the run's model: of no use where they are only as good."""
_MIN_RISE = 0.005
_MIN_CONFUSED_SHARE = 0.01
_MIN_RECALL_GAP = 0.1


def build_headline(results: Results) -> list[str]:
    """Say in plain words how good the run's model is, and which model to use; empty where the run has no model.

    Args:
        results: What `results.json` holds.
    """
    model, metric = find_run_model(results), results["decides"]
    if model is None or metric not in results["models"].get(model, {}):
        return []
    entry, rows = results["models"][model][metric], (results.get("test") or {}).get("rows")
    of_rows = f" of {format_count(rows)} test rows" if rows else ""
    name = _NAMES.get(model, "the model")
    if metric == "accuracy":
        first = f"{name} is right on {format_value(metric, entry['value'])}{of_rows}."
    else:
        first = f"{name} reaches {format_value(metric, entry['value'])} {name_metric(metric)}"
        first += f" on {format_count(rows)} test rows." if rows else "."
    return [_capitalize(first), *_judge_others(results, model, metric), *_describe_handover(results)]


def _describe_handover(results: Results) -> list[str]:
    """Say how much the model answers by itself, where a threshold was chosen."""
    handover = (results.get("decision") or {}).get("handover") or {}
    if handover.get("threshold") is None or handover["accuracy"]["value"] is None:
        return []
    coverage, accuracy = (format_value("accuracy", handover[name]["value"]) for name in ("coverage", "accuracy"))
    verb = "It gives" if results["decision"].get("counted") == "entities" else "It answers"
    noun = " of the entities that it finds" if verb == "It gives" else ""
    return [f"{verb} {coverage}{noun} by itself with {accuracy} right, and hands the rest to a person."]


def _judge_others(results: Results, model: str, metric: str) -> list[str]:
    """Say how the others stand to the run's model: better ones, as good ones, or the next best."""
    outcomes: dict[str, list[Mapping[str, Any]]] = {"better": [], "undecided": [], "worse": []}
    for comparison in _list_comparisons(results, model, metric):
        outcomes[judge_comparison(comparison, results)].append(comparison)
    if better := outcomes["worse"]:
        largest = max(better, key=lambda comparison: abs(comparison["difference"]))
        gap = format_difference(metric, abs(largest["difference"]))
        return [_capitalize(f"{_name(largest['b'])} is better by {gap.lstrip('+')}: use it.")]
    if equal := outcomes["undecided"]:
        other = next((comparison["b"] for comparison in equal if comparison["b"] == _PROBE), equal[0]["b"])
        text = f"{_name(other)} is as good, as far as these rows can show"
        if other in _DEARER:
            return [_capitalize(f"{text}.")]
        share = _share_of_probe(results) if other == _PROBE else None
        return [_capitalize(f"{text}: use it" + (f", it takes {share} of the training time." if share else "."))]
    if beaten := outcomes["better"]:
        closest = min(beaten, key=lambda comparison: abs(comparison["difference"]))
        gap = format_difference(metric, abs(closest["difference"]))
        return [f"It beats every other model; the next best is {_name(closest['b'])}, {gap.lstrip('+')} behind."]
    return ["It was compared with no other model."]


def advise(results: Results) -> list[Action]:
    """Return at most five actions that the figures propose, the most certain first.

    Args:
        results: What `results.json` holds.
    """
    actions = (rule(results) for rule in RULES)
    return [action for action in actions if action is not None][:MAX_ACTIONS]


def propose_probe(results: Results) -> Action | None:
    """Propose the linear probe where the tuned model is not shown to be better than it."""
    model, metric = find_run_model(results), results["decides"]
    if model not in ("lora", "full"):
        return None
    for comparison in _list_comparisons(results, model, metric):
        if comparison["b"] == _PROBE and judge_comparison(comparison, results) != "better":
            gain = f"{format_difference(metric, -comparison['difference'])} {name_metric(metric)}"
            share = _share_of_probe(results)
            return {
                "action": "Use the linear probe instead of the tuned model",
                "gain": gain + (f", in {share} of the training time" if share else ""),
                "command": change_command(results, "probe", {"method": "probe"}),
            }
    return None


def propose_epochs(results: Results) -> Action | None:
    """Propose more epochs where the last one still raised the validation score, and it was the best."""
    metric = results["decides"]
    sign = -1 if metric in (results.get("lower_is_better") or ()) else 1
    values = [record.get(f"eval_{metric}") for record in results.get("history") or ()]
    scores = [sign * value for value in values if value is not None and math.isfinite(value)]
    if not is_share(metric) or len(scores) < 2 or scores[-1] < max(scores) or scores[-1] - scores[-2] < _MIN_RISE:
        return None
    train = (results.get("config") or {}).get("train") or {}
    if not (epochs := train.get("num_train_epochs")) or (train.get("max_steps") or -1) > 0:
        return None
    rise = format_difference(metric, scores[-1] - scores[-2])
    return {
        "action": f"Train for {2 * epochs:g} epochs instead of {epochs:g}",
        "gain": f"the last epoch still brought {rise} on validation rows",
        "command": change_command(results, "longer", {"train.num_train_epochs": f"{2 * epochs:g}"}),
    }


def propose_suspects(results: Results) -> Action | None:
    """Propose to read the rows whose labels the audit doubts."""
    found = {finding["kind"]: finding["count"] for finding in (results.get("audit") or {}).get("findings") or ()}
    count = sum(found.get(kind, 0) for kind in ("suspect-labels", "contradicting-labels"))
    if not count:
        return None
    rows = sum((results.get("rows") or {}).values())
    share = f", {100 * count / rows:.1f} % of all rows" if rows else ""
    return {
        "action": f"Read and fix {format_count(count)} rows with doubtful labels",
        "gain": f"at most {format_count(count)} labels{share}",
        "command": _build_audit_command(results),
    }


def propose_balance(results: Results) -> Action | None:
    """Propose weights of the classes where some are much larger, unless the probe shows that they bring nothing."""
    balance = results.get("balance") or {}
    if balance.get("used") != "none" or results["method"] == "zero-shot":
        return None
    action = f"Give the classes the same weight: the largest has {balance['ratio']:.3g} times the smallest's rows"
    command = change_command(results, "balanced", {"train_balance": "weights"})
    if not (effect := balance.get("effect")):
        return {"action": action, "gain": "not measured, as there are no validation rows", "command": command}
    measured = effect.get("tuned") or effect  # with thresholds of several labels, as the model answers
    gain = measured["weights"] - measured["none"]
    if gain < _MIN_RISE:
        return None
    points = f"{format_difference('macro_f1', gain)} macro F1"
    if measured is effect:
        interval = effect["difference"]
        points += f" ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})"
    gain_words = f"{points} for a linear probe on the validation rows; accuracy may fall"
    return {"action": action, "gain": gain_words, "command": command}


def propose_merge(results: Results) -> Action | None:
    """Propose to merge or rename two classes that are taken for each other, both ways."""
    if results.get("problem_type") == "multi_label_classification":
        return None  # a row can have both
    counts = {(pair["label"], pair["predicted"]): pair["rows"] for pair in results.get("confusions") or ()}
    rows = (results.get("test") or {}).get("rows") or 0
    both = {
        (a, b): count + counts[b, a]
        for (a, b), count in counts.items()
        if (b, a) in counts and str(a) < str(b) and min(count, counts[b, a]) >= 2
    }
    if not rows or not both:
        return None
    (a, b), count = max(both.items(), key=lambda item: item[1])
    if count < _MIN_CONFUSED_SHARE * rows:
        return None
    return {
        "action": f"Merge {a} and {b}, or tell them apart by clearer names and rules for labelling",
        "gain": f"up to {100 * count / rows:.1f} points of accuracy: {count} test rows are taken for the other one",
        "command": None,
    }


def propose_labels(results: Results) -> Action | None:
    """Propose to label more rows of the class that loses most by a recall far below the others'."""
    if results.get("problem_type") == "multi_label_classification":
        return None  # accuracy counts rows whose every label is right
    every = (results.get("per_class") or {}).items()
    classes = {name: scores for name, scores in every if {"recall", "rows"} <= scores.keys()}
    total = sum(scores["rows"] for scores in classes.values())
    if len(classes) < 3 or not total:
        return None
    mean = sum(scores["recall"] * scores["rows"] for scores in classes.values()) / total
    lost = {
        name: (mean - scores["recall"]) * scores["rows"] / total
        for name, scores in classes.items()
        if scores["recall"] < mean - _MIN_RECALL_GAP
    }
    name = max(lost, key=lambda name: lost[name], default=None)
    if name is None or lost[name] < _MIN_CONFUSED_SHARE / 2:
        return None
    shares = f"of its test rows {100 * classes[name]['recall']:.0f} % are found, of all {100 * mean:.0f} %"
    return {
        "action": f"Label more rows of {name}: {shares}",
        "gain": f"{100 * lost[name]:+.1f} points of accuracy if it were found as often as the others",
        "command": _build_suggestion_command(results),
    }


def propose_threshold(results: Results) -> Action | None:
    """Propose a threshold that at least halves the errors among what is answered, where none was asked for."""
    decision = results.get("decision") or {}
    table = [row for row in decision.get("risk_coverage") or () if row["accuracy"]["value"] is not None]
    if not table or decision.get("handover"):
        return None
    errors = 1 - table[0]["accuracy"]["value"]
    better = [row for row in table[1:] if errors > 0 and 1 - row["accuracy"]["value"] <= errors / 2]
    if not better:
        return None
    target = math.floor(1000 * better[0]["accuracy"]["value"]) / 1000
    return {
        "action": "Hand the least certain answers to a person",
        "gain": describe_coverage(better[0], decision.get("counted", "rows")),
        "command": change_command(results, "decided", {"decision.target_accuracy": f"{target:g}"}),
    }


RULES: tuple[Callable[[Results], Action | None], ...] = (
    propose_probe,
    propose_suspects,
    propose_epochs,
    propose_threshold,
    propose_balance,
    propose_merge,
    propose_labels,
)
"""The rules, the most certain first."""


def change_command(results: Results, suffix: str, options: Mapping[str, str]) -> str | None:
    """Return the run's command with other options, and a folder of its own; None where the command is not known.

    Args:
        results: Holds `command` and `run_name`.
        suffix: What is put behind the folder's name.
        options: Values by name without dashes; they replace earlier ones.
    """
    words = _split_command(results)
    if not words:
        return None
    kept, _ = _take_out(words, {*options, "run_dir", "overwrite", "resume"})
    changed = {**options, "run_dir": f"{_find_run(results)}-{suffix}"}
    return shlex.join([*kept, *(word for name, value in changed.items() for word in (f"--{name}", value))])


def _split_command(results: Results) -> list[str]:
    try:
        return shlex.split(results.get("command") or "")
    except ValueError:
        return []


def _find_run(results: Results) -> str:
    """Return the run's folder: the one that its command names, else that of its name."""
    _, values = _take_out(_split_command(results), {"run_dir"})
    return (values.get("run_dir") or f"runs/{results.get('run_name') or results['method']}").rstrip("/")


def _take_out(words: Sequence[str], names: Collection[str]) -> tuple[list[str], dict[str, str | None]]:
    """Divide a command's words into those of other options and the values of the named ones."""
    kept: list[str] = []
    values: dict[str, str | None] = {}
    place = 0
    while place < len(words):
        name, equals, value = words[place].removeprefix("--").partition("=")
        follows = not equals and place + 1 < len(words) and not words[place + 1].startswith("--")
        if words[place].startswith("--") and name in names:
            values[name] = value if equals else words[place + 1] if follows else None
            place += 1 + follows
            continue
        kept.append(words[place])
        place += 1
    return kept, values


def _build_suggestion_command(results: Results) -> str | None:
    """Return the command that chooses which rows to label; None where it does not read the task's rows."""
    if results["task"] != "text-classification":
        return None
    return shlex.join(["python", "recipes/suggest.py", "--run", _find_run(results), "--pool", "unlabelled.csv"])


def _build_audit_command(results: Results) -> str | None:
    """Return the audit's command for the run's rows."""
    data = (results.get("config") or {}).get("data") or {}
    names = ("dataset", "data_dir", "train_file", "validation_file", "test_file", "text_column", "label_column")
    given = {name: data[name] for name in names if isinstance(data.get(name), str)}
    words = [word for name, value in given.items() for word in (f"--data.{name}", value)]
    return shlex.join(["python", "recipes/audit.py", *words]) if words else None


def _list_comparisons(results: Results, model: str, metric: str) -> list[Mapping[str, Any]]:
    return [
        comparison
        for comparison in results.get("comparisons") or ()
        if comparison["a"] == model and comparison["metric"] == metric
    ]


def _share_of_probe(results: Results) -> str | None:
    """Return how much of the time to train the tuned model the probe took, as `a tenth` or `12 %`."""
    seconds = results.get("stage_seconds") or {}
    probe, train = seconds.get("probe"), seconds.get("train")
    if not probe or not train or probe >= train:
        return None
    share = probe / train
    return _PARTS[round(1 / share)] if round(1 / share) in _PARTS else f"{max(1, round(100 * share))} %"


_PARTS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 10: "a tenth"}


def _name(model: str) -> str:
    return _NAMES.get(model, model)


def _capitalize(text: str) -> str:
    return re.sub(r"^the ", "The ", text)
