"""The end of a recipe on the console: what the run is worth, and what can be done with it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.evaluation import suites
from startup_llm.evaluation.report import format_duration, format_interval, format_level, format_value, name_metric
from startup_llm.run_folder import read_results

if TYPE_CHECKING:
    from collections.abc import Mapping

    from startup_llm.config import EvaluateConfig
    from startup_llm.session import Session


def show_results(session: Session, results: Mapping[str, Any] | None, *, predicts: bool = True) -> None:
    """Show each model's figure with its interval, the comparisons in sentences, and the commands that come next.

    Args:
        session: The finished run.
        results: What `results.json` holds; None in the processes that have nothing to show.
        predicts: Whether recipes/predict.py and recipes/evaluate.py load the run's model.
    """
    if results is None:
        return
    run = session.run.final
    session.report("")
    if headline := results.get("headline"):
        session.report(" ".join(headline))
    session.reporter.show_table(*build_table(results))
    session.report("")
    session.report("\n".join([*results["sentences"], *(results.get("prompted_llm") or {}).get("sentences", ())]))
    for key in ("decision", "numbers", "out_of_scope", "label_thresholds", "balance"):
        if part := results.get(key):
            session.report("", *part["sentences"])
    if advice := results.get("advice"):
        session.report(
            "do this next:", *(f"{number}. {item['action']} ({item['gain']})" for number, item in enumerate(advice, 1))
        )
    session.report(f"run: {run} ({format_duration(session.clock.total)}); open {run}/report.html")
    session.report("next:", *list_next_commands(str(run), run.name, predicts=predicts))


def show_comparison(session: Session, results: Mapping[str, Any]) -> None:
    """Show what each model of a comparison reaches at each label budget, and which to use at which.

    Args:
        session: The finished comparison.
        results: What its `results.json` holds.
    """
    metric, budgets, folder = results["decides"], results["budgets"], session.run.final
    names = dict.fromkeys(model["name"] for entry in reversed(budgets) for model in entry["rungs"])
    means = [{model["name"]: model["mean"] for model in entry["rungs"]} for entry in budgets]
    header = [f"{name_metric(metric)} by labels per class", *(str(entry["budget"]) for entry in budgets)]
    session.report("")
    session.reporter.show_table(
        header, [[name, *(format_value(metric, mean.get(name)) for mean in means)] for name in names]
    )
    session.report("")
    session.report("\n".join(results["sentences"]))
    session.report(f"comparison: {folder} ({format_duration(session.clock.total)}); open {folder}/report.html")


def show_evaluation(session: Session, results: Mapping[str, Any]) -> None:
    """Show what a model reaches on each data set, and the comparisons in sentences.

    Args:
        session: The finished evaluation.
        results: What its `results.json` holds.
    """
    session.reporter.show_table(suites.HEADER, suites.build_rows(results))
    session.report(*(["", *results["sentences"]] if results["sentences"] else []))
    session.report(f"evaluation: {session.run.final} ({format_duration(session.clock.total)})")
    if session.config.input is not None:
        session.report("next:", *list_commands_after_later_rows(session.config, results))


def build_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a table of the models by the metric that decides, best first.

    Args:
        results: What `results.json` holds. A model may lack the metric; it comes last.
    """
    metric, models = results["decides"], results["models"]
    sign = -1 if metric in results["lower_is_better"] else 1
    scored = [(name, scores[metric]) for name, scores in models.items() if metric in scores]
    scored.sort(key=lambda pair: -sign * pair[1]["value"])
    rows = [[name, format_value(metric, score["value"]), format_interval(metric, score)] for name, score in scored]
    rows += [[name, format_value(metric, None), ""] for name in models if metric not in models[name]]
    return ["model", name_metric(metric), f"{format_level(results)} interval"], rows


def list_next_commands(run: str, name: str, *, predicts: bool) -> list[str]:
    """Return command lines that use a finished run, with its own path.

    Args:
        run: Its folder.
        name: The folder's name.
        predicts: Whether recipes/predict.py and recipes/evaluate.py load the run's model.
    """
    path = shlex.quote(run)
    commands = [
        f"python recipes/predict.py --run {path} --input FILE --output ANSWERS",
        f"python recipes/evaluate.py --run {path} --input LATER_FILE",
    ]
    push = f"python recipes/push.py --run {path} --repo ACCOUNT/{shlex.quote(name)} --dry_run FOLDER"
    return [*commands, push, name_production_command(run)] if predicts else [push]


def name_production_command(run: str) -> str:
    """Return the command that puts a run into production."""
    parent = str(Path(run).parent)
    folder = "" if parent == "runs" else f"--folder {shlex.quote(parent)} "
    return f"python recipes/runs.py {folder}--production {shlex.quote(run)}"


def list_commands_after_later_rows(config: EvaluateConfig, results: Mapping[str, Any]) -> list[str]:
    """Return command lines that follow the figures of later rows: to learn from them, and to switch or go back.

    Args:
        config: The evaluation's.
        results: What its `results.json` holds.
    """
    run, file = results["model"], str(config.input)
    trained = read_results(run).get("config", {}).get("data", {}).get("train_file") or []
    files = [*([trained] if isinstance(trained, str) else trained), file]
    commands = []
    if trained and (Path(run) / "config.yaml").is_file():
        listed = shlex.quote(f"[{','.join(files)}]")
        settings = shlex.quote(f"{run}/config.yaml")
        commands.append(
            f"accelerate launch recipes/finetune.py --config {settings} --data.train_file {listed} --run_dir auto"
        )
    return [*commands, f"{name_production_command(run)}  (recipes/runs.py --rollback goes back)"]
