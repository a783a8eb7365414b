"""The index of the configs in recipes/configs: by task, what each one trains on what, and the figure that it gave.

`python -m startup_llm.runs.config_index recipes/configs recipes/results` writes `recipes/configs/README.md`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from startup_llm.config import DEFAULT_DATASET, FinetuneConfig
from startup_llm.errors import UserError, run_recipe
from startup_llm.gan.options import GanConfig
from startup_llm.runs.readme import read_kept_results, summarize_experiment
from startup_llm.tasks import load_task
from startup_llm.written_files import write_atomically

HEADER = """# Configs

One YAML per experiment, with its command on top; options behind `--config` override it, and `--data.data_dir FOLDER`
takes the rows from a local folder instead of the Hub. The figure is that of the trained model on the test rows with
its 95 % interval, where `recipes/results/` has one; it and the minutes are of one or two processor cores.

This page is written by a command:

```
python -m startup_llm.runs.config_index recipes/configs recipes/results
```
"""
COLUMNS = ("config", "what", "recipe", "data", "checkpoint", "figure", "minutes")
NOT_RUN = "not run here"
_COMMAND = re.compile(r"^# (?:accelerate launch|python|torchrun .*?) (recipes/\w+\.py) --config (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Experiment:
    """A config as a line of the index.

    Attributes:
        name: The file's name without its extension.
        task: Hub pipeline tag.
        description: What the file's first comment says above its command.
        recipe: Path of the recipe that runs it.
        dataset: Hub id, or name of a shipped dataset, with its subset.
        checkpoint: Hub id, folder, or the reference model that is trained from scratch.
    """

    name: str
    task: str
    description: str
    recipe: str
    dataset: str
    checkpoint: str


def read_experiment(file: Path) -> Experiment:
    """Read a config.

    Raises:
        UserError: If its header has no command that runs it.
    """
    text = file.read_text(encoding="utf-8")
    command = _COMMAND.search(text)
    if command is None:
        raise UserError(f"{file}: its first comment has no command; expected '# python recipes/... --config {file}'")
    config: dict[str, Any] = yaml.safe_load(text)
    recipe, data, model = command[1], config.get("data") or {}, config.get("model") or {}
    image_gan = recipe == "recipes/train_gan.py" and config.get("kind", GanConfig.kind) == "image"
    if image_gan:
        task, checkpoint = "unconditional-image-generation", "from scratch: gan"
    else:
        task = config.get("task", FinetuneConfig.task)
        model = config.get("encoder") or model
        named = model.get("checkpoint") or load_task(task).default_checkpoint
        checkpoint = f"from scratch: {model.get('name', 'dnn')}" if recipe == "recipes/pretrain.py" else f"`{named}`"
    dataset = data.get("dataset", "digits" if image_gan else DEFAULT_DATASET)
    subset = f", {data['subset']}" if "subset" in data else ""
    lines = [line.removeprefix("#").strip() for line in text[: command.start()].splitlines()]
    lines = [line for line in lines if not re.match(r"(accelerate launch|python) ", line)]
    return Experiment(file.stem, task, " ".join(lines), recipe, f"{dataset}{subset}", checkpoint)


def _describe_figure(name: str, results: Path) -> tuple[str, str]:
    """Return the figure and the minutes of an experiment, as far as its results are kept."""
    if (results / f"{name}.json").is_file():
        summary = summarize_experiment(read_kept_results(results / f"{name}.json")[0])
        return f"{summary.metric}: {summary.trained}", summary.minutes
    if (results / "comparisons" / f"{name}.json").is_file():
        return "[comparison of models](../../docs/experiments.md#comparison-of-models)", ""
    return NOT_RUN, ""


def _link_card(dataset: str, cards: Path) -> str:
    """Return the dataset's name, with a link to its card where there is one."""
    card = cards / f"{dataset.split(',')[0].rsplit('/', 1)[-1]}.md"
    return f"[{dataset}](../../data_cards/{card.name})" if card.is_file() else dataset


def build_index(configs: Path, results: Path) -> str:
    """Return the index as Markdown: a table for each task.

    Args:
        configs: Folder of the YAML files; data cards are looked for in `data_cards/` two folders above.
        results: Folder of the kept results files.
    """
    experiments: dict[str, list[Experiment]] = {}
    for file in sorted(configs.glob("*.yaml")):
        experiment = read_experiment(file)
        experiments.setdefault(experiment.task, []).append(experiment)
    parts = [HEADER]
    for task in sorted(experiments):
        parts.append(f"\n## {task}\n\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n")
        for entry in experiments[task]:
            figure, minutes = _describe_figure(entry.name.replace("_", "-"), results)
            cells: Mapping[str, str] = {
                "config": f"[{entry.name}]({entry.name}.yaml)",
                "what": entry.description.replace("|", r"\|"),
                "recipe": Path(entry.recipe).stem,
                "data": _link_card(entry.dataset, configs.parents[1] / "data_cards"),
                "checkpoint": entry.checkpoint,
                "figure": figure,
                "minutes": minutes,
            }
            parts.append(f"| {' | '.join(cells[name] for name in COLUMNS)} |\n")
    return "".join(parts)


def main(*words: str) -> None:
    """Write the index.

    Args:
        *words: The folder of configs, then the folder of results files.

    Raises:
        UserError: If they are no two folders, or a config has no command.
    """
    folders = [Path(word).resolve() for word in words]
    if len(folders) != 2 or not all(folder.is_dir() for folder in folders):
        raise UserError(f"{' '.join(words) or 'nothing is named'}; expected recipes/configs recipes/results")
    write_atomically(folders[0] / "README.md", build_index(*folders))


if __name__ == "__main__":
    run_recipe(lambda: main(*sys.argv[1:]))
