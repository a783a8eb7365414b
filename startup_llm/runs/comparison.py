"""The models of a comparison: which recipe trains each of them, in a process of its own, on which rows."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.children import run_child
from startup_llm.config import CompareConfig, DataConfig, list_changed
from startup_llm.errors import UserError, nearest
from startup_llm.run_folder import RESULTS, read_results
from startup_llm.tasks.options import list_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.comparison import Budget, ComparedRun
    from startup_llm.session import Session
    from startup_llm.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model that a recipe trains: the recipe, its options, and what it calls its seed."""

    recipe: str
    options: dict[str, str]
    seed: str = "train.seed"
    from_unlabelled: bool = False


FROM_SCRATCH = ("dnn", "transformer", "vit", "gpt", "t5", "conformer", "whisper", "speecht5", "rt-detr")
TRAINED_MODELS = {
    "zero-shot": TrainedModel("finetune.py", {"method": "zero-shot"}),
    **{name: TrainedModel("pretrain.py", {"model.name": name}) for name in FROM_SCRATCH},
    "linear-probe": TrainedModel("finetune.py", {"method": "probe"}),
    "ganbert": TrainedModel("train_gan.py", {"kind": "text"}, seed="text.seed", from_unlabelled=True),
    "lora": TrainedModel("finetune.py", {"method": "lora"}),
    "full": TrainedModel("finetune.py", {"method": "full"}),
}
"""Name -> how the model is trained; the others are baselines. GAN-BERT learns from the rows that a budget leaves
without labels, so it has no place where every row has one."""


@dataclasses.dataclass(frozen=True)
class Draw:
    """The rows of one label budget, drawn once.

    Attributes:
        budget: Labels per class, or all.
        number: Number of the draw, which is the training's seed too.
        config: Where the rows come from.
        data: The rows.
    """

    budget: Budget
    number: int
    config: DataConfig
    data: TaskData


def check_comparison(config: CompareConfig, task: Task) -> list[str]:
    """Find what cannot run before hours are spent.

    Returns:
        Notes on options that have no effect.

    Raises:
        UserError: If a model is not known, or options contradict each other.
    """
    known = (*task.known_baselines, *TRAINED_MODELS)
    for name in config.rungs:
        if name not in known:
            raise UserError(f"rungs: unknown model {name}{nearest(name, known)}; known: {', '.join(known)}")
    targets = {*config.rungs, *(f"{name}-{budget}" for name in config.rungs for budget in config.budgets)}
    for name in config.options:
        if re.sub(r"-(\d+|all)$", "", name) not in TRAINED_MODELS:
            raise UserError(f"options: {name} is no MODEL or MODEL-BUDGET of the comparison{nearest(name, targets)}")
    if not config.rungs or not config.budgets:
        counts = f"{len(config.rungs)} rungs, {len(config.budgets)} budgets"
        raise UserError(f"{counts}: expected at least one of each")
    changed = list_changed(config.data)
    if "labels_per_class" in changed:
        raise UserError(f"data.labels_per_class {changed['labels_per_class']}: the budgets say it; leave it out")
    if config.budgets != ["all"] and "labels_per_class" not in list_options(type(config.data)):
        raise UserError(f"budgets: {config.task} has no classes of which labels could be drawn; expected [all]")
    unused = [name for name in config.options if name not in targets]
    return [f"options of models that are not compared: {', '.join(unused)}"] if unused else []


def load_draws(config: CompareConfig, task: Task) -> list[Draw]:
    """Load the rows of every draw at every budget.

    Raises:
        UserError: If the test rows are not the same in all.
    """
    draws = []
    for budget in config.budgets:
        for number in range(config.draws_of_all if budget == "all" else config.draws):
            labels: dict[str, Any] = {} if budget == "all" else {"labels_per_class": budget}
            data = dataclasses.replace(config.data, **labels, split_seed=config.data.split_seed + number)
            draws.append(Draw(budget, number, data, task.load_data(data, config.evaluation)))
    splits = {hash_test_rows(draw) for draw in draws}
    if len(splits) > 1:
        raise UserError(
            f"{len(draws)} draws make {len(splits)} different test splits, expected one; give the test rows as a "
            "split of their own (data.test_file), without data.max_test_rows"
        )
    return draws


def hash_test_rows(draw: Draw) -> str:
    """Return the SHA-256 of a draw's test rows."""
    from startup_llm.data.task_data import compute_rows_sha256

    return compute_rows_sha256(draw.data.splits["test"])


def train_models(session: Session[CompareConfig], task: Task, draws: list[Draw]) -> Iterator[ComparedRun]:
    """Train every model at every draw, or take the run that an interrupted comparison has finished.

    Args:
        session: The comparison; the runs are in its folder's `runs/`.
        task: What is compared.
        draws: From `load_draws`.

    Yields:
        Each model's run, as it is finished.

    Raises:
        UserError: If a baseline has nothing to say on these rows, a recipe fails, or a finished run was made with
            other options.
    """
    names, baselines = session.config.rungs, task.baselines(draws[0].data)
    if unknown := [name for name in names if name not in (*baselines, *TRAINED_MODELS)]:
        raise UserError(f"rungs: {unknown[0]} is no baseline of these rows; theirs are {', '.join(baselines)}")
    with session.reporter.show_progress("models", total=len(draws) * len(names), unit="models") as bar:
        for draw in draws:
            for name in names:
                trained = TRAINED_MODELS.get(name)
                bar.advance(0, f"{name}, {draw.budget} labels per class, draw {draw.number}")
                if trained is None:
                    yield _run_baseline(name, baselines, draw)
                elif draw.data.unlabelled or not trained.from_unlabelled:
                    yield _train(name, draw, session)
                bar.advance()


def _run_baseline(name: str, baselines: Mapping[str, Any], draw: Draw) -> ComparedRun:
    from startup_llm.evaluation.comparison import ComparedRun

    start = time.perf_counter()
    predictions = baselines[name](draw.data.splits, draw.data)
    seconds, rows = time.perf_counter() - start, len(draw.data.splits["train"])
    return ComparedRun(name, draw.budget, draw.number, predictions, hash_test_rows(draw), rows, seconds)


def _train(name: str, draw: Draw, session: Session[CompareConfig]) -> ComparedRun:
    """Train a model in a process of its own, unless that has been done."""
    folder = session.run.path / "runs" / f"{name}-{draw.budget}-{draw.number}"
    words = _list_options(name, draw, session.config, folder)
    if not (folder / RESULTS).is_file():
        recipe, resume = session.recipe.with_name(TRAINED_MODELS[name].recipe), ["--resume"] * session.config.resume
        _launch(recipe, [*words, *resume], folder.with_name(f"{folder.name}.log"))
    results = read_results(folder)
    if (made := shlex.split(results["command"])) not in ([*made[:3], *words], [*made[:3], *words, "--resume"]):
        raise UserError(f"{folder} was made with other options; begin the comparison anew with --overwrite")
    return _read_run(name, draw, folder, results)


def _list_options(name: str, draw: Draw, config: CompareConfig, folder: Path) -> list[str]:
    """Return the words of the command line that trains a model."""
    model = TRAINED_MODELS[name]
    task = {} if model.from_unlabelled else {"task": config.task}  # that recipe has one task alone
    changed = {f"data.{option}": value for option, value in list_changed(draw.config).items()}
    options = {**task, **model.options, **changed, model.seed: draw.number}
    options |= {"evaluation.resamples": config.evaluation.resamples}
    options |= {"evaluation.generate": True} if "generate" in list_changed(config.evaluation) else {}
    options |= config.options.get(name, {}) | config.options.get(f"{name}-{draw.budget}", {})
    options |= {"run_dir": str(folder)}
    return [f"--{option}={v if isinstance(v, str) else json.dumps(v)}" for option, v in options.items()]


def _read_run(name: str, draw: Draw, folder: Path, results: Mapping[str, Any]) -> ComparedRun:
    import numpy as np

    from startup_llm.evaluation.comparison import ComparedRun

    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    predictions = [json.loads(line)[name] for line in lines]
    return ComparedRun(
        name,
        draw.budget,
        draw.number,
        np.asarray(predictions) if results["problem_type"] else predictions,
        results["test"]["sha256"],
        results["rows"]["train"],
        results["seconds"],
        results["checkpoint"]["parameters"],
        results["checkpoint"]["trainable_parameters"],
        results["peak_memory_bytes"],
        1000 / results["throughput"]["predict_examples_per_second"],
        results["command"],
    )


def _launch(recipe: Path, words: list[str], log: Path) -> None:
    log.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "accelerate.commands.launch", str(recipe), *words]
    with log.open("w", encoding="utf-8") as output:
        done = run_child(command, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        lines = log.read_text(encoding="utf-8").splitlines()
        errors = [line for line in lines if re.match(r"(error|[\w.]+Error): ", line)]
        reason = errors[0] if errors else lines[-1] if lines else "it printed nothing"
        raise UserError(
            f"{log.stem} failed: {reason.removeprefix('error: ')} (all of it in {log}); go on with --resume"
        )
