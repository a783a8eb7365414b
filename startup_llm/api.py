"""The recipes from Python, for notebooks and programs: `finetune` makes a run, `load_run` reads one."""

from __future__ import annotations

import functools
import json
import os
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.command_line import parse_config
from startup_llm.config import FinetuneConfig, ServeConfig, default_run_dir
from startup_llm.console import find_recipes
from startup_llm.errors import UserError
from startup_llm.run_folder import read_results

if TYPE_CHECKING:
    from startup_llm.serving.served_model import ServedModel


class Run:
    """A finished run.

    Args:
        path: Its folder.

    Raises:
        UserError: If it is not the folder of a finished run.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.results: dict[str, Any] = dict(read_results(self.path))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}): {' '.join(self.results.get('headline') or self.results['sentences'])}"

    @property
    def metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """Each model's metrics on the test rows: value, low and high by the metric's name."""
        return self.results["models"]

    def report(self) -> Path:
        """Return the file of the report, an HTML page that needs no other file."""
        return self.path / "report.html"

    def predict(self, rows: str | Sequence[str] | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Answer new rows as recipes/predict.py does; the model is loaded once.

        Args:
            rows: Texts (for images and recordings their bytes), or objects by column where a row has several; a single
                text is one row.

        Returns:
            An answer for each row, such as label and score.

        Raises:
            UserError: If a row cannot be answered; it names the row.
        """
        with self._model.read_rows([rows] if isinstance(rows, str) else list(rows)) as checked:
            return [result.answer for result in self._model.compute(checked)]

    @functools.cached_property
    def _model(self) -> ServedModel:
        from startup_llm.serving.served_model import load_served_model

        return load_served_model(ServeConfig(run=str(self.path)), str(self.path))


def load_run(path: str | os.PathLike[str]) -> Run:
    """Return a finished run.

    Args:
        path: Its folder.

    Raises:
        UserError: If it is not the folder of a finished run.
    """
    return Run(path)


def finetune(
    data: str | os.PathLike[str] | None = None,
    *,
    task: str | None = None,
    method: str | None = None,
    epochs: float | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Run:
    """Fine-tune a checkpoint on rows and measure it, as recipes/finetune.py does, in this process.

    Args:
        data: File of training rows, or a folder with a file for each split; default the shipped messages.
        task: Hub pipeline tag; default text-classification.
        method: lora, full, probe or zero-shot; default lora.
        epochs: Passes over the training rows.
        run_dir: Folder of the run; default runs/DATASET-METHOD.
        overwrite: Replace a finished run of that folder.
        options: Any other option of the recipe by its dotted name, such as {"data.label_column": "tag"}.

    Returns:
        The finished run.

    Raises:
        UserError: If an option or a row is wrong, or the folder holds a finished run.
    """
    source = {"data.data_dir" if os.path.isdir(data) else "data.train_file": os.fspath(data)} if data else {}
    named = {
        **source,
        "task": task,
        "method": method,
        "train.num_train_epochs": epochs,
        "run_dir": None if run_dir is None else os.fspath(run_dir),
    }
    values = {name: value for name, value in named.items() if value is not None} | dict(options or {})
    words = [word for name, value in values.items() for word in (f"--{name}", _write_value(value))]
    words += ["--overwrite"] if overwrite else []
    config, _, _ = parse_config(FinetuneConfig, words, train_section=True)
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise UserError("finetune() runs in one process; start several with accelerate launch recipes/finetune.py")
    _call_recipe("finetune", words)
    return Run(config.run_dir or default_run_dir(config.data, config.method))


def _write_value(value: Any) -> str:
    """Write a value as the command line reads it."""
    return value if isinstance(value, str) else json.dumps(value)


def _call_recipe(name: str, words: Sequence[str]) -> None:
    file = str(find_recipes()[name])
    with _command_line([file, *words]):
        runpy.run_path(file)["main"]()


@contextmanager
def _command_line(words: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before
