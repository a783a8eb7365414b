"""Put every rung on one ladder: one data set, one test split, several label budgets, and what to use at which.

python recipes/compare.py --config recipes/configs/banking77_ladder.yaml
python recipes/compare.py --data.train_file tickets.csv --data.test_file later.csv --budgets '[10, all]'
"""

import dataclasses
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from startup_llm.command_line import parse_config, require_one_process
from startup_llm.config import CompareConfig, DataConfig, default_run_dir, list_changed
from startup_llm.errors import UserError, nearest, run_recipe
from startup_llm.run_folder import RunFolder
from startup_llm.runs.comparison import RUNGS, train_rung
from startup_llm.tasks.options import list_options


def main() -> None:
    config, _, config_text = parse_config(CompareConfig)
    require_one_process("recipes/compare.py")
    check(config)
    run_dir = config.run_dir or default_run_dir(config.data, "ladder")
    with RunFolder(run_dir, overwrite=config.overwrite, resume=config.resume, config=config) as run:
        compare(config, config_text, run)


def check(config: CompareConfig) -> None:
    """Find what cannot run before hours are spent."""
    from startup_llm.tasks import load_task

    known = (*load_task(config.task).known_baselines, *RUNGS)
    for name in config.rungs:
        if name not in known:
            raise UserError(f"rungs: unknown rung {name}{nearest(name, known)}; known: {', '.join(known)}")
    targets = {*config.rungs, *(f"{rung}-{budget}" for rung in config.rungs for budget in config.budgets)}
    for name in config.options:
        if re.sub(r"-(\d+|all)$", "", name) not in RUNGS:
            raise UserError(f"options: {name} is no rung or RUNG-BUDGET of a ladder{nearest(name, targets)}")
    if unused := [name for name in config.options if name not in targets]:
        print(f"options for what this ladder leaves out: {', '.join(unused)}")
    if not config.rungs or not config.budgets:
        given = f"{len(config.rungs)} rungs, {len(config.budgets)} budgets"
        raise UserError(f"{given}: expected at least one of each")
    if "labels_per_class" in list_changed(config.data):
        raise UserError(f"data.labels_per_class {config.data.labels_per_class}: the budgets say it; leave it out")
    if config.budgets != ["all"] and "labels_per_class" not in list_options(type(config.data)):
        raise UserError(f"budgets: {config.task} has no classes of which labels could be drawn; expected [all]")


def compare(config: CompareConfig, config_text: str, run: RunFolder) -> None:
    from startup_llm.data.task_data import compute_rows_sha256
    from startup_llm.evaluation import comparison
    from startup_llm.evaluation.environment import describe_hardware, read_versions
    from startup_llm.evaluation.metrics import rank_metrics
    from startup_llm.tasks import load_task

    begun = time.perf_counter()
    task, runs = load_task(config.task), []
    drawn = {(budget, draw): draw_data(config, budget, draw) for budget, draw in list_draws(config)}
    loaded = {place: task.load_data(data, config.evaluation) for place, data in drawn.items()}
    test = {compute_rows_sha256(data.splits["test"]) for data in loaded.values()}
    if len(test) > 1:
        raise UserError(
            f"{len(loaded)} draws make {len(test)} different test splits, expected one; give the test rows as a split "
            "of their own (data.test_file), without data.max_test_rows"
        )
    first = next(iter(loaded.values()))
    metric, baselines = rank_metrics(task.metrics(first), config.evaluation.decides)[0], task.baselines(first)
    if unknown := [rung for rung in config.rungs if rung not in (*baselines, *RUNGS)]:
        raise UserError(f"rungs: {unknown[0]} is no baseline of these rows; theirs are {', '.join(baselines)}")
    for (budget, draw), data in loaded.items():
        for rung in config.rungs:
            if rung in RUNGS and RUNGS[rung].from_unlabelled and not data.unlabelled:
                continue
            if rung in RUNGS:
                found = train_rung(rung, budget, draw, drawn[budget, draw], config, run, Path(__file__).parent)
            else:
                start = time.perf_counter()
                predictions = baselines[rung](data.splits, data)
                seconds = time.perf_counter() - start
                rows = len(data.splits["train"])
                found = comparison.RungRun(rung, budget, draw, predictions, *test, rows, seconds)
            comparison.check_measurable(rung, metric, found.predictions)
            runs.append(found)
            print(f"{rung}, labels per class: {budget}, draw {draw}: {found.seconds:.0f} s", flush=True)

    found = comparison.build_comparison(runs, task.references(data.splits["test"]), metric, config.evaluation)
    about = {
        "title": run.final.name,
        "task": task.tag,
        "command": shlex.join(["python", "recipes/compare.py", *sys.argv[1:]]),
        "hardware": describe_hardware(),
        "versions": read_versions(),
        "seconds": time.perf_counter() - begun,
    }
    results = {**about, **found}
    figure = comparison.draw_budget_curve(found, classes=len(data.label_names))
    comparison.write_curve(figure, run.path / "curve.png")
    run.write_text("config.yaml", config_text)
    run.write_text("report.html", comparison.build_comparison_page(results, figure))
    run.write_json("results.json", results)
    run.finish()
    print("\n".join(found["sentences"]))
    print(f"ladder: {run.final} ({about['seconds']:.0f} s); look at {run.final}/report.html")


def list_draws(config: CompareConfig) -> list[tuple[int | str, int]]:
    counts = {budget: config.draws_of_all if budget == "all" else config.draws for budget in config.budgets}
    return [(budget, draw) for budget, count in counts.items() for draw in range(count)]


def draw_data(config: CompareConfig, budget: int | str, draw: int) -> DataConfig:
    labels: dict[str, Any] = {} if budget == "all" else {"labels_per_class": budget}
    return dataclasses.replace(config.data, **labels, split_seed=config.data.split_seed + draw)


if __name__ == "__main__":
    run_recipe(main)
