"""The models of a ladder: which recipe trains each of them, in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from startup_llm.children import run_child
from startup_llm.config import CompareConfig, DataConfig, list_changed
from startup_llm.errors import UserError
from startup_llm.run_folder import RunFolder, read_results

if TYPE_CHECKING:
    from startup_llm.evaluation.comparison import RungRun


@dataclasses.dataclass(frozen=True)
class Rung:
    """A model of the ladder: the recipe that trains it, with what, and what that recipe calls its seed."""

    recipe: str
    options: dict[str, str]
    seed: str = "train.seed"
    from_unlabelled: bool = False


FROM_SCRATCH = ("dnn", "transformer", "vit", "gpt", "t5", "conformer", "whisper", "speecht5", "rt-detr")
RUNGS = {
    "zero-shot": Rung("finetune.py", {"method": "zero-shot"}),
    **{name: Rung("pretrain.py", {"model.name": name}) for name in FROM_SCRATCH},
    "linear-probe": Rung("finetune.py", {"method": "probe"}),
    "ganbert": Rung("train_gan.py", {"kind": "text"}, seed="text.seed", from_unlabelled=True),
    "lora": Rung("finetune.py", {"method": "lora"}),
    "full": Rung("finetune.py", {"method": "full"}),
}
"""Rung -> how it is trained; the others are baselines. GAN-BERT learns from the rows that a budget leaves without
labels, so it has no place where every row has one."""


def train_rung(
    rung: str,
    budget: int | str,
    draw: int,
    data: DataConfig,
    config: CompareConfig,
    run: RunFolder,
    recipes: Path,
) -> RungRun:
    """Train one rung in a process of its own, or take the run that an interrupted comparison has finished.

    Args:
        rung: A key of `RUNGS`.
        budget: Labels per class, or all.
        draw: Number of the draw of the labels, which is the seed too.
        data: The rows of that budget and draw.
        config: The ladder's options.
        run: The ladder's folder; the rung's own is in its `runs/`.
        recipes: Folder of the recipes.

    Raises:
        UserError: If the recipe fails, or the finished run was made with other options.
    """
    import numpy as np

    from startup_llm.evaluation.comparison import RungRun

    how = RUNGS[rung]
    folder = run.path / "runs" / f"{rung}-{budget}-{draw}"
    task = {} if how.from_unlabelled else {"task": config.task}  # that recipe has one task alone
    changed = {f"data.{name}": value for name, value in list_changed(data).items()}
    options = {**task, **how.options, **changed, how.seed: draw}
    options |= {"evaluation.resamples": config.evaluation.resamples}
    options |= {"evaluation.generate": True} if "generate" in list_changed(config.evaluation) else {}
    options |= config.options.get(rung, {}) | config.options.get(f"{rung}-{budget}", {}) | {"run_dir": str(folder)}
    words = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]
    if not (folder / "results.json").is_file():
        _launch(recipes / how.recipe, [*words, *["--resume"] * config.resume], folder.with_name(f"{folder.name}.log"))
    results = read_results(folder)
    if (made := shlex.split(results["command"])) not in ([*made[:3], *words], [*made[:3], *words, "--resume"]):
        raise UserError(f"{folder} was made with other options; begin the comparison anew with --overwrite")
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    predictions = [json.loads(line)[rung] for line in lines]
    return RungRun(
        rung,
        budget,
        draw,
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
        said = log.read_text(encoding="utf-8").splitlines()
        errors = [line for line in said if re.match(r"(error|[\w.]+Error): ", line)]
        why = errors[0] if errors else said[-1] if said else "it said nothing"
        raise UserError(f"{log.stem} failed: {why.removeprefix('error: ')} (all of it in {log}); go on with --resume")
